"""Mistakes as edits of a solution: exactly once or not at all, in the solution's module, with lines of their own."""

from __future__ import annotations

import inspect
import linecache
import traceback

import pytest
import torch

from course_lib.exercise.key import record
from course_lib.exercise.solution import Solution
from tests.helpers import toy_lesson, toy_solutions


@pytest.fixture
def distances() -> Solution:
    """The solution of the toy lesson, with room for mistakes."""
    return Solution(toy_lesson.distances, toy_solutions.distances.function, ["A hint."])


def test_an_edit_replaces_text_of_the_solution(distances):
    distances.mistake("The 2 is missing.", no_two=("- 2 * x", "- x"))
    (mistake,) = distances.mistakes
    x, y = torch.randn(3, 2), torch.randn(4, 2)
    assert mistake.name == "no_two" and mistake.sentence == "The 2 is missing."
    torch.testing.assert_close(mistake.function(x, y) - x @ y.T, distances(x, y))
    assert mistake.source == distances.source.replace("- 2 * x", "- x")


def test_several_edits_are_made_in_turn(distances):
    distances.mistake("Both.", both=[("x.square()", "y.square()"), ("sum(1)[:, None]", "sum(1)[None]")])
    assert "y.square().sum(1)[None] - 2" in distances.mistakes[0].source


def test_a_function_is_a_mistake_too(distances):
    @distances.mistake("All zero.")
    def zeros(x, y):
        return torch.zeros(len(x), len(y))

    (mistake,) = distances.mistakes
    assert mistake.function is zeros and mistake.source.startswith("def zeros(x, y):")


@pytest.mark.parametrize(("find", "count"), [("x.cube()", 0), (".square()", 2)])
def test_an_edit_must_apply_exactly_once(find, count, distances, monkeypatch):
    distances.mistake("No such text.", nowhere=(find, ""))
    distances.cases(lambda g: toy_solutions.distances.draw_cases())
    monkeypatch.setattr("course_lib.exercise.key.find_solution", lambda ex: distances)
    with pytest.raises(ValueError, match=rf"toy_lesson.distances, mistake nowhere: .*found it {count} times"):
        record(toy_lesson.distances)


def test_an_edited_solution_sees_its_module_and_shows_its_own_lines(distances):
    distances.mistake("It stops.", stops=("return ", "raise ValueError(solution) or "))
    function = distances.mistakes[0].function
    with pytest.raises(ValueError) as error:
        function(torch.zeros(1, 2), torch.zeros(1, 2))
    assert error.value.args[0] is toy_solutions.solution
    linecache.checkcache()
    assert "raise ValueError(solution)" in "".join(traceback.format_exception(error.value))
    assert "raise ValueError(solution)" in inspect.getsource(function)
    assert isinstance(toy_solutions.distances, Solution), "the module keeps its own"
