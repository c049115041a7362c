"""What a run costs on this machine: seconds, processor seconds, and the memory that it takes at its peak."""

import ctypes
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

PROCESS = Path("/proc/self")  # Linux: https://man7.org/linux/man-pages/man5/proc.5.html, clear_refs and status


class Meter:
    """From its making on: ``seconds``, ``processor_seconds`` of all threads, and ``peak_bytes``: memory on top of what
    was taken before.

    Of a GPU what torch allocates there, else the process's resident memory; where its peak cannot be reset (not on
    Linux), only what exceeds the highest so far.  earlier: what the same run took before it was interrupted.
    """

    def __init__(self, device: torch.device | str = "cpu", earlier: dict | None = None):
        self.device, self.earlier = torch.device(device), earlier or {}
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif PROCESS.exists():
            with suppress(OSError, AttributeError):  # not glibc, or forbidden
                ctypes.CDLL(None).malloc_trim(0)  # what is free is not taken
                (PROCESS / "clear_refs").write_text("5")
        self.before, self.start = self._peak(), _seconds()

    def read(self) -> dict:
        """``seconds``, ``processor_seconds`` and ``peak_bytes`` so far."""
        found = {name: now - self.start[name] + self.earlier.get(name, 0.0) for name, now in _seconds().items()}
        return found | {"peak_bytes": max(self._peak() - self.before, self.earlier.get("peak_bytes", 0))}

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if PROCESS.exists():
            lines = (PROCESS / "status").read_text().splitlines()
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _seconds() -> dict[str, float]:
    return {"seconds": time.perf_counter(), "processor_seconds": time.process_time()}
