"""What a notebook does where an answer is missing: it says which one and where, and *Run All* goes on.

A cell that calls a missing answer shows a panel instead of a traceback. So does a later cell that needs a
name which such a cell would have defined.
"""

from __future__ import annotations

import ast
import html

from course_lib.exercise.contract import MissingAnswer
from course_lib.exercise.progress import Panel

_waiting: dict[str, MissingAnswer] = {}  # names that a waiting cell would have defined


def _panel(missing: MissingAnswer) -> Panel:
    ex = missing.exercise
    text = (
        f"Waiting for {ex.id}: write it in section “{ex.section}” of {ex.notebook}, then run this cell again."
    )
    markup = (
        '<div style="border-left:4px solid #888;padding:.3em .9em;margin:.4em 0">○ Waiting for '
        f"<code>{ex.id}</code>: write it in section “{html.escape(ex.section)}” of {ex.notebook}, then run this "
        "cell again.</div>"
    )
    return Panel(text, markup)


def _stored_names(source: str) -> set[str]:
    stored = (x for x in ast.walk(ast.parse(source)) if isinstance(x, ast.Name))
    return {x.id for x in stored if isinstance(x.ctx, ast.Store)}


def _cause(error: BaseException) -> MissingAnswer | None:
    if isinstance(error, MissingAnswer):
        return error
    return _waiting.get(error.name) if isinstance(error, NameError) else None


def install(shell) -> None:
    """Hook into IPython; does nothing outside it, or a second time."""
    if shell is None or getattr(shell, "_course_lib_installed", False):
        return
    shell._course_lib_installed = True

    def on_error(shell, kind, error, trace, tb_offset=None):
        missing = _cause(error)
        if missing is None:
            shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
        else:
            shell.display_pub.publish(
                {"text/plain": repr(_panel(missing)), "text/html": _panel(missing).markup}
            )

    def after_cell(result):
        error = result.error_in_exec
        source = shell.transform_cell(result.info.raw_cell) if result.info else ""
        missing = _cause(error) if error is not None else None
        try:
            names = _stored_names(source)
        except SyntaxError:
            return
        if missing is not None:
            result.error_in_exec = None  # the cell is waiting, not wrong: Run All goes on
            _waiting.update(dict.fromkeys(names, missing))
        elif error is None:
            for name in names:
                _waiting.pop(name, None)

    shell.set_custom_exc((MissingAnswer, NameError), on_error)
    shell.events.register("post_run_cell", after_cell)
