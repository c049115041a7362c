"""Names that count on, in few bytes: ``a01 a02 a03 b`` is ``a01 2 b``."""

import re

MOST = 10**6  # names that a description may stand for
NUMBER = re.compile(r"[0-9]{1,9}\Z")


def short(names: list[str]) -> list[str | int]:
    """The names, of those that count on from the one before them how many they are."""
    found: list[str | int] = []
    for before, name in zip([None, *names], names):
        counts = before is not None and name == _next(before)
        if counts and isinstance(found[-1], int):
            found[-1] += 1
        else:
            found.append(1 if counts else name)
    return found


def long(described: list[str | int]) -> list[str]:
    """What `short` described.  Raises ValueError, IndexError or TypeError for what it cannot have."""
    if sum(one if isinstance(one, int) else 1 for one in described) > MOST:
        raise ValueError("more names than any list has")
    names: list[str] = []
    for one in described:
        for _ in range(one if isinstance(one, int) else 1):
            if not isinstance(name := _next(names[-1]) if isinstance(one, int) else one, str):
                raise ValueError("names that are no words, or that count on from one without a number")
            names.append(name)
    return names


def _next(name: str) -> str | None:
    """The name with the number that it ends in one higher, in no fewer digits; None without a number."""
    found = NUMBER.search(name)
    return found and f"{name[: found.start()]}{int(found[0]) + 1:0{len(found[0])}}"
