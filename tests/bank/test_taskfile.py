"""A task file holds one task of one bank, and a damaged one is refused."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.bank import compact, taskfile
from recast_gen.bank.bank import TemplateBank
from recast_gen.bank.generation import generate
from recast_gen.bank.group import Group
from recast_gen.bank.quantization import moments
from recast_gen.bank.rounding import rounded
from recast_gen.bank.task import brought
from recast_gen.errors import RecastError, TaskError
from recast_gen.weights.files import save_tensors
from recast_gen.weights.store import kind_of


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
    save_tensors(tmp_path / "plain.safetensors", {"a": np.zeros(3, np.float32)}, {"format": "pt"})
    with pytest.raises(TaskError, match=r"plain\.safetensors is a file of plain tensors; expected a task file"):
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
        brought(make_bank(1, 1), task)


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


@pytest.mark.parametrize("bits", [32, 16, 8])
@pytest.mark.parametrize("classes", [[str(index) for index in range(10)], [f"a name {3**i % 101}" for i in range(10)]])
def test_a_task_of_the_papers_attention_variant_is_its_numbers_and_under_300_bytes_more(tmp_path, bits, classes):
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
        "backbone": "vit_small_patch16_224", "classes": classes, "head": "head",
        "metrics": {"validation": 0.9321, "test": 0.9123},
    }  # fmt: skip
    task = rounded(taskfile.Task(coefficients, bank.rest, about), bank, bits, bits, moments(np.eye(384)))
    path = tmp_path / "task.safetensors"
    size = taskfile.write(path, task, bank)
    rows = taskfile.sizes(path)
    assert size - (48 * bits + 3840 * bits + 10 * min(bits, 16) + (bits == 8) * 16 * 12 + 32) // 8 < 300
    assert rows[-1][-1] == size == sum(row[-1] for row in rows[:-1]) == sum(taskfile.parts(path).values())
    assert size == taskfile.size(task, bank)
    found = taskfile.read(path, bank)
    assert found.about == about and len(found.coefficients) == 24


OLD = sorted(Path(__file__).with_name("old").glob("*.safetensors"))


def counted(*shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape), dtype=np.float32) / 7 - 1).reshape(shape)


@pytest.mark.parametrize("path", OLD, ids=[path.stem for path in OLD])
def test_files_of_the_formats_before_this_one_are_read_as_they_were(path, tmp_path):
    dtype = path.stem.rpartition(".")[2]
    names = ("blocks.0.weight", "blocks.1.weight")
    group = Group("blocks.*.weight", names, counted(2, 12, 3), counted(2, 1, 1, 2), "float32", {})
    rest = {"head.weight": counted(2, 4), "head.bias": counted(2)}
    bank = TemplateBank({("blocks.*.weight", 0): group}, rest)
    found = taskfile.read(path, bank)
    for name, array in found.coefficients.items():
        assert array.dtype == np.float32
        assert np.array_equal(array, (counted(1, 3, 2) + names.index(name)).astype(dtype))
    assert np.array_equal(found.head["head.weight"], counted(3, 4).astype(dtype))
    assert found.classes == ["x", "y", "z"] and found.about["adapter"]["name"] == "piggyback"
    assert found.adapter["blocks.0.weight"]["mask"].tolist() == [0, 1, 2, 3, 4]
    assert kind_of(path) == "task" and taskfile.write(tmp_path / "new", found, bank) < path.stat().st_size
    assert same(taskfile.read(tmp_path / "new", bank), found)
    good, rng = path.read_bytes(), random.Random(0)
    for at in rng.sample(range(len(good)), 40):
        bad = bytearray(good)
        bad[at] ^= 1 << rng.randrange(8)
        (tmp_path / "bad.safetensors").write_bytes(bad)
        with pytest.raises(TaskError, match=r"bad\.safetensors"):
            taskfile.read(tmp_path / "bad.safetensors", bank)


@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("value", [1e6, np.nan, np.inf])
@pytest.mark.parametrize("where", ["coefficients", "head.weight"])
def test_numbers_that_a_task_cannot_hold_are_refused_by_name(tmp_path, bits, value, where):
    bank = make_bank(2, 2)
    task = make_task(bank)
    (task.head if where == "head.weight" else task.coefficients)[
        where if where == "head.weight" else "blocks.1.weight"
    ].flat[1] = value
    if (bits, value) == (32, 1e6):
        assert taskfile.write(tmp_path / "task.safetensors", task, bank)
        return
    with pytest.raises(TaskError, match=f"{where} would hold 1 values"):
        taskfile.write(tmp_path / "task.safetensors", rounded(task, bank, bits, bits), bank)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"sets": 2}, {"bank": "00" * 16}, {"arrays": []}, {"resolution": [9]},
        {"arrays": [("", np.zeros(3, np.float32))]}, {"arrays": [("", counted(4)), ("adapter:a.b", counted(4))]},
        {"arrays": [("", counted(4)), ("", counted(4).astype(np.float16))]},
    ],
)  # fmt: skip
def test_a_whole_file_that_says_nonsense_is_refused_by_its_path(written, change):
    path, bank = written
    save_tensors(
        path,
        {"recast:3": np.frombuffer(compact.encode(replace(taskfile.record(path), **change)), np.uint8)},
        {},
    )
    with pytest.raises(TaskError, match=r"task\.safetensors"):
        taskfile.read(path, bank)


@pytest.mark.parametrize("cut", [1, 17, 40, 200])
def test_a_file_of_one_tensor_that_is_no_task_is_refused_by_its_path(written, cut):
    path, bank = written
    data = np.frombuffer(compact.encode(taskfile.record(path)), np.uint8)
    cases = {"recast:3": data[:-cut]}, {"other": data}, {"recast:3": np.zeros(0, np.uint8)}, {"recast:4": data}
    for tensors in cases:
        save_tensors(path, tensors, {})
        with pytest.raises(TaskError, match=r"task\.safetensors"):
            taskfile.read(path, bank)


NAMES = st.lists(st.text("a019", max_size=3) | st.builds("{:03}".format, st.integers(7, 12)), unique=True, max_size=30)


@given(NAMES.map(sorted) | NAMES | st.just([f"x{number}" for number in (9, 10, 11, 12)]))
def test_classes_come_back_whatever_they_count(tmp_path_factory, names):
    path, bank = tmp_path_factory.mktemp("task") / "task.safetensors", make_bank(1, 2)
    taskfile.write(path, replace(make_task(bank), about={"classes": names}), bank)
    assert taskfile.read(path, bank).classes == names


def test_numbered_classes_cost_next_to_nothing(tmp_path):
    bank = make_bank(2, 2)
    names = [f"images/{word}/character{number:02}" for word in ("one", "other") for number in range(1, 26)]
    task = replace(make_task(bank, classes=50), about={"classes": names, "metrics": {"test": 0.8123}})
    taskfile.write(tmp_path / "task.safetensors", task, bank)
    assert taskfile.parts(tmp_path / "task.safetensors")["names and checks"] < 220


@pytest.mark.parametrize("about", [["classes"], *({"classes": c} for c in (["a", 2], [3], ["a0", 10**9], [["a"]]))])
def test_a_file_whose_classes_cannot_be_is_refused(written, about, monkeypatch):
    path, bank = written
    found = taskfile.record(path)
    with monkeypatch.context() as patch:
        patch.setattr(compact, "_classes", lambda about, change: about)
        data = compact.encode(replace(found, about=about))
    save_tensors(path, {"recast:3": np.frombuffer(data, np.uint8)}, {})
    with pytest.raises(TaskError, match=r"task\.safetensors is no complete task file"):
        taskfile.read(path, bank)


@pytest.mark.parametrize("name", ["bank.safetensors", "router.safetensors"])
def test_a_task_is_not_written_where_a_folder_of_tasks_has_something_else(name, vit, tmp_path):
    bank = vit.bank(model := vit())
    with pytest.raises(TaskError, match="bank or router by this name"):
        rg.save_task(tmp_path / name, rg.attach(model, bank), bank)
    assert not list(tmp_path.iterdir())
