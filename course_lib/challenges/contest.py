"""A challenge, an attempt at it, and the board of one's own attempts, which stays on this machine."""

from __future__ import annotations

import contextlib
import datetime
import functools
import html
import inspect
import json
import statistics
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from course_lib.exercise import answers
from course_lib.exercise.findings import NoTriton
from course_lib.exercise.panel import Panel, shown
from course_lib.exercise.progress import ATTEMPTS, attempts, read_record, write_record
from course_lib.exercise.solution import source_of
from course_lib.files import data_folder
from course_lib.training import seeded

SEEDS = (0, 1, 2)
MEASURED = "challenges.json"  # in data/: the scores of the baselines and of the solutions


class Unmet(Exception):
    """An attempt that breaks the task's condition, in words: what was asked, what came."""


@dataclass(eq=False)
class Challenge:
    """A task: calling it with an attempt and a seed gives the score, or raises Unmet.

    judge    judge(attempt, seed) -> the score; its docstring is the task
    lesson   the lesson that it belongs to: "03"
    title    of its section in the notebook
    unit     of the score
    highest  whether a higher score is better
    seconds  the CPU time that an attempt may take at one seed, all cores together
    """

    judge: Callable[[Callable, int], float]
    lesson: str
    title: str
    unit: str
    highest: bool
    seconds: float
    _baseline: Callable | None = field(default=None)

    def __post_init__(self):
        functools.update_wrapper(self, self.judge)
        self.name: str = self.judge.__name__

    def baseline(self, function: Callable) -> Callable:
        """Decorator: what everybody has to beat. It is shown, and a start."""
        self._baseline = function
        return function

    def __call__(self, attempt: Callable, seed: int) -> float:
        start = time.process_time()
        with seeded(seed):
            score = float(self.judge(attempt, seed))
        took = time.process_time() - start
        if took > self.seconds:
            raise Unmet(
                f"at most {self.seconds:g} CPU seconds at a seed were asked for; this took {took:.0f}"
            )
        return score

    def better(self, a: float, b: float) -> bool:
        """Whether score a beats score b."""
        return a > b if self.highest else a < b

    def _repr_html_(self) -> str:
        return self.board()._repr_html_()

    def __repr__(self) -> str:
        return self.board().text

    def board(self) -> Panel:
        """The task, the baseline's code, and all scores: the baseline's, a solution's, one's own attempts."""
        rows = self._rows()
        best = "highest" if self.highest else "lowest"
        said = inspect.getdoc(self.judge)
        lines = [f"{self.name}: {best} {self.unit}", *(f"{author}: {scores}" for author, scores, _ in rows)]
        table = "".join(
            f'<tr><td style="text-align:left">{html.escape(author)}</td><td>{scores}</td>'
            f'<td style="text-align:left">{html.escape(note)}</td></tr>'
            for author, scores, note in rows
        )
        head = "<tr><th>who</th><th>median (three seeds)</th><th></th></tr>"
        code = html.escape(source_of(self._baseline))
        task = "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in said.split("\n\n"))
        aim = f"<p>The {best} {self.unit} wins; {self.seconds:g} CPU seconds at a seed.</p>"
        shown_code = f"<details><summary>The baseline</summary><pre>{code}</pre></details>"
        return Panel("\n".join(lines), markup=f"{task}{aim}{shown_code}<table>{head}{table}</table>")

    def _rows(self) -> list[tuple[str, str, str]]:
        """Who, what scores, and a note, best first."""
        entries = [(author, scores, "") for author, scores in measured().get(self.name, {}).items()]
        for i, entry in enumerate(attempts(read_record(ATTEMPTS), self.name), 1):
            entries.append((f"your attempt {i}", entry["scores"], f"{entry['when']} {entry['note']}".strip()))
        entries.sort(key=lambda entry: statistics.median(entry[1]), reverse=self.highest)
        return [(author, spread(scores), note) for author, scores, note in entries]


def spread(scores: list[float]) -> str:
    """The median of some scores, and their range."""
    low, *_, high = sorted(scores)
    return f"{statistics.median(scores):.3f} ({low:.3f} to {high:.3f})"


def challenge(lesson: str, title: str, unit: str, *, highest: bool, seconds: float = 10) -> Callable:
    """Decorator: the judge of a challenge, whose docstring is the task."""
    return lambda judge: Challenge(judge, lesson, title, unit, highest, seconds)


@functools.cache
def measured() -> dict[str, dict[str, list[float]]]:
    """By challenge, the scores of "the baseline" and of "a solution", one for each seed: `course challenges`."""
    path = data_folder() / MEASURED
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def measure(task: Challenge, function: Callable) -> list[float]:
    """The scores of a function at all seeds."""
    return [task(function, seed) for seed in SEEDS]


def attempt(task: Challenge) -> Callable[[Callable], Callable]:
    """Decorator of an attempt: measures it at three seeds, puts it on the board, and shows the board.

    A stub is not measured, and nothing is while the solutions are in force. The attempt's source is kept with its scores
    in answers/challenges.json; the first line of its docstring is its note on the board.
    """
    if not isinstance(task, Challenge):
        raise TypeError(f"@attempt expects a challenge, such as tasks.fair_decision; got {task!r}.")

    def judged(function: Callable) -> Callable:
        cell = sys._getframe(1).f_code.co_filename
        if answers.solutions_in_force():
            return function
        try:
            scores = measure(task, function)
        except NoTriton as missing:
            text = f"{task.name}: not measured. {missing}"
            _show(Panel(text, kind="open", message=text))
            return function
        except NotImplementedError:
            shown(Panel(f"{task.name}: not attempted", kind="open", message=f"{task.name}: not attempted"))
            return function
        except Unmet as unmet:
            text = f"{task.name}: not on the board: {unmet}."
            _show(Panel(text, kind="wrong", message=text))
            return function
        _keep(task, function, scores, cell)
        text = f"{task.name}: {spread(scores)} {task.unit}"
        _show(Panel(text, kind="message", message=text))
        _show(task.board())
        return function

    return judged


def _show(panel: Panel) -> None:
    if shown(panel) is panel:  # outside a notebook
        print(panel.text)


def _keep(task: Challenge, function: Callable, scores: list[float], cell: str) -> None:
    """Write an attempt on the board; where it cannot be saved, it is only shown."""
    record = read_record(ATTEMPTS)
    kept = attempts(record, task.name)
    note = (inspect.getdoc(function) or "").partition("\n")[0]
    source = textwrap.dedent(answers.cell_source(cell))
    when = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    kept.append({"scores": scores, "when": when, "note": note, "source": source})
    record[task.name] = record.get(task.name, {}) | {"attempts": kept}
    with contextlib.suppress(OSError):
        write_record(record, ATTEMPTS)


def expect(value: object, shape: tuple[int, ...], name: str) -> torch.Tensor:
    """The value, if it is a tensor of this shape with finite numbers; else a ValueError that says what came."""
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name}: expected a tensor {shape}, got {type(value).__name__}")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name}: expected the shape {shape}, got {tuple(value.shape)}")
    if value.is_floating_point() and not value.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return value.detach()
