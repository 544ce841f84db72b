"""Milliseconds of each check, its panel and its picture of speed included, on the solutions.

`python benchmarks/checks.py`. The wanted: median under 100 ms, none over 500 ms.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from statistics import median

os.environ["COURSE_ANSWERS"] = "solutions"

from course_lib import check, plots
from course_lib.catalogue import exercises
from course_lib.exercise.check import inspect_answer
from course_lib.exercise.device import warm_up


def milliseconds(function, *args, repeats: int = 1) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            function(*args)
        times.append(1000 * (time.perf_counter() - start))
    return times


def main() -> None:
    ms = sum(milliseconds(warm_up) + milliseconds(plots.speed_bars, "first figure", 2, 1, 1))
    print(f"once for each kernel, in the set-up cell: {ms:.0f} ms\n")
    everything = exercises()
    width = max(len(ex.id) for ex in everything)
    print(f"{'check':<{width}}  first ms  median ms  slowest ms  with speed ms")
    all_times = []
    for ex in everything:
        assert inspect_answer(ex).passed, inspect_answer(ex)
        times = milliseconds(inspect_answer, ex, repeats=5)
        whole = milliseconds(check, ex, repeats=3)
        print(
            f"{ex.id:<{width}}  {times[0]:8.1f}  {median(times):9.1f}  {max(times):10.1f}  {median(whole):13.1f}"
        )
        all_times += whole
    print(f"\nall, with speed: median {median(all_times):.1f} ms, slowest {max(all_times):.1f} ms")


if __name__ == "__main__":
    main()
