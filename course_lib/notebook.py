"""What a notebook calls and shows: `check`, and a panel in the place of a traceback where an answer is missing.

A cell that calls a missing answer shows a panel instead of a traceback. So does a later cell that needs a
name which such a cell would have defined: *Run All* goes on.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
import sys

from course_lib.catalogue import declared, find
from course_lib.cores import share_cores
from course_lib.exercise import answers
from course_lib.exercise.answers import MissingAnswer, defined_names, find_answers, in_force, plain_python
from course_lib.exercise.check import TimeUp, inspect_answer, measure_speed
from course_lib.exercise.contract import Exercise
from course_lib.exercise.device import warm_up
from course_lib.exercise.findings import QUIET, NoTriton
from course_lib.exercise.panel import Panel, announce
from course_lib.exercise.progress import status

_waiting: dict[str, MissingAnswer | NoTriton] = {}  # names that a waiting cell would have defined


def check(ex: Exercise) -> None:
    """Check the answer in force and display what was found. Never raises for a wrong answer."""
    if not isinstance(ex, Exercise):
        raise TypeError(f"check expects an exercise, such as elbo.gaussian_kl; got {type(ex).__name__}.")
    from IPython.display import display

    report = inspect_answer(ex)
    display(report)
    if report.passed and ex.plain:
        from course_lib.widgets import show_speed  # matplotlib and ipywidgets are slow to import

        with contextlib.suppress(TimeUp):
            show_speed(ex.name, *measure_speed(ex))


# ---------------------------------------------------------------- where an answer is missing


def _panel(missing: MissingAnswer | NoTriton, name: str = "") -> Panel:
    """What to do about a missing answer; `name` is what an earlier waiting cell did not define, if that is it."""
    if isinstance(missing, NoTriton):
        return Panel(str(missing), kind="open", message=str(missing))
    ex = missing.exercise
    before = f"Waiting for {ex.id}: "
    if name and _is_answered(ex):
        before, rest = (
            f"`{name}` is not made yet. ",
            f"{ex.id} is written now: run the cell that makes `{name}`, then",
        )
    else:
        rest = f"write it in section “{ex.section}” of {ex.notebook}, then"
    text = f"{before}{rest} run this cell again."
    return Panel(text, kind="open", message=text)


def _is_answered(ex: Exercise) -> bool:
    try:
        in_force(ex)
    except MissingAnswer:
        return False
    except Exception:  # it is there, and fails: its own check says how
        return True
    return True


def _cause(error: BaseException) -> MissingAnswer | NoTriton | None:
    if isinstance(error, MissingAnswer | NoTriton):
        return error
    return _waiting.get(error.name) if isinstance(error, NameError) else None


# ---------------------------------------------------------------- answers that are not what their cell says


def _note_edits(source: str, error: BaseException | None, written: set[str]) -> None:
    """Note for the checks which answers of a cell were not saved when it ran, and why.

    written: the exercises whose answers cells of this session have saved.
    """
    try:
        found, body = dict(find_answers(source)), ast.parse(plain_python(source)).body
    except (SyntaxError, ValueError):
        names = re.findall(r"^\s*@(?:[\w.]+\.)?answer\(\s*([\w.]+)\s*\)", source, re.MULTILINE)
        found, body = {".".join(name.split(".")[-2:]): "" for name in names}, []
    for name, text in found.items():
        with contextlib.suppress(LookupError):
            if text is not None and error is not None and name not in answers.saved:
                said = f"{type(error).__name__}: {getattr(error, 'msg', None) or error}"
                answers.note_not_run(find(name), "cell did not run", text=said[:200])
            elif text is None and name in written:
                answers.note_not_run(find(name), "stub restored")
    for node in body:
        if isinstance(node, ast.FunctionDef) and not node.decorator_list:
            for ex in declared(node.name):
                if list(inspect.signature(ex.function).parameters) == [x.arg for x in node.args.args]:
                    answers.note_not_run(ex, "decorator forgotten", name=ex.name, exercise=ex.id)


def _announce_failing(announced: set[str]) -> None:
    """Say, once for each answer, that the cell above uses one that has not passed its check."""
    for name in sorted(answers.called - announced):
        if (found := status(name)) not in ("passed", *QUIET):
            announced.add(name)
            text = f"This cell uses your {name}, which has not passed its check ({found})."
            announce(Panel(text, kind="wrong", message=text))


def _close_figures() -> None:
    """Figures that a waiting cell had begun would be shown empty."""
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


def install(shell) -> None:
    """Hook into IPython; does nothing outside it, or a second time."""
    if shell is None or getattr(shell, "_course_lib_installed", False):
        return
    shell._course_lib_installed = True
    warm_up()
    written: set[str] = set()  # exercises whose answers were saved in this session
    announced: set[str] = set()  # answers of which it was said that they fail

    def on_error(shell, kind, error, trace, tb_offset=None):
        missing = _cause(error)
        if missing is None:
            shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
        else:
            _close_figures()
            announce(_panel(missing, "" if missing is error else error.name))

    def before_cell(info):
        answers.saved.clear()
        answers.called.clear()

    def after_cell(result):
        if not answers.solutions_in_force():
            error = result.error_before_exec or result.error_in_exec
            _note_edits(result.info.raw_cell if result.info else "", error, written)
            written.update(answers.saved)
            announced.difference_update(answers.saved)
            _announce_failing(announced)
        note_waiting(result)

    def note_waiting(result):
        error = result.error_in_exec
        missing = _cause(error) if error is not None else None
        if error is not None and missing is None:
            return
        try:
            names = defined_names(plain_python(result.info.raw_cell)) if result.info else set()
        except SyntaxError:  # a cell with top-level await, say
            names = set()
        if missing is not None:
            result.error_in_exec = None  # the cell is waiting, not wrong: Run All goes on
            _waiting.update(dict.fromkeys(names, missing))
            for name in names:  # half made, or of an earlier run
                shell.user_ns.pop(name, None)
        else:
            for name in names:
                _waiting.pop(name, None)

    shell.set_custom_exc((MissingAnswer, NoTriton, NameError), on_error)
    shell.events.register("pre_run_cell", before_cell)
    shell.events.register("pre_run_cell", lambda info: share_cores())
    shell.events.register("post_run_cell", after_cell)
