"""A folder of tasks on one live model: switching, mixing, coming back."""

import shutil
import threading

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.pytorch_utils import Conv1D

import recast_gen as rg
from recast_gen.bank.listing import tasks_in
from recast_gen.errors import AttachError, ExportError, TaskError
from recast_gen.model import mixed_templates

from ..conftest import PICO_VIT
from .test_switching import adapt

SIZES = {"birds": (2, 1), "cars": (5, 4), "flowers": (3, 2)}  # classes, resolution


def save_tasks(architecture, bank, folder):
    """A folder of tasks with other class counts and resolutions, and the logits of each on the test batch."""
    logits = {}
    for seed, (name, (classes, resolution)) in enumerate(SIZES.items()):
        model = adapt(architecture, bank, classes, seed, resolution).eval()
        rg.save_task(folder / f"{name}.safetensors", model, bank, head=architecture.head)
        with torch.no_grad():
            logits[name] = model(architecture.batch())
    return logits


@pytest.fixture
def made(architecture, tmp_path):
    bank = architecture.bank(architecture())
    return bank, save_tasks(architecture, bank, tmp_path)


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_tasks_are_switched_by_name_and_the_base_comes_back_bit_for_bit(architecture, made, tmp_path):
    bank, logits = made
    model = architecture()
    before, images = state(model), architecture.batch()
    lib = rg.TaskLibrary(tmp_path, model, bank)
    assert lib.names == sorted(SIZES) and len(lib) == 3
    assert lib.base() is model
    for name in ["birds", "cars", "flowers", "cars", "birds"] * 4:
        assert len(lib.use(name).about["classes"]) == SIZES[name][0]
        assert torch.equal(lib(images), logits[name]) and lib.current == name
        assert getattr(model, "num_classes", SIZES[name][0]) == SIZES[name][0]
    after = lib.base().state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert lib.current is None and not any("Parametrized" in type(module).__name__ for module in model.modules())
    assert getattr(model, "num_classes", 3) == len(after[f"{architecture.head}.weight"])
    lib.use("birds")
    assert torch.equal(lib(images), logits["birds"])


@pytest.mark.parametrize("worth", [0, 10**9])
def test_every_image_of_a_batch_is_under_its_own_task(architecture, made, tmp_path, monkeypatch, worth):
    """Whether layers' weights are made task by task, or images pass every template."""
    monkeypatch.setattr(mixed_templates, "WORTH", worth)
    bank, logits = made
    lib = rg.TaskLibrary(tmp_path, architecture(), bank)
    images, tasks = architecture.batch(), ["flowers", "birds", "cars", "flowers"]
    for current in (lib.base, lambda: lib.use("cars")):
        current()
        before = state(lib.model)
        mixed = lib(images, tasks=tasks)
        assert mixed.shape == (4, 5)
        for row, (got, name) in enumerate(zip(mixed, tasks)):
            classes = SIZES[name][0]
            torch.testing.assert_close(got[:classes], logits[name][row], rtol=1e-4, atol=1e-5)
            assert (got[classes:] == -torch.inf).all()
        after = state(lib.model)
        assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
        torch.testing.assert_close(lib(images, tasks="birds"), logits["birds"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("switched", [False, True])
def test_the_model_may_be_moved_while_it_is_in_a_library(architecture, made, tmp_path, switched):
    bank, logits = made
    lib, images = rg.TaskLibrary(tmp_path, architecture(), bank), architecture.batch().double()
    if switched:
        lib.use("cars")
    lib.model.double()
    mixed = lib(images, tasks=["cars", "cars", "birds", "cars"])
    torch.testing.assert_close(mixed[:2], logits["cars"][:2].double(), rtol=1e-3, atol=1e-4)
    lib.use("birds")
    torch.testing.assert_close(lib(images), logits["birds"].double(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(lib.base().state_dict(), architecture().double().state_dict(), rtol=0, atol=0)


class Gpt(nn.Module):
    """As GPT-2 is made: `addmm` on weights ``i o``, and an output that holds the logits."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Conv1D(8, 8) for _ in range(2))

    def forward(self, given):
        for layer in self.layers:
            given = given + layer(given).tanh()
        return ImageClassifierOutput(logits=given)


@torch.no_grad()
def test_layers_of_transformers_and_outputs_with_logits_are_mixed(tmp_path):
    torch.manual_seed(0)
    model, given, expected = Gpt(), torch.randn(3, 5, 8), {}
    bank = rg.mimic(model)
    rg.attach(model, bank)
    for name in "ab":
        for parameter in rg.coefficients(model):
            parameter += 0.5
        rg.save_task(tmp_path / f"{name}.safetensors", model, bank, head="")
        expected[name] = model(given).logits
    lib = rg.TaskLibrary(tmp_path, rg.detach(model), bank)
    mixed = lib(given, tasks=["a", "b", "a"])
    torch.testing.assert_close(mixed, torch.stack([expected["a"][0], expected["b"][1], expected["a"][2]]))
    with pytest.raises(ExportError, match="returns ImageClassifierOutput, no tensor of logits"):
        rg.to_onnx(lib.base(), tmp_path / "model.onnx", (5, 8))


@pytest.mark.parametrize("families", [["layers.*.blocks.*.attn.qkv*"], ["*relative_position_bias_table*", "*.qkv*"]])
def test_windows_of_an_image_stay_with_its_task(tmp_path, families):
    def swin():
        torch.manual_seed(0)
        return timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=16, patch_size=2, window_size=2, embed_dim=8, depths=(2, 2),
            num_heads=(2, 2), num_classes=3,
        ).eval()  # fmt: skip

    bank = rg.mimic(swin(), families=families)
    images, logits = torch.randn(3, 3, 16, 16), {}
    for name in ("one", "two"):
        model = rg.attach(swin(), bank)
        for parameter in rg.coefficients(model):
            parameter.data += torch.randn(parameter.shape)
        rg.save_task(tmp_path / f"{name}.safetensors", model, bank, head="head")
        logits[name] = model(images)
    mixed = rg.TaskLibrary(tmp_path, swin(), bank)(images, tasks=["two", "one", "two"])
    expected = torch.stack([logits["two"][0], logits["one"][1], logits["two"][2]])
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, images):
        for layer in self.layers:
            images = nn.functional.linear(images, layer.weight * 2)
        return images


class Table(nn.Module):
    """Adds what layers make of a table, and not of the images."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.register_buffer("table", torch.randn(2, 2, 4))

    def forward(self, images):
        return images + self.layers[1](self.layers[0](self.table)).sum(0)


class Twice(nn.Module):
    """Uses its layers twice, by two names."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.again = nn.ModuleList([*self.layers])

    def forward(self, images):
        return nn.Sequential(*self.layers, *self.again)(images)


def test_layers_that_a_model_has_by_two_names_are_mixed_and_stay(tmp_path):
    torch.manual_seed(0)
    model, images, expected = Twice(), torch.randn(3, 4), []
    bank = rg.mimic(model)
    rg.attach(model, bank)
    for name in "ab":
        for parameter in rg.coefficients(model):
            parameter.data *= 1.5
        rg.save_task(tmp_path / f"{name}.safetensors", model, bank, head="")
        expected.append(model(images))
    lib = rg.TaskLibrary(tmp_path, rg.detach(model), bank)
    before = state(model)
    mixed = lib(images, tasks=["a", "b", "a"])
    torch.testing.assert_close(mixed, torch.stack([expected[0][0], expected[1][1], expected[0][2]]))
    after = state(model)
    assert all(type(p) is nn.Parameter for p in model.parameters())
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_model_that_cannot_be_mixed_is_refused_and_still_switches(tmp_path):
    for build, says in (
        (Doubled, "mul"),
        (Table, "not image by image"),
        (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 4), 2, enable_nested_tensor=False), "batch_f"),
    ):
        torch.manual_seed(0)
        model, images = build().eval(), torch.randn(2, 2, 4)
        bank = rg.mimic(model)
        rg.save_task(tmp_path / "task.safetensors", rg.attach(model, bank), bank, head="")
        lib = rg.TaskLibrary(tmp_path, rg.detach(model), bank)
        expected = lib(images)
        with pytest.raises(TaskError, match=says):
            lib(images, tasks=["task", "task"])
        lib.use("task")
        torch.testing.assert_close(lib(images), expected, rtol=1e-4, atol=1e-5)


def test_threads_share_a_library(vit, tmp_path):
    bank, wrong = vit.bank(vit()), []
    logits = save_tasks(vit, bank, tmp_path)
    lib, images = rg.TaskLibrary(tmp_path, vit(), bank), vit.batch()

    def work(number: int) -> None:
        for step in range(12):
            name = sorted(SIZES)[(number + step) % 3]
            with lib.lock:
                lib.use(name)
                switched = lib(images)
            alone = lib(images, tasks=name)
            if step % 4 == 3:
                lib.base()
            wrong.extend(
                (number, step) for got in (switched, alone) if not torch.allclose(got, logits[name], 1e-4, 1e-5)
            )

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_switching_a_compiled_model_does_not_recompile(vit, tmp_path):
    bank = vit.bank(vit())
    for seed in range(4):
        rg.save_task(tmp_path / f"{seed}.safetensors", adapt(vit, bank, 3, seed), bank)
    lib, images = rg.TaskLibrary(tmp_path, vit(), bank), vit.batch()
    torch._dynamo.reset()
    compiled, counters = torch.compile(lib.model, backend="eager"), torch._dynamo.utils.counters
    with torch.no_grad():
        for name in ("0", "1"):
            lib.use(name)
            compiled(images)
        lib.base()
        base = compiled(images)
        counters.clear()
        for name in ("2", "3", "0", "1"):
            lib.use(name)
            assert torch.equal(compiled(images), lib(images))
        lib(images, tasks=["0", "1", "2", "3"])
        lib.base()
        assert torch.equal(compiled(images), base)
    assert not counters["stats"] and not counters["graph_break"]


def test_a_baked_model_compiles_and_exports(vit, tmp_path):
    bank, images = vit.bank(vit()), vit.batch()
    model = rg.bake(adapt(vit, bank)).eval()
    expected = model(images)
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(images), expected)
    torch.testing.assert_close(torch.export.export(model, (images,)).module()(images), expected)


def test_a_folder_with_its_bank_is_enough_when_the_bank_knows_its_model(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **PICO_VIT).eval()
    bank = rg.mimic(model, timm_kwargs=PICO_VIT)
    bank.save(tmp_path / "bank.zarr")
    rg.save_task(tmp_path / "same.safetensors", rg.attach(model, bank), bank)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(rg.TaskLibrary(tmp_path)(images, tasks="same"), model(images))


def test_only_task_files_are_tasks_of_a_folder(vit, tmp_path):
    bank = vit.bank(vit())
    save_tasks(vit, bank, tmp_path)
    bank.save(tmp_path / "other.bank.safetensors", packed=True)
    save_file(vit().state_dict(), tmp_path / "network.safetensors")
    lib = rg.TaskLibrary(tmp_path, vit(), bank)
    assert lib.names == sorted(SIZES) == [each.name for each in tasks_in(tmp_path)]
    for other, what in (("network", "a file of plain tensors"), ("other.bank", "a bank")):
        with pytest.raises(TaskError, match=rf"{other}\.safetensors is {what}; expected a task file"):
            lib.use(other)
    assert lib.current is None


def test_mistakes_are_refused_by_name_and_leave_the_task_as_it_was(vit, tmp_path):
    bank = vit.bank(vit())
    logits = save_tasks(vit, bank, tmp_path)
    lib, images = rg.TaskLibrary(tmp_path, vit(), bank), vit.batch()
    lib.use("birds")
    damaged = bytearray((tmp_path / "cars.safetensors").read_bytes())
    damaged[-3] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(damaged)
    for call, says in (
        (lambda: lib.use("flower"), r"Did you mean 'flowers'\?"),
        (lambda: lib(images, tasks=["flower"] * 4), r"Did you mean 'flowers'\?"),
        (lambda: lib(images, tasks=["cars"]), "1 tasks were named for 4 images"),
        (lambda: lib.use("damaged"), "damaged"),
        (lambda: lib(images[:, :2]), r"of shape \(4, 2, .* with c = 3"),
        (lambda: lib(images[:, :2], tasks="birds"), r"of shape \(4, 2, .* with c = 3"),
        (lambda: rg.load_task(tmp_path, lib.model, bank), "is a folder"),
        (lambda: rg.TaskLibrary(tmp_path / "nowhere", vit(), bank), "does not exist"),
    ):
        with pytest.raises(TaskError, match=says):
            call()
        assert lib.current == "birds" and torch.equal(lib(images), logits["birds"])
    with pytest.raises(AttachError, match="another bank"):
        rg.TaskLibrary(tmp_path, rg.attach(vit(), vit.bank(vit(), groups=2)), bank)
    rg.bake(lib.model)
    for call in (lib.base, lambda: lib.use("birds"), lambda: lib(images, tasks="birds")):
        with pytest.raises(AttachError, match="outside its library"):
            call()
    lib.model.train()
    with pytest.raises(TaskError, match="training mode"):
        lib(images, tasks="birds")


def test_a_task_that_is_written_again_is_read_again(vit, tmp_path):
    bank = vit.bank(vit())
    logits = save_tasks(vit, bank, tmp_path)
    lib = rg.TaskLibrary(tmp_path, vit(), bank)
    lib.use("birds")
    shutil.copy(tmp_path / "cars.safetensors", tmp_path / "fresh")
    (tmp_path / "fresh").replace(tmp_path / "birds.safetensors")
    lib.use("birds")
    assert torch.equal(lib(vit.batch()), logits["cars"])
    (tmp_path / "birds.safetensors").unlink()
    with pytest.raises(TaskError, match="no task 'birds'"):
        lib.use("birds")
