"""Notebook cells: those of the committed notebooks, and those that a student would write."""

from __future__ import annotations

import ast
import functools
import inspect
import json
from pathlib import Path

from course_lib.catalogue import exercises
from course_lib.exercise import answers
from course_lib.exercise.contract import Exercise
from course_lib.grading.judge import draw_test

EXERCISES = exercises()
MISTAKES = [(ex, m.name) for ex in EXERCISES for m in getattr(answers.find_solution(ex), "mistakes", ())]
SEED = 20_26  # of the hidden inputs
drawn = functools.cache(draw_test)  # seconds for some exercises
MARK = "# NBVAL_CHECK_OUTPUT"  # the first line of a cell that holds a check


def code_cells(notebook: Path) -> list[dict]:
    """The code cells of a notebook, each with its source as one text."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [{**c, "source": "".join(c["source"])} for c in cells if c["cell_type"] == "code"]


def answer_cell(ex: Exercise, name: str) -> str:
    """The notebook cell of a student who writes a solution, or its mistake `name`, with what it uses of its file."""
    solution = answers.find_solution(ex)
    texts = {ex.name: solution.source} | {m.name: m.source for m in solution.mistakes}
    cell, wanted = [f"@answer({ex.id})\n{texts[name]}"], _names(ast.parse(texts[name]))
    for node in reversed(ast.parse(inspect.getsource(inspect.getmodule(solution.function))).body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            used = "course_lib.exercise" not in ast.unparse(node)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            used = node.name in wanted and not any(".mistake" in ast.unparse(d) for d in node.decorator_list)
            node.decorator_list = []
        else:
            used = isinstance(node, ast.Assign) and _names(*node.targets) & wanted
        if used:
            cell.append(ast.unparse(node))
            wanted |= _names(node)
    return "\n".join(reversed(cell))


def _names(*nodes: ast.AST) -> set[str]:
    return {x.id for node in nodes for x in ast.walk(node) if isinstance(x, ast.Name)}
