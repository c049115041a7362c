"""Which of all runs begins, and how long the rest may take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DONE = 0.5  # seconds; a run that takes less was there already, and says nothing of the others


class Progress:
    """Says a line before each run: ``run 7/18, clothing, coefficients, seed 42, 3 min left``.

    The time left is that of the runs so far, on average, for each that is to come.
    """

    def __init__(self, total: int, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self.total, self.say, self.clock = total, say, clock
        self.number, self.seconds = 0, list[float]()

    @contextmanager
    def run(self, task: str, method: str, seed: int) -> Iterator[None]:
        """Around a run."""
        self.number += 1
        left = self._left(self.total - self.number + 1)
        self.say(f"run {self.number}/{self.total}, {task}, {method}, seed {seed}{left}")
        start = self.clock()
        yield
        if (taken := self.clock() - start) > DONE:
            self.seconds.append(taken)

    def _left(self, runs: int) -> str:
        if not self.seconds:
            return ""
        seconds = runs * sum(self.seconds) / len(self.seconds)
        return f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"
