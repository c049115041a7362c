"""Arrays <-> disk: every bit comes back, or the error says so."""

import json
import os
import random
from functools import partial

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from recast_gen.errors import StoreError
from recast_gen.weights import store
from recast_gen.weights.dtypes import dtype_of
from recast_gen.weights.files import atomic, save_tensors
from recast_gen.weights.named import Weights

ARRAYS = st.dictionaries(
    st.text("abcXYZ019.*@_-/ é:", min_size=1, max_size=12).filter(lambda name: name.strip(".")),
    st.tuples(
        st.sampled_from(["float32", "float16", "bfloat16", "int64"]),
        st.lists(st.integers(1, 4), min_size=1, max_size=4),
        st.integers(0, 2**32 - 1),
    ).map(lambda case: noise(*case)),
    max_size=4,
)
ATTRIBUTES = st.dictionaries(
    st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=5), st.booleans()), max_size=3
)


def noise(dtype: str, shape: list[int], seed: int = 0) -> np.ndarray:
    """Any bits at all: NaN, infinities and subnormal numbers are among them."""
    size = int(np.prod(shape)) * dtype_of(dtype).itemsize
    bits = np.frombuffer(np.random.default_rng(seed).bytes(size), np.uint8)
    return (bits & 1 if dtype == "bool" else bits).view(dtype_of(dtype)).reshape(shape)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def contents(path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def read(path) -> tuple[dict[str, np.ndarray], dict]:
    arrays, attributes, _ = store.load(path, "bank")
    return {name: array[...] for name, array in arrays.items()}, attributes


@pytest.fixture
def written(tmp_path):
    """A small store, what is in it, and what it says about itself."""
    arrays = {
        "blocks.*.weight": noise("float32", [5, 4, 3], 1), "half": noise("float16", [3, 7], 2),
        "brain": noise("bfloat16", [2, 3, 2, 2], 3), "counts": noise("int64", [4], 4),
    }  # fmt: skip
    attributes = {"backbone": {"timm_model": "vit"}, "order": ["b", "a"]}
    store.save(tmp_path / "bank.zarr", "bank", arrays, attributes)
    return tmp_path / "bank.zarr", arrays, attributes


@given(ARRAYS, ATTRIBUTES)
def test_any_arrays_and_attributes_come_back_bit_for_bit(tmp_path_factory, arrays, attributes):
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    written = store.save(path, "bank", arrays, attributes)
    stored, found, hash_ = store.load(path, "bank")
    assert hash_ == written == store.fingerprint("bank", arrays, attributes)
    assert found == attributes
    assert stored.keys() == arrays.keys()
    assert all(same(stored[name][...], array) for name, array in arrays.items())
    assert all(same(stored[name][-1], array[-1]) for name, array in arrays.items())


@settings(max_examples=8)
@given(ARRAYS, ATTRIBUTES)
def test_two_writes_of_the_same_data_are_byte_identical(tmp_path_factory, arrays, attributes):
    folder = tmp_path_factory.mktemp("store")
    store.save(folder / "a.zarr", "bank", arrays, attributes)
    store.save(folder / "b.zarr", "bank", arrays, dict(reversed(attributes.items())))
    assert contents(folder / "a.zarr") == contents(folder / "b.zarr")


def test_a_store_is_replaced_whole(written):
    path, *_ = written
    store.save(path, "bank", {"other": noise("float32", [2, 2])}, {})
    assert set(read(path)[0]) == {"other"}
    assert [file.name for file in path.parent.iterdir()] == ["bank.zarr"]


def test_a_failure_in_the_middle_of_a_write_leaves_the_old_state_and_no_litter(written):
    path, *_ = written
    before = contents(path)

    def failing():
        yield noise("float32", [2])
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.save(path, "bank", {"a": noise("float32", [2, 2]), "b": store.Rows((2, 2), "float32", failing)}, {})
    assert contents(path) == before
    assert [file.name for file in path.parent.iterdir()] == ["bank.zarr"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_block_that_writes_nothing_leaves_the_old_state(tmp_path, kind):
    path = tmp_path / "old"
    if kind == "file":
        path.write_text("old")
    else:
        path.mkdir()
        (path / "part").write_text("old")
    with pytest.raises(FileNotFoundError), atomic(path):
        pass
    assert (path if kind == "file" else path / "part").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("key", ["content", "hash", "kind", "format", "complete"])
def test_a_damaged_key_of_the_roots_attributes_is_a_store_error(written, key):
    path, *_ = written
    root = path / "zarr.json"
    root.write_text(root.read_text().replace(f'"{key}"', f'"{key[:-1]}_"'))
    with pytest.raises(StoreError, match="bank.zarr"):
        read(path)


def test_a_truncated_file_is_a_store_error_wherever_it_is_cut(written):
    path, *_ = written
    rng = random.Random(0)
    for name, good in contents(path).items():
        for length in (0, len(good) - 2, rng.randrange(len(good) - 1)):
            (path / name).write_bytes(good[:length])
            with pytest.raises(StoreError, match="bank.zarr"):
                read(path)
        (path / name).write_bytes(good)
    read(path)


def test_a_store_of_another_kind_or_format_is_refused_with_both_names(written):
    path, *_ = written
    with pytest.raises(StoreError, match=r"is a bank; expected a network's layers"):
        store.load(path, "layers")
    about = json.loads((path / "zarr.json").read_text())
    about["attributes"]["format"] = 99
    (path / "zarr.json").write_text(json.dumps(about))
    with pytest.raises(StoreError, match="format 99"):
        store.load(path, "bank")


def test_a_missing_path_says_what_was_expected(tmp_path):
    with pytest.raises(StoreError, match=r"nowhere\.zarr does not exist; expected a bank\."):
        store.load(tmp_path / "nowhere.zarr", "bank")


def test_a_networks_tensors_come_back_in_their_order_shapes_and_dtypes(tmp_path):
    tensors = {
        f"blocks.{index}.{leaf}": noise(dtype, shape, index)
        for index in (1, 0, 2)
        for leaf, dtype, shape in [("w", "bfloat16", [3, 2]), ("steps", "int64", []), ("b", "float32", [3])]
    }
    store.save_layers(tmp_path / "layers.zarr", Weights(tensors, {"origin": "here"}))
    found = store.load_layers(tmp_path / "layers.zarr")
    assert list(found) == list(tensors) and found.backbone == {"origin": "here"}
    for name, tensor in tensors.items():
        assert isinstance(found[name], np.ndarray)
        assert same(found[name], tensor)


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=20), min_size=1, max_size=5))
def test_safetensors_are_byte_identical_whatever_the_order_of_their_metadata(tmp_path_factory, metadata):
    folder = tmp_path_factory.mktemp("file")
    tensors = {"a": noise("float32", [2, 3]), "b": noise("bfloat16", [3]), "c": noise("int64", [1])}
    size = save_tensors(folder / "a", tensors, metadata)
    save_tensors(folder / "b", tensors, dict(reversed(metadata.items())))
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    assert size == (folder / "a").stat().st_size
    with safe_open(folder / "a", framework="numpy") as file:
        assert file.metadata() == metadata
        assert all(same(file.get_tensor(name), array) for name, array in tensors.items())


def test_a_number_without_axes_stays_one_in_safetensors(tmp_path):
    save_tensors(tmp_path / "a", {"steps": np.array(7)}, {"format": "pt"})
    with safe_open(tmp_path / "a", framework="numpy") as file:
        assert same(file.get_tensor("steps"), np.array(7))


def test_what_is_no_store_of_ours_is_never_replaced(tmp_path):
    zarr.create_array(tmp_path / "own.zarr", shape=(3,), dtype="f4")[:] = 1
    os.mkfifo(tmp_path / "pipe")
    for name, write in (("own.zarr", store.save), ("pipe", partial(store.save, packed=True))):
        with pytest.raises(StoreError, match="write to another path"):
            write(tmp_path / name, "bank", {}, {})
    assert (zarr.open_array(tmp_path / "own.zarr", mode="r")[:] == 1).all() and (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("packed", [False, True])
def test_attributes_that_other_readers_would_refuse_are_named_and_nothing_is_written(tmp_path, packed):
    attributes = {"fit": {"losses": [0.5, float("nan")], "least": float("-inf"), "seed": 1}}
    with pytest.raises(StoreError, match=r"fit\.least=-inf, fit\.losses\.1=nan: JSON has no"):
        store.save(tmp_path / "bank", "bank", {}, attributes, packed)
    assert not list(tmp_path.iterdir())
