"""Tasks whose images have another size than the backbone's."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import recast_gen as rg
from recast_gen.bank import generation, taskfile
from recast_gen.bank.task import backbone_of
from recast_gen.errors import ExportError, TaskError
from recast_gen.model import sizes
from recast_gen.weights import networks, sources
from recast_gen.weights.named import Weights

from ..conftest import PICO_VIT

SWIN = {"img_size": 64, "patch_size": 4, "window_size": 4, "embed_dim": 16, "depths": (1, 2), "num_heads": (1, 2)}
VIT, WINDOWS = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"
KINDS = [
    (VIT, PICO_VIT | {"num_classes": 3}, "blocks.*.mlp.fc1", (24, 40)),
    (VIT, PICO_VIT | {"num_classes": 3, "img_size": (16, 32)}, "blocks.*.mlp.fc1", (32, 16)),  # of one shape
    (WINDOWS, SWIN | {"num_classes": 3}, "layers.*.blocks.*.attn.proj", (32, 32)),
]


def taught(kind, path, size=None, seed=0, **options):
    """A task at a size of images (the backbone's when None): its bank, images, and the logits it gave."""
    name, kwargs, glob, _ = kind
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, **kwargs).eval()
        bank = rg.mimic(model, families=[glob], timm_kwargs=kwargs)
        if size:
            model.set_input_size(img_size=size, **options)
        rg.attach(model, bank)
        torch.manual_seed(1 + seed)
        for parameter in [*rg.coefficients(model), *model.get_submodule(bank.backbone["head"]).parameters()]:
            parameter.data.add_(torch.randn_like(parameter))
        rg.save_task(path, model, bank)
        shape = size or bank.backbone["data_config"]["input_size"][1:]
        images = torch.randn(4, 3, *shape)
        return bank, images, model(images).detach()


def backbone(kind, bank):
    model = networks.rebuild(bank.base()).eval()
    return rg.attach(model, bank)


@pytest.mark.parametrize("kind", KINDS, ids=["vit", "turned", "swin"])
def test_a_task_of_another_size_comes_back_exactly_and_its_model_goes_back(kind, tmp_path):
    bank, images, logits = taught(kind, tmp_path / "large.safetensors", kind[-1])
    _, usual_images, usual = taught(kind, tmp_path / "usual.safetensors", seed=1)
    model = backbone(kind, bank)
    for _ in range(2):
        rg.load_task(tmp_path / "large.safetensors", model, bank)
        assert torch.equal(model(images), logits)
        rg.load_task(tmp_path / "usual.safetensors", model, bank)
        assert torch.equal(model(usual_images), usual)
    rg.load_task(tmp_path / "large.safetensors", model, bank)
    rg.save_task(tmp_path / "again.safetensors", model, bank)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "large.safetensors").read_bytes()


@pytest.mark.parametrize("kind", KINDS, ids=["vit", "turned", "swin"])
def test_weights_generated_for_it_make_the_network_of_that_size(kind, tmp_path):
    bank, images, logits = taught(kind, tmp_path / "large.safetensors", kind[-1])
    generation.write(bank, tmp_path / "large.safetensors", tmp_path / "out.safetensors")
    found = sources.read(tmp_path / "out.safetensors")
    assert list(found.backbone["data_config"]["input_size"]) == [3, *kind[-1]]
    assert torch.allclose(networks.rebuild(found).eval()(images), logits, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=["vit", "turned", "swin"])
def test_a_library_switches_sizes_mixes_tasks_of_one_and_refuses_two_in_a_batch(kind, tmp_path):
    bank, images, logits = taught(kind, tmp_path / "a.safetensors", kind[-1])
    _, _, others = taught(kind, tmp_path / "b.safetensors", kind[-1], seed=2)
    taught(kind, tmp_path / "usual.safetensors")
    model = networks.rebuild(bank.base()).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lib = rg.TaskLibrary(tmp_path, model, bank)
    lib.use("a")
    assert torch.equal(lib(images), logits) and lib.transform(Image.new("RGB", (99, 77))).shape == images.shape[1:]
    lib.use("usual")
    mixed = lib(images, tasks=["a", "b", "b", "a"])
    assert torch.allclose(mixed[[0, 3]], logits[[0, 3]], atol=1e-5)
    assert not torch.allclose(mixed[1], logits[1], atol=1e-3) and lib.current == "usual"
    with pytest.raises(TaskError, match=r"a is for images of \[\d+, \d+\], usual of"):
        lib(images, tasks=["a", "usual", "a", "a"])
    after = lib.base().state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_between_two_tasks_of_one_size_lie_tasks_of_that_size(tmp_path):
    bank, images, logits = taught(KINDS[0], tmp_path / "a.safetensors", (24, 40))
    taught(KINDS[0], tmp_path / "b.safetensors", (24, 40), seed=1)
    taught(KINDS[0], tmp_path / "usual.safetensors")
    first, _ = rg.interpolate(bank, tmp_path / "a.safetensors", tmp_path / "b.safetensors", steps=2)
    found = Weights(rg.generate(bank, first), backbone_of(bank, first))
    assert torch.allclose(networks.rebuild(found).eval()(images), logits, atol=1e-5)
    for made in rg.interpolate(bank, tmp_path / "a.safetensors", tmp_path / "usual.safetensors", steps=2):
        assert not made.tables and "size" not in made.about


def test_a_model_made_for_that_size_needs_no_other_and_goes_to_the_backbones_size(tmp_path):
    kind = KINDS[0]
    bank, images, logits = taught(kind, tmp_path / "large.safetensors", kind[-1])
    _, usual_images, usual = taught(kind, tmp_path / "usual.safetensors", seed=1)
    made = networks.rebuild(bank.base()).eval()
    made.set_input_size(img_size=kind[-1])
    lib = rg.TaskLibrary(tmp_path, made, bank)
    for name, given, expected in (("usual", usual_images, usual), ("large", images, logits)):
        lib.use(name)
        assert torch.equal(lib(given), expected)
    assert lib.base().pos_embed.shape[1] == 1 + 3 * 5


def test_what_is_no_matter_of_size_is_refused_as_before(tmp_path):
    bank, *_ = taught(KINDS[0], tmp_path / "a.safetensors", (24, 40))
    model = backbone(KINDS[0], bank)
    model.pos_embed.data.mul_(2)
    with pytest.raises(TaskError, match="pos_embed differ"):
        rg.save_task(tmp_path / "b.safetensors", model, bank)
    with pytest.raises(TaskError, match="pos_embed of the model differ"):
        rg.load_task(tmp_path / "a.safetensors", model, bank)
    with pytest.raises(ExportError, match=r"\[24, 40\] and brings pos_embed"):
        rg.to_peft(bank, tmp_path / "a.safetensors", tmp_path / "peft")


def test_tables_that_the_bank_generates_keep_the_backbones_size(tmp_path):
    kind = KINDS[2]
    taught(kind, tmp_path / "large.safetensors", kind[-1])
    model = timm.create_model(kind[0], **kind[1]).eval()
    bank = rg.mimic(model, families=["*relative_position_bias_table"], timm_kwargs=kind[1])
    model.set_input_size(img_size=(32, 32))
    with pytest.raises(rg.RecastError, match="relative_position_bias_table"):
        rg.attach(model, bank)


def test_a_timm_network_without_set_input_size_is_not_taken_for_one_of_the_tasks_size(tmp_path):
    kwargs = {"img_size": (16, 32), "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("cait_xxs24_224", **kwargs).eval()
    bank = rg.mimic(model, families=["blocks.*.mlp.fc1"], timm_kwargs=kwargs)
    turned = timm.create_model("cait_xxs24_224", **kwargs | {"img_size": (32, 8)}).eval()
    turned.load_state_dict({name: t for name, t in model.state_dict().items() if name != "pos_embed"}, strict=False)
    rg.attach(turned, bank)
    rg.save_task(tmp_path / "t.safetensors", turned, bank)
    with pytest.raises(TaskError, match=r"\[32, 8\].*set_input_size"):
        rg.load_task(tmp_path / "t.safetensors", rg.attach(model, bank), bank)
    assert model.patch_embed.img_size == (16, 32)


def test_a_network_that_cannot_be_resized_is_left_as_it_is(tmp_path, own):
    class Placed(type(own())):
        def __init__(self, places):
            super().__init__()
            self.places = torch.nn.Parameter(torch.ones(1, 3, places, places))

        def forward(self, images):
            return super().forward(images + self.places)

    def placed(places):
        model = Placed(places)
        model.load_state_dict(own().state_dict(), strict=False)
        return model.eval()

    bank = rg.mimic(placed(8), families=own.families)
    large, images = rg.attach(placed(12), bank), torch.randn(2, 3, 12, 12)
    rg.save_task(tmp_path / "t.safetensors", large, bank, head="classifier")
    assert taskfile.read(tmp_path / "t.safetensors", bank).tables.keys() == {"places"}
    with pytest.raises(TaskError, match="cannot be made.*places.*make the model for that size"):
        rg.load_task(tmp_path / "t.safetensors", small := rg.attach(placed(8), bank), bank)
    assert small.places.shape[-1] == 8
    again = rg.attach(placed(12), bank)
    rg.load_task(tmp_path / "t.safetensors", again, bank)
    assert torch.equal(again(images), large(images))


def test_a_table_that_follows_timms_rule_costs_no_bytes_and_one_of_timm_itself_few(tmp_path):
    kind = KINDS[0]
    bank, images, logits = taught(kind, tmp_path / "timms.safetensors", (48, 80))
    model = networks.rebuild(bank.base()).eval()
    sizes.make_for_task(model, bank, (48, 80))
    rg.attach(model, bank)
    rg.save_task(tmp_path / "own.safetensors", model, bank)
    table = model.pos_embed.detach().numpy()
    assert taskfile.parts(tmp_path / "own.safetensors").get("tables", 0) == 0
    assert 0 < taskfile.parts(tmp_path / "timms.safetensors")["tables"] < 0.7 * table.nbytes
    assert np.array_equal(taskfile.read(tmp_path / "own.safetensors", bank).tables["pos_embed"], table)
    rg.load_task(tmp_path / "own.safetensors", again := backbone(kind, bank), bank)
    assert torch.equal(again(images), model(images))


def test_a_size_that_changes_no_table_is_kept_too(tmp_path):
    kind = (WINDOWS, SWIN | {"num_classes": 3}, KINDS[2][2], (96, 96))
    bank, images, logits = taught(kind, tmp_path / "large.safetensors", kind[-1], window_size=(4, 4))
    _, usual_images, usual = taught(kind, tmp_path / "usual.safetensors", seed=1)
    task = taskfile.read(tmp_path / "large.safetensors", bank)
    assert task.size == [96, 96] and not task.tables
    lib = rg.TaskLibrary(tmp_path, bank=bank)
    for name, given, expected in (("large", images, logits), ("usual", usual_images, usual), ("large", images, logits)):
        lib.use(name)
        assert torch.equal(lib(given), expected)
    model = backbone(kind, bank)
    for name, given, expected in (("large", images, logits), ("usual", usual_images, usual)):
        rg.load_task(tmp_path / f"{name}.safetensors", model, bank)
        assert torch.equal(model(given), expected)


def test_a_network_that_takes_any_size_has_its_tasks_size_said(cnn, tmp_path):
    model = cnn()
    bank = rg.mimic(model, families=cnn.families)
    bank.backbone["data_config"] = {"input_size": [3, 16, 16]}
    rg.attach(model, bank)
    rg.save_task(tmp_path / "t.safetensors", model, bank, img_size=(24, 40))
    rg.load_task(tmp_path / "t.safetensors", model, bank)
    rg.save_task(tmp_path / "again.safetensors", model, bank)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "t.safetensors").read_bytes()
    lib = rg.TaskLibrary(tmp_path, model, bank)
    lib.use("t")
    assert lib.transform(Image.new("RGB", (9, 9))).shape == (3, 24, 40)
    with pytest.raises(TaskError, match="for images of"):
        kind = KINDS[0]
        bank, *_ = taught(kind, tmp_path / "vit.safetensors")
        rg.save_task(tmp_path / "v.safetensors", backbone(kind, bank), bank, img_size=(9, 9))
