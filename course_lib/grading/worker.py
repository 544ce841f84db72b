"""One submission, in a process of its own: read, its answers by AST, and nbval on one check cell for each exercise.

The process is forked by the supervisor and tells it, as JSON, one object a line: {"read": …} when the answers are taken
out of their cells, {"start": id} before one runs, {"row": …} for every exercise, {"junit": …} at the end. The
supervisor knows from these what is lost if this process dies: one exercise.
"""

# ruff: noqa: E402
from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.modules.setdefault("rfc3987_syntax", None)  # nbformat would build its grammar of addresses, for a second

import pytest
from nbformat.v4 import new_code_cell
from nbval.plugin import IPyNbCell, IPyNbFile

from course_lib.catalogue import exercises, find
from course_lib.exercise import Exercise
from course_lib.exercise.answers import find_answers, header
from course_lib.exercise.findings import Finding
from course_lib.grading.judge import Row, Test, ended, judge, not_attempted, refer
from course_lib.grading.sandbox import CheckEnded, Limits, Sandbox
from course_lib.grading.similar import shape
from course_lib.grading.submission import FILE, RAW, Student, read
from course_lib.grading.wire import MIME, encode_all

LARGEST_CELL = 100_000  # characters of a cell that may hold an answer
PATIENCE = 10  # seconds in which a cell is taken apart
TWICE = "There are two answers to this exercise: the last counts."
DIFFERS = (
    "The notebook and the answers folder differ: the file in answers/ counts, as it does in your own check."
)


@dataclass
class Job:
    """What a worker is given: a student, the tests of the run, and what an earlier worker has found."""

    student: Student
    tests: dict[
        str, Test | None
    ]  # by exercise, in the order of the course; None for what is known of everybody
    limits: Limits
    unsafe: bool | str
    digest: str = ""  # of the files that `known` is of
    known: dict[str, dict] = field(default_factory=dict)  # rows that stand
    skip: bool = False  # nothing is left to do where the files are the same
    only: bool = False  # the files must be the same
    unreadable: set[int] = field(default_factory=set)  # cells that ended a worker


# ---------------------------------------------------------------- answers


class Answers:
    """The answers in a submission's cells, by exercise: `texts` that can run, `rows` for those that cannot be read."""

    def __init__(self, cells: list[tuple[str, str, int]], names: list[str], before: Callable[[int], bool]):
        self.texts: dict[str, str] = {}
        self.rows: dict[str, Row] = {}
        self.notes: dict[str, str] = {}
        self.problems: list[str] = []
        self._ranks: dict[str, int] = {}
        for i, (where, source, rank) in enumerate(cells):
            for name, answer in self._read(where, source, before(i)):
                if name not in names:
                    self.problems.append(
                        f"{where}: a cell answers {name[:60]}, which is no exercise of the course."
                    )
                elif answer is not None:
                    self._take(name, answer, rank)

    def _read(self, where: str, source: str, readable: bool) -> Iterator[tuple[str, str | Row | None]]:
        try:
            if len(source) > LARGEST_CELL:
                raise ValueError(f"it has more than {LARGEST_CELL:,} characters")
            if not readable:
                raise ValueError("it cannot be taken apart")
            with within(PATIENCE):
                found = list(find_answers(source))
            yield from found
        except Exception as error:
            said = (
                "its expressions are nested too deeply"
                if isinstance(error, RecursionError | MemoryError)
                else error
            )
            said = error.msg if isinstance(error, SyntaxError) else said
            line = (getattr(error, "text", None) or "").strip()[:200]
            found = re.findall(r"^\s*@(?:[\w.]+\.)?answer\(\s*([\w.]+)\s*\)", source, re.MULTILINE)
            for name in dict.fromkeys(found):
                name = ".".join(name.split(".")[-2:])
                yield name, Row(name, "failed", message=f"This cell is not Python: {said}.", line=line)
            if not found:
                self.problems.append(f"{where}: a cell cannot be read: {said}.")

    def _take(self, name: str, answer: str | Row, rank: int) -> None:
        before = self.texts.get(name) or self.rows.get(name)
        if before is not None and self._ranks[name] != RAW:
            if rank != FILE or self._ranks[name] == FILE:
                self.notes[name] = TWICE
            elif (
                isinstance(before, str) and isinstance(answer, str) and _function(before) != _function(answer)
            ):
                self.notes[name] = DIFFERS
        self.texts.pop(name, None)
        self.rows.pop(name, None)
        self._ranks[name] = rank
        (self.texts if isinstance(answer, str) else self.rows)[name] = answer

    def files(self) -> dict[str, str]:
        """The answers' files, by path, as the notebook would have saved them."""
        paths = {name: name.replace(".", "/") + ".py" for name in self.texts}
        lessons = {name: name.partition(".")[0] for name in self.texts}
        return {paths[n]: f"{header(lessons[n])}\n{text}" for n, text in self.texts.items()}


def _function(text: str) -> str:
    """An answer without the imports that a file begins with."""
    return re.sub(r"\s+", " ", text[text.find("@") :])


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """TimeoutError in what runs longer."""

    def stop(*_) -> None:
        raise TimeoutError(f"it is not understood within {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# ---------------------------------------------------------------- nbval


class Changed(Exception):
    """A student's files are not those of an earlier run."""


class NotPassed(Exception):
    """Fails a cell's pytest item with the words of its row."""


class Kernel:
    """What nbval sends a cell to: the sandbox. A cell's source is its request; what is found is one display output."""

    def __init__(self, grading: SimpleNamespace):
        self.grading, self.messages = grading, []

    def is_alive(self) -> bool:
        return True

    def execute_cell_input(self, source: str, allow_stdin: bool | None = None) -> str:
        request = json.loads(source)
        found = self.grading.ask(b"c", request)
        outputs = [
            (
                "display_data",
                {"data": {MIME: SimpleNamespace(found=found)}, "metadata": {}},
            ),  # nbformat copies dicts
            ("status", {"execution_state": "idle"}),
        ]
        parent = {"msg_id": request["exercise"]}
        self.messages = [
            {"msg_type": kind, "content": content, "parent_header": parent} for kind, content in outputs
        ]
        return request["exercise"]

    def await_reply(self, msg_id: str, timeout: float | None = None) -> None:
        """It has come: `execute_cell_input` waits."""

    def get_message(self, stream: str, timeout: float | None = None) -> dict:
        return self.messages.pop(0)


class GradedFile(IPyNbFile):
    """A notebook of one check cell per exercise, made here: nothing of the student's file is in it."""

    def collect(self) -> Iterator[GradedCell]:
        for number, name in enumerate(self.grading.asked):
            cell = new_code_cell(f"check({name})", execution_count=1)
            options = defaultdict(bool, check=True)
            yield GradedCell.from_parent(self, name=name, cell_num=number, cell=cell, options=options)

    def setup(self) -> None:
        self.setup_sanitize_files()
        self.kernel = Kernel(self.grading)

    def get_kernel_message(self, timeout: float | None = None, stream: str = "iopub") -> dict:
        return self.kernel.get_message(stream, timeout)

    def teardown(self) -> None:
        self.grading.box.stop()


class GradedCell(IPyNbCell):
    """A check cell: nbval runs it; what it displays under MIME is judged here, in the grader's own process."""

    def runtest(self) -> None:
        grading = self.parent.grading
        try:
            self.row = grading.rows.get(self.name) or self._decide(find(self.name))
        except Exception:  # ours: it is told, and is nobody's row
            grading.error = traceback.format_exc()
            raise
        grading.rows[self.name] = self.row
        grading.send(row=self.row.as_dict())
        if not self.row.passed:
            raise NotPassed("\n".join(filter(None, (self.row.status, self.row.message, self.row.diagnosis))))

    def _decide(self, ex: Exercise) -> Row:
        grading = self.parent.grading
        if ex.id in grading.answers.texts and grading.tests[ex.id] is None:
            row = Row(ex.id, "not checked", message=Finding("no Triton").public)
        elif ex.id in grading.answers.texts:
            row = self._run(ex)
        else:
            row = grading.answers.rows.get(ex.id) or not_attempted(ex)
        row.notes += [grading.answers.notes[ex.id]] if ex.id in grading.answers.notes else []
        row.shape = shape(grading.answers.texts.get(ex.id, ""))
        return row

    def _run(self, ex: Exercise) -> Row:
        """The row of an answer: with the student's own earlier answers, then with the reference in place of wrong ones.

        Only exercises that stand before this one in the course are referred to, and each of them is judged by then.
        """
        grading, start = self.parent.grading, time.monotonic()
        grading.send(start=ex.id)
        earlier = [
            name for name in grading.names[: grading.names.index(ex.id)] if not grading.is_passed(name)
        ]
        missing = [name for name in earlier if name not in grading.answers.texts]
        row = self._run_once(ex, missing)
        wrong = [name for name in row.calls if name in earlier and name not in missing]
        if not row.passed and wrong:
            again = self._run_once(ex, earlier)
            row = again if again.passed else row
            if not row.passed:
                row.notes.append(
                    f"Your answer calls {', '.join(wrong)}, which did not pass; with the reference's values in "
                    "their place this one does not pass either."
                )
        if row.served:
            row.notes.append(
                f"Graded with the reference's values of {', '.join(row.served)}, which your answer calls, and "
                "of which no answer has passed here."
            )
        row.seconds = round(time.monotonic() - start, 2)
        return row

    def _run_once(self, ex: Exercise, served: list[str]) -> Row:
        test, self.served = self.parent.grading.tests[ex.id], served
        cases = [encode_all(case) for case in test.decoys.cases + test.scaled_decoys]
        self.cell.source = json.dumps({"exercise": ex.id, "cases": cases, "references": served})
        self.parent.grading.current, self.parent.grading.served = ex.id, served
        self.judged = None
        try:
            super().runtest()
        except CheckEnded as error:
            self.judged = ended(ex, str(error), self.parent.grading.limits)
        except Exception:  # outputs that differ are judged by now; anything else is an error of ours
            if self.judged is None:
                raise
        return self.judged

    def compare_outputs(self, test: list, ref: list, skip_compare=None) -> bool:
        """nbval's comparison, with a tolerance and for one kind of output."""
        grading, ex, self.comparison_traceback = self.parent.grading, find(self.name), []
        found, source = test[0]["data"][MIME].found, grading.answers.texts[self.name]
        replay = lambda message: grading.ask(b"c" if "exercise" in message else b"p", message)  # noqa: E731
        self.judged = judge(ex, grading.tests[ex.id], found, source, grading.limits, replay, self.served)
        return self.judged.passed

    def repr_failure(self, excinfo) -> str:
        return str(excinfo.value)

    def reportinfo(self) -> tuple:
        return self.path, 0, self.name


class Plugin:
    """Has pytest collect one notebook, which is no file."""

    def __init__(self, grading: SimpleNamespace):
        self.grading = grading

    def pytest_collect_file(self, file_path: Path, parent) -> GradedFile:
        file = GradedFile.from_parent(
            parent, path=file_path, name=self.grading.name, nodeid=self.grading.name
        )
        file.grading = self.grading
        return file


# ---------------------------------------------------------------- the process


def work(job: Job, pipe: int) -> None:
    """In the fork: do the job, tell of it on the pipe, end."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: with the supervisor this one ends
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        sys.stdin, sys.stdout, sys.stderr = (open(os.devnull, "r+") for _ in range(3))  # noqa: SIM115
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        os.environ.pop("PYTEST_ADDOPTS", None)
        size = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (size + 4 * 1024**3,) * 2)  # whatever a submission holds

        def send(**message: Any) -> None:
            view = memoryview(json.dumps(message).encode() + b"\n")
            while view:
                view = view[os.write(pipe, view) :]

        try:
            grade(job, send)
        except Changed as error:
            send(failed=str(error), refused=True)
        except BaseException as error:
            send(failed=f"{type(error).__name__}: {error}"[-1500:])
    finally:
        os._exit(0)


def stored(row: dict) -> Row:
    """A row of a record, of another version perhaps."""
    return Row(**{k: v for k, v in row.items() if k in Row.__dataclass_fields__})


def grade(job: Job, send: Callable) -> None:
    """Grade one submission: what it holds, its rows and JUnit report go to `send`."""
    submission = read(job.student)
    send(digest=submission.digest, problems=submission.problems)
    same = submission.digest == job.digest
    if same and job.skip:
        return send(same=True)

    def before(i: int) -> bool:
        send(cell=i)
        return i not in job.unreadable

    names = [ex.id for ex in exercises()]
    answers = Answers(submission.cells, names, before)
    send(read=answers.problems)
    if job.only and not same:
        raise Changed(
            "These are not the files that were graded before: grade them as a whole, without --only."
        )
    box = Sandbox(answers.files(), job.limits, job.unsafe)
    grading = SimpleNamespace(
        name=job.student.name,
        tests=job.tests,
        limits=job.limits,
        rows={name: stored(row) for name, row in job.known.items()} if same else {},
        names=names,
        asked=[name for name, test in job.tests.items() if test is not None or name in job.known],
        answers=answers,
        box=box,
        send=send,
        served=[],
        current="",
        error="pytest collected nothing",
    )

    def is_passed(name: str) -> bool:
        return name in grading.rows and grading.rows[name].passed

    def ask(kind: bytes, message: dict) -> Any:
        allowed = [name for name in grading.served if name in names[: names.index(grading.current)]]
        return box.request(kind, message, lambda question: refer(kind, question, allowed))

    grading.ask, grading.is_passed = ask, is_passed
    junit = os.memfd_create("junit")
    options = [
        "-c",
        os.devnull,
        f"--rootdir={Path(sys.executable).parent}",
        "--noconftest",
        "-p",
        "nbval.plugin",
    ]
    # unraisableexception collects garbage twice, of all that torch has loaded: most of a second.
    for plugin in ("cacheprovider", "unraisableexception", "threadexception", "logging", "capture"):
        options += ["-p", f"no:{plugin}"]
    options += ["-q", f"--junitxml=/proc/self/fd/{junit}"]
    try:
        pytest.main(
            [sys.executable, *options], plugins=[Plugin(grading)]
        )  # some file: the plugin makes a notebook of it
    finally:
        box.stop()
    if not grading.rows.keys() >= set(grading.asked):
        raise RuntimeError(grading.error)
    send(junit=os.pread(junit, 10_000_000, 0).decode())
