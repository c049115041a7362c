"""Outputs on disk, whole or not at all, whoever else writes and whenever we are killed; safetensors written so."""

import errno
import io
import json
import os
import shutil
import socket
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from safetensors import safe_open

from ..errors import REMEDIES, StoreError, listing
from .dtypes import CODES, code_of, dtype_of

Shapes = Mapping[str, tuple[tuple[int, ...], str]]
PIECE = 2**20  # bytes that are written at once
_writing: set[Path] = set()  # temporary siblings that this process is writing


class Stack(Protocol):
    """Rows ``...`` with the shape ``l ...`` and the dtype of all: an array, rows that are made, or rows on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[np.ndarray]: ...


def refuse_input(out: str | Path, *read: object) -> None:
    """Raises StoreError for an output that is one of what is read, of which paths alone count."""
    for path in read:
        if isinstance(path, str | Path) and os.path.realpath(path) == os.path.realpath(out):
            raise StoreError(f"{out} is read, and would be lost: write to another path.")


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A sibling of `path` to write to; it replaces `path` when the block ends well and is removed when it does not.

    What a killed process left of the same output is put right first.  The last of several writers wins.
    Raises StoreError for a folder where a file should be written, the other way round, for a device, and where the
    system refuses: a full disk, a read-only folder.
    """
    path = Path(path) if Path(path).name else Path(path).absolute()
    with suppress(FileNotFoundError, NotADirectoryError):
        if stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise StoreError(f"{path} is neither a file nor a folder: write to another path.")
    with _refusals_of(path), _sibling(path) as fresh:
        yield fresh


@contextmanager
def _refusals_of(path: Path) -> Iterator[None]:
    """What the system refuses while `path` is written names it; what it says of other files passes."""
    try:
        yield
    except OSError as error:
        named, own = Path(error.filename or path), path.with_name(f".{path.name}.")
        ours = named in (path, *path.parents) or any(str(part).startswith(str(own)) for part in (named, *named.parents))
        if not ours or error.errno not in REMEDIES or isinstance(error, FileNotFoundError):
            raise
        raise StoreError(
            f"{path} cannot be written ({error.strerror}), and is as it was. {REMEDIES[error.errno]}."
        ) from error


@contextmanager
def _sibling(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    # the names say who writes: process, attempt, machine
    owner = f"{os.getpid()}~{uuid.uuid4().hex[:8]}~{socket.gethostname()}"
    fresh, stale = (path.with_name(f".{path.name}.{owner}.{kind}") for kind in ("new", "old"))
    _writing.update({fresh, stale})
    try:
        yield fresh
        _replace(path, fresh, stale)
    except BaseException:
        if stale.exists() and not path.exists():
            stale.rename(path)
        raise
    finally:
        for leftover in (fresh, stale):
            _remove(leftover)
            _writing.discard(leftover)


def _replace(path: Path, fresh: Path, stale: Path) -> None:
    while True:
        try:
            fresh.replace(path)
            return
        except (NotADirectoryError, IsADirectoryError):
            kind = "a folder" if path.is_dir() else "a file"
            raise StoreError(f"{path} is {kind} of something else: remove it, or write to another path.") from None
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # a folder cannot be renamed over another
                raise
        _remove(stale)
        try:
            path.rename(stale)  # killed here, `recover` puts it back
        except FileNotFoundError:
            continue  # another writer is between its two renames


def recover(path: Path) -> None:
    """Puts right what killed writers of `path` left: a missing old state comes back, their litter goes."""
    head, host = f".{path.name}.", socket.gethostname()
    for sibling in path.parent.glob(".*.???"):
        owner, _, kind = sibling.name.removeprefix(head).rpartition(".")
        pid, _, rest = owner.partition("~")
        ours = sibling.name.startswith(head) and kind in ("new", "old") and rest.partition("~")[2] == host
        if not ours or not pid.isdigit() or _alive(int(pid), sibling):
            continue
        with suppress(OSError):  # another process may be doing it as well
            if kind == "old" and not path.exists():
                sibling.rename(path)
            else:
                _remove(sibling)


def _alive(pid: int, sibling: Path) -> bool:
    if pid == os.getpid():
        return sibling in _writing
    if os.name != "posix":
        return True  # asking would end it there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def save_tensors(path: str | Path, tensors: Mapping[str, Stack], metadata: Mapping[str, str]) -> int:
    """Writes a safetensors file of tensors at hand; see `stream_tensors`."""
    shapes = {name: (tensor.shape, tensor.dtype.name) for name, tensor in tensors.items()}
    return stream_tensors(path, shapes, tensors.items(), metadata)


def stream_tensors(
    path: str | Path, shapes: Shapes, tensors: Iterable[tuple[str, Stack]], metadata: Mapping[str, str]
) -> int:
    """Writes a safetensors file, atomically, one tensor at a time in any order; returns its size in bytes.

    shapes: name -> (shape, dtype name) of every tensor that will come, as an array or as its rows.  The same content
    gives the same bytes: wide dtypes first, then by name, as the library writes it and as aligned reading needs it
    (https://github.com/huggingface/safetensors#format).  Raises StoreError for a dtype that the format lacks.
    """
    header: dict[str, dict[str, Any]] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    starts, end = {}, 0
    for name in sorted(shapes, key=lambda name: (-dtype_of(shapes[name][1]).itemsize, name)):
        shape, dtype = shapes[name]
        starts[name], end = end, end + int(np.prod(shape, dtype=np.int64)) * dtype_of(dtype).itemsize
        header[name] = {"dtype": code_of(name, dtype), "shape": list(shape), "data_offsets": [starts[name], end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with atomic(path) as fresh, open(fresh, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors:
            if (tensor.shape, tensor.dtype.name) != shapes[name]:
                found = f"{tensor.shape} {tensor.dtype.name}"
                raise StoreError(f"{name} is {found}; {shapes[name]} was announced. Write {path} again.")
            file.seek(8 + len(text) + starts.pop(name))
            for part in [tensor] if isinstance(tensor, np.ndarray) else tensor:
                put(file, np.ascontiguousarray(part, dtype_of(tensor.dtype.name)))
        if starts:
            raise StoreError(f"{path} lacks {', '.join(starts)}, which were announced. Write it again.")
    return 8 + len(text) + end


class TensorFile:
    """A safetensors file, whose tensors are read one at a time, in every dtype; the library reads those of numpy alone.

    metadata: text by name.  shapes: name -> (shape, dtype name).  start: the byte at which the data begins.  spans: the
    first and the last byte of each tensor, counted from there.
    Raises StoreError for values smaller than a byte, and what the library raises for a damaged file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with safe_open(path, framework="numpy") as file:  # checks the layout
            self.metadata = file.metadata() or {}
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        if unknown := [f"{name} ({entry['dtype']})" for name, entry in header.items() if entry["dtype"] not in CODES]:
            raise StoreError(f"{path}: {listing(unknown, 6)} have a dtype that numpy cannot hold: convert them first.")
        self.start = 8 + size
        self.spans = {name: tuple(entry["data_offsets"]) for name, entry in header.items()}
        self.shapes = {name: (tuple(entry["shape"]), CODES[entry["dtype"]]) for name, entry in header.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        """One tensor.  Raises EOFError where the file ends before it."""
        shape, dtype = self.shapes[name]
        tensor = np.empty(shape, dtype_of(dtype))
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.start + self.spans[name][0])
            fill(file, tensor)
        return tensor


def read_tensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata; see `TensorFile`."""
    file = TensorFile(path)
    return {name: file[name] for name in file.shapes}, file.metadata


def put(file: IO[bytes], array: np.ndarray) -> None:
    """Writes a contiguous array in pieces: one write of tens of MB may cost several times what they do."""
    content = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(content), PIECE):
        file.write(content[start : start + PIECE])


def fill(file: io.RawIOBase, array: np.ndarray) -> None:
    """Reads the bytes of a contiguous array.  Raises EOFError where the file ends before."""
    left = array.reshape(-1).view(np.uint8).data
    while left:
        if not (count := file.readinto(left)):
            raise EOFError("the file ends too early: it was cut")
        left = left[count:]
