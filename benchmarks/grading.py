"""What grading costs: one lesson's class of nine, complete submissions, 1,000 submissions with a stub worker.

`python benchmarks/grading.py`. The aims: 40 s for the class on two idle cores, 15 s for a submission of lessons 00 to 07 on one, a supervisor
whose own memory does not grow. CPU seconds are those of all processes, sandboxes too: on a busy machine only they mean
something. Beside the class stands the plainest thing that graders of notebooks do, running the same nine with
`jupyter nbconvert --execute`; where nbgrader or otter are installed their names are printed, and their time is not measured.
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

from course_lib.catalogue import LESSONS, exercises, find
from course_lib.exercise import Exercise
from course_lib.grading import supervisor
from course_lib.grading.assignment import everything
from course_lib.grading.gradebook import Gradebook
from course_lib.grading.helpers import solved_cell
from course_lib.grading.sandbox import Sandbox
from course_lib.grading.submission import Student

FIRST = """import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_lib import answer
from course_lib.lessons import elbo
"""


def asked(lessons: str) -> list[Exercise]:
    """The exercises of some lessons ("elbo,adda"), or of the course."""
    return [ex for name in lessons.split(",") for ex in exercises(find(name) if name else None)]


def cells(lessons: str = "") -> list[str]:
    """Solved answers to the exercises of some lessons, or of the course."""
    made = []
    for ex in asked(lessons):
        signature = str(inspect.signature(ex.function)).replace("'", "")
        made.append(solved_cell(f"@answer({ex.id})\ndef f{signature}:\n    pass")[0])
    return made


def write(path: Path, sources: list[str]) -> None:
    made = [dict(cell_type="code", source=s, metadata={}, outputs=[], execution_count=None) for s in sources]
    path.write_text(json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}))


def child(submissions: Path, grades: Path, jobs: int, lessons: str) -> None:
    """Grade, and print seconds, CPU seconds and this process's own peak memory in MB."""
    account, stop = tempfile.TemporaryFile(), Sandbox.stop  # noqa: SIM115

    def stop_and_tell(box: Sandbox) -> None:  # what is killed in a sandbox is in nobody's account
        if box.process is not None:
            os.write(account.fileno(), b"%d\n" % sum(map(_ticks, box._processes())))
        stop(box)

    Sandbox.stop = stop_and_tell
    start, used = time.perf_counter(), _cpu()
    assignment = everything(asked(lessons))
    assert not supervisor.grade([submissions], grades, jobs, seed=1, assignment=assignment)
    seconds, used = time.perf_counter() - start, _cpu() - used
    account.seek(0)
    used += sum(map(int, account)) / os.sysconf("SC_CLK_TCK")
    print(json.dumps([seconds, used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def _ticks(process: int) -> int:
    """The CPU time of a process, and of those children that it has waited for."""
    return sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:15]))


def _cpu() -> float:
    found = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(x.ru_utime + x.ru_stime for x in found)


def measure(submissions: Path, grades: Path, jobs: int, lessons: str = "") -> list[float]:
    """`child` in a process of its own; that all of it passed is made sure of."""
    command = [sys.executable, __file__, "child", str(submissions), str(grades), str(jobs), lessons]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    for path in (grades / "records").iterdir():
        rows = json.loads(path.read_text())["rows"]
        assert rows and all(row["status"] == "passed" for row in rows), path.name
    return json.loads(done.stdout.splitlines()[-1])


def executed(folder: Path, sources: list[str]) -> tuple[float, float]:
    """Seconds, and CPU seconds, of running nine notebooks one by one, as graders that run notebooks do."""
    start, used = time.perf_counter(), _cpu()
    for i in range(9):
        write(folder / f"plain {i}.ipynb", [FIRST, *sources])
        options = ["--to", "notebook", "--execute", "--stdout", f"plain {i}.ipynb"]
        command = [sys.executable, "-m", "nbconvert", *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return time.perf_counter() - start, _cpu() - used


def stubs(folder: Path, count: int) -> tuple[float, float, float]:
    """Seconds, CPU seconds of the supervisor, and MB that it grows by from a tenth of `count` submissions to all of them.

    The workers find 200 characters an exercise, at once.
    """
    row = {"status": "failed", "message": "x" * 200, "diagnosis": "", "mistake": "", "line": "", "notes": []}
    row |= {"served": [], "calls": [], "shape": "", "points": 0}

    def stub(job, pipe: int) -> None:
        rows = [{"row": {"exercise": name, **row}} for name in job.tests]
        for message in ({"digest": "d", "problems": []}, {"read": []}, *rows, {"junit": "<x/>"}):
            os.write(pipe, json.dumps(message).encode() + b"\n")
        os._exit(0)

    supervisor.work, real = stub, supervisor.work
    try:
        book = Gradebook(folder)
        start, used, sizes = time.perf_counter(), time.process_time(), []
        students = {str(i): Student(str(i), str(i)) for i in range(count)}
        tests = dict.fromkeys(book.assignment.points)
        book.begin({}, [])
        for student, result in supervisor._all(students, tests, book, 4, supervisor.Limits(), False):
            book.add(student, result)
            sizes.append(_resident())
        book.finish()
        sizes.append(_resident())
        spent = time.process_time() - used
        return time.perf_counter() - start, spent, max(sizes) - sizes[count // 10]
    finally:
        supervisor.work = real


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024**2


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, lesson = Path(name), cells("elbo")
        (folder / "class").mkdir()
        for i in range(9):
            write(folder / f"class/student {i}.ipynb", lesson)
        wall, cpu, peak = measure(folder / "class", folder / "grades of nine", 2, "elbo")
        print(f"9 submissions of one lesson ({len(lesson)} exercises), -j 2: {wall:.1f} s, {cpu:.1f} of CPU")
        print(f"  the supervisor's own peak memory: {peak:.0f} MB")
        wall, plain = executed(folder, lesson)
        print(
            f"  running the nine notebooks alone: {wall:.1f} s, {plain:.1f} of CPU; ratio {cpu / plain:.2f}"
        )
        beside = [x for x in ("nbgrader", "otter") if shutil.which(x)]
        print(f"  installed beside it, and not measured: {', '.join(beside) or 'neither nbgrader nor otter'}")
        first = ",".join(x.module for x in LESSONS[:8])  # the course when the aim was set
        for i, (name, lessons) in enumerate({"lessons 00 to 07": first, "the whole course": ""}.items()):
            write(folder / f"{i}.ipynb", cells(lessons))
            wall, cpu, _ = measure(folder / f"{i}.ipynb", folder / f"grades of {i}", 1, lessons)
            print(
                f"one submission of {name} ({len(asked(lessons))} exercises): {wall:.1f} s, {cpu:.1f} of CPU"
            )
        wall, cpu, grown = stubs(folder / "grades of many", 1000)
        print(f"1,000 submissions with a stub worker: {wall:.1f} s, {cpu:.1f} of the supervisor's CPU")
        print(f"  from the 100th to the last the supervisor grows by {grown:.1f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        main()
