"""Nothing right is rejected, nothing wrong accepted: the corpus of answers against the check, and against the grader."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from inspect import signature
from pathlib import Path

import pytest
from typer.testing import CliRunner

from course_lib import cli
from course_lib.catalogue import LESSONS, Lesson
from course_lib.exercise import answers
from course_lib.exercise.check import inspect_answer
from course_lib.exercise.findings import QUIET
from tests.helpers.cells import EXERCISES, SEED
from tests.helpers.corpus import LOST_IN_GRADING, read_cells, words
from tests.helpers.red_team import notebook

RIGHT, WRONG = read_cells("right_answers"), read_cells("wrong_answers")
# What the check does not decide rightly, and why: nothing. An entry whose answer is decided rightly makes its test fail.
KNOWN_REJECTED: dict[str, str] = {}
KNOWN_ACCEPTED: dict[str, str] = {}
KNOWN_MISLEADING: dict[str, str] = {}


@pytest.fixture
def inspect(folder, revealed):
    """Saves a cell as a notebook does and checks it; what the answer calls is answered by the solutions."""

    def inspect(cell):
        answers.save_answer(cell.ex, cell.text)
        return inspect_answer(cell.ex)

    return inspect


def test_names_are_unique_and_known():
    for cells in (RIGHT, WRONG):
        assert [name for name, n in Counter(cell.id for cell in cells).items() if n > 1] == []
    assert KNOWN_REJECTED.keys() <= {cell.id for cell in RIGHT}
    assert KNOWN_ACCEPTED.keys() | KNOWN_MISLEADING.keys() <= {cell.id for cell in WRONG}


@pytest.mark.parametrize("ex", EXERCISES, ids=lambda ex: ex.id)
def test_every_exercise_has_three_right_and_five_wrong_answers(ex):
    assert sum(cell.ex is ex for cell in RIGHT) >= 3
    assert sum(cell.ex is ex for cell in WRONG) >= 5


@pytest.mark.parametrize("cell", RIGHT, ids=lambda cell: cell.id)
def test_a_right_answer_passes(cell, inspect):
    report = inspect(cell)
    passed = report.passed and not report.notes
    assert passed == (cell.id not in KNOWN_REJECTED), words(report)


@pytest.mark.parametrize("cell", WRONG, ids=lambda cell: cell.id)
def test_a_wrong_answer_is_rejected_and_told_why(cell, inspect):
    report = inspect(cell)
    assert report.status not in QUIET, words(report)
    assert report.passed == (cell.id in KNOWN_ACCEPTED), words(report)
    if not report.passed:
        told = all(re.search(p, words(report), re.IGNORECASE) for p in cell.patterns("says"))
        misled = any(re.search(p, words(report), re.IGNORECASE) for p in cell.patterns("not"))
        assert (told and not misled) == (cell.id not in KNOWN_MISLEADING), words(report)


def solved(lesson: Lesson, folder: Path) -> None:
    """Put into a folder a notebook of the lesson whose stubs `course solve` has filled in."""
    asked = [ex for ex in EXERCISES if ex.lesson == lesson.module]
    stubs = [f"@answer({ex.id})\ndef f{signature(ex.function)}:\n    pass".replace("'", "") for ex in asked]
    stub = folder.parent / f"{lesson.notebook}.ipynb"
    stub.write_text(notebook(*stubs), encoding="utf-8")
    assert CliRunner().invoke(cli.app, ["solve", str(stub), "-o", str(folder / stub.name)]).exit_code == 0
    stub.unlink()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
def test_right_answers_of_the_whole_course_pass_the_grader(tmp_path):
    """Three students: the first right answer to every exercise, the last, and what `course solve` gives; through the command line."""
    firsts, lasts = ({cell.ex.id: cell for cell in cells} for cells in (RIGHT[::-1], RIGHT))
    (tmp_path / "class/perfect").mkdir(parents=True)
    for lesson in LESSONS:
        solved(lesson, tmp_path / "class/perfect")
    for name, cells in (("first", firsts), ("last", lasts)):
        text = notebook(*(cell.text for cell in cells.values()))
        (tmp_path / f"class/{name}.ipynb").write_text(text, encoding="utf-8")
    command = ["grade", str(tmp_path / "class"), "-o", str(tmp_path / "grades"), "--seed", str(SEED)]
    done = CliRunner().invoke(cli.app, [*command, "--jobs", "2", "--seconds", "30"])
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "grades/results/perfect.json").read_text())
    assert [t["name"] for t in results["tests"] if t["status"] != "passed"] == []
    assert results["score"] == sum(ex.points for ex in EXERCISES)
    with open(tmp_path / "grades/gradebook.csv", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    rejected = {
        cell.id
        for student, cells in (("first", firsts), ("last", lasts))
        for name, cell in cells.items()
        if int(rows[student][name]) != cell.ex.points
    }
    assert rejected <= LOST_IN_GRADING.keys() | KNOWN_REJECTED.keys()
