"""A task file holds one task of one bank, and a damaged one is refused."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from recast_gen.bank import taskfile
from recast_gen.bank.bank import Group, TemplateBank
from recast_gen.bank.generation import generate
from recast_gen.errors import RecastError, TaskError
from recast_gen.weights.files import save_tensors


def make_bank(layers: int, templates: int, groups: int = 1, seed: int = 0) -> TemplateBank:
    """A bank of random numbers: `groups` groups of `layers` layers, and a head."""
    rng = np.random.default_rng(seed)
    made = {}
    for group in range(groups):
        names = tuple(f"blocks.{group * layers + index}.weight" for index in range(layers))
        arrays = rng.standard_normal((templates, 12, 3)), rng.standard_normal((layers, 1, 1, templates))
        made["blocks.*.weight", group] = Group(
            "blocks.*.weight", names, *(array.astype(np.float32) for array in arrays), "float32", {}
        )
    return TemplateBank(made, {"head.weight": np.zeros((2, 4), np.float32)})


def make_task(bank: TemplateBank, sets: int = 1, resolution: int = 1, classes: int = 2, seed: int = 0) -> taskfile.Task:
    rng = np.random.default_rng(seed)
    coefficients = {
        name: rng.standard_normal((sets, resolution, len(group.templates))).astype(np.float32)
        for name, group in bank.layers.items()
    }
    head = {"head.weight": rng.standard_normal((classes, 4)).astype(np.float32)}
    return taskfile.Task(
        coefficients, head, {"classes": [str(index) for index in range(classes)], "metrics": {"a": 0.5}}
    )


def same(one: taskfile.Task, other: taskfile.Task) -> bool:
    return one.about == other.about and all(
        list(mine) == list(theirs) and all(np.array_equal(mine[name], theirs[name]) for name in mine)
        for mine, theirs in [(one.coefficients, other.coefficients), (one.head, other.head)]
    )


@pytest.fixture
def written(tmp_path):
    bank = make_bank(2, 2, 2)
    taskfile.write(tmp_path / "task.safetensors", make_task(bank), bank)
    return tmp_path / "task.safetensors", bank


@given(*(st.integers(1, 3) for _ in range(6)), st.integers(0, 2**32 - 1))
def test_any_task_comes_back_bit_for_bit(tmp_path_factory, layers, templates, groups, sets, resolution, classes, seed):
    path, bank = tmp_path_factory.mktemp("task") / "task.safetensors", make_bank(layers, templates, groups)
    task = make_task(bank, sets, resolution, classes, seed)
    assert taskfile.write(path, task, bank) == path.stat().st_size
    assert same(taskfile.read(path, bank), task)


def test_two_writes_of_one_task_are_byte_identical(written):
    path, bank = written
    before = path.read_bytes()
    taskfile.write(path, make_task(bank), bank)
    assert path.read_bytes() == before


def test_every_flipped_byte_is_refused(written):
    path, bank = written
    good, rng = path.read_bytes(), random.Random(0)
    for at in rng.sample(range(len(good)), 80):
        bad = bytearray(good)
        bad[at] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(TaskError, match=r"task\.safetensors"):
            taskfile.read(path, bank)


def test_a_task_of_another_bank_is_refused_with_both_hashes(written):
    path, bank = written
    other = make_bank(2, 2, 2, seed=1)
    with pytest.raises(TaskError, match=f"belongs to bank {bank.hash}, but this is bank {other.hash}"):
        taskfile.read(path, other)


def test_a_missing_or_foreign_file_is_refused_by_its_path(tmp_path):
    bank = make_bank(2, 2)
    with pytest.raises(TaskError, match=r"nowhere\.safetensors does not exist"):
        taskfile.read(tmp_path / "nowhere.safetensors", bank)
    save_tensors(tmp_path / "plain.safetensors", {"a": np.zeros(3, np.float32)}, {})
    with pytest.raises(TaskError, match=r"plain\.safetensors has task format None"):
        taskfile.read(tmp_path / "plain.safetensors", bank)
    with pytest.raises(TaskError):
        taskfile.read(tmp_path, bank)


def test_coefficients_of_several_shapes_are_refused_and_nothing_is_written(tmp_path):
    bank = make_bank(2, 2)
    task = make_task(bank)
    task.coefficients["blocks.0.weight"] = np.zeros((1, 2, 2), np.float32)
    with pytest.raises(RecastError, match="several shapes"):
        taskfile.write(tmp_path / "task.safetensors", task, bank)
    assert not list(tmp_path.iterdir())


def test_a_head_that_the_backbone_lacks_is_refused_by_name():
    task = taskfile.Task({}, {"classifier.weight": np.zeros((2, 4), np.float32)})
    with pytest.raises(TaskError, match=r"classifier\.weight"):
        taskfile.head_for(make_bank(1, 1), task)


def test_a_backbone_without_a_head_or_with_another_takes_the_tasks():
    bank, classifier = (
        make_bank(2, 2),
        {"head.weight": np.ones((3, 4), np.float16), "head.bias": np.ones(3, np.float16)},
    )
    task = taskfile.Task(make_task(bank).coefficients, classifier, {"head": "head"})
    others = {name: array for name, array in bank.rest.items() if not name.startswith("head.")}
    for head in ({}, {"head.0.weight": np.ones((5, 4), np.float32)}):
        found = generate(replace(bank, rest=others | head), task)
        assert found.keys() == bank.layers.keys() | others.keys() | classifier.keys()
        assert found["head.weight"].shape == (3, 4) and found["head.bias"].dtype == np.float32  # as its layers are


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_task_of_the_papers_attention_variant_is_under_a_kilobyte_without_its_head(tmp_path, dtype):
    """ViT-S: qkv and proj of 12 blocks, groups of 2 layers and 2 templates; a head of 10 classes."""
    groups = {}
    for leaf in ("qkv", "proj"):
        for index in range(6):
            names = tuple(f"blocks.{2 * index + layer}.attn.{leaf}.weight" for layer in range(2))
            arrays = np.ones((2, 4, 3), np.float32), np.ones((2, 1, 1, 2), np.float32)
            family = f"blocks.*.attn.{leaf}.weight"
            groups[family, index] = Group(family, names, *arrays, "float32", {})
    bank = TemplateBank(groups, {"head.weight": np.zeros((10, 384), np.float32), "head.bias": np.zeros(10, np.float32)})
    coefficients = {name: np.ones((1, 1, 2), np.float32) for name in bank.layers}
    about = {
        "backbone": "vit_small_patch16_224", "classes": [str(index) for index in range(10)], "head": "head",
        "metrics": {"validation": 0.9321, "test": 0.9123},
    }  # fmt: skip
    task = taskfile.Task(coefficients, bank.rest, about)
    size = taskfile.write(tmp_path / "task.safetensors", task, bank, dtype)
    with safe_open(tmp_path / "task.safetensors", framework="numpy") as file:
        meta = file.metadata()
        head = sum(file.get_tensor(name).nbytes for name in file.keys() if name != "coefficients")
        assert file.get_tensor("coefficients").shape == (48,)
        assert {file.get_tensor(name).dtype.name for name in file.keys()} == {dtype}
    assert size - head <= 1024
    assert (meta["format"], meta["bank"], meta["resolution"]) == ("1", bank.hash, "1")
    assert meta["families"].split() == ["blocks.*.attn.qkv", "blocks.*.attn.proj"]
    assert json.loads(meta["about"]) == about


def test_a_float16_task_is_half_as_large_and_rounds_its_numbers_once(tmp_path):
    bank = make_bank(2, 2, 2)
    task = make_task(bank, classes=50)
    sizes = [taskfile.write(tmp_path / dtype, task, bank, dtype) for dtype in ("float32", "float16")]
    numbers = sum(array.size for array in [*task.coefficients.values(), *task.head.values()])
    assert 2 * numbers - 16 <= sizes[0] - sizes[1] <= 2 * numbers + 16
    found = taskfile.read(tmp_path / "float16", bank)
    for name, array in task.coefficients.items():
        assert found.coefficients[name].dtype == np.float32
        assert np.array_equal(found.coefficients[name], array.astype(np.float16))
    head = taskfile.head_for(bank, found)["head.weight"]
    assert head.dtype == np.float32 and np.array_equal(head, task.head["head.weight"].astype(np.float16))


@pytest.mark.parametrize(("dtype", "value"), [("float16", 1e6), ("float32", np.nan), ("float32", np.inf)])
@pytest.mark.parametrize("where", ["coefficients", "head.weight"])
def test_numbers_that_a_task_cannot_hold_are_refused_by_name(tmp_path, dtype, value, where):
    bank = make_bank(2, 2)
    task = make_task(bank)
    (task.head if where == "head.weight" else task.coefficients)[
        where if where == "head.weight" else "blocks.1.weight"
    ].flat[1] = value
    with pytest.raises(TaskError, match=f"{where} would hold 1 values"):
        taskfile.write(tmp_path / "task.safetensors", task, bank, dtype)
    with pytest.raises(TaskError, match="Did you mean 'float16'"):
        taskfile.write(tmp_path / "task.safetensors", make_task(bank), bank, "float61")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change", [{"sets": "two"}, {"about": "{"}, {"bank": None}, {"coefficients": None}, {"resolution": "9"}]
)
def test_a_whole_file_that_says_nonsense_is_refused_by_its_path(written, change):
    path, bank = written
    with safe_open(path, framework="numpy") as file:
        meta, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    for key, value in change.items():
        place = tensors if key == "coefficients" else meta
        place.pop(key) if value is None else place.update({key: value})
    meta.pop("sha256")
    save_tensors(path, tensors, meta | {"sha256": taskfile._checksum(meta, tensors)})
    with pytest.raises(TaskError, match=r"task\.safetensors"):
        taskfile.read(path, bank)
