"""All networks of a population as rows of one file, so that a few are in memory."""

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import IO

import numpy as np

from ...errors import StoreError
from ...weights.files import put
from ...weights.named import Weights
from ..threads import beside

WIDTH = 1 << 14  # parameters at once, of all networks


def scratch(
    read: Callable[[int], dict[str, np.ndarray]], count: int, first: Weights, names: Sequence[str]
) -> tuple[IO[bytes], np.ndarray]:
    """A file without a name, which goes when the rows do, and all networks as its rows ``n p`` (float32)."""
    width = sum(int(np.prod(first.shapes[name][0], dtype=np.int64)) for name in names)
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115
        for index in range(count):
            network = read(index)
            for name in names:
                put(file, np.ascontiguousarray(network[name], np.float32))
        file.flush()
    except OSError as error:
        raise StoreError(
            f"{tempfile.gettempdir()} has no room for {count} networks of {4 * width:,} bytes ({error.strerror}): set "
            "TMPDIR to a folder that has."
        ) from error
    return file, np.memmap(file, np.float32, "r", shape=(count, width))


def overwrite(file: IO[bytes], rows: np.ndarray, columns: slice, matrix: np.ndarray) -> None:
    """Writes ``matrix @ rows`` over the first rows, in some columns.

    In float32, as the long axis is as long as all networks; and to the file in long pieces, as the first write to each
    page of a map is a fault, which costs more than the product.
    """
    matrix = matrix.astype(np.float32)

    def mix(first: int) -> None:
        for row, made in enumerate(matrix @ rows[:, first : min(first + WIDTH, columns.stop)]):
            os.pwrite(file.fileno(), made.data, (row * rows.shape[1] + first) * made.itemsize)

    beside(mix, range(columns.start, columns.stop, WIDTH))
