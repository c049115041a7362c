"""A task brings its head to any backbone, also to one that has none, and takes it along when it goes."""

import copy

import pytest
import timm
import torch
from torch import nn

import recast_gen as rg
from recast_gen.errors import AttachError, TaskError

from ..conftest import PICO_VIT

BARE = {
    "vit": ("vit_tiny_patch16_224", PICO_VIT, "head"),
    "resnet": ("resnet18", {"channels": (8, 8, 16, 16)}, "fc"),
    "convnext": ("convnext_atto", {"depths": (2, 2, 1, 1), "dims": (4, 4, 8, 8)}, "head.fc"),
    "conv head": ("resnetv2_50", {"layers": (2, 1, 1, 1), "channels": (8, 8, 8, 8), "stem_chs": 8}, "head.fc"),
}


@pytest.fixture(params=BARE)
def bare(request):
    """What makes a backbone without a head, the name of the module where it would be, and images."""
    name, kwargs, head = BARE[request.param]

    def made(num_classes: int = 0) -> nn.Module:
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=num_classes, **kwargs).eval()

    return made, kwargs, head, torch.randn(4, 3, *(2 * [16 if "img_size" in kwargs else 32]))


def train(model: nn.Module, classes: int, seed: int) -> nn.Module:
    """A head for so many classes, and random coefficients."""
    torch.manual_seed(seed)
    model.reset_classifier(classes)
    for parameter in rg.coefficients(model):
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return model.eval()


@torch.no_grad()
def test_tasks_of_a_backbone_without_a_head_go_through_every_door_and_leave_it_as_it_was(bare, tmp_path):
    build, kwargs, head, images = bare
    bank = rg.mimic(build(), timm_kwargs=kwargs)
    expected, features, backbone = {}, build()(images), build().state_dict()
    for seed, classes in enumerate((2, 5)):
        model = train(rg.attach(build(), bank), classes, seed)
        rg.save_task(tmp_path / f"{classes}.safetensors", model, bank)
        expected[str(classes)] = model(images)
    rg.save_task(tmp_path / "none.safetensors", model := rg.attach(build(), bank), bank, head="")
    expected["none"] = model(images)
    lib = rg.TaskLibrary(tmp_path, build(), bank)
    for name in ("5", "none", "2"):
        task = rg.load_task(tmp_path / f"{name}.safetensors", model, bank)
        lib.use(name)
        assert torch.equal(model(images), expected[name]) and torch.equal(lib(images), expected[name])
        assert task.about["head"] == head * (name != "none") and model.num_classes == len(task.classes)
        mixed = lib(images, tasks=["2", "5", "5", "2"])
        torch.testing.assert_close(mixed[1:3], expected["5"][1:3], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mixed[::3, :2], expected["2"][::3], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(lib(images, tasks="none"), features, rtol=1e-4, atol=1e-5)
        assert torch.equal(lib(images), expected[name])
        if name != "none":
            plain = build(int(name))
            plain.load_state_dict({key: torch.from_numpy(array) for key, array in rg.generate(bank, task).items()})
            torch.testing.assert_close(plain(images), expected[name], rtol=1e-4, atol=1e-5)
            assert torch.equal(rg.bake(copy.deepcopy(model))(images), expected[name])
    with pytest.raises(TaskError, match="none lack the head of others"):
        lib(images, tasks=["2", "none", "2", "2"])
    for left in (lib.base(), rg.detach(rg.load_task(tmp_path / "none.safetensors", model, bank) and model)):
        after = left.state_dict()
        assert after.keys() == backbone.keys() and all(torch.equal(after[key], backbone[key]) for key in after)
        torch.testing.assert_close(left(images), features)
        assert left.num_classes == 0
    torch.testing.assert_close(
        rg.TaskLibrary(tmp_path, bank=bank)(images, tasks="5"), expected["5"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("classes", [0, 3])
@torch.no_grad()
def test_a_model_with_a_head_and_a_bank_without_one_go_together_and_the_other_way_round(vit, tmp_path, classes):
    base, images = vit(num_classes=classes), vit.batch()
    bank, features = vit.bank(base), base(images)
    model = train(rg.attach(vit(num_classes=classes), bank), 5, seed=1)
    rg.save_task(tmp_path / "five.safetensors", model, bank)
    other = vit(num_classes=classes)
    other.reset_classifier(3 - classes)
    rg.attach(other, bank)
    rg.load_task(tmp_path / "five.safetensors", other, bank)
    assert torch.equal(other(images), model(images))
    rg.save_task(tmp_path / "none.safetensors", rg.attach(base, bank), bank, head="")
    rg.load_task(tmp_path / "none.safetensors", model, bank)
    rg.load_task(tmp_path / "none.safetensors", other, bank)
    for given in (model, other):
        torch.testing.assert_close(given(images), features)
        assert given.num_classes == classes


class Tied(nn.Module):
    """An embedding whose weight is its head's, too."""

    def __init__(self, first: str):
        super().__init__()
        for name in (first, *({"embedding", "head"} - {first})):
            setattr(self, name, nn.Linear(8, 8, bias=name == "head"))
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head.weight = self.embedding.weight

    def forward(self, given):
        given = self.embedding(given)
        for layer in self.layers:
            given = given + layer(given).tanh()
        return self.head(given)


@pytest.mark.parametrize("first", ["head", "embedding"])
@torch.no_grad()
def test_what_a_head_shares_with_another_layer_stays_the_backbones(tmp_path, first):
    def build():
        torch.manual_seed(0)
        return Tied(first)

    bank, given, expected = rg.mimic(build(), families=["layers.*"]), torch.randn(4, 8), {}
    for name in ("tied", "own"):
        model = rg.attach(build(), bank)
        for parameter in rg.coefficients(model):
            parameter += 0.3 * torch.randn(parameter.shape)
        if name == "own":
            model.head = nn.Linear(8, 2)
        model.head.bias += 1
        rg.save_task(tmp_path / f"{name}.safetensors", model, bank)
        expected[name] = model(given)
    model, lib = rg.attach(build(), bank), rg.TaskLibrary(tmp_path, build(), bank)
    for name in ("tied", "own", "tied"):
        task = rg.load_task(tmp_path / f"{name}.safetensors", model, bank)
        lib.use(name)
        assert task.head.keys() == {"head.bias"} | ({"head.weight"} if name == "own" else set())
        for got in (model(given), lib(given), lib(given, tasks=name)):
            torch.testing.assert_close(got, expected[name])
        assert (model.head.weight is model.embedding.weight) == (name == "tied")
        made = {key: torch.from_numpy(array) for key, array in rg.generate(bank, task).items()}
        assert torch.equal(made["embedding.weight"], build().embedding.weight)
        plain = build()
        if name == "own":
            plain.head = nn.Linear(8, 2)
        plain.load_state_dict(made)
        torch.testing.assert_close(plain(given), expected[name])
    mixed = lib(given, tasks=["own", "tied", "tied", "own"])
    torch.testing.assert_close(mixed[1:3], expected["tied"][1:3])
    torch.testing.assert_close(mixed[::3, :2], expected["own"][::3])
    base = lib.base()
    assert base.head.weight is base.embedding.weight and torch.equal(base(given), build()(given))
    model.head.weight += 1
    with pytest.raises(TaskError, match="embedding.weight.*what the head shares"):
        rg.save_task(tmp_path / "trained.safetensors", model, bank)


def test_the_head_is_the_models_own_unless_it_is_named(cnn, own, tmp_path):
    model, bank = cnn(), cnn.bank(cnn())
    rg.attach(model, bank)
    assert rg.freeze(model) is model.fc and not any(
        name.startswith("fc") for name in rg.add_adapter(model, "piggyback")
    )
    rg.save_task(tmp_path / "task.safetensors", model, bank)
    assert rg.load_task(tmp_path / "task.safetensors", model, bank).head.keys() == {"fc.weight", "fc.bias"}
    with pytest.raises(AttachError, match="no module 'head'"):
        rg.freeze(own())


def test_a_head_of_several_layers_is_refused_where_there_is_none(vit, tmp_path):
    bank = vit.bank(vit(num_classes=0))
    model = rg.attach(vit(num_classes=0), bank)
    model.head = nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3))
    rg.save_task(tmp_path / "task.safetensors", model, bank)
    with pytest.raises(TaskError, match=r"no head\.0\.weight.* Put a module of the task's kind there first"):
        rg.load_task(tmp_path / "task.safetensors", other := rg.attach(vit(num_classes=0), bank), bank)
    other.head = nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3))
    rg.load_task(tmp_path / "task.safetensors", other, bank)
    assert torch.equal(other(vit.batch()), model(vit.batch()))
    assert rg.generate(bank, tmp_path / "task.safetensors")["head.2.weight"].shape == (3, 4)
