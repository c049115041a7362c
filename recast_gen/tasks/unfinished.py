"""Where training finds what it had done before."""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..weights.named import digest
from .code import code_hash


def key(asked: list, files: Iterable[Path], module: str) -> str:
    """Short name of all that a result depends on: what is `asked`, the code of a module, the content of files.

    Files that are not there are left out.
    """
    sha = hashlib.sha256()
    for path in sorted({Path(path) for path in files}):
        if path.is_file():
            with path.open("rb") as file:
                sha.update(f"{path.as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest(asked, sha.hexdigest(), code_hash(module))[:16]


@contextmanager
def kept_in(folder: Path, asked: list, files: Iterable[Path]) -> Iterator[Path]:
    """A folder in `folder` for training that may be killed, named by its `key`, so that nothing stale is taken for
    done.  `folder` is removed when the block ends well.
    """
    yield folder / key(asked, files, "tasks.module")
    shutil.rmtree(folder)
