"""A class on one machine: four trainings at once against the same four one after another, and a lone one.

python benchmarks/class.py [kernels]. Each training is a process of its own, as a student's kernel is. "shared" chooses its
threads by what others use (course_lib/cores.py), "fixed" keeps PyTorch's number. The aims: at once, the shared ones do at
least 80 % of what they do one after another; alone, sharing costs less than 5 %.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from statistics import median

STEPS, TURNS = 250, 3


def train() -> None:
    """A VAE at 32×32, as in lesson 02, from the signal on: the start of Python is not counted."""
    import torch

    from course_lib import training
    from course_lib.datasets.sprites import Sprites
    from course_lib.experiments.elbo import train_vae
    from course_lib.models import VAE

    if "fixed" in sys.argv:
        training.share_cores = lambda: None
    torch.manual_seed(0)
    vae, sprites = VAE(10, 32), Sprites(32, only={"orientation": 0})
    print("ready", flush=True)
    sys.stdin.readline()
    train_vae(vae, sprites.sample, STEPS, batch=128, generator=torch.Generator().manual_seed(0))


def start(method: str) -> subprocess.Popen:
    """A training that waits for its signal."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment |= {"COURSE_ANSWERS": "solutions", "TQDM_DISABLE": "1"}
    command = [sys.executable, __file__, "train", method]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def seconds(processes: list[subprocess.Popen], at_once: bool) -> float:
    """The time from the first signal to the last end."""
    began = time.perf_counter()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
        if not at_once:
            process.wait()
    for process in processes:
        assert process.wait() == 0
    return time.perf_counter() - began


def main(kernels: int) -> None:
    print(f"{STEPS} steps of a VAE at 32x32, seconds; median of {TURNS} turns")
    alone = {
        method: median(seconds([start(method)], True) for _ in range(TURNS)) for method in ("fixed", "shared")
    }
    print(
        f"one:  fixed {alone['fixed']:.1f}, shared {alone['shared']:.1f} ({alone['shared'] / alone['fixed'] - 1:+.0%})"
    )
    for method, turns in (("shared", TURNS), ("fixed", 1)):
        after, at_once = (
            median(seconds([start(method) for _ in range(kernels)], together) for _ in range(turns))
            for together in (False, True)
        )
        print(f"{kernels}, {method}: one after another {after:.1f}, at once {at_once:.1f}", end=": ")
        print(f"{after / at_once:.0%} of the throughput", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        train()
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
