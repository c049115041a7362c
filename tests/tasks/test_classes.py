"""What heads see: features of several stages, and of a network that has learnt the first step."""

import pytest
import timm
import torch
from torch import nn

import recast_gen as rg
from recast_gen.errors import DataError
from recast_gen.model.attach import attached
from recast_gen.model.switching import load_task
from recast_gen.recipe.images import Data, Task
from recast_gen.recipe.incremental import Incremental
from recast_gen.recipe.training import Train
from recast_gen.tasks import data, prefix
from recast_gen.tasks.classes import Features, Source
from recast_gen.tasks.incremental import plan, run
from recast_gen.tasks.methods import prepare
from recast_gen.tasks.stages import Stages, stages

TASKS = [
    Task(name="low", data=Data(source="digits", classes=[0, 1, 2])),
    Task(name="odd", data=Data(source="digits", classes={"even": [0, 2], "odd": [1, 3]}, negative=True)),
]
FAST = Train(epochs=2, batch_size=64, lr=0.05, head_lr=0.05)


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("vit_tiny_patch16_224", [f"blocks.{i}" for i in range(12)]),
        ("resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        ("tf_efficientnet_lite0", [f"blocks.{i}" for i in range(7)]),
        ("swin_tiny_patch4_window7_224", [f"layers.{i}" for i in range(4)]),
        ("convnext_atto", [f"stages.{i}" for i in range(4)]),
        ("vgg11", []),  # one plain series of layers
    ],
)
def test_the_stages_of_a_network_are_its_outermost_series(name, series):
    with torch.device("meta"):
        assert stages(timm.create_model(name)) == series


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet18"])
def test_a_stage_is_the_mean_over_positions_whichever_axis_holds_the_channels(name):
    small = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "img_size": 32, "window_size": 1,
             "patch_size": 1} if name.startswith("swin") else {"channels": (8, 8, 16, 32), "stem_width": 8}  # fmt: skip
    model = timm.create_model(name, num_classes=3, **small).eval()
    images, path = torch.randn(5, 3, 32, 32), stages(model)[-2]
    seen = []
    model.get_submodule(path).register_forward_hook(lambda module, given, output: seen.append(output))
    with torch.no_grad():
        found = Stages(model, "head.fc" if name.startswith("swin") else "fc", last=2)(images)
        features = model.forward_head(model.forward_features(images), pre_logits=True)
    mean = seen[0].mean((1, 2) if name.startswith("swin") else (2, 3))
    torch.testing.assert_close(found, torch.cat([mean, features], 1))


def test_stages_that_give_more_than_one_tensor_or_one_row_an_image_are_seen():
    class Block(nn.Sequential):
        def forward(self, given):
            return super().forward(given[0] if isinstance(given, tuple) else given), None

    class Perceptron(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.ModuleList(Block(nn.Linear(12, 12), nn.LayerNorm(12)) for _ in range(3))
            self.head = nn.Linear(12, 2)

        def forward(self, images):
            seen = images.flatten(1)
            for layer in self.layer:
                seen = layer(seen)
            return self.head(seen[0])

    model, images = Perceptron(), torch.randn(4, 3, 2, 2)
    first = model.layer[0](images.flatten(1))
    second = model.layer[1](first)
    wanted = torch.cat([first[0], second[0], model.layer[2](second)[0]], 1)
    torch.testing.assert_close(Stages(model, "head", 3)(images), wanted)


def test_a_head_sees_more_stages_when_asked_and_too_many_are_refused(bank):
    source = Source(bank, TASKS, FAST, 0)
    one, two = source.features(), source.features(2)
    assert one.parts["train"][0].shape[1] == 16 and two.parts["train"][0].shape[1] == 32
    torch.testing.assert_close(two.parts["test"][0][:, 16:], one.parts["test"][0])
    with pytest.raises(DataError, match="the network has 4: blocks.0, blocks.1"):
        source.features(5)


def test_a_first_session_learns_the_first_step_alone_and_its_features_are_its_task_files(bank, tmp_path):
    source = Source(bank, TASKS, FAST.model_copy(update={"head_start": "random"}), 0)
    known = source.features()
    rows = plan(known, Incremental(), 0, 0)[0][1]
    size = source.learn(known, rows, None, tmp_path / "first.safetensors")
    found = source.features(1, tmp_path / "first.safetensors")
    model, _ = prepare("", bank, bank.base(), 3, FAST, 0)
    base = {name: values.detach().clone() for name, values in zip(attached(model), rg.coefficients(model))}
    task = load_task(tmp_path / "first.safetensors", model, bank)
    assert task.classes == ["low: 0", "low: 1", "low: 2"]
    now = dict(zip(base, rg.coefficients(model)))
    assert not all(torch.equal(now[name], start) for name, start in base.items())
    assert 0 < size < (tmp_path / "first.safetensors").stat().st_size
    images, labels = data.load(TASKS[0].data, bank.backbone["data_config"], 0).test.tensors
    with torch.no_grad():
        own = model.forward_head(model.eval().forward_features(images), pre_logits=True)
    torch.testing.assert_close(found.parts["test"][0][: len(labels)], own, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found.parts["test"][0], known.parts["test"][0], atol=1e-3)


def test_a_first_session_learns_images_that_do_not_fit_in_memory(bank, tmp_path, monkeypatch):
    bits = {"head_bits": 32, "coefficient_bits": 8, "epochs": 1}
    source = Source(bank, TASKS, FAST.model_copy(update=bits), 0)
    known = source.features()
    rows = plan(known, Incremental(), 0, 0)[0][1]
    learnt = []
    for most in (data.IN_MEMORY, 0):
        monkeypatch.setattr(data, "IN_MEMORY", most)
        monkeypatch.setattr(prefix, "MOST", 0)
        file = tmp_path / f"{most}.safetensors"
        Source(bank, TASKS, source.settings, 0).learn(known, rows, None, file)
        learnt.append(file.read_bytes())
    assert learnt[0] == learnt[1]


def test_rows_of_a_first_session_stand_beside_those_without_and_count_its_bytes(bank):
    source, settings = Source(bank, TASKS, FAST, 0), Incremental(heads=["ridge"], orders=1, first_session=1)
    known = source.features()
    rows, costs = run(known, settings, 0, lambda line: None, source)
    plain, first = ([row for row in rows if row["head"] == head] for head in ("ridge", "ridge, first session"))
    assert len(plain) == len(first) == 2
    alone, _ = run(known, settings.model_copy(update={"first_session": False}), 0, lambda line: None)
    assert plain == alone
    more = {row["bytes"] - other["bytes"] for row, other in zip(first, plain)}
    assert len(more) == 1 and min(more) > 0
    assert sum(row["head"] == "first session" for row in costs) == 1


def test_a_first_step_of_one_class_cannot_be_learnt(bank):
    source = Source(bank, TASKS, FAST, 0)
    names = dict.fromkeys(source.classes, "number")
    settings = Incremental(heads=["ridge"], orders=1, first_session=True, classes_per_step=1, hierarchy=names)
    with pytest.raises(DataError, match="first step, which has one class .number."):
        run(source.features(), settings, 0, lambda line: None, source)


def test_features_come_back_from_their_file(tmp_path):
    parts = {part: (torch.randn(3, 2), torch.arange(3)) for part in ("train", "validation", "test")}
    found = Features.load(Features(parts, ["a", "b", "c"], [[0, 1], [2]]).save(tmp_path / "f.safetensors"))
    assert found.classes == ["a", "b", "c"] and found.tasks == [[0, 1], [2]]
    assert all(torch.equal(one, other) for part in parts for one, other in zip(parts[part], found.parts[part]))
