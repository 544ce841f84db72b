"""One submission: its answers by AST, then nbval on a notebook of check cells. A process of its own.

`python -m course_lib.grading.worker JOB` reads a job (JSON) and writes one JSON object a line: {"read": problems} when
the answers are taken out of their cells, {"start": id} before one runs, {"row": …} for every exercise, {"junit": …}
at the end. The supervisor knows from these what is lost if this process dies: one exercise.
"""

# ruff: noqa: E402
from __future__ import annotations

import json
import os
import re
import resource
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

sys.modules.setdefault("rfc3987_syntax", None)  # nbformat would build its grammar of addresses, for a second

import pytest
from nbformat.v4 import new_code_cell
from nbval.plugin import IPyNbCell, IPyNbFile

from course_lib.catalogue import find
from course_lib.exercise import Exercise
from course_lib.exercise.answers import find_answers, header
from course_lib.exercise.key import read_keys
from course_lib.grading.judge import Row, ended, judge, not_attempted
from course_lib.grading.sandbox import KernelFailed, Limits, SandboxedKernel
from course_lib.grading.submission import LARGEST_CELL
from course_lib.grading.wire import MIME, encode_all

TWICE = "There are two answers to this exercise: the last counts."


# ---------------------------------------------------------------- answers


class Answers:
    """The answers in a submission's cells, by exercise: `texts` that can run, `rows` for those that cannot be read."""

    def __init__(self, cells: list[tuple[str, str]], names: list[str]):
        self.texts: dict[str, str] = {}
        self.rows: dict[str, Row] = {}
        self.twice: set[str] = set()
        self.problems: list[str] = []
        for where, source in cells:
            for name, answer in self._read(where, source):
                if name not in names:
                    self.problems.append(
                        f"{where}: a cell answers {name[:60]}, which is no exercise that is graded."
                    )
                elif answer is not None:
                    self._take(name, answer)

    def _read(self, where: str, source: str) -> Iterator[tuple[str, str | Row | None]]:
        try:
            if len(source) > LARGEST_CELL:
                raise ValueError(f"it has more than {LARGEST_CELL:,} characters")
            yield from list(find_answers(source))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            said = (
                "its expressions are nested too deeply"
                if isinstance(error, RecursionError | MemoryError)
                else error
            )
            line = (getattr(error, "text", None) or "").strip()
            for name in re.findall(r"^\s*@(?:[\w.]+\.)?answer\(\s*([\w.]+)\s*\)", source, re.MULTILINE):
                name = ".".join(name.split(".")[-2:])
                said = error.msg if isinstance(error, SyntaxError) else said
                yield name, Row(name, "failed", message=f"This cell is not Python: {said}.", line=line)

    def _take(self, name: str, answer: str | Row) -> None:
        if name in self.texts or name in self.rows:
            self.twice.add(name)
        self.texts.pop(name, None)
        self.rows.pop(name, None)
        (self.texts if isinstance(answer, str) else self.rows)[name] = answer

    def write(self, folder: Path) -> None:
        """The answers' files, as the notebook would have saved them."""
        for name, text in self.texts.items():
            lesson, _, function = name.partition(".")
            path = folder / lesson / f"{function}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{header(lesson)}\n{text}", encoding="utf-8", errors="replace")


# ---------------------------------------------------------------- nbval


class NotPassed(Exception):
    """Fails a cell's pytest item with the words of its row."""


class GradedFile(IPyNbFile):
    """A notebook of one check cell per exercise, made here: nothing of the student's file is in it."""

    def collect(self) -> Iterator[GradedCell]:
        for number, name in enumerate(self.grading.names):
            cell = new_code_cell(f"# {name}", execution_count=1)
            options = defaultdict(bool, check=True)
            yield GradedCell.from_parent(self, name=name, cell_num=number, cell=cell, options=options)

    def setup(self) -> None:
        self.setup_sanitize_files()

    def start_kernel(self) -> None:
        """Start the kernel, at the first answer and after one that broke it."""
        if self.kernel is None:
            self.kernel = SandboxedKernel(self.grading.sandbox, self.grading.limits, self.grading.unsafe)
            first = f"from course_lib.grading.inside import emit, prepare\nprepare({list(self.grading.answers.texts)})"
            self.kernel.await_reply(self.kernel.execute_cell_input(first, seconds=120))

    def teardown(self) -> None:
        if self.kernel is not None:
            self.kernel.stop()
            self.kernel = None


class GradedCell(IPyNbCell):
    """A check cell: nbval runs it; what it displays under MIME is judged here, in the grader's own process."""

    def runtest(self) -> None:
        self.row = self.parent.grading.known.get(self.name) or self._decide()
        self.parent.grading.send(row=self.row.as_dict())
        if not self.row.passed:
            raise NotPassed("\n".join(filter(None, (self.row.status, self.row.message, self.row.diagnosis))))

    def _decide(self) -> Row:
        grading, ex = self.parent.grading, find(self.name)
        if self.name in grading.answers.texts:
            row = self._run(ex)
        else:
            row = grading.answers.rows.get(self.name) or not_attempted(ex)
        if self.name in grading.answers.twice:
            row.notes.append(TWICE)
        return row

    def _run(self, ex: Exercise) -> Row:
        """The row of an answer; once more in a fresh kernel where one that ran others before does not answer well."""
        fresh = self.parent.kernel is None
        row = self._run_once(ex)
        if row.status == "tampered" and not fresh:
            self.parent.teardown()
            row = self._run_once(ex)
        return row

    def _run_once(self, ex: Exercise) -> Row:
        grading = self.parent.grading
        self.judged = None
        self.key = read_keys(grading.keys / f"{ex.lesson}.safetensors", 0)[ex.name]
        cases, limits = json.dumps([encode_all(case) for case in self.key.cases]), vars(grading.limits)
        self.cell.source = f"emit({self.name!r}, {cases!r}, **{limits!r})"
        self.parent.start_kernel()  # an error here is none of the student's
        grading.send(start=self.name)
        try:
            super().runtest()
        except KernelFailed as error:
            self.judged = ended(ex, str(error), grading.limits)
            self.parent.teardown()
        except Exception:  # outputs that differ are judged by now; else the kernel sent what no check sends
            if self.judged is None:
                self.parent.teardown()
        return self.judged or ended(ex, "tampered", grading.limits)

    def compare_outputs(self, test: list, ref: list, skip_compare=None) -> bool:
        """nbval's comparison, with a tolerance and for one kind of output: all others are ignored."""
        grading, ex, self.comparison_traceback = self.parent.grading, find(self.name), []
        found = [out["data"][MIME] for out in test if MIME in out.get("data", {})]
        message = found[0] if len(found) == 1 else {"status": "tampered"}
        self.judged = judge(ex, self.key, message, grading.answers.texts[self.name], grading.limits)
        return self.judged.passed

    def repr_failure(self, excinfo) -> str:
        return str(excinfo.value)

    def reportinfo(self) -> tuple:
        return self.path, 0, self.name


class Plugin:
    """Has pytest collect the one notebook as a GradedFile."""

    def __init__(self, grading: SimpleNamespace):
        self.grading = grading

    def pytest_collect_file(self, file_path: Path, parent) -> GradedFile:
        file = GradedFile.from_parent(parent, path=file_path)
        file.grading = self.grading
        return file


# ---------------------------------------------------------------- the process


def main() -> None:
    """Grade the job in the file that is named on the command line."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(Path(sys.argv[1]).read_text())
    size = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * 1024**3,) * 2)  # whatever a kernel sends

    def send(**message) -> None:
        print(json.dumps(message), file=lines, flush=True)

    grade(job, send)


def grade(job: dict, send) -> None:
    """Grade one job: its problems, rows and JUnit report go to `send`."""
    folder = Path(job["folder"])
    grading = SimpleNamespace(
        names=job["exercises"],
        keys=Path(job["keys"]),
        limits=Limits(**job["limits"]),
        unsafe=job["unsafe"],
        known={name: Row(**row) for name, row in job["known"].items()},
        answers=Answers(job["cells"], job["exercises"]),
        sandbox=folder / "sandbox",
        send=send,
    )
    send(read=grading.answers.problems)
    grading.answers.write(grading.sandbox / "answers")
    notebook, ini, junit = (folder / name for name in (f"{job['name']}.ipynb", "pytest.ini", "junit.xml"))
    notebook.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    ini.write_text("[pytest]\n")
    options = [
        "-c",
        str(ini),
        f"--rootdir={folder}",
        "--noconftest",
        "-p",
        "nbval.plugin",
        "-p",
        "no:cacheprovider",
    ]
    pytest.main([str(notebook), *options, "-q", f"--junitxml={junit}"], plugins=[Plugin(grading)])
    send(junit=junit.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
