"""`course check`, a student's own answers in a fresh process, and `course solve`, a notebook filled by the solutions."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook, new_output

from course_lib.catalogue import exercises, find
from course_lib.exercise import Exercise
from course_lib.exercise.answers import (
    _answers_to,
    defined_names,
    find_answers,
    find_solution,
    header,
    plain_python,
)
from course_lib.exercise.check import inspect_answer
from course_lib.exercise.panel import Panel
from course_lib.files import replace
from course_lib.grading.sandbox import PACKAGE

GIVEN = defined_names(header("lesson"))

# ---------------------------------------------------------------- course check


def own_answers(folder: Path) -> Path:
    """The folder of the student's answers: `answers/`, beside the notebooks or here."""
    named = Path(os.environ.get("COURSE_ANSWERS") or "answers")
    return next((p for p in (folder / named, folder / "notebooks" / named) if p.is_dir()), folder / named)


def self_check(chosen: list[Exercise], answers: Path) -> Iterator[tuple[Exercise, Panel]]:
    """Check answers in a fresh kernel through nbval; for each exercise, its panel."""
    cells = [new_code_cell("from course_lib.grading.helpers import report", execution_count=1)]
    for ex in chosen:
        passed = new_output("stream", name="stdout", text=f"{ex.id}: passed\n")
        cells.append(new_code_cell(f"report({ex.id!r})", execution_count=1, outputs=[passed]))
    with tempfile.TemporaryDirectory() as folder:
        notebook, junit = Path(folder, "check.ipynb"), Path(folder, "junit.xml")
        nbformat.write(new_notebook(cells=cells), notebook)
        Path(folder, "pytest.ini").write_text("[pytest]\n")
        options = "--nbval --nbval-current-env --nbval-cell-timeout=60 --noconftest -p nbval.plugin -p no:cacheprovider"
        command = [
            sys.executable,
            "-P",
            "-m",
            "pytest",
            *options.split(),
            str(notebook),
            f"--junitxml={junit}",
        ]
        settings = {
            "COURSE_ANSWERS": str(answers),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "TQDM_DISABLE": "1",
        }
        settings["PYTHONPATH"] = os.pathsep.join(
            filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH")))
        )
        done = subprocess.run(command, cwd=folder, env=os.environ | settings, capture_output=True, text=True)
        if not junit.exists():
            raise RuntimeError(f"The checks could not be run:\n{done.stdout}{done.stderr}")
        found = list(ElementTree.parse(junit).iter("testcase"))[1:]
        for ex, case in zip(chosen, found, strict=True):
            said = Path(folder, f"{ex.id}.json")
            panel = Panel(**json.loads(said.read_text())) if said.exists() else _lost(ex)
            if panel.kind == "passed" and case.find("failure") is not None:
                panel = _lost(ex)
            yield ex, panel


def _lost(ex: Exercise) -> Panel:
    """What is said of an answer that took the process with it."""
    said = "ended, or hung, the process that checks it"
    return Panel(f"{ex.id}: {said}", kind="wrong", title=said, name=ex.id)


def report(name: str) -> None:
    """In the kernel of `self_check`: check one answer, print its verdict, leave its panel in a file."""
    found = inspect_answer(find(name))
    Path(f"{name}.json").write_text(json.dumps(asdict(found.panel())))
    print(f"{name}: {found.status}")


# ---------------------------------------------------------------- course solve


def solve(notebook: Path, out: Path) -> list[str]:
    """Write `notebook` with the solutions' sources in its answer cells; the exercises that were filled in."""
    document = json.loads(notebook.read_text(encoding="utf-8"))
    solved = []
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            source, names = solved_cell("".join(cell["source"]))
            if names:
                cell["source"] = source.splitlines(keepends=True)
                solved += names
    replace(out, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return solved


def solved_cell(source: str) -> tuple[str, list[str]]:
    """A cell with the solutions' bodies under its own `def` lines, and which exercises these are."""
    known = {ex.id: ex for ex in exercises()}
    if not any(name in known for name, _ in find_answers(source)):
        return source, []
    lines, names = source.splitlines(), []
    for node in reversed(ast.parse(plain_python(source)).body):
        if (name := _answers_to(node)) in known:
            helpers, body = solution_source(known[name])
            first = min(d.lineno for d in node.decorator_list) - 1
            header = lines[first : node.body[0].lineno - 1]
            while header[-1].lstrip().startswith("#"):
                header.pop()
            lines[first : node.end_lineno] = [*helpers, *header, *body]
            names.insert(0, name)
    return "\n".join(lines), names


def solution_source(ex: Exercise) -> tuple[list[str], list[str]]:
    """The lines that a solution uses of its file, and those of its body."""
    solution = find_solution(ex)
    if solution is None:
        raise LookupError(f"{ex.id} has no solution in solutions/{ex.lesson}.py.")
    module = Path(inspect.getfile(solution.function)).read_text(encoding="utf-8").splitlines()
    tree = ast.parse("\n".join(module))
    for node in reversed(
        tree.body
    ):  # as a student's cell with this one answer: what it uses is found as in those
        decorators = getattr(node, "decorator_list", [])
        if decorators and decorators[0].lineno == solution.function.__code__.co_firstlineno:
            module[decorators[0].lineno - 1 : node.lineno - 1] = [f"@answer({ex.id})"]
        elif decorators or _is_given(node):
            del module[min([node.lineno, *(d.lineno for d in decorators)]) - 1 : node.end_lineno]
    (text,) = [text for name, text in find_answers("\n".join(module)) if name == ex.id]
    lines = re.sub(r"\blesson\.", f"{ex.lesson}.", text).rstrip().splitlines()
    start = lines.index(f"@answer({ex.id})")
    function = ast.parse("\n".join(lines)).body[-1]
    return lines[:start], lines[function.body[0].lineno - 1 :]


def _is_given(node: ast.stmt) -> bool:
    """An import that an answer's cell can do without: every answer has it, or only solutions use it."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("course_lib."):
        return node.module == "course_lib.exercise" or any(alias.asname == "lesson" for alias in node.names)
    return isinstance(node, ast.Import | ast.ImportFrom) and defined_names(ast.unparse(node)) <= GIVEN
