"""All submissions of a class: read, graded in worker processes, written down one by one, resumed where interrupted."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tqdm.auto import tqdm

from course_lib.catalogue import exercises, find
from course_lib.exercise.contract import Exercise
from course_lib.exercise.key import Key, write_keys
from course_lib.grading.gradebook import Gradebook
from course_lib.grading.judge import Row, ended, fresh_key
from course_lib.grading.sandbox import PACKAGE, Limits, require_sandbox
from course_lib.grading.submission import Source, find_submissions, read_submission


class GradingFailed(RuntimeError):
    """A submission could not be graded for a reason that is not its own."""


def grade(
    paths: list[Path],
    out: Path,
    jobs: int = 1,
    seed: int | None = None,
    unsafe: bool = False,
    scheduler: str | None = None,
    limits: Limits | None = None,
    manifest: list[Exercise] | None = None,
) -> dict[str, str]:
    """Grade submissions (files, or one folder or zip of a class) into the folder `out`; what failed, by student.

    What `out` already holds from the same code, seed and submission is kept.
    """
    limits = limits or Limits()
    if not unsafe:
        require_sandbox()
    manifest = manifest or exercises()
    found, passed_over = find_submissions(paths)
    book = Gradebook(out, {ex.id: ex.points for ex in manifest})
    seed = seed if seed is not None else book.recorded_seed() or secrets.randbits(31)
    settings = {
        "seed": seed,
        "limits": asdict(limits),
        "unsafe": unsafe,
        "exercises": [ex.id for ex in manifest],
    }
    book.begin({**settings, "versions": versions(), "code": code_digest()})
    failed: dict[str, str] = {}
    with _executor(jobs, scheduler) as (executor, most):
        tasks = _tasks(found, book, settings)
        for name, future in tqdm(
            _run(executor, tasks, most), total=len(found), desc="grading", unit="submission"
        ):
            try:
                if future is not None:
                    book.add(future.result())
            except Exception as error:  # one submission, or a lost machine, never costs the others
                failed[name] = f"{type(error).__name__}: {error}"
    book.finish(list(found), failed, passed_over)
    return failed


@contextmanager
def _executor(jobs: int, scheduler: str | None) -> Iterator[tuple[Executor, int]]:
    """Threads that each watch one worker process, or a Dask cluster; and how many tasks to have at hand."""
    if scheduler is None:
        executor = ThreadPoolExecutor(jobs)
        try:
            yield executor, jobs
        finally:  # interrupted: what runs is not waited for
            executor.shutdown(wait=False, cancel_futures=True)
    else:
        from distributed import Client

        with Client(scheduler) as client:
            threads = max(1, sum(client.nthreads().values()))
            yield client.get_executor(pure=False, retries=2), 2 * threads


def _tasks(
    found: dict[str, list[Source]], book: Gradebook, settings: dict
) -> Iterator[tuple[str, dict | None]]:
    """Each submission as it is wanted, never all at once; None for one that is graded already."""
    for name, sources in found.items():
        submission = asdict(read_submission(name, sources))
        done = book.has(name, submission["digest"])
        yield name, None if done else {"submission": submission, "settings": settings}


def _run(executor: Executor, tasks, most: int) -> Iterator[tuple[str, Future | None]]:
    """The futures of all tasks as they end, with at most `most` of them at a time."""
    running: dict[Future, str] = {}
    for name, task in tasks:
        if task is None:
            yield name, None
            continue
        running[executor.submit(grade_submission, **task)] = name
        while len(running) >= most:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future
    while running:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future


# ---------------------------------------------------------------- one submission


def grade_submission(submission: dict, settings: dict) -> dict:
    """Grade one submission in a worker process; in another one, from where it was, if that dies.

    Returns the submission with its rows, one for each exercise in order, and its JUnit report.
    """
    rows: dict[str, dict] = {}
    limits, problems, cells, failures, junit = Limits(**settings["limits"]), [], submission["cells"], 0, ""
    while not junit:
        keys = fresh_keys(settings["seed"], tuple(settings["exercises"]))
        job = {**settings, "name": submission["name"], "cells": cells, "known": rows, "keys": keys}
        current, was_read, log = None, False, ""
        for message in _worker(job, patience=limits.seconds + 180):
            if "read" in message:
                was_read, problems = True, message["read"]
            elif "start" in message:
                current = message["start"]
            elif "row" in message:
                rows[message["row"]["exercise"]], current = message["row"], None
            junit, log = message.get("junit", junit), message.get("log", log)
        if current:  # the worker died, or hung, with this answer
            rows[current] = ended(find(current), "crashed", limits).as_dict()
        elif not was_read and cells:
            problems, cells = ["Its cells cannot be taken apart; nothing of it was graded."], []
        elif len(rows) < len(settings["exercises"]):
            failures, junit = failures + 1, ""
            if failures > 1:
                raise GradingFailed(f"The grader itself failed: {log[-1500:]}")
    ordered = {name: Row(**rows[name]) for name in settings["exercises"]}
    return {
        "name": submission["name"],
        "digest": submission["digest"],
        "problems": submission["problems"] + problems,
        "rows": [_explained(row, ordered).as_dict() for row in ordered.values()],
        "junit": junit,
    }


_lock = threading.Lock()
_folders: dict[tuple, tempfile.TemporaryDirectory] = {}  # of fresh keys, for as long as this process lives


def fresh_keys(seed: int, names: tuple[str, ...]) -> str:
    """A folder with the keys of a run, one file for each lesson; recorded once in each process that supervises."""
    with _lock:
        if (seed, names) not in _folders:
            folder = tempfile.TemporaryDirectory(prefix="course-keys-")
            keys: dict[str, dict[str, Key]] = {}
            for ex in map(find, names):
                keys.setdefault(ex.lesson, {})[ex.name] = fresh_key(ex, seed)
            for lesson, its in keys.items():
                write_keys(Path(folder.name, f"{lesson}.safetensors"), its)
            _folders[seed, names] = folder
        return _folders[seed, names].name


def _explained(row: Row, rows: dict[str, Row]) -> Row:
    """The notes "calls X" turn into words where X has not passed either."""
    called = [note.removeprefix("calls ") for note in row.notes if note.startswith("calls ")]
    row.notes = [note for note in row.notes if not note.startswith("calls ")]
    wrong = [name for name in called if name in rows and not rows[name].passed]
    if wrong and not row.passed:
        row.notes.append(f"Your answer calls {', '.join(wrong)}, which did not pass: it may be right itself.")
    return row


def _worker(job: dict, patience: float) -> Iterator[dict]:
    """The messages of a worker process on a job, until it ends or says nothing for `patience` seconds."""
    with tempfile.TemporaryDirectory(prefix="course-grade-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps({**job, "folder": name}))
        command = [sys.executable, "-P", "-m", "course_lib.grading.worker", str(folder / "job.json")]
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
                cwd=name,
                start_new_session=True,
            )
        try:
            yield from map(json.loads, _lines(process.stdout, patience))
            yield {"log": (folder / "log").read_text(errors="replace")}
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()


def _lines(pipe, patience: float) -> Iterator[bytes]:
    """Whole lines from a pipe, each within `patience` seconds of the one before."""
    rest, end = b"", time.monotonic() + patience
    while select.select([pipe], [], [], max(0, end - time.monotonic()))[0]:
        chunk = os.read(pipe.fileno(), 1 << 16)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            end = time.monotonic() + patience
        yield from lines


def _environment() -> dict[str, str]:
    """The worker's environment: this one without what steers pytest or the answers in force, one thread, no GPU."""
    import solutions

    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COURSE_", "PYTHON"))}
    folders = dict.fromkeys((str(PACKAGE.parent), str(Path(solutions.__file__).parents[1])))
    settings = {"PYTHONPATH": os.pathsep.join(folders), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    settings |= {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
    }
    return kept | settings


# ---------------------------------------------------------------- what graded


def versions() -> dict[str, str]:
    names = ("disentanglement-course", "torch", "nbval", "pytest", "ipykernel")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), **found}


def code_digest() -> str:
    """SHA-256 of the library and the solutions: what a grade depends on besides seed and submission."""
    import solutions

    digest = hashlib.sha256()
    for folder in (PACKAGE, Path(solutions.__file__).parent):
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()
