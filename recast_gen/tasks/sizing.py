"""How many coefficients a task file of so many bytes has room for, beside its head."""

import json

from torch import nn

from ..errors import FitError

BESIDES = 240  # bytes of names, metrics and checks, at most
BITS = (4, 3, 2, 1)  # of each number of the head: the most that leave as many bytes for coefficients
ENOUGH = 100  # coefficients, a byte each, from which more bits of the head are worth more


def coefficients_within(size: int, head: nn.Module, classes: list[str]) -> int:
    """Coefficients of a byte each that fit beside a head in few bits, in a file of `size` bytes.

    Raises:
        FitError: the head alone needs more.
    """
    besides = BESIDES + len(json.dumps(classes).encode())
    matrix = sum(tensor.numel() for tensor in head.parameters() if tensor.ndim > 1)
    rest = 2 * (sum(tensor.numel() for tensor in head.parameters() if tensor.ndim < 2) + len(classes))
    bits = BITS if isinstance(head, nn.Linear) else (16,)
    left = {number: size - besides - rest - -(-matrix * number // 8) for number in bits}
    room = next((room for room in left.values() if room >= ENOUGH), max(left.values()))
    if room < 1:
        least = size - max(left.values()) + ENOUGH
        raise FitError(
            f"bytes={size:,}: a head of {len(classes)} classes needs more, with {matrix:,} weights even in "
            f"{min(bits)} bits each. {least:,} bytes leave room for {ENOUGH} coefficients."
        )
    return room
