"""Seconds and memory of grading: one complete submission on one core, then a class of 20, five of them hostile.

`python benchmarks/grading.py`. The wanted: at most 15 s for a complete submission; a class in which the hostile
ones cost no more than their time limits; a grader whose own memory does not grow with the class.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from course_lib.catalogue import LESSONS, exercises
from course_lib.grading.helpers import solved_cell

SECONDS = 5  # the limit of one exercise in the class
HOSTILE = (
    "while True: pass",
    "import os; os._exit(0)",
    "x = []\n    while True: x.append(torch.ones(10_000_000))",
    "import os\n    while True: os.fork()",
    "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
)
CHILD = """
import json, resource, sys, time
from pathlib import Path
from course_lib.grading.sandbox import Limits
from course_lib.grading.supervisor import grade
start = time.perf_counter()
failed = grade([Path(sys.argv[1])], Path(sys.argv[2]), int(sys.argv[3]), seed=1, limits=Limits(seconds=float(sys.argv[4])))
assert not failed, failed
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def cells() -> list[str]:
    """Solved answers to all exercises."""
    made = []
    for ex in exercises():
        signature = str(inspect.signature(ex.function)).replace("'", "")
        made.append(solved_cell(f"@answer({ex.id})\ndef f{signature}:\n    pass")[0])
    return made


def write(path: Path, sources: list[str]) -> None:
    made = [dict(cell_type="code", source=s, metadata={}, outputs=[], execution_count=None) for s in sources]
    path.write_text(json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}))


def measure(submissions: Path, grades: Path, jobs: int, seconds: float) -> tuple[float, float]:
    """Seconds of grading, the grader's own start not counted, and its own peak memory in MB."""
    command = [sys.executable, "-c", CHILD, str(submissions), str(grades), str(jobs), str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["seconds"], found["peak"]


def main() -> None:
    solved = cells()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "one.ipynb", solved)
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        wall, peak = measure(folder / "one.ipynb", folder / "grades of one", 1, 20)
        os.sched_setaffinity(0, cores)
        print(f"one complete submission ({len(solved)} exercises), one core: {wall:.1f} s")
        print(f"the grader's own peak memory: {peak:.0f} MB")
        (folder / "class").mkdir()
        for i in range(20):
            sources = list(solved)
            if i < len(HOSTILE):
                sources[-1] += f"\n\n\n@answer({LESSONS[-1].module}.{exercises(LESSONS[-1])[-1].name})\n"
                sources[-1] += f"def g(*args, **kwargs):\n    {HOSTILE[i]}\n"
            write(folder / f"class/student {i}.ipynb", sources)
        wall, peak = measure(folder / "class", folder / "grades", 2, SECONDS)
        print(f"20 submissions, five hostile, -j 2: {wall:.0f} s")
        print(f"the grader's own peak memory: {peak:.0f} MB")


if __name__ == "__main__":
    main()
