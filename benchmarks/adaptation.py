"""Accuracy on the target of each method, per pair of domains: `python benchmarks/adaptation.py [source:target …]`.

The methods of lesson 05 with its settings, from source only to the ceiling, medians of 3 seeds, and the seconds of one
run of each (ADDA's with its pre-training); after them the seconds that each domain takes to load. Nothing is chosen by target labels.

`python benchmarks/adaptation.py ufdn`: the checkpoint of lesson 06 with three seeds, and its source-only model; about 8 minutes.
"""

from __future__ import annotations

import os
import sys
import time
from statistics import median

os.environ["COURSE_ANSWERS"] = "solutions"
os.environ["TQDM_DISABLE"] = "1"

from course_lib.datasets.digits import digits
from course_lib.experiments import adda, ufdn
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


def report_ufdn() -> None:
    """Lesson 06's long training: the domain probe on z (chance 1/3), and the accuracy of the source's classifier."""
    domains = ufdn.load_domains(n=ufdn.IMAGES, device=pick_device())
    tests = ufdn.load_domains(split="test", n=2000, device=pick_device())
    print(f"{'':<24}{'seconds':>10}{'probe':>12}" + "".join(f"{name:>12}" for name in ufdn.DOMAINS))
    methods = (
        ("source only", domains[:1], 0.0, ufdn.STEPS // 2),
        ("UFDN", domains, ufdn.LONG_CONFUSION_WEIGHT, ufdn.STEPS),
    )
    for name, given, weight, steps in methods:
        for seed in range(SEEDS):
            start = time.perf_counter()
            trained = ufdn.train(given, seed, steps, confusion_weight=weight, width=ufdn.WIDTH)
            seconds = time.perf_counter() - start
            found = [ufdn.domain_probe(trained.model, domains), *ufdn.target_accuracies(trained, tests)]
            numbers = "".join(f"{x:12.3f}" for x in found)
            print(f"{name + f', seed {seed}':<24}{seconds:10.0f}{numbers}", flush=True)


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
    if sys.argv[1:] == ["ufdn"]:
        return report_ufdn()
    print(f"{'':<20}" + "".join(f"{m:>17}" for m in adda.METHODS))
    for name in sys.argv[1:] or PAIRS:
        report(adda.load_pair(*name.split(":"), device=pick_device()))
    loading()


if __name__ == "__main__":
    main()
