"""Accuracy on the target of each method, per pair of domains: `python benchmarks/adaptation.py [source:target …]`.

The methods of lesson 05 with its settings, from source only to the ceiling, medians of 3 seeds, and the seconds of one
run of each (ADDA's with its pre-training); after them the seconds that each domain takes to load. Nothing is chosen by target labels.
"""

from __future__ import annotations

import os
import sys
import time
from statistics import median

os.environ["COURSE_ANSWERS"] = "solutions"
os.environ["TQDM_DISABLE"] = "1"

from course_lib.datasets.digits import digits
from course_lib.lessons import adda
from course_lib.training import keep_freed_memory, pick_device

PAIRS = ("mnist:optdigits", "optdigits:mnist", "mnist:mnist_m", "synth:mnist")
DOMAINS = ("mnist", "optdigits", "mnist_m", "synth")
SEEDS = 3


def report(pair: adda.Pair) -> None:
    scores, seconds = {m: [] for m in adda.METHODS}, {}
    for seed in range(SEEDS):
        for method in adda.METHODS:
            start = time.perf_counter()
            scores[method].append(adda.compare(pair, seed, (method,))[method])
            seconds[method] = time.perf_counter() - start
    print(
        f"{pair.name:<20}" + "".join(f"{median(scores[m]):8.3f} ({seconds[m]:4.1f} s)" for m in adda.METHODS),
        flush=True,
    )


def loading() -> None:
    print("\nseconds to load the training split, the second time:")
    for domain in DOMAINS:
        digits(domain)  # imports, files and glyphs are cached
        start = time.perf_counter()
        images, _ = digits(domain)
        took = time.perf_counter() - start
        print(f"{domain:<20}{took:8.2f} s, {len(images) / took:,.0f} images/s")


def main() -> None:
    keep_freed_memory()
    print(f"{'':<20}" + "".join(f"{m:>17}" for m in adda.METHODS))
    for name in sys.argv[1:] or PAIRS:
        report(adda.load_pair(*name.split(":"), device=pick_device()))
    loading()


if __name__ == "__main__":
    main()
