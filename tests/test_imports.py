"""What an import costs, counted in modules: time depends on the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LESSONS = "from course_lib.catalogue import exercises\nexercises()\n"
EXPERIMENTS = (
    "import importlib\nfrom course_lib.catalogue import LESSONS\n"
    "for x in LESSONS: importlib.import_module(f'course_lib.experiments.{x.module}')\n"
)
HEAVY = {"sklearn", "seaborn", "pandas", "scipy", "matplotlib", "PIL", "torchvision", "IPython", "nbformat"}


def loaded(code: str) -> set[str]:
    """The modules that a fresh process has after running this code."""
    code += "import sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_lessons_import_nothing_that_takes_long_and_nothing_above_them():
    found = loaded(LESSONS)
    assert "course_lib.lessons.ufdn" in found and not found & HEAVY
    assert not {m for m in found if m.startswith("course_lib.experiments")} | (found & {"course_lib.metrics"})


@pytest.mark.parametrize(
    "code",
    [EXPERIMENTS, "import course_lib.metrics\n"],
    ids=["experiments", "metrics"],
)
def test_what_takes_long_is_imported_where_it_is_used(code):
    assert not loaded(code) & HEAVY
