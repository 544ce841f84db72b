"""All submissions of a class: one worker process each, written down one by one, resumed where interrupted.

One machine. Dask, which once spread the work over several, is gone: a worker is a fork that finds torch, the solutions and
the drawn tests in place, and is watched through /proc; both end at the machine's edge, and a class takes minutes on one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import select
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm.auto import tqdm

from course_lib.catalogue import exercises, find
from course_lib.exercise.kernels import HAS_TRITON
from course_lib.grading.assignment import Assignment
from course_lib.grading.gradebook import Gradebook
from course_lib.grading.judge import Test, draw_test, ended, not_attempted
from course_lib.grading.sandbox import PACKAGE, Limits, require_sandbox
from course_lib.grading.submission import Student, plan, table
from course_lib.grading.worker import Job, work

READING = 120  # seconds for reading a submission


def grade(
    paths: list[Path],
    out: Path,
    jobs: int = 1,
    seed: int | None = None,
    unsafe: bool | str = False,
    limits: Limits | None = None,
    assignment: Assignment | None = None,
    only: Sequence[str] = (),
) -> dict[str, str]:
    """Grade submissions (files, or one folder or zip of a class) into the folder `out`; what failed, by student.

    What `out` already holds from the same code, seed and submission is kept; other students' rows stay. Of the
    exercises `only`, if there are any, every row is made anew, and none of another.
    """
    book = Gradebook(out, assignment)
    students, passed_over = plan(paths)
    tqdm.write(table(students, passed_over))
    limits = limits or Limits()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks: a process that uses a GPU cannot be forked
    os.environ.setdefault(
        "TORCHINDUCTOR_CACHE_DIR", tempfile.gettempdir()
    )  # else an import makes a folder there
    if not unsafe:
        require_sandbox()
    seed = seed if seed is not None else book.recorded_seed() or secrets.randbits(31)
    settings = {"seed": seed, "limits": asdict(limits), "unsafe": unsafe}
    book.begin({**settings, "versions": versions(), "code": code_digest()}, passed_over, only)
    threads, tests = torch.get_num_threads(), dict.fromkeys(book.assignment.points)
    drawn = [find(name) for name in tests if name in (only or tests)]
    failed: dict[str, str] = {}
    try:
        torch.set_num_threads(1)  # as in the sandbox; and a process with threads cannot be forked
        for ex in tqdm(drawn, "drawing inputs", unit="exercise"):
            tests[ex.id] = draw_test(ex, seed) if HAS_TRITON or not ex.kernel else None
        with _stopped_by_signals():
            for student, result in _all(students, tests, book, jobs, limits, unsafe):
                if isinstance(result, str):
                    failed[student.name] = result
                    book.fail(student, result)
                elif result:
                    book.add(student, result)
    finally:
        torch.set_num_threads(threads)
        for sentence in book.finish():
            tqdm.write(sentence)
    for _, name, exercise, before, after, *_ in book.moved:
        tqdm.write(f"regraded: {name}, {exercise}: {before} → {after}")
    if only and not book.moved:
        tqdm.write(f"regraded: nobody's {', '.join(only)} has changed.")
    return failed


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a run as Ctrl-C does: what is graded is written, and no worker is left."""

    def stop(*_) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _all(
    students: dict[str, Student],
    tests: dict[str, Test],
    book: Gradebook,
    jobs: int,
    limits: Limits,
    unsafe: bool | str,
) -> Iterator[tuple[Student, dict | str | None]]:
    """Each student with what their worker found, None where it was graded before, or why it could not be."""
    waiting, running = iter(students.values()), {}
    progress = tqdm(total=len(students), desc="grading", unit="submission")
    try:
        while True:
            while len(running) < jobs and (student := next(waiting, None)) is not None:
                worker = Worker(Job(student, tests, limits, unsafe, **book.known(student)))
                running[worker.pipe] = worker
            if not running:
                break
            ready = select.select(running, [], [], 1)[0]
            for worker in list(running.values()):
                if (worker.pipe in ready and not worker.hear()) or worker.is_late():
                    del running[worker.pipe]
                    worker.stop()
                    if worker.goes_on():
                        again = Worker(worker.job, worker)
                        running[again.pipe] = again
                    else:
                        progress.update()
                        yield worker.job.student, worker.result()
    finally:
        progress.close()
        for worker in running.values():
            worker.stop()


class Worker:
    """A worker process, and what it has said; of the one `before` it, which died, what that had said."""

    def __init__(self, job: Job, before: Worker | None = None):
        self.job, self.rest = job, b""
        self.rows: dict[str, dict] = {}
        self.junit = self.current = self.failed = ""
        self.digest, self.problems, self.cell = "", [], None
        self.was_read = self.same = self.refused = False
        self.failures = before.failures if before else 0
        self.pipe, writer = os.pipe()
        self.process = os.fork()
        if not self.process:
            work(job, writer)
        os.close(writer)
        self._patience(READING)

    def _patience(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds

    def is_late(self) -> bool:
        return time.monotonic() > self.deadline

    def hear(self) -> bool:
        """Take in what was said; False where the process has ended."""
        chunk = os.read(self.pipe, 1 << 16)
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        for message in map(json.loads, lines):
            self.problems = message.get("problems", self.problems)
            self.same, self.refused = message.get("same", False), message.get("refused", False)
            if "digest" in message:
                self.digest = message["digest"]
                self.rows = dict(self.job.known) if self.digest == self.job.digest else {}
            self.cell = message.get("cell", self.cell)
            if "read" in message:
                self.was_read, self.problems = True, self.problems + message["read"]
            self.current = message.get("start", self.current)
            if "row" in message:
                self.rows[message["row"]["exercise"]], self.current = message["row"], ""
            self.junit, self.failed = message.get("junit", self.junit), message.get("failed", self.failed)
            self._patience(READING if not self.was_read else 6 * self.job.limits.seconds + 180)
        return bool(chunk)

    def stop(self) -> None:
        """End the process, and with it its sandbox."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.pipe)

    def goes_on(self) -> bool:
        """Whether another process is to go on where this one died; the job then says what that need not do again."""
        if self.junit or self.same or self.refused or self.failures > 2:
            return False
        self.job.known, self.job.digest, self.job.skip = self.rows, self.digest, False
        if self.current:  # it died, or hung, with this answer
            self.rows[self.current] = ended(find(self.current), "crashed", self.job.limits).as_dict()
            return True
        if not self.was_read and self.cell is not None:
            self.job.unreadable.add(self.cell)
            return len(self.job.unreadable) < 20
        self.failures += 1
        return self.failures < 2

    def result(self) -> dict | str | None:
        """What was found; None where it was graded before; why not, in words."""
        if self.same:
            return None
        problems = self.problems
        if not self.was_read:
            why = self.failed or "reading it took too long, or too much memory"
            problems = [*problems, f"It cannot be read, and nothing of it was graded: {why}."]
            self.rows = {name: not_attempted(find(name)).as_dict() for name in self.job.tests}
        elif not self.junit:
            return self.failed or "The process that graded it ended."
        rows = [self.rows[ex.id] for ex in exercises() if ex.id in self.rows]
        return {"digest": self.digest, "problems": problems, "rows": rows, "junit": self.junit}


# ---------------------------------------------------------------- what graded


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in ("torch", "nbval", "pytest")}
    return {"python": platform.python_version(), **found}


def code_digest() -> str:
    """SHA-256 of the library and the solutions: what a grade depends on besides seed and submission."""
    import solutions

    digest = hashlib.sha256()
    for folder in (PACKAGE, Path(solutions.__file__).parent):
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()
