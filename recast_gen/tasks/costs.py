"""What a run costs on this machine: seconds, processor seconds, and the memory that it takes at its peak."""

import ctypes
import gc
import platform
import sys
import time
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version
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
            trim()
            with suppress(OSError):  # forbidden
                (PROCESS / "clear_refs").write_text("5")
        self.before, self.start = self._peak(), _seconds()

    def read(self) -> dict:
        """``seconds``, ``processor_seconds`` and ``peak_bytes`` so far, when that is (``ended``), and the `machine`."""
        found = {name: now - self.start[name] + self.earlier.get(name, 0.0) for name, now in _seconds().items()}
        found["peak_bytes"] = max(self._peak() - self.before, self.earlier.get("peak_bytes", 0))
        return found | {"ended": datetime.now().isoformat(timespec="seconds"), "machine": machine(self.device)}

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if PROCESS.exists():
            lines = (PROCESS / "status").read_text().splitlines()
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def collect() -> None:
    """Lets go of networks that nobody has any more: torch's parametrized modules are in reference cycles."""
    gc.collect()
    trim()


def trim() -> None:
    """Gives the system back what is free."""
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def machine(device: torch.device) -> str:
    """What trains, in words: all that rounds numbers otherwise where it is another."""
    if device.type == "cuda":
        chip = torch.cuda.get_device_name(device)
    else:
        about = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows
        lines = about.read_text().splitlines() if about.exists() else []
        named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        threads, kind = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
        chip = (
            f"{next(named, platform.processor() or platform.machine())} ({kind}), {threads} thread{'s' * (threads > 1)}"
        )
    versions = {"recast_gen": version("recast-gen"), "torch": torch.__version__, "Python": platform.python_version()}
    return ", ".join([chip, platform.system(), *(f"{name} {number}" for name, number in versions.items())])


def _seconds() -> dict[str, float]:
    return {"seconds": time.perf_counter(), "processor_seconds": time.process_time()}
