"""A VAE step at 64x64 with freed memory kept by the process, and without: milliseconds and page faults.

python benchmarks/training.py [batch]. Each in a process of its own, in turns, since it is set once in a process.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from contextlib import nullcontext
from itertools import pairwise
from statistics import median
from unittest.mock import patch

STEPS, TURNS = 10, 3


def measure(batch: int, keep: bool) -> None:
    """Print, as JSON: median milliseconds and page faults of a step, and the most memory held, in MB."""
    import sklearn.datasets  # noqa: F401 (loads C libraries itself)
    import torch

    with nullcontext() if keep else patch("ctypes.CDLL", side_effect=OSError):  # as on a system without glibc
        from course_lib.experiments.elbo import train_vae
    from course_lib.datasets.sprites import Sprites
    from course_lib.models import VAE
    from course_lib.training import keep_freed_memory

    assert keep_freed_memory() == keep
    sprites, times, faults = Sprites(), [], []

    def sample(n: int, g: torch.Generator):
        times.append(time.perf_counter())
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        return sprites.sample(n, g)

    torch.manual_seed(0)
    train_vae(VAE(), sample, STEPS + 3, batch=batch, generator=torch.Generator().manual_seed(0))
    steps, pages = ([b - a for a, b in pairwise(x[2:])] for x in (times, faults))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"ms": 1000 * median(steps), "faults": median(pages), "MB": memory}))


def main(batch: int) -> None:
    environment = os.environ | {"COURSE_ANSWERS": "solutions", "TQDM_DISABLE": "1"}
    found = {"kept": [], "given back": []}
    for _ in range(TURNS):
        for name, results in found.items():
            command = [sys.executable, __file__, str(batch), name]
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            results.append(json.loads(done.stdout))
    print(f"VAE step at 64x64, batch {batch}: median of {TURNS} processes")
    print("freed memory      ms  page faults  peak MB")
    best = {name: {key: median(r[key] for r in rows) for key in rows[0]} for name, rows in found.items()}
    for name, row in best.items():
        print(f"{name:<12}  {row['ms']:6.1f}  {row['faults']:11,.0f}  {row['MB']:7,.0f}")
    print(f"given back / kept: {best['given back']['ms'] / best['kept']['ms']:.2f}")


if __name__ == "__main__":
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    if len(sys.argv) > 2:
        measure(size, sys.argv[2] == "kept")
    else:
        main(size)
