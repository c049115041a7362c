"""Stacks in shards: what plain zarr reads and would have written, whatever the sizes, and damage found to the row."""

import json

import numpy as np
import pytest
import zarr
from google_crc32c import value
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec

from recast_gen.errors import StoreError
from recast_gen.weights import store
from recast_gen.weights.dtypes import KNOWN, bits_of, dtype_of

from .test_store import contents, noise, same

STACKS = st.tuples(
    st.sampled_from(KNOWN), st.tuples(st.integers(1, 9)), st.lists(st.integers(0, 4), max_size=3).map(tuple)
).map(lambda case: noise(case[0], case[1] + case[2]))
SHARDS = st.integers(1, 400)  # bytes: from less than a row to more than the stack


def by_zarr(path, array: np.ndarray, together: int) -> None:
    """Writes a stack as zarr itself does."""
    layer, bits = tuple(max(1, size) for size in array.shape[1:]), bits_of(array.dtype)
    zarr.create_array(
        path, shape=array.shape, dtype=bits, chunks=(1, *layer), shards=(together, *layer), compressors=[Crc32cCodec()],
        fill_value=np.nan if bits.kind == "f" else 0, config={"write_empty_chunks": True},
    )[...] = array.view(bits)  # fmt: skip


@given(STACKS, SHARDS)
def test_a_stack_of_any_dtype_and_size_is_read_by_zarr_and_written_as_zarr_would(tmp_path_factory, array, shard_bytes):
    folder = tmp_path_factory.mktemp("store")
    store.save(folder / "a.zarr", "bank", {"a": array}, {}, shard_bytes=shard_bytes)
    found = zarr.open_group(folder / "a.zarr", mode="r")["a"]
    assert found[...].tobytes() == array.tobytes() and found.shape == array.shape
    by_zarr(folder / "b", array, found.shards[0])
    ours, theirs = contents(folder / "a.zarr" / "a"), contents(folder / "b")
    metadata = [json.loads(each.pop("zarr.json")) | {"attributes": {}} for each in (ours, theirs)]
    assert metadata[0] == metadata[1] and ours == theirs


@given(STACKS, SHARDS, st.booleans())
def test_a_stack_of_any_number_of_shards_comes_back_whole_and_row_by_row(tmp_path_factory, array, shard_bytes, packed):
    path = tmp_path_factory.mktemp("store") / "a"
    written = store.save(path, "bank", {"a": array}, {}, packed, shard_bytes)
    assert written == store.fingerprint("bank", {"a": array}, {})
    stored = store.load(path, "bank")[0]["a"]
    assert same(stored[...], array) and all(same(stored[row], array[row]) for row in range(-1, len(array)))
    assert same(stored[1:-1], array[1:-1])


@given(st.integers(1, 9), st.integers(1, 60), st.data())
def test_exactly_the_rows_that_are_not_in_a_shards_index_are_missing(tmp_path_factory, rows, shard_bytes, data):
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    store.save(path, "bank", {"a": noise("float32", [rows, 3])}, {}, shard_bytes=shard_bytes)
    together = zarr.open_group(path, mode="r")["a"].shards[0]
    gone = data.draw(st.sets(st.integers(0, rows - 1), min_size=1))
    for row in gone:
        shard = path / "a" / "c" / str(row // together) / "0"
        content = bytearray(shard.read_bytes())
        place = len(content) - 4 - 16 * (together - row % together)
        content[place : place + 16] = b"\xff" * 16
        content[-4:] = value(bytes(content[-4 - 16 * together : -4])).to_bytes(4, "little")
        shard.write_bytes(content)
    named = ", ".join(map(str, sorted(gone)))
    with pytest.raises(StoreError, match=rf"\({named} of its {rows} rows are missing"):
        store.load(path, "bank")[0]["a"][0]


@given(st.integers(1, 9), st.integers(1, 60), st.booleans(), st.data())
def test_exactly_the_rows_that_are_damaged_are_named(tmp_path_factory, rows, shard_bytes, packed, data):
    path, array = tmp_path_factory.mktemp("store") / "a", noise("float32", [rows, 3])
    store.save(path, "bank", {"a": array}, {}, packed, shard_bytes)
    bad = data.draw(st.sets(st.integers(0, rows - 1), min_size=1))
    for file in [path] if packed else (path / "a" / "c").glob("*/0"):
        content = file.read_bytes()
        for row in bad:
            content = content.replace(array[row].tobytes(), array[row].tobytes()[::-1])
        file.write_bytes(content)
    stored, named = store.load(path, "bank")[0]["a"], ", ".join(map(str, sorted(bad)))
    with pytest.raises(StoreError, match=rf"\(rows {named} do not match"):
        stored[...]
    for row in range(rows):
        if row in bad:
            with pytest.raises(StoreError, match=rf"\(rows {row} do not match"):
                stored[row]
        else:
            assert same(stored[row], array[row])


def test_a_missing_shard_and_one_whose_index_is_damaged_have_no_rows(tmp_path):
    store.save(tmp_path / "a.zarr", "bank", {"a": noise("float32", [6, 3])}, {}, shard_bytes=24)
    shards = tmp_path / "a.zarr" / "a" / "c"
    (shards / "0" / "0").unlink()
    content = (shards / "2" / "0").read_bytes()
    (shards / "2" / "0").write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    with pytest.raises(StoreError, match="0, 1, 4, 5 of its 6 rows are missing"):
        store.load(tmp_path / "a.zarr", "bank")[0]["a"][2:4]


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_cut_while_it_is_open_is_a_store_error(tmp_path, packed):
    path, array = tmp_path / "a", noise("float32", [5, 3])
    store.save(path, "bank", {"a": array}, {}, packed)
    stored = store.load(path, "bank")[0]["a"]
    file = path if packed else path / "a" / "c" / "0" / "0"
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 100)
    with pytest.raises(StoreError, match="damaged"):
        stored[...]


def test_an_array_that_something_else_laid_out_is_read_by_zarr(tmp_path):
    array = noise("float32", [5, 3])
    store.save(tmp_path / "a.zarr", "bank", {"a": array}, {})
    attributes = json.loads((tmp_path / "a.zarr" / "a" / "zarr.json").read_text())["attributes"]
    other = zarr.create_array(tmp_path / "other", shape=array.shape, dtype="float32", chunks=(2, 3))
    other[...] = array
    other.attrs.update(attributes)
    (tmp_path / "a.zarr" / "a").rename(tmp_path / "gone")
    (tmp_path / "other").rename(tmp_path / "a.zarr" / "a")
    stored = store.load(tmp_path / "a.zarr", "bank")[0]["a"]
    assert same(stored[...], array) and same(stored[3], array[3])
    assert dtype_of("float32") == stored.dtype
