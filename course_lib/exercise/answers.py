"""Answers: taken out of notebook cells, kept as files, found when a lesson calls them."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import itertools
import linecache
import os
import re
import symtable
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from course_lib.catalogue import LESSONS
from course_lib.files import replace

_HEADER = """\
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import course_lib
from course_lib import answer
from course_lib.lessons import {lessons}
{kernels}
"""
TWICE = "# The cell held more than one answer to this exercise: the last counts.\n"
called: set[str] = set()  # ids of the students' answers that were called; a cell, and a check, empty it
saved: set[str] = set()  # ids of the answers that the running cell has saved
not_run: dict[str, tuple[str, dict, tuple[int, int] | None]] = {}  # edits that did not run: `note_not_run`

_SETTING = "COURSE_ANSWERS"  # "solutions", or the folder of the answers
_HOME = Path.cwd()  # answers stay where the notebook started, whatever it changes directory to
_loaded: dict[Path, tuple[tuple[int, int], Callable]] = {}


class Hole(Protocol):
    """What is asked of an exercise here: `contract.Exercise` stands above and uses all this."""

    id: str  # lesson.name
    lesson: str
    name: str
    notebook: str
    section: str


class MissingAnswer(NotImplementedError):
    """Raised where a lesson calls an exercise that has no answer yet."""

    def __init__(self, exercise: Hole):
        self.exercise = exercise
        super().__init__(
            f"{exercise.id} has no answer yet. Write it in notebook {exercise.notebook}, section "
            f"“{exercise.section}”, run its cell, then run this cell again."
        )


def header(lesson: str) -> str:
    """What stands above every saved answer to a lesson: what its notebook imports, this lesson and those before it."""
    modules = [x.module for x in LESSONS]
    own = modules[: modules.index(lesson) + 1] if lesson in modules else [lesson]
    kernels = "from course_lib.lessons.on_the_gpu import tl\n" if lesson == "on_the_gpu" else ""
    return _HEADER.format(lessons=", ".join(own), kernels=kernels)


def solutions_in_force() -> bool:
    """True where COURSE_ANSWERS=solutions asks for the hidden solutions instead of answers."""
    return os.environ.get(_SETTING) == "solutions"


def answers_folder() -> Path:
    """Where answers are kept: `answers/` beside the notebook, or the folder that COURSE_ANSWERS names."""
    setting = os.environ.get(_SETTING, "")
    return _HOME / Path(setting if setting not in ("", "solutions") else "answers").expanduser()


def answer_file(ex: Hole) -> Path:
    """The file of a student's answer, whether it exists or not."""
    return answers_folder() / ex.lesson / f"{ex.name}.py"


# ---------------------------------------------------------------- taking answers out of source code


def plain_python(source: str) -> str:
    """A cell's source without IPython's magics; a cell magic keeps the code that it runs (%%time, %%capture)."""
    if source.lstrip().startswith("%%"):
        magic, _, source = source.lstrip().partition("\n")
        if magic.split()[0] not in ("%%time", "%%timeit", "%%capture", "%%prun"):
            return ""  # another language
    with contextlib.suppress(
        SyntaxError, ValueError
    ):  # without magics: IPython cuts lines where Python does not
        ast.parse(source)
        return source
    from IPython.core.inputtransformer2 import TransformerManager  # slow to import, and not needed by lessons

    return TransformerManager().transform_cell(source)


def defined_names(source: str) -> set[str]:
    """The names that module-level code defines: assigned in any way, imported, `def` and `class`."""
    table = symtable.symtable(source, "cell", "exec")
    return {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}


def _used_names(node: ast.stmt) -> set[str]:
    """The names a statement takes from its module: in its body, decorators, defaults and annotations."""
    table = symtable.symtable(ast.unparse(node), "cell", "exec")
    used = {s.get_name() for s in table.get_symbols() if s.is_referenced()}
    inner = table.get_children()
    while inner:
        table = inner.pop()
        used |= {s.get_name() for s in table.get_symbols() if s.is_global()}
        inner += table.get_children()
    return used


def _answers_to(node: ast.stmt) -> str | None:
    """The id `lesson.name` that a decorated function answers, from its decorator alone."""
    if isinstance(node, ast.FunctionDef):
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and len(decorator.args) == 1:
                if ast.unparse(decorator.func).rpartition(".")[2] == "answer":
                    return ".".join(ast.unparse(decorator.args[0]).split(".")[-2:])
    return None


def _is_stub(function: ast.FunctionDef) -> bool:
    """Nothing but a docstring and `raise NotImplementedError`, `pass` or `...`."""
    for node in function.body:
        if isinstance(node, ast.Raise):
            return "NotImplementedError" in ast.dump(node)
        if not isinstance(node, ast.Pass) and not (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            return False
    return True


def find_answers(source: str) -> Iterator[tuple[str, str | None]]:
    """Every answer in a cell's source as (exercise id, text), in order; text is None for a stub.

    The text is the function with all that it uses of the same cell: imports, helpers, constants.
    What the cell computes besides stays out, so that loading an answer runs nothing else.
    A SyntaxError in the cell is raised.
    """
    source = plain_python(source)
    body = ast.parse(source).body
    names = {i: _answers_to(node) for i, node in enumerate(body)}
    if not any(names.values()):
        return
    defines = [defined_names(ast.unparse(node)) for node in body]
    for start, name in names.items():
        if name is None:
            continue
        keep, wanted = {start}, [start]
        while wanted:
            used = _used_names(body[wanted.pop()])
            found = {i for i, names in enumerate(defines) if names & used} - keep
            keep |= found
            wanted += found
        text = "\n\n\n".join(_text(source, body[i]) for i in sorted(keep)) + "\n"
        yield name, None if _is_stub(body[start]) else text


def _text(source: str, node: ast.stmt) -> str:
    """The lines of a statement, its decorators and comments included."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return "\n".join(re.split(r"\r\n|\r|\n", source)[first - 1 : node.end_lineno])  # as Python counts lines


# ---------------------------------------------------------------- saving an answer


def cell_source(file: str) -> str:
    """The source of the running cell. Under %%time it is in IPython's history alone."""
    lines = linecache.getlines(file)
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return "".join(lines) if lines or shell is None else shell.history_manager.input_hist_raw[-1]


_MARK = "# Saved from its cell; edited by hand, it is kept as a copy when the cell is run. "


def save_answer(ex: Hole, source: str) -> Path | None:
    """Write the last answer to `ex` in `source` to its file; stubs are passed over.

    Where the file was edited by hand since, what it held is kept beside it: the path of that copy, else None.
    """
    found = [text for name, text in find_answers(source) if name == ex.id]
    if not found:
        raise ValueError(
            f"No answer to {ex.id} was found in this cell: write @answer({ex.id}), in full, above a plain `def`."
        )
    if found[-1] is None:
        return None
    path = answer_file(ex)
    text = header(ex.lesson) + (TWICE if len(found) > 1 else "") + "\n" + found[-1] + "\n\n"
    try:
        copy = _keep_edited(path, text)
        replace(path, f"{text}{_MARK}{_digest(text)}\n")
    except OSError as error:
        raise OSError(
            f"Your answer could not be saved as {path} ({error.strerror}). Make that folder writable, or set "
            f"{_SETTING} to a folder of yours before the kernel starts."
        ) from error
    not_run.pop(ex.id, None)
    saved.add(ex.id)
    return copy


def _keep_edited(path: Path, text: str) -> Path | None:
    """Copy a file that is not as its cell was saved, nor as it is now: to NAME.edited.py, or …2.py and so on."""
    if not path.exists():
        return None
    old = path.read_text(encoding="utf-8", errors="replace")
    body, mark, digest = old.rpartition(_MARK)
    if (mark and digest.strip() == _digest(body)) or (body or old).strip() == text.strip():
        return None
    for number in itertools.count(1):
        copy = path.with_name(f"{path.stem}.edited{number if number > 1 else ''}.py")
        if not copy.exists():
            replace(copy, old)
            return copy


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def note_not_run(ex: Hole, code: str, **fields: str) -> None:
    """Remember that an edit of this answer did not run, as a finding's code and fields."""
    not_run[ex.id] = code, fields, _version(answer_file(ex))


def why_not_run(ex: Hole) -> tuple[str, dict[str, str]] | None:
    """The code and fields of an edit that did not run; None where there is none, or where the file has changed since."""
    code, fields, version = not_run.get(ex.id, ("", {}, None))
    return (code, fields) if code and version == _version(answer_file(ex)) else None


def _version(path: Path) -> tuple[int, int] | None:
    """When a file was written and its size; None where there is none."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_mtime_ns, status.st_size


# ---------------------------------------------------------------- which answer is in force


def load_answer(ex: Hole) -> Callable | None:
    """The student's answer, run from its file in a clean namespace; None where there is none."""
    path = answer_file(ex)
    version = _version(path)
    if version is None:
        return None
    if path in _loaded and _loaded[path][0] == version:
        return _loaded[path][1]
    linecache.checkcache(str(path))
    source = path.read_text(encoding="utf-8")
    namespace = {"__name__": f"answers.{ex.id}", "__file__": str(path)}
    exec(compile(source, str(path), "exec"), namespace)
    found = [v for v in namespace.values() if getattr(v, "answers", None) == ex.id]
    if not found:
        raise ValueError(f"{path} holds no function under @answer({ex.id}).")
    _loaded[path] = version, found[-1]
    return found[-1]


def answered_twice(ex: Hole) -> bool:
    """True where the cell, or the file edited by hand, held two answers to the exercise: the last counts."""
    try:
        source = answer_file(ex).read_text(encoding="utf-8")
        return TWICE in source or sum(name == ex.id for name, _ in find_answers(source)) > 1
    except (OSError, ValueError, SyntaxError):  # nothing to read, or nothing that can be: said elsewhere
        return False


def find_solution(ex: Hole, revealed_only: bool = False) -> Any:
    """The `Solution` of an exercise, looked up by name; None where this edition has none (to reveal)."""
    try:
        package = importlib.import_module("solutions")
        if revealed_only and ex.lesson not in getattr(package, "REVEALED", ()):
            return None
        return getattr(importlib.import_module(f"solutions.{ex.lesson}"), ex.name, None)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "solutions":
            return None
        raise


def in_force(ex: Hole) -> Callable:
    """The student's answer; else a solution that this edition reveals; else MissingAnswer."""
    student = None if solutions_in_force() else load_answer(ex)
    if student is not None:
        called.add(ex.id)
        return student
    solution = find_solution(ex, revealed_only=not solutions_in_force())
    if solution is None:
        raise MissingAnswer(ex)
    return solution.function


def needs(*exercises: Hole) -> None:
    """Raise MissingAnswer for the first exercise without an answer: asked before a long training, not after it."""
    for ex in exercises:
        in_force(ex)
