"""The limits that all in the sandbox inherit, and the proof that its walls stand. Run as a program, that proof alone.

It imports nothing of the course's, and so no torch: `require_sandbox` need not wait for it.
"""

import ctypes
import os
import platform
import resource
import sys
from pathlib import Path


def shut_in(processes: int, sandbox: bool) -> None:
    """The limits that every process here inherits; an error where the walls that should be there are not."""
    limits = dict.fromkeys(("CORE", "FSIZE", "MSGQUEUE", "MEMLOCK"), 0) | {"NOFILE": 128, "SIGPENDING": 256}
    if tuple(map(int, platform.release().split("-")[0].split(".")[:2])) >= (
        5,
        14,
    ):  # counted in this sandbox alone
        limits["NPROC"] = processes + 8
    for name, most in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    ctypes.CDLL(None).prctl(
        4, 0, 0, 0, 0
    )  # PR_SET_DUMPABLE: no process of the same user reads or writes this one
    status = dict(
        line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line
    )
    if (
        os.getuid() == 0
        or int(status["CapEff"], 16)
        or int(status["CapPrm"], 16)
        or status["NoNewPrivs"] != "1"
    ):
        raise PermissionError("The sandbox has rights.")
    if sandbox and any(
        os.access(folder, os.W_OK)
        for folder in ("/", "/tmp", "/dev", "/dev/shm", "/proc/sys/kernel/core_pattern")
    ):
        raise PermissionError("The sandbox can be written to.")


if __name__ == "__main__":
    shut_in(int(sys.argv[1]), sandbox=True)
