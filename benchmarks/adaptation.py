"""Accuracy on the target of each method of lesson 05, from data/sweeps/adaptation.csv: `python benchmarks/adaptation.py [--write]`.

Medians and ranges over seeds, beside published numbers, and the trials of settings; after them the seconds that each domain takes
to load. --write first trains the runs that the table lacks, a row each: about half an hour of one core; interrupted, it goes on.

`python benchmarks/adaptation.py ufdn`: lesson 06's comparison, which it writes to data/sweeps/ufdn.csv run by run.
"""

from __future__ import annotations

import math
import os
import sys
import time
from statistics import median

os.environ["COURSE_ANSWERS"] = "solutions"
os.environ["TQDM_DISABLE"] = "1"

from course_lib import checkpoints
from course_lib.datasets.digits import digits
from course_lib.experiments import adda, ufdn
from course_lib.files import add_rows, data_folder
from course_lib.training import keep_freed_memory, pick_device, whole_trainings

DOMAINS = ("mnist", "optdigits", "mnist_m", "synth")
TABLE = data_folder() / "sweeps/adaptation.csv"
STREET_METHODS = ("source only", "AdaBN", "ADDA")
SEEDS = 3  # of the street numbers
# Accuracies that Tzeng et al. (2017) report for full MNIST → USPS and SVHN → MNIST: other data, networks and steps than here.
PUBLISHED = {"source only": (0.752, 0.601), "reversal": (0.771, 0.739), "ADDA": (0.894, 0.760)}


def runs() -> list[tuple]:
    """Pair, method, seed and setting of every run, what tells most first; what is trained as one run stands side by side."""
    runs = [(adda.PAIRS[0], m, adda.TRIAL_SEED, x) for m, tried in adda.SETTINGS.items() for x in tried]
    for seed in adda.SEEDS:
        for pair in adda.PAIRS:
            runs += [(pair, m, seed, None) for m in adda.METHODS]
        if seed < SEEDS:
            runs += [(pair, m, seed, None) for pair in adda.STREET for m in STREET_METHODS]
    return runs


@whole_trainings()
def write() -> None:
    """Train what the table lacks, in the order of `runs`, and add a row for each."""
    loaded, steps = {}, adda.PRETRAINING + adda.GAME
    for domains, method, seed, setting in runs():
        rows = adda.read_comparison(TABLE)
        name = " → ".join(domains)
        if setting is None:
            setting = adda.choose(rows).get(method)
        key = {"pair": name, "method": method, "setting": setting, "seed": seed, "steps": steps}
        if any(all(row[k] == v for k, v in key.items() if v is not None) for row in rows):
            continue
        if name not in loaded:
            loaded = {name: adda.load_pair(*domains, device=pick_device())}
        start = time.process_time()
        together = ("source only", "AdaBN") if method == "source only" else (method,)  # one network
        found = adda.compare(loaded[name], seed, together, {**adda.CHOSEN, method: setting})
        end = {
            "CPU seconds": round(time.process_time() - start),
            "machine": checkpoints.machine(pick_device()),
        }
        new = [
            key | {"method": trained} | {k: round(v, 4) for k, v in numbers.items()} | end
            for trained, numbers in found.items()
        ]
        add_rows(TABLE, new, adda.TEXTS, place, [*key])


def place(row: dict) -> tuple:
    """In the order of pairs, methods and seeds, the trials first."""
    names = [" → ".join(domains) for domains in (*adda.PAIRS, *adda.STREET)]
    reported, method = row["seed"] != adda.TRIAL_SEED, adda.METHODS.index(row["method"])
    setting = row.get("setting") or 0.0
    return reported, names.index(row["pair"]), method, row["seed"], setting, row["steps"]


def report() -> None:
    rows = adda.read_comparison(TABLE)
    print("trials, seed 100: the setting with the most information is used in all runs below")
    for r in (r for r in rows if r["seed"] == adda.TRIAL_SEED):
        print(
            f"  {r['method']:<16}{r['setting']:>10g}{r['information']:>8.2f} nats{r['target accuracy']:>10.3f}"
        )
    print("accuracy on the target: median, range, seeds")
    for pair in (" → ".join(domains) for domains in (*adda.PAIRS, *adda.STREET)):
        for method in adda.METHODS:
            found = adda.accuracies(rows, pair, method)
            if found:
                middle = median(found)
                print(
                    f"  {pair:<22}{method:<16}{middle:8.3f}  {min(found):.3f}–{max(found):.3f}{len(found):>4}"
                )
    print("published, MNIST → USPS and SVHN → MNIST:", PUBLISHED, "\n")


def report_ufdn() -> None:
    """Lesson 06's comparison: trains what is missing in data/sweeps/ufdn.csv, and prints medians."""
    table = data_folder() / "sweeps/ufdn.csv"
    ufdn.write_table(table, device=pick_device())
    rows = ufdn.read_table(table)
    columns = dict.fromkeys(name for row in rows for name in row)  # a row leaves out what it has none of
    names = [name for name in columns if name not in ("domains", "method", "seed", "steps")]
    print(f"{'medians of all seeds':<44}" + "".join(f"{name:>24}" for name in names))
    for run in ufdn.RUNS:
        same = [row for row in rows if (row["domains"], row["method"]) == run]
        values = [median(row[name] for row in same) if name in same[0] else math.nan for name in names]
        print(f"{', '.join(run):<44}" + "".join(f"{value:24.3f}" for value in values))


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
    if sys.argv[1:] == ["--write"]:
        write()
    report()
    loading()


if __name__ == "__main__":
    main()
