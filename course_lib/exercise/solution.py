"""What the author of an exercise supplies in `solutions/`: solution, cases, named mistakes, hints."""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from course_lib.exercise.contract import Exercise

Edit = tuple[str, str]  # (find, replace)


class Case(dict):
    """The inputs of one call, by name: tensors and plain numbers. The first case should be readable."""

    reason = ""  # what is said where this case, or those of the same reason, are the only ones that fail

    def alone(self, reason: str) -> Case:
        """Says why the case is there: what its author would tell a student who is right on all the others."""
        self.reason = reason
        return self


def randn(g: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers from g."""
    return torch.randn(*shape, generator=g)


def rand(g: torch.Generator, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1) from g."""
    return torch.rand(*shape, generator=g)


def small_numbers(*edits: Edit) -> dict[str, list[Edit]]:
    """One mistake for each way to keep log(0) finite: log(p + ε) for the ε that are usual, and log p cut off at −100.

    The edits have {plus} behind the probability and {cut} behind the logarithm.
    """
    ways = {f"plus_1e_{n}": {"plus": f" + 1e-{n}", "cut": ""} for n in (12, 10, 8, 7, 6, 5)}
    ways["cut_at_100"] = {"plus": "", "cut": ".clamp(min=-100)"}
    return {name: [(find, text.format(**way)) for find, text in edits] for name, way in ways.items()}


@dataclass(eq=False)
class Mistake:
    """A wrong answer that students give: a function, or the solution with some of its text replaced."""

    solution: Solution
    name: str
    sentence: str  # what a tutor would say
    edits: list[Edit] = field(default_factory=list)
    own: Callable | None = None  # the function, where it is not an edit

    @cached_property
    def source(self) -> str:
        """Its source, without a decorator. ValueError for an edit that does not apply exactly once."""
        if self.own is not None:
            return source_of(self.own)
        text = self.solution.source
        for find, replace in self.edits:
            if (count := text.count(find)) != 1:
                raise ValueError(
                    f"{self.solution.exercise.id}, mistake {self.name}: expected {find!r} exactly once in the "
                    f"solution, found it {count} times:\n{text}"
                )
            text = text.replace(find, replace)
        return text

    @cached_property
    def function(self) -> Callable:
        """The wrong answer; an edited solution runs in the solution's module, and tracebacks show its own lines."""
        if self.own is not None:
            return self.own
        file = f"<{self.solution.exercise.id}, mistake {self.name}>"
        linecache.cache[file] = len(self.source), None, self.source.splitlines(keepends=True), file
        namespace: dict[str, Callable] = {}
        exec(compile(self.source, file, "exec"), self.solution.function.__globals__, namespace)
        return namespace[self.solution.exercise.name]


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

    def mistake(self, sentence: str, **named: Edit | list[Edit]) -> Callable[[Callable], Callable]:
        """A wrong answer that students give, with the sentence that helps.

        mistake("The ½ is missing.", no_half=("0.5 * ", "")) is the mistake `no_half`: the solution with a text, which
        must be in it exactly once, replaced by another; a list of such edits is made in turn. Several names are ways
        to make the same mistake. Without any it is the decorator of a wrong function.
        """
        for name, edit in named.items():
            self.mistakes.append(Mistake(self, name, sentence, edit if isinstance(edit, list) else [edit]))

        def add(function: Callable) -> Callable:
            self.mistakes.append(Mistake(self, function.__name__, sentence, own=function))
            return function

        return add

    def draw_cases(self, seed: int = 0) -> list[Case]:
        return list(self._cases(torch.Generator().manual_seed(seed)))

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)

    @cached_property
    def source(self) -> str:
        """The solution's source, without its decorator."""
        return source_of(self.function)


def source_of(function: Callable) -> str:
    """A function's source, without its decorators."""
    text = textwrap.dedent(inspect.getsource(function))
    first = ast.parse(text).body[0].lineno  # the `def` line: decorators stand before it
    return "\n".join(text.splitlines()[first - 1 :])


def solution(ex: Exercise, hints: list[str]) -> Callable[[Callable], Solution]:
    """Decorator: the reference answer to `ex`, with its ladder of hints."""
    return lambda function: Solution(ex, function, hints)
