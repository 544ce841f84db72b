"""Answers: taken out of notebook cells, kept as files, found when a lesson calls them."""

from __future__ import annotations

import ast
import importlib
import linecache
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType

from course_lib.exercise.contract import Exercise, MissingAnswer

HEADER = """\
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import answer
from course_lib.lessons import {lesson}

"""
_SETTING = "COURSE_ANSWERS"  # "solutions", or the folder of the answers
_HOME = Path.cwd()  # answers stay where the notebook started, whatever it changes directory to
_loaded: dict[Path, tuple[tuple[int, int], Callable]] = {}


def solutions_in_force() -> bool:
    """True where COURSE_ANSWERS=solutions asks for the hidden solutions instead of answers."""
    return os.environ.get(_SETTING) == "solutions"


def answers_folder() -> Path:
    """Where answers are kept: `answers/` beside the notebook, or the folder that COURSE_ANSWERS names."""
    setting = os.environ.get(_SETTING, "")
    return _HOME / (setting if setting not in ("", "solutions") else "answers")


def answer_file(ex: Exercise) -> Path:
    return answers_folder() / ex.lesson / f"{ex.name}.py"


# ---------------------------------------------------------------- taking answers out of source code


def _answers_to(node: ast.stmt) -> str | None:
    """The id `lesson.name` that a decorated function answers, from its decorator alone."""
    for decorator in getattr(node, "decorator_list", []):
        if isinstance(decorator, ast.Call) and decorator.args:
            if ast.unparse(decorator.func).rpartition(".")[2] == "answer":
                return ".".join(ast.unparse(decorator.args[0]).split(".")[-2:])
    return None


def _defines(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(a.asname or a.name).partition(".")[0] for a in node.names}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return {x.id for x in ast.walk(node) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)}
    return set()


def _is_stub(function: ast.FunctionDef) -> bool:
    """Nothing but a docstring and `raise NotImplementedError`, `pass` or `...`."""
    for node in function.body:
        if isinstance(node, ast.Raise) and "NotImplementedError" in ast.dump(node):
            return True
        if not isinstance(node, ast.Pass) and not (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            return False
    return True


def find_answers(source: str) -> Iterator[tuple[str, str | None]]:
    """Every answer in a cell's source as (exercise id, text), in order; text is None for a stub.

    The text is the function with all that it uses of the same cell: imports, helpers, constants.
    What the cell computes besides stays out, so that loading an answer runs nothing else.
    """
    body = ast.parse(source).body
    lines = source.splitlines()
    for function in body:
        name = _answers_to(function)
        if name is None or not isinstance(function, ast.FunctionDef):
            continue
        keep, wanted = {body.index(function)}, [function]
        while wanted:
            used = {x.id for x in ast.walk(wanted.pop()) if isinstance(x, ast.Name)}
            for i, node in enumerate(body):
                if i not in keep and _defines(node) & used:
                    keep.add(i)
                    wanted.append(node)
        parts = []
        for i in sorted(keep):
            first = min([body[i].lineno, *(d.lineno for d in getattr(body[i], "decorator_list", []))])
            parts.append("\n".join(lines[first - 1 : body[i].end_lineno]))
        yield name, None if _is_stub(function) else "\n\n\n".join(parts) + "\n"


# ---------------------------------------------------------------- the decorator


def answer(ex: Exercise) -> Callable[[Callable], Exercise | Callable]:
    """Decorator of an answer's cell: saves the function's source as a file and puts it in force.

    A stub never replaces an answer that was saved before.
    """
    if not isinstance(ex, Exercise):
        raise TypeError(f"@answer expects an exercise of a lesson, such as elbo.gaussian_kl; got {ex!r}.")

    def plug_in(function: FunctionType) -> Exercise | Callable:
        path = Path(function.__code__.co_filename)
        if path.is_relative_to(answers_folder()):  # the saved file itself is being loaded
            function.answers = ex.id
            return function
        if not solutions_in_force():
            save_answer(ex, "".join(linecache.getlines(function.__code__.co_filename)))
        return ex

    return plug_in


def save_answer(ex: Exercise, source: str) -> None:
    """Write the last answer to `ex` in `source` to its file; stubs are passed over."""
    found = [text for name, text in find_answers(source) if name == ex.id]
    if not found:
        raise ValueError(
            f"The cell must name its exercise in full: write @answer({ex.id}) above the function."
        )
    if found[-1] is None:
        return
    path = answer_file(ex)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(HEADER.format(lesson=ex.lesson) + "\n" + found[-1], encoding="utf-8")
    draft.replace(path)  # atomic: an interrupted write loses nothing


# ---------------------------------------------------------------- which answer is in force


def load_answer(ex: Exercise) -> Callable | None:
    """The student's answer, run from its file in a clean namespace; None where there is none."""
    path = answer_file(ex)
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    version = (status.st_mtime_ns, status.st_size)
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


def find_solution(ex: Exercise, revealed_only: bool = False):
    """The `Solution` of an exercise, looked up by name; None where this edition has none (to reveal)."""
    try:
        package = importlib.import_module("solutions")
        if revealed_only and ex.lesson not in package.REVEALED:
            return None
        return getattr(importlib.import_module(f"solutions.{ex.lesson}"), ex.name, None)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "solutions":
            return None
        raise


def in_force(ex: Exercise) -> Callable:
    """The student's answer; else a solution that this edition reveals; else MissingAnswer."""
    student = None if solutions_in_force() else load_answer(ex)
    if student is not None:
        return student
    solution = find_solution(ex, revealed_only=not solutions_in_force())
    if solution is None:
        raise MissingAnswer(ex)
    return solution.function
