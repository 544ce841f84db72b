"""What the author of an exercise supplies in `solutions/`: solution, cases, named mistakes, hints."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from course_lib.exercise.contract import Exercise


class Case(dict):
    """The inputs of one call, by name: tensors and plain numbers. The first case should be readable."""


@dataclass
class Mistake:
    name: str
    sentence: str  # what a tutor would say
    function: Callable


@dataclass(eq=False)
class Solution:
    exercise: Exercise
    function: Callable
    hints: list[str]
    mistakes: list[Mistake] = field(default_factory=list)
    _cases: Callable[[torch.Generator], Iterator[Case]] | None = None

    def cases(self, function: Callable) -> Callable:
        """Decorator: a generator function of the cases, given a seeded torch.Generator."""
        self._cases = function
        return function

    def mistake(self, sentence: str) -> Callable[[Callable], Callable]:
        """Decorator: a wrong answer that students give, with the sentence that helps."""

        def add(function: Callable) -> Callable:
            self.mistakes.append(Mistake(function.__name__, sentence, function))
            return function

        return add

    def draw_cases(self, seed: int = 0) -> list[Case]:
        return list(self._cases(torch.Generator().manual_seed(seed)))

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)

    @property
    def source(self) -> str:
        """The solution's source, without its decorator."""
        text = textwrap.dedent(inspect.getsource(self.function))
        first = ast.parse(text).body[0].lineno  # the `def` line: decorators stand before it
        return "\n".join(text.splitlines()[first - 1 :])


def solution(ex: Exercise, hints: list[str]) -> Callable[[Callable], Solution]:
    """Decorator: the reference answer to `ex`, with its ladder of hints."""
    return lambda function: Solution(ex, function, hints)
