"""Notebook cells: those of the committed notebooks, and those that a student would write."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path

from course_lib.catalogue import exercises
from course_lib.exercise import answers
from course_lib.exercise.contract import Exercise

EXERCISES = exercises()
MISTAKES = [(ex, m.name) for ex in EXERCISES for m in getattr(answers.find_solution(ex), "mistakes", ())]
MARK = "# NBVAL_CHECK_OUTPUT"  # the first line of a cell that holds a check


def code_cells(notebook: Path) -> list[dict]:
    """The code cells of a notebook, each with its source as one text."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [{**c, "source": "".join(c["source"])} for c in cells if c["cell_type"] == "code"]


def answer_cell(ex: Exercise, name: str) -> str:
    """The notebook cell of a student who writes what the solutions' file has as `name`, with its helpers."""
    tree = ast.parse(inspect.getsource(inspect.getmodule(answers.find_solution(ex).function)))
    wanted, cell = {name}, []
    for node in reversed(tree.body):  # the last definition of a name first, then what it uses
        defined = getattr(node, "name", None)
        if isinstance(node, ast.Import | ast.ImportFrom) and "course_lib.exercise" not in ast.unparse(node):
            cell.append(ast.unparse(node))
        elif defined in wanted and defined is not None and _belongs_to(node, ex, name):
            decorators = getattr(node, "decorator_list", [])
            node.decorator_list = [
                d for d in decorators if "solution" not in ast.unparse(d) and ".mistake" not in ast.unparse(d)
            ]
            text = ast.unparse(node)
            wanted.discard(defined)
            wanted |= {x.id for x in ast.walk(node) if isinstance(x, ast.Name)}
            cell.append(f"@answer({ex.id})\n{text}" if defined == name else text)
        elif (
            isinstance(node, ast.Assign)
            and {x.id for t in node.targets for x in ast.walk(t) if isinstance(x, ast.Name)} & wanted
        ):
            cell.append(ast.unparse(node))
            wanted |= {x.id for x in ast.walk(node.value) if isinstance(x, ast.Name)}
    return re.sub(r"\b(\w+)\.function\(", r"\1(", "\n".join(reversed(cell)))  # a Solution's own function


def _belongs_to(node: ast.stmt, ex: Exercise, name: str) -> bool:
    """Not the mistake of the same name of another exercise."""
    if getattr(node, "name", "") != name:
        return True
    marks = [ast.unparse(d) for d in node.decorator_list]
    return any(m.startswith((f"{ex.name}.mistake", f"solution(lesson.{ex.name}")) for m in marks)
