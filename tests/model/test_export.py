"""A task in other people's formats computes what it computes here."""

import copy
import json

import numpy as np
import onnxruntime
import peft
import pytest
import timm
import torch
from PIL import Image
from safetensors.numpy import load_file
from timm.layers import Conv2dSame, StdConv2d
from torch import nn
from transformers.pytorch_utils import Conv1D

import recast_gen as rg
from recast_gen.errors import ExportError, TaskError
from recast_gen.model import lora
from recast_gen.weights import networks
from recast_gen.weights.named import Weights
from recast_gen.weights.sources import read

from ..conftest import PICO_VIT
from ..process import recast
from .test_switching import adapt


def test_onnx_gives_the_same_logits_for_batches_of_any_size(architecture, tmp_path):
    model = adapt(architecture, architecture.bank(architecture())).eval()
    with pytest.raises(ExportError, match=r"rg\.bake"):
        rg.to_onnx(model, tmp_path / "model.onnx", architecture.images)
    rg.bake(model)
    with pytest.raises(ExportError, match="takes no images of input_size"):
        rg.to_onnx(model, tmp_path / "model.onnx", (1 + architecture.images[0], *architecture.images[1:]))
    assert rg.to_onnx(model, tmp_path / "model.onnx", architecture.images) <= 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"] and not model.training
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 4):
        images = architecture.batch()[:count]
        (logits,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(logits, model(images).detach().numpy(), rtol=1e-4, atol=1e-4)


class Unsteady(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 2), 0

    def forward(self, images):
        self.calls += 1
        return self.layer(images) + (0 if torch.compiler.is_compiling() else self.calls)


def test_an_onnx_model_that_computes_something_else_is_refused_and_not_written(tmp_path):
    with pytest.raises(ExportError, match="onnxruntime's logits are"):
        rg.to_onnx(Unsteady(), tmp_path / "model.onnx", (4,))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("resolution", [1, 4])
def test_peft_loads_a_task_on_the_plain_backbone(architecture, tmp_path, resolution):
    bank, images = architecture.bank(architecture()), architecture.batch()
    model = adapt(architecture, bank, 5, resolution=resolution).eval()
    rg.save_task(tmp_path / "task.safetensors", model, bank, head=architecture.head, classes=list("abcde"))
    errors = {}
    for rank in (1, 4, 16):
        folder = tmp_path / f"rank{rank}"
        found = rg.to_peft(bank, tmp_path / "task.safetensors", folder, rank, tolerance=2)
        plain = architecture()  # the backbone, with a fresh head for the task's classes
        head = plain.get_submodule(architecture.head)
        setattr(plain, architecture.head, nn.Linear(head.in_features, 5))
        base = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
        merged = peft.PeftModel.from_pretrained(plain, folder).merge_and_unload().eval().state_dict()
        made = rg.generate(bank, tmp_path / "task.safetensors")
        wanted = {name: torch.from_numpy(made[name]) for name in made}
        lost = sum((merged[name] - wanted[name]).square().sum() for name in bank.layers)
        added = sum((wanted[name] - base[name]).square().sum() for name in bank.layers)
        assert found["relative_error"] == pytest.approx(float((lost / added).sqrt()), abs=1e-4)
        assert json.loads((folder / "recast.json").read_text()) == found
        assert f"{found['relative_error']:.3g}" in (folder / "README.md").read_text()
        errors[rank] = found["relative_error"]
    assert errors[1] > errors[4] > errors[16] >= 0 and errors[16] < 1e-4  # no layer is wider than 16
    plain.load_state_dict(merged)
    torch.testing.assert_close(plain.eval()(images), model(images), rtol=1e-3, atol=1e-4)


def test_the_rank_is_the_smallest_that_keeps_the_task_and_a_smaller_one_is_refused(vit, tmp_path):
    bank, path = vit.bank(vit()), tmp_path / "task.safetensors"
    rg.save_task(path, adapt(vit, bank, resolution=4), bank)
    chosen = rg.to_peft(bank, path, tmp_path / "adapter", tolerance=0.3)
    assert 1 < chosen["rank"] < 16 and chosen["relative_error"] <= 0.3
    with pytest.raises(ExportError, match=f"at most 0.3 was to be lost: rank {chosen['rank']} does"):
        rg.to_peft(bank, path, tmp_path / "other", chosen["rank"] - 1, tolerance=0.3)
    full = rg.to_peft(bank, path, tmp_path / "full", 10**6)
    assert full["rank"] == max(min(group.shape[0], group.shape[1]) for group in bank.groups.values())
    assert not (tmp_path / "other").exists() and rg.to_peft(bank, path, tmp_path / "adapter")["relative_error"] <= 0.01


def test_factors_from_few_directions_lose_as_little_as_those_of_all():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((120, 90)) * 0.9 ** np.arange(90)
    for rank in (1, 5, 80):
        up, down, lost = lora.factors(matrix, rank)
        least = np.square(np.linalg.svd(matrix, compute_uv=False)[rank:]).sum()
        assert lost <= 1.001 * least + 1e-9
        np.testing.assert_allclose(np.square(matrix - up @ down).sum(), lost, rtol=1e-4, atol=1e-6)
    assert lora.smallest_rank([matrix, up @ down], (2 * least / np.square(matrix).sum()) ** 0.5) <= 81


class Gpt(nn.Module):
    """Layers that hold their weights as ``i o``, as GPT-2 has them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Conv1D(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 2)

    def forward(self, given):
        for layer in self.layers:
            given = given + layer(given).tanh()
        return self.head(given)


@torch.no_grad()
def test_a_layers_form_is_asked_of_its_module(tmp_path):
    torch.manual_seed(0)
    model, given, path = Gpt(), torch.randn(3, 8), tmp_path / "task.safetensors"
    plain, bank = copy.deepcopy(model), rg.mimic(model, families=["layers.*"])
    for parameter in rg.coefficients(rg.attach(model, bank, resolution="channel")):
        parameter += 0.5 * torch.randn(parameter.shape)
    rg.save_task(path, model, bank)
    rg.to_peft(bank, path, tmp_path / "adapter", tolerance=1e-4)
    loaded = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(given), model(given), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(loaded.merge_and_unload()(given), model(given), rtol=1e-3, atol=1e-4)


class Turned(nn.Linear):
    def forward(self, given):
        return given @ self.weight


class Cast(nn.Linear):  # as timm's
    def forward(self, given):
        return nn.functional.linear(given, self.weight.to(given), self.bias.to(given))


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: nn.Conv2d(8, 8, 3, groups=4), "4 groups"),
        (lambda: Turned(8, 8), "Turned"),
        (lambda: StdConv2d(8, 8, 3), "StdConv2d"),
        (lambda: Conv2dSame(8, 8, 3), "Conv2dSame"),
        (lambda: nn.ConvTranspose2d(8, 8, 3), "ConvTranspose2d"),
        (lambda: Cast(8, 8), ""),
        (lambda: nn.Conv2d(8, 8, 3, dilation=2, padding=1, padding_mode="circular"), ""),
    ],
)
def test_a_module_that_computes_in_its_own_way_is_refused_by_its_name(make, said, tmp_path):
    model, path = nn.Sequential(*(make() for _ in range(2))), tmp_path / "task.safetensors"
    bank = rg.mimic(model)
    rg.save_task(path, rg.attach(model, bank), bank, head="")
    if not said:
        assert rg.to_peft(bank, path, tmp_path / "adapter")["rank"] == 1
        return
    with pytest.raises(ExportError, match=rf"0\.weight \({said}\)"):
        rg.to_peft(bank, path, tmp_path / "adapter")


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_a_layer_that_is_read_and_not_called_is_refused_as_peft_would_leave_it_unused(qkv_bias, tmp_path):
    small = {"img_size": 32, "depth": 2, "embed_dim": 12, "num_heads": 2, "num_classes": 3, "qkv_bias": qkv_bias}
    model, path = timm.create_model("beit_base_patch16_224", **small), tmp_path / "task.safetensors"
    bank, state = rg.mimic(model, families=["*.qkv", "*.attn.proj"]), torch.get_rng_state()
    rg.save_task(path, rg.attach(model, bank), bank)
    assert torch.equal(torch.get_rng_state(), state)
    if not qkv_bias:  # timm then calls it
        assert rg.to_peft(bank, path, tmp_path / "adapter")["rank"] == 1
        return
    with pytest.raises(ExportError, match=r"no form for blocks\.0\.attn\.qkv\.weight \(read by Attention"):
        rg.to_peft(bank, path, tmp_path / "adapter")


@pytest.mark.parametrize("tolerance", [0.3, 0.03, 1e-5])
def test_with_images_the_rank_is_the_least_that_keeps_the_logits(architecture, tmp_path, tolerance):
    model, images = architecture(), architecture.batch()
    plain, bank = copy.deepcopy(model), architecture.bank(model)
    rg.attach(model, bank, resolution="channel" if architecture.name == "vit" else 1)
    for coefficients in rg.coefficients(model):
        coefficients.data += 0.3 * torch.randn(coefficients.shape, generator=torch.Generator().manual_seed(1))
    rg.save_task(tmp_path / "task.safetensors", model, bank, head=architecture.head)
    options = {"tolerance": tolerance, "images": images, "model": plain}
    found = rg.to_peft(bank, tmp_path / "task.safetensors", tmp_path / "adapter", **options)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path / "adapter").eval()
    lost = float((loaded(images) - model(images)).norm() / model(images).norm())
    assert lost <= max(1.01 * tolerance, 1e-5) and lost == pytest.approx(found["logits_error"], abs=2e-6)
    if found["rank"] > 1:
        with pytest.raises(ExportError, match=f"moves the logits.*rank {found['rank']} does"):
            rank = found["rank"] - 1
            rg.to_peft(bank, tmp_path / "task.safetensors", tmp_path / "other", rank, **options)
    assert not (tmp_path / "other").exists()
    with pytest.raises(ExportError, match="takes no images"):
        wrong = options | {"images": images[:, :2]}
        rg.to_peft(bank, tmp_path / "task.safetensors", tmp_path / "adapter", **wrong)


def test_what_peft_cannot_hold_is_refused_by_name(vit, tmp_path):
    model = vit()
    for families, says in (
        (["blocks.*.norm1.weight"], r"blocks\.0\.norm1\.weight"),
        (["*.mlp.fc?"], "rank=0: expected"),
    ):
        bank = rg.mimic(model, families=families)
        rg.save_task(tmp_path / "task.safetensors", rg.attach(vit(), bank), bank)
        with pytest.raises(ExportError, match=says):
            rg.to_peft(bank, tmp_path / "task.safetensors", tmp_path / "adapter", rank=0)
    assert not (tmp_path / "adapter").exists()


@pytest.fixture
def store(tmp_path):
    """A bank on disk that knows its timm model, as one from the hub does, and two tasks of it."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **PICO_VIT).eval()
    weights = read(model, timm_kwargs=PICO_VIT)
    weights.backbone |= {"data_config": {"input_size": [3, 16, 16]}, "hub": True}
    bank = rg.mimic(weights)
    bank.save(tmp_path / "bank.zarr")
    rg.attach(model, bank)
    for name, accuracy in (("one", 0.75), ("two", 0.5)):
        rg.save_task(tmp_path / f"{name}.safetensors", model, bank, classes=list("abc"), metrics={"accuracy": accuracy})
    return bank, model


def test_a_published_folder_states_its_origin_and_opens_as_a_library(store, tmp_path):
    bank, model = store
    tasks = [tmp_path / f"{name}.safetensors" for name in ("one", "two")]
    folder = rg.to_folder(tmp_path / "bank.zarr", tasks, tmp_path / "published")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "bank.zarr", "one.safetensors", "two.safetensors"
    ]  # fmt: skip
    card = (folder / "README.md").read_text()
    front = card.split("---\n")[1]
    assert 'license: "apache-2.0"' in front and 'base_model: "timm/vit_tiny_patch16_224' in front
    for said in (bank.hash, "one.safetensors", "accuracy 0.75", "a, b, c", "apache-2.0, as timm states it"):
        assert said in card
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(rg.TaskLibrary(folder)(images, tasks=["one", "two"]), model(images))
    rg.to_folder(bank, tasks, folder, licence="mit")
    assert 'license: "mit"' in (folder / "README.md").read_text()


@pytest.mark.parametrize("export", [rg.to_peft, rg.to_folder])
def test_a_folder_with_more_than_is_written_anew_is_never_replaced(store, tmp_path, export, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bank, _ = store
    with pytest.raises(ExportError, match="would lose .*two.safetensors"):
        export(bank, "one.safetensors", ".")
    for _ in range(2):
        export(bank, "one.safetensors", "made")
    (tmp_path / "made" / "notes").touch()
    with pytest.raises(ExportError, match="would lose notes: remove that"):
        export(bank, "one.safetensors", "made")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bank.zarr",
        "made",
        "one.safetensors",
        "two.safetensors",
    ]
    assert (tmp_path / "made" / "notes").exists()


@pytest.mark.parametrize("net", ["own", "vit"])
def test_the_licence_of_ones_own_weights_is_not_guessed(net, tmp_path, request):
    own = request.getfixturevalue(net)
    bank = own.bank(own())
    rg.save_task(tmp_path / "task.safetensors", rg.attach(own(), bank), bank, head=own.head)
    card = (rg.to_folder(bank, [tmp_path / "task.safetensors"], tmp_path / "published") / "README.md").read_text()
    assert "not known; ask who published it" in card and 'license: "unknown"' in card and "base_model" not in card
    with pytest.raises(TaskError, match="belongs to bank"):
        rg.to_folder(own.bank(own(), groups=2), [tmp_path / "task.safetensors"], tmp_path / "published")
    assert (tmp_path / "published" / "README.md").read_text() == card


def test_a_sample_of_a_bank_is_exported_like_a_task_without_a_head(store, tmp_path):
    bank, _ = store
    sampled = rg.mimic_vae(Weights(rg.generate(bank), bank.backbone), templates=2, epochs=1)
    sampled.save(tmp_path / "vae.zarr")
    assert recast("sample", "vae.zarr", "--n", 1, "--out", "samples", cwd=tmp_path).returncode == 0
    sample = "samples/sample_000.safetensors"
    for words in (["onnx", "vae.zarr", sample], ["peft", "vae.zarr", sample], ["folder", "vae.zarr", sample]):
        done = recast("export", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    model = rg.attach(networks.rebuild(sampled.base()), sampled)
    rg.load_task(tmp_path / sample, model, sampled)
    assert model.num_classes == model.head.out_features == 3


def test_recast_export_writes_all_three(store, tmp_path):
    for words in (["onnx", "bank.zarr", "one.safetensors"], ["peft", "bank.zarr", "one.safetensors"]):
        done = recast("export", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "rank 1 loses" in done.stdout and (tmp_path / "model.onnx").stat().st_size > 10_000
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "photos").mkdir()
    for shade in range(0, 250, 25):
        Image.new("RGB", (20, 20), (shade, 100, 250 - shade)).save(tmp_path / "photos" / f"{shade}.png")
    done = recast("export", "peft", "bank.zarr", "one.safetensors", "--images", "photos", "--most", "4", cwd=tmp_path)
    assert done.returncode == 0 and "on 4 images its logits are" in done.stdout, done.stderr
    (tmp_path / "photos" / "0.png").write_bytes(b"damaged")
    done = recast("export", "peft", "bank.zarr", "one.safetensors", "--images", "photos", cwd=tmp_path)
    assert done.returncode == 1 and "0.png cannot be read" in done.stderr and "Traceback" not in done.stderr
    done = recast("export", "folder", "bank.zarr", "one.safetensors", "two.safetensors", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "published" / "README.md").is_file(), done.stderr
