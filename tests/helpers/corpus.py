"""The corpus of right and wrong answers: cells as students write them, in the percent format of notebooks.

Each file of right_answers/ and wrong_answers/ is one lesson's notebook. A cell begins with

    # %% exercise: what is special about this answer

and goes on until the next one; a cell without a colon holds what the notebook's first cell imports. A wrong answer may
begin with what its panel must say, and must not, as regular expressions:

    # says: detach
    # not: seeded
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from course_lib.catalogue import LESSONS, find
from course_lib.exercise import Exercise
from course_lib.exercise.report import Report
from tests.helpers import ROOT

TESTS = ROOT / "tests"

# Right answers that lose their point in grading alone, and why. An entry that has become right makes its test fail.
LOST_IN_GRADING = {
    "adda.copy_encoder: pickled and unpickled": "pickle copies bytes, by no operation",
}


@dataclass(frozen=True)
class Cell:
    """One answer: the cell's text, and what a check must (not) say of it."""

    lesson: str
    exercise: str
    name: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.lesson}.{self.exercise}: {self.name}"

    @property
    def ex(self) -> Exercise:
        return find(f"{self.lesson}.{self.exercise}")

    def patterns(self, kind: str) -> list[str]:
        """The regular expressions of the cell's lines `# says:` or `# not:`."""
        return re.findall(rf"^# {kind}: (.+)$", self.text, re.MULTILINE)


def read_cells(folder: str) -> list[Cell]:
    """All answers in a folder of the corpus, lesson by lesson."""
    found = []
    for lesson in LESSONS:
        file = TESTS / folder / f"{lesson.module}.py"
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        for part in re.split(r"^# %% ", text, flags=re.MULTILINE)[1:]:
            title, _, code = part.partition("\n")
            exercise, colon, name = title.partition(": ")
            if colon:
                found.append(Cell(lesson.module, exercise, name, code.strip() + "\n"))
    return found


def words(report: Report) -> str:
    """All that a panel says, without its markup and pictures."""
    panel = re.sub(r"<svg.*?</svg>", "", report._repr_html_(), flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "", panel))
