"""The share of this machine's cores that PyTorch takes: all of them for a lone student, few of them in a class.

With more threads than cores every operation ends by waiting for the slowest thread, and libgomp, PyTorch's OpenMP
runtime on Linux, waits by spinning on a core that somebody else could use. How it waits is settled when PyTorch is
loaded (OMP_WAIT_POLICY), which a notebook does before it imports the course. The number of threads can be chosen at any
time, and with one thread nothing waits. Sums are ordered by threads: results differ in their last digits with them.
OMP_NUM_THREADS fixes the number.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from pathlib import Path

import torch

EVERY, STALE, GLANCE = (
    1.0,
    3.0,
    0.1,
)  # seconds: between two looks, until a look says nothing, what a first look takes
BUSY = 0.2  # cores that a process uses which is at work


class _Share:
    """What was seen and set last."""

    looked = -math.inf  # time.monotonic()
    used: dict[str, float] = {}  # noqa: RUF012 (replaced, never changed)
    most = 0  # threads: what PyTorch chose, or the student set
    chosen = 0  # threads, by `share_cores`


def share_cores() -> None:
    """Choose PyTorch's number of threads by what other processes use, at most once a second.

    Does nothing where OMP_NUM_THREADS is set, or where the system does not tell (elsewhere than on Linux).
    """
    now = time.monotonic()
    if now - _Share.looked < EVERY or "OMP_NUM_THREADS" in os.environ:
        return
    if torch.get_num_threads() != _Share.chosen:
        _Share.most = torch.get_num_threads()
    before, seconds = _Share.used, now - _Share.looked
    if seconds > STALE:
        before, seconds = processor_seconds(), GLANCE
        time.sleep(seconds)
    _Share.looked, _Share.used = time.monotonic(), processor_seconds()
    others = [(used - before[pid]) / seconds for pid, used in _Share.used.items() if pid in before]
    _Share.chosen = min(_Share.most, threads(usable_cores(), others))
    if _Share.chosen != torch.get_num_threads():
        torch.set_num_threads(_Share.chosen)


def threads(cores: int, others: list[float]) -> int:
    """How many of the cores to use beside processes that use so many each: what they leave, or as much as each of them.

    At least one; all of them where the others use less than half a core together.
    """
    at_work = [used for used in others if used > BUSY]
    return max(1, math.floor(0.5 + max(cores - sum(at_work), cores / (1 + len(at_work)))))


def processor_seconds() -> dict[str, float]:
    """Seconds of processor time so far, by process, of the others that do not rank below this one (nice); {} if unknown.

    In a container these are the container's processes, which share its cores. See proc_pid_stat(5).
    """
    if not Path("/proc").exists():
        return {}
    found, mine, own_nice, tick = {}, str(os.getpid()), os.nice(0), os.sysconf("SC_CLK_TCK")
    with contextlib.suppress(OSError):
        for pid in os.listdir("/proc"):
            if not pid.isdigit() or pid == mine:
                continue
            with contextlib.suppress(OSError):  # it has ended
                file = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
                try:
                    fields = os.read(file, 1024).rpartition(b")")[2].split()  # the third field first
                finally:
                    os.close(file)
                if int(fields[16]) <= own_nice:
                    found[pid] = (int(fields[11]) + int(fields[12])) / tick
    return found


def usable_cores() -> int:
    """The cores that this process may use: those it is bound to, and no more than its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cores
    with contextlib.suppress(OSError, ValueError):  # cgroup v2: "max 100000" where there is no quota
        allowed, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        quota = int(allowed) / int(period)
    with contextlib.suppress(OSError, ValueError):  # cgroup v1: −1 where there is none
        folder = Path("/sys/fs/cgroup/cpu")
        allowed, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        quota = allowed / period if allowed > 0 else quota
    return min(cores, max(1, math.ceil(quota)))


@functools.cache
def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor multiplies matrices of bfloat16 itself. Where it does not, that is many times as slow as in float32."""
    with contextlib.suppress(OSError):
        return bool({"avx512_bf16", "amx_bf16", "bf16"} & {*cpuinfo.read_text().split()})
    return False
