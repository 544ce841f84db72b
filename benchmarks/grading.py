"""Seconds and memory of grading: one lesson's class of nine, a complete submission, 1,000 submissions with a stub worker.

`python benchmarks/grading.py`. The wanted: at most 40 s for the class on two cores, 15 s for the submission on one, and a
supervisor whose own memory does not grow. Where nbgrader or otter-grader are installed, the time of the same class of one
lesson in them is the reader's to add: both run a notebook a student and compare nothing with tolerance, so the ratio
printed here is to the plainest thing that they do, which is to run the nine notebooks with `jupyter nbconvert --execute`.
"""

from __future__ import annotations

import inspect
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from course_lib.catalogue import exercises, find
from course_lib.grading import supervisor
from course_lib.grading.helpers import solved_cell
from course_lib.grading.submission import Student

CHILD = """
import json, resource, sys, time
from pathlib import Path
from course_lib.grading.supervisor import grade
start = time.perf_counter()
assert not grade([Path(sys.argv[1])], Path(sys.argv[2]), int(sys.argv[3]), seed=1)
print(json.dumps([time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def cells(lesson: str = "") -> list[str]:
    """Solved answers to the exercises of a lesson, or of the course."""
    made = []
    for ex in exercises(find(lesson) if lesson else None):
        signature = str(inspect.signature(ex.function)).replace("'", "")
        made.append(solved_cell(f"@answer({ex.id})\ndef f{signature}:\n    pass")[0])
    return made


def write(path: Path, sources: list[str]) -> None:
    made = [dict(cell_type="code", source=s, metadata={}, outputs=[], execution_count=None) for s in sources]
    path.write_text(json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}))


def measure(submissions: Path, grades: Path, jobs: int) -> tuple[float, float]:
    """Seconds of grading, the supervisor's start not counted, and its own peak memory in MB."""
    command = [sys.executable, "-c", CHILD, str(submissions), str(grades), str(jobs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def executed(folder: Path) -> float:
    """Seconds of running the same notebooks one by one, as graders that run notebooks do."""
    start = time.perf_counter()
    first = "from course_lib import answer\nfrom course_lib.lessons import elbo\nimport torch, math\nfrom torch import Tensor"
    for i in range(9):
        write(folder / f"plain {i}.ipynb", [first, *cells("elbo")])
        command = [
            sys.executable,
            "-m",
            "nbconvert",
            "--to",
            "notebook",
            "--execute",
            "--stdout",
            f"plain {i}.ipynb",
        ]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def stubs(folder: Path, count: int) -> tuple[float, float]:
    """Seconds, and MB that the supervisor grows by, of `count` submissions whose workers find nothing at all."""

    def stub(job, pipe: int) -> None:
        rows = [
            {"exercise": name, "status": "failed", "points": 0, "message": "x" * 200} for name in job.tests
        ]
        empty = {"diagnosis": "", "line": "", "notes": [], "served": []}
        for message in (
            {"digest": "d", "problems": [], "read": []},
            *({"row": r | empty} for r in rows),
            {"junit": "<x/>"},
        ):
            os.write(pipe, json.dumps(message).encode() + b"\n")
        os._exit(0)

    supervisor.work, real = stub, supervisor.work
    try:
        book = supervisor.Gradebook(folder, {ex.id: ex.points for ex in exercises()})
        tests = {ex.id: None for ex in exercises()}
        start, before = time.perf_counter(), _resident()
        students = {str(i): Student(str(i), str(i)) for i in range(count)}
        for student, result in supervisor._all(students, tests, book, 4, supervisor.Limits(), False):
            book.add(student, result)
        seconds, after = time.perf_counter() - start, _resident()
        book.finish()
        return seconds, after - before
    finally:
        supervisor.work = real


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024**2


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "class").mkdir()
        for i in range(9):
            write(folder / f"class/student {i}.ipynb", cells("elbo"))
        wall, peak = measure(folder / "class", folder / "grades of nine", 2)
        print(f"9 submissions of one lesson ({len(cells('elbo'))} exercises), -j 2: {wall:.1f} s")
        print(f"the supervisor's own peak memory: {peak:.0f} MB")
        print(
            f"running the nine notebooks alone takes {(plain := executed(folder)):.1f} s: {wall / plain:.2f} of it"
        )
        if found := [x for x in ("nbgrader", "otter") if shutil.which(x)]:
            print(f"installed beside it: {', '.join(found)}")
        write(folder / "one.ipynb", cells())
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        wall, _ = measure(folder / "one.ipynb", folder / "grades of one", 1)
        os.sched_setaffinity(0, cores)
        print(f"one complete submission ({len(cells())} exercises), one core: {wall:.1f} s")
        wall, grown = stubs(folder / "grades of many", 1000)
        print(f"1,000 submissions with a stub worker: {wall:.1f} s, the supervisor grows by {grown:.1f} MB")


if __name__ == "__main__":
    main()
