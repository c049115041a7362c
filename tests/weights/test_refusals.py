"""Where the system refuses to write or read: one line that says where and what to do, the old state, no litter."""

import errno
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import recast_gen as rg
from recast_gen.bank import taskfile
from recast_gen.errors import SourceError, StoreError, plainly
from recast_gen.weights import files, sources, store
from recast_gen.weights.named import Weights

from ..bank.test_damage import make_bank, make_task
from .test_store import contents, noise

LAYERS = {f"blocks.{index}.weight": noise("int64", [40, 40], index) for index in range(4)}
WRITERS = {
    "layers.zarr": lambda path: store.save_layers(path, Weights(LAYERS)),
    "bank.zarr": lambda path: store.save(path, "bank", {"a": noise("int8", [3, 4000])}, {}),
    "bank.safetensors": lambda path: store.save(path, "bank", {"a": noise("int8", [3, 4000])}, {}, packed=True),
    "task.safetensors": lambda path: taskfile.write(path, wide_task(), make_bank()),
    "made.safetensors": lambda path: files.save_tensors(path, LAYERS, {}),
}


def wide_task() -> taskfile.Task:
    task = make_task(make_bank())
    return taskfile.Task(task.coefficients, {"head.weight": np.ones((3000, 4), np.float32)}, task.about)


@contextmanager
def full(size: int = 2048):
    """A system that writes no file beyond a size (bytes)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", WRITERS)
def test_a_write_that_the_system_refuses_half_way_keeps_the_old_state_and_names_the_path(tmp_path, name):
    path = tmp_path / name
    for old in (False, True):
        if old:
            WRITERS[name](path)
        before = contents(tmp_path)
        with pytest.raises(StoreError, match=rf"{name} cannot be written \(File too large\).*ulimit") as found, full():
            WRITERS[name](path)
        assert "\n" not in str(found.value) and contents(tmp_path) == before
        assert [file.name for file in tmp_path.iterdir()] == [name] * old


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_every_refusal_of_the_system_has_a_remedy(tmp_path, code, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise OSError(code, "refused", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreError, match=r"a\.zarr cannot be written \(refused\), and is as it was\. \w.*\.$"):
        store.save(tmp_path / "a.zarr", "bank", {}, {})


def test_what_the_system_says_of_another_file_is_not_said_of_the_output(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), files.atomic(tmp_path / "a"):
        (tmp_path / "elsewhere").read_text()
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="a cannot be written.*A file is where a folder should be"):
        store.save(tmp_path / "file" / "a", "bank", {}, {})


def test_a_source_that_is_cut_while_it_is_open_is_named_and_nothing_is_written(tmp_path):
    numbers = {name: np.ones((40, 40), np.float32) * place for place, name in enumerate(LAYERS)}
    files.save_tensors(tmp_path / "a.safetensors", numbers, {})
    weights, bank = sources.read(tmp_path / "a.safetensors"), rg.mimic(tmp_path / "a.safetensors")
    with (tmp_path / "a.safetensors").open("r+b") as file:
        file.truncate(9000)
    for write in (bank.save, lambda path: store.save_layers(path, weights)):
        with pytest.raises(SourceError, match=r"a\.safetensors changed since it was opened"):
            write(tmp_path / "b.zarr")
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error", "x"), StoreError("x: write it again")])
def test_at_a_commands_door_an_error_is_one_line_and_with_debug_a_trace(error, monkeypatch):
    with pytest.raises(SystemExit, match=r"^error: x: [^\n]+$"), plainly():
        raise error
    monkeypatch.setenv("RECAST_DEBUG", "1")
    with pytest.raises(type(error)), plainly():
        raise error


COMMANDS = """
import sys
from recast_gen.cli import main
for out in ("full/out", "readonly/out"):
    sys.argv = ["recast", "generate", "bank.safetensors", "--out", out]
    try:
        main()
    except SystemExit as left:
        print(left.code)
"""


def test_commands_say_in_one_line_that_a_disk_is_full_or_read_only(tmp_path):
    bank = make_bank()
    rest = bank.rest | {"wide": np.ones((100, 100))}
    type(bank)(bank.groups, rest, {}, {}).save(tmp_path / "bank.safetensors", packed=True)
    (tmp_path / "full").mkdir(), (tmp_path / "readonly").mkdir()
    mounts = "mount -t tmpfs -o size=8k none full && mount -t tmpfs -o ro none readonly"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mounts], cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    words = ["unshare", "-rm", "sh", "-c", f'{mounts} && exec "$0" -c "$1"', sys.executable, COMMANDS]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.splitlines() == [
        "error: full/out cannot be written (No space left on device), and is as it was. Free some space, or write to "
        "another disk.",
        "error: readonly/out cannot be written (Read-only file system), and is as it was. Give a path that can be "
        "written.",
    ]  # fmt: skip
