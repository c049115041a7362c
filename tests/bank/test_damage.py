"""Whatever happens to a file or to the process that writes it: a named error, or exactly the old or the new state."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import recast_gen as rg
from recast_gen.bank import generation, taskfile
from recast_gen.bank.bank import TemplateBank
from recast_gen.bank.group import Group
from recast_gen.bank.saved import load_bank, pack, unpack
from recast_gen.errors import RecastError, StoreError, TaskError
from recast_gen.weights import files, store

FLIPS = 500
KILLS = 50
HOST = socket.gethostname()
ROOT = Path(__file__).parents[2]


def make_bank(seed: int = 0) -> TemplateBank:
    """A small bank with every part that one can have: posterior, random templates, several dtypes."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    groups = {}
    for family in ("a.*.weight", "b.*.weight"):
        names = tuple(family.replace("*", str(index)) for index in range(2))
        posterior = draw(2, 2, 3) if family == "b.*.weight" else None
        groups[family, 0] = Group(
            family, names, draw(3, 4, 3), draw(2, 1, 1, 3), "float16", {"stored_bytes": 0}, posterior=posterior
        )
    groups = rg.extend(TemplateBank({("a.*.weight", 0): groups["a.*.weight", 0]}, {}), 2, seed=1).groups | {
        ("b.*.weight", 0): groups["b.*.weight", 0]
    }
    rest = {"head.weight": draw(2, 4), "steps": np.array(7), "head.bias": draw(2)}
    return TemplateBank(groups, rest, {"timm_model": "made_up"}, {"seed": seed})


def make_task(bank: TemplateBank, seed: int = 0) -> taskfile.Task:
    rng = np.random.default_rng(seed)
    coefficients = {
        name: rng.standard_normal((1, 2, len(group.templates))).astype(np.float32)
        for name, group in bank.layers.items()
    }
    head = {"head.weight": rng.standard_normal((3, 4)).astype(np.float32)}
    return taskfile.Task(coefficients, head, {"classes": ["x", "y", "z"], "metrics": {"accuracy": 0.5}})


@pytest.fixture
def written(tmp_path):
    """Paths of a bank, the same bank packed, and a task of it."""
    bank = make_bank()
    bank.save(tmp_path / "bank.zarr")
    pack(tmp_path / "bank.zarr", tmp_path / "bank.safetensors")
    taskfile.write(tmp_path / "task.safetensors", make_task(bank), bank)
    return {name: tmp_path / f"{name}{'.zarr' if name == 'bank' else '.safetensors'}" for name in ("bank", "task")} | {
        "packed": tmp_path / "bank.safetensors"
    }


def content(bank: TemplateBank) -> list:
    """Everything that a bank holds, to the bit."""
    bits = lambda array: None if array is None else (array.dtype.name, array.shape, array.tobytes())  # noqa: E731
    return [
        [
            (key, group.names, group.dtype, group.certificate, group.random, group.seed)
            + tuple(map(bits, (group.templates, group.coefficients, group.posterior)))
            for key, group in bank.groups.items()
        ],
        [(name, bits(tensor)) for name, tensor in bank.rest.items()],
        bank.backbone, bank.fit, bank.hash,
    ]  # fmt: skip


def read(paths: dict, which: str) -> list:
    """What is on disk, as a user meets it: all of a bank, or all that is generated with the task."""
    if which == "task":
        bank = load_bank(paths["bank"])
        task = taskfile.read(paths["task"], bank)
        made = generation.generate(bank, task)
        return [task.about, *((name, array.dtype.name, array.tobytes()) for name, array in made.items())]
    return content(load_bank(paths[which]))


@pytest.mark.parametrize("which", ["bank", "packed", "task"])
def test_no_flipped_byte_gives_other_data_or_an_error_without_a_name(written, which):
    path, good, rng, refused = written[which], read(written, which), random.Random(which), 0
    everything = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
    ends = np.cumsum([file.stat().st_size for file in everything])
    for _ in range(FLIPS):
        at = rng.randrange(ends[-1])
        index = int(np.searchsorted(ends, at, side="right"))
        before = everything[index].read_bytes()
        damaged = bytearray(before)
        damaged[at - ends[index]] ^= rng.randrange(1, 256)  # counted from the file's end
        everything[index].write_bytes(damaged)
        try:
            found = read(written, which)
        except RecastError:
            refused += 1
        else:
            assert found == good, (everything[index], at)
        everything[index].write_bytes(before)
    assert refused > FLIPS / 2
    assert read(written, which) == good


@pytest.mark.parametrize("which", ["packed", "task"])
def test_a_truncated_file_is_refused_wherever_it_is_cut(written, which):
    data, rng = written[which].read_bytes(), random.Random(0)
    for length in (0, 7, 8, len(data) - 1, *(rng.randrange(len(data)) for _ in range(30))):
        written[which].write_bytes(data[:length])
        with pytest.raises(StoreError if which == "packed" else TaskError, match="safetensors"):
            read(written, which)


def test_every_missing_file_of_a_bank_is_refused_also_when_it_is_only_streamed(written, tmp_path):
    path, out = written["bank"], tmp_path / "out.safetensors"
    for file in [file for file in path.rglob("*") if file.is_file()]:
        before = file.read_bytes()
        file.unlink()
        with pytest.raises(StoreError, match=r"bank\.zarr"):
            load_bank(path)
        if file.parent.name != "posterior" and "posterior" not in str(file):
            with pytest.raises(StoreError, match=r"bank\.zarr"):
                generation.write(path, None, out)
        assert not out.exists()
        file.write_bytes(before)
    load_bank(path)


@pytest.mark.parametrize("which", ["bank", "packed"])
def test_an_attribute_edited_by_hand_is_refused(written, which):
    path = written["bank"] / "zarr.json" if which == "bank" else written["packed"]
    data = path.read_bytes()
    for word, other in [(b"made_up", b"make_up"), (b"float16", b"float32"), (b"a.0.weight", b"a.1.weight")]:
        assert word in data
        path.write_bytes(data.replace(word, other, 1))
        with pytest.raises(StoreError, match="hash"):
            read(written, which)
    path.write_bytes(data)
    read(written, which)


def test_rows_that_an_edited_shape_hides_are_missed(written):
    path = written["bank"] / "templates.a.%2A.weight" / "zarr.json"
    about = json.loads(path.read_text())
    about["shape"][0] -= 1
    path.write_text(json.dumps(about))
    with pytest.raises(StoreError, match="2 rows and 3 hashes"):
        load_bank(written["bank"])


def test_packing_and_unpacking_lose_nothing_and_repeat_to_the_byte(written, tmp_path):
    good = read(written, "bank")
    assert read(written, "packed") == good
    assert unpack(written["packed"], tmp_path / "again.zarr") == good[-1]
    assert pack(tmp_path / "again.zarr", tmp_path / "again.safetensors") == good[-1]
    assert (tmp_path / "again.safetensors").read_bytes() == written["packed"].read_bytes()
    for file in [file for file in written["bank"].rglob("*") if file.is_file()]:
        assert (tmp_path / "again.zarr" / file.relative_to(written["bank"])).read_bytes() == file.read_bytes()
    task = generation.generate(written["packed"], written["task"])
    assert all(np.array_equal(task[name], array) for name, array in generation.stream(written["bank"], written["task"]))


def test_packing_over_a_folder_or_unpacking_over_a_file_is_refused_and_changes_nothing(written):
    good = read(written, "bank")
    for act, source, target in [(pack, "bank", "bank"), (pack, "packed", "bank"), (unpack, "bank", "packed")]:
        with pytest.raises(StoreError):
            act(written[source], written[target])
    assert read(written, "bank") == good == read(written, "packed")
    assert sorted(file.name for file in written["bank"].parent.iterdir()) == [
        "bank.safetensors", "bank.zarr", "task.safetensors",
    ]  # fmt: skip


WRITER = """
import os, sys
from pathlib import Path

import zarr  # once, and not in every child

from tests.bank.test_damage import make_bank, make_task
from recast_gen.bank import generation, taskfile

def work(folder, rounds):
    banks = [make_bank(0), make_bank(1)]
    for turn in range(rounds):
        bank = banks[turn % 2]
        bank.save(folder / "bank.zarr")
        bank.save(folder / "bank.safetensors", packed=True)
        taskfile.write(folder / "task.safetensors", make_task(banks[0], turn % 2), banks[0])
        generation.write(bank, None, folder / "made.safetensors")

for line in sys.stdin:  # a child a line: how many rounds it writes
    child = os.fork()
    if not child:
        work(Path(sys.argv[1]), int(line))
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
NAMES = ["bank.safetensors", "bank.zarr", "made.safetensors", "task.safetensors"]


class Writer:
    """A process whose children write all outputs over and over; numpy and zarr are imported once."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def start(self, rounds: int) -> int:
        """Begins to write; returns the child's process id."""
        self.process.stdin.write(f"{rounds}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self) -> int:
        """The child's exit status, minus the signal that ended it."""
        return int(self.process.stdout.readline())


@pytest.fixture
def writers(tmp_path):
    """Two writers of the same outputs."""
    made = [Writer(tmp_path / "out") for _ in range(2)]
    yield made
    for each in made:
        each.process.stdin.close()
        each.process.stdout.close()
        each.process.wait()


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, tuple]:
    """The two complete states that each output may have."""
    folder, banks, states = tmp_path_factory.mktemp("states"), [make_bank(0), make_bank(1)], []
    for seed, bank in enumerate(banks):
        generation.write(bank, None, folder / "made")
        taskfile.write(folder / "task", make_task(banks[0], seed), banks[0])
        states.append([content(bank), *((folder / name).read_bytes() for name in ("made", "task"))])
    return dict(zip(("bank", "made", "task"), zip(*states)))


def check(folder, expected: dict) -> None:
    assert content(load_bank(folder / "bank.zarr")) in expected["bank"]
    assert content(load_bank(folder / "bank.safetensors")) in expected["bank"]
    assert (folder / "made.safetensors").read_bytes() in expected["made"]
    assert (folder / "task.safetensors").read_bytes() in expected["task"]


def names(folder) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_writer_killed_at_any_moment_leaves_a_complete_state_and_no_lasting_litter(tmp_path, writers, expected):
    folder, writer, rng, littered = tmp_path / "out", writers[0], random.Random(0), 0
    began = time.perf_counter()
    writer.start(2)
    assert writer.wait() == 0 and names(folder) == NAMES
    cycle = time.perf_counter() - began
    for _ in range(KILLS):
        child = writer.start(10**6)
        time.sleep(rng.uniform(0, min(cycle, 0.3)))
        os.kill(child, signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
        littered += names(folder) != NAMES
        check(folder, expected)
    assert littered > KILLS / 10  # else no write was ever cut short
    writer.start(2)
    assert writer.wait() == 0 and names(folder) == NAMES
    check(folder, expected)


def test_two_processes_writing_the_same_outputs_leave_one_complete_state(tmp_path, writers, expected):
    folder = tmp_path / "out"
    for writer in writers:
        writer.start(30)
    for _ in range(20):  # whoever reads meanwhile sees a complete state or a named error
        with suppress(StoreError):
            assert content(load_bank(folder / "bank.zarr")) in expected["bank"]
        time.sleep(0.02)
    assert [writer.wait() for writer in writers] == [0, 0]
    assert names(folder) == NAMES
    check(folder, expected)


def test_writers_that_replace_each_other_without_pause_all_succeed(tmp_path):
    script = (
        "import sys; from recast_gen.weights.store import save;[save(sys.argv[1], 'bank', {}, {}) for _ in range(300)]"
    )
    command = [sys.executable, "-c", script, tmp_path / "bank.zarr"]
    started = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
    assert [process.wait() for process in started] == [0] * 4
    assert names(tmp_path) == ["bank.zarr"]


def test_a_folder_that_is_replaced_while_it_is_looked_at_is_no_foreign_one(tmp_path, monkeypatch):
    def replaced(path):  # the file system may give the next folder the number of the one before
        shutil.rmtree(path)
        path.mkdir()
        (path / "zarr.json").touch()

    store.save(tmp_path / "bank.zarr", "bank", {}, {})
    monkeypatch.setattr(store, "kind_of", replaced)
    store.save(tmp_path / "bank.zarr", "bank", {}, {})
    assert names(tmp_path) == ["bank.zarr"]


def test_a_writer_killed_between_its_two_renames_leaves_the_old_state_to_the_next_reader(tmp_path):
    make_bank(0).save(tmp_path / "bank.zarr")
    script = (
        "import os, sys, signal; from recast_gen.weights import files; from tests.bank.test_damage import make_bank;"
        "files.Path.rename = lambda old, new: (os.rename(old, new), os.kill(os.getpid(), signal.SIGKILL));"
        "make_bank(1).save(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "bank.zarr"], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert "bank.zarr" not in names(tmp_path) and len(names(tmp_path)) == 2
    assert load_bank(tmp_path / "bank.zarr").hash == make_bank(0).hash
    make_bank(1).save(tmp_path / "bank.zarr")
    assert names(tmp_path) == ["bank.zarr"]


def test_what_another_machine_or_a_living_process_is_writing_is_left_alone(tmp_path):
    elsewhere, living = tmp_path / f".a.{os.getpid()}~0~not-here.new", tmp_path / f".a.{os.getppid()}~0~{HOST}.new"
    lost = tmp_path / f".a.{os.getpid()}~0~{HOST}.new"  # of a process that had our number
    unrelated = tmp_path / ".a.b.new"
    for file in (elsewhere, living, lost, unrelated):
        file.touch()
    with files.atomic(tmp_path / "a") as fresh, files.atomic(tmp_path / "a") as other:
        fresh.touch(), other.touch()
    assert set(names(tmp_path)) == {"a", elsewhere.name, living.name, unrelated.name}
