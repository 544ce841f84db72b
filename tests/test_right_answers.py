"""Nothing right is rejected, nothing wrong accepted: the corpus of answers against the check, and against the grader."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from course_lib.catalogue import LESSONS, exercises
from course_lib.exercise import answers
from course_lib.exercise.check import inspect_answer
from course_lib.exercise.report import QUIET
from tests.helpers.corpus import read_cells, words

RIGHT, WRONG = read_cells("right_answers"), read_cells("wrong_answers")
WRITTEN = {cell.lesson for cell in RIGHT}  # the corpus grows lesson by lesson
EXERCISES = [ex for lesson in LESSONS if lesson.module in WRITTEN for ex in exercises(lesson)]

# What the check does not yet decide rightly, and why. An entry that has become right makes its test fail: take it off.
KNOWN_REJECTED: dict[str, str] = {
    **dict.fromkeys(
        [
            f"mutual_information.gaussian_total_correlation: {name}"
            for name in (
                "slogdet",
                "cholesky_ex",
                "correlations, then slogdet",
                "correlations, then cholesky_ex",
                "torch.logdet",
                "QR",
                "entropies of a Gaussian",
            )
        ],
        "gradients of some hundred, near-zero elements compared with a fixed tolerance",
    ),
    "mutual_information.shuffle_across_batch: index_select": "on meta inputs the generator is on the CPU",
    "mutual_information.shuffle_across_batch: top k of all": "torch's meta exponential_ takes no generator",
}
KNOWN_ACCEPTED: dict[str, str] = {
    "why_disentangle.worst_group_accuracy: groups without a right answer left out": "no case has such a group",
    "why_disentangle.worst_group_accuracy: an empty group is perfect, a small one is not counted": "no case has "
    "a group of one example, wrong",
    "mutual_information.discrete_mutual_information: NaN at an empty row": "no case has an empty row",
    "mutual_information.discrete_mutual_information: F.kl_div, NaN at an empty row": "no case has an empty row",
    **dict.fromkeys(
        [
            f"mutual_information.shuffle_across_batch: {name}"
            for name in (
                "moved around by a random distance",
                "two halves exchanged, at random",
                "all but the first row",
                "backwards, or not",
            )
        ],
        "the probe does not look at how the order was drawn",
    ),
    "mutual_information.shuffle_across_batch: drawn on the CPU, then moved": "the watch sees the result's device only",
    "mutual_information.mutual_information_from_logits: exp in float64, which overflows later": "no logits beyond 709",
    "elbo.importance_weighted_bound: one maximum for all images": "no case has weights far apart",
    "elbo.importance_weighted_bound: exp in float64, which underflows later": "no weights below −745",
}
KNOWN_MISLEADING: dict[str, str] = {
    "mutual_information.gaussian_total_correlation: the Cholesky factor that reports errors": "its gradient is "
    "rejected first",
}


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
    known = {"right": KNOWN_REJECTED, "wrong": KNOWN_ACCEPTED | KNOWN_MISLEADING}
    assert known["right"].keys() <= {cell.id for cell in RIGHT}
    assert known["wrong"].keys() <= {cell.id for cell in WRONG}


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
