"""Fixtures that several test files share, and how the tests run side by side."""

from __future__ import annotations

import os

WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:  # as many workers as cores: each keeps to one thread, and so does whatever it starts
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402

from course_lib.catalogue import LESSONS  # noqa: E402


def pytest_collection_modifyitems(items):
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(skip)


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
