"""What several test files use: small things here, and one module for each larger one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def generator(seed: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator with this seed."""
    return torch.Generator(device).manual_seed(seed)


def until(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Wait until a condition holds, for as long as a busy machine may need; whether it does."""
    end = time.monotonic() + seconds
    while not (holds := bool(condition())) and time.monotonic() < end:
        time.sleep(0.2)
    return holds


def run_in(tree: Path, script: str, folder: Path) -> str:
    """What a script prints that runs in `folder` and imports the course from `tree`, never from this checkout."""
    start = f"import sys; sys.path = [{str(tree)!r}, *(p for p in sys.path if p != {str(ROOT)!r})]\n"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("COURSE_", "PYTHON"))}
    command = [sys.executable, "-c", start + script]
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def meanwhile(monkeypatch, module, name: str, other) -> list:
    """Has the first call of a module's function call `other` first, as if another process worked; gives all calls."""
    function, calls = getattr(module, name), []

    def called(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            other()
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, called)
    return calls
