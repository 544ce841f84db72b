"""Milliseconds of each check, on the solutions: `python benchmarks/checks.py`."""

from __future__ import annotations

import os
import time
from statistics import median

os.environ["COURSE_ANSWERS"] = "solutions"

from course_lib.exercise.check import inspect_answer
from course_lib.lessons import LESSONS, exercises


def milliseconds(ex, repeats: int = 5) -> list[float]:
    """Times of `repeats` checks of one exercise, the first of which also reads the key."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        report = inspect_answer(ex)
        times.append(1000 * (time.perf_counter() - start))
        assert report.passed, report
    return times


def main() -> None:
    times = {ex.id: milliseconds(ex) for lesson in LESSONS for ex in exercises(lesson)}
    width = max(map(len, times))
    print(f"{'check':<{width}}  median ms  slowest ms")
    for name, values in times.items():
        print(f"{name:<{width}}  {median(values):9.1f}  {max(values):10.1f}")
    everything = [t for values in times.values() for t in values]
    print(f"{'all':<{width}}  {median(everything):9.1f}  {max(everything):10.1f}")


if __name__ == "__main__":
    main()
