"""Fixtures that several test files share, and how the tests run side by side."""

from __future__ import annotations

import os

# One thread, here and in all that a test starts: tests run side by side, and on a busy core the threads of
# one operation wait for each other.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

from course_lib import cores
from course_lib.catalogue import LESSONS
from course_lib.exercise import Exercise
from course_lib.exercise.kernels import HAS_TRITON

# Hypothesis, too, has limits of wall-clock time: 0.2 seconds an example, and some for drawing them. None of them holds where
# others use the cores. As its own profile for CI does, examples are the same in each run there.
settings.register_profile(
    "busy",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
    print_blob=True,
)
settings.load_profile("busy")

# Fixtures of a module: what uses one of them stays on one worker.
COSTLY = {"graded", "solved_lab", "students_lab", "editions"}
# What takes longest, by group or marker, so that no worker is left alone with it in the end.
LONGEST = ("graded", "solved_lab", "students_lab", "editions", "book", "notebooks", "slow")


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores: tests that wait for a page or a time limit leave theirs to another."""
    return cores.usable_cores() + 1


def place(item: pytest.Item) -> int:
    """Where in the queue a test stands: those of LONGEST first, in that order."""
    names = {mark.args[0] if mark.name == "xdist_group" else mark.name for mark in item.iter_markers()}
    return next((i for i, name in enumerate(LONGEST) if name in names), len(LONGEST))


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items):
    skip = pytest.mark.skip(reason="needs a CUDA device")
    no_triton = pytest.mark.skip(reason="needs Triton, which comes with PyTorch on Linux")
    for item in items:
        given = item.callspec.params.values() if hasattr(item, "callspec") else ()
        for ex in (x for x in (getattr(x, "ex", x) for x in given) if isinstance(x, Exercise)):
            item.add_marker(pytest.mark.xdist_group(ex.id))  # its inputs are drawn once, on one worker
            if ex.kernel and not HAS_TRITON:
                item.add_marker(no_triton)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(skip)
        for name in COSTLY.intersection(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group(name))
        if "graded" in item.fixturenames:  # the red team's class: some submissions run into their time limit
            item.add_marker(pytest.mark.slow)
    items.sort(key=place)  # with --no-loadscope-reorder workers take the groups in this order


@pytest.fixture
def on_solutions(monkeypatch):
    """The hidden solutions are in force."""
    monkeypatch.setenv("COURSE_ANSWERS", "solutions")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of answers, which is in force."""
    monkeypatch.setenv("COURSE_ANSWERS", str(tmp_path / "answers"))
    return tmp_path / "answers"


@pytest.fixture
def revealed(monkeypatch):
    """Where a student's answer is missing, the solution stands in."""
    monkeypatch.setattr("solutions.REVEALED", tuple(x.module for x in LESSONS))
