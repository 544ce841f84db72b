"""What a notebook calls and shows: `check`, and a panel in the place of a traceback where an answer is missing.

A cell that calls a missing answer shows a panel instead of a traceback. So does a later cell that needs a
name which such a cell would have defined: *Run All* goes on.
"""

from __future__ import annotations

from course_lib.exercise.answers import MissingAnswer, defined_names, in_force, plain_python
from course_lib.exercise.check import inspect_answer, measure_speed
from course_lib.exercise.contract import Exercise
from course_lib.exercise.device import warm_up
from course_lib.exercise.panel import Panel

_waiting: dict[str, MissingAnswer] = {}  # names that a waiting cell would have defined


def check(ex: Exercise) -> None:
    """Check the answer in force and display what was found. Never raises for a wrong answer."""
    if not isinstance(ex, Exercise):
        raise TypeError(f"check expects an exercise, such as elbo.gaussian_kl; got {type(ex).__name__}.")
    from IPython.display import display

    report = inspect_answer(ex)
    display(report)
    if report.passed and ex.plain:
        from course_lib.widgets import show_speed  # matplotlib and ipywidgets are slow to import

        show_speed(ex.name, *measure_speed(ex))


# ---------------------------------------------------------------- where an answer is missing


def _panel(missing: MissingAnswer, name: str = "") -> Panel:
    """What to do about a missing answer; `name` is what an earlier waiting cell did not define, if that is it."""
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


def _cause(error: BaseException) -> MissingAnswer | None:
    if isinstance(error, MissingAnswer):
        return error
    return _waiting.get(error.name) if isinstance(error, NameError) else None


def install(shell) -> None:
    """Hook into IPython; does nothing outside it, or a second time."""
    if shell is None or getattr(shell, "_course_lib_installed", False):
        return
    shell._course_lib_installed = True
    warm_up()

    def on_error(shell, kind, error, trace, tb_offset=None):
        missing = _cause(error)
        if missing is None:
            shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
        else:
            panel = _panel(missing, "" if missing is error else error.name)
            shell.display_pub.publish({"text/plain": repr(panel), "text/html": panel._repr_html_()})

    def after_cell(result):
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

    shell.set_custom_exc((MissingAnswer, NameError), on_error)
    shell.events.register("post_run_cell", after_cell)
