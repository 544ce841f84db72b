"""Predictions: a question before its result, and the two side by side once it is there. They are kept, and grade nothing."""

from __future__ import annotations

import contextlib
import html
import math
import sys
from collections.abc import Callable, Sequence

from course_lib.exercise import answers
from course_lib.exercise.panel import LOOKS, Panel
from course_lib.exercise.progress import PREDICTIONS, read_record, write_record

FRAME = {"border_left": f"4px solid {LOOKS['message'][0]}", "padding": "0 0 0 .9em", "max_width": "52em"}


def predict(question: str, choices: Sequence[str] = (), unit: str = "") -> Prediction:
    """Ask for a prediction: one of the choices or, without any, a number. `compare` shows it beside the result.

    A notebook shows a button for each choice, or a field, for mouse and keyboard alike. Elsewhere the question is
    printed, and `predict(…).record(answer)` answers it. A question is told from others by its words, also in
    answers/predictions.json.

    question  plain text
    choices   short, two or more, all different
    unit      of the number, such as "nats"
    """
    if not question.strip():
        raise ValueError("predict: expected a question in words")
    if isinstance(choices, str) or len(choices) == 1 or len(set(choices)) < len(choices):
        raise ValueError(f"predict: expected at least two choices, all different; got {choices!r}")
    if choices and unit:
        raise ValueError("predict: expected choices, or the unit of a number, not both")
    asked = Prediction(question, tuple(choices), unit)
    asked.show()
    return asked


class Prediction:
    """One question, and what was predicted: before its result was shown, and after."""

    def __init__(self, question: str, choices: tuple[str, ...], unit: str):
        self.question, self.choices, self.unit = question, choices, unit
        self.entry = {"before": [], "after": [], "shown": False}  # predictions in order, none is lost
        self._read()

    @property
    def kept(self) -> str | float | None:
        """The last prediction before the result; else the last one after it; else None."""
        return next((made[-1] for made in (self.entry["before"], self.entry["after"]) if made), None)

    @property
    def predicted(self) -> str:
        """`kept` in words, and whether it came late; "" for None."""
        if self.kept is None:
            return ""
        return self._said(self.kept) + ("" if self.entry["before"] else " (after the result was shown)")

    def record(self, answer: str | float) -> None:
        """Keep a prediction: one of the choices, or a number, also one in writing."""
        answer = self._valid(answer)
        self._read()
        made = self.entry["after" if self.entry["shown"] else "before"]
        if made[-1:] != [answer]:
            made.append(answer)
            self._write()

    def compare(self, result: object, why: str = "") -> Panel:
        """What was predicted beside what came out, and a sentence why.

        result  as the run gave it: one of the choices, or a number (or a tensor of one)
        """
        result = self._valid(result.item() if hasattr(result, "item") else result)
        self._read()
        if not self.entry["shown"]:
            self.entry["shown"] = True
            with contextlib.suppress(OSError):  # the result is shown even where no record can be written
                self._write()
        predicted = self.predicted or "no prediction was made"
        found = [("Predicted:", predicted), ("The result:", self._said(result))]
        lines = [f"{caption} {value}" for caption, value in found]
        return Panel("\n".join([*lines, why]).rstrip(), details=found, notes=[why] if why else [])

    def show(self) -> None:
        """Display the question: live in a notebook, as HTML or text where nothing is live."""
        expected = " / ".join(self.choices) or ("a number" + (f", in {self.unit}" if self.unit else ""))
        text = f"Predict: {self.question} ({expected})"
        text += f"\nPredicted: {self.predicted}" if self.predicted else ""
        ipython = sys.modules.get("IPython")
        if ipython is None or ipython.get_ipython() is None:
            print(text)
            return
        view = {"version_major": 2, "version_minor": 0, "model_id": _live(self).model_id}
        still = Panel(text, details=[("Predict:", self.question), ("", expected)])._repr_html_()
        ipython.display.display(
            {"application/vnd.jupyter.widget-view+json": view, "text/html": still, "text/plain": text},
            raw=True,
        )

    def _valid(self, answer: object) -> str | float:
        """The answer as it is kept; a ValueError where it is none."""
        if self.choices:
            if answer not in self.choices:
                raise ValueError(f"Expected one of {', '.join(self.choices)}; got {answer!r}.")
            return answer
        with contextlib.suppress(TypeError, ValueError):
            written = answer.replace(",", ".").replace("−", "-") if isinstance(answer, str) else answer
            if math.isfinite(number := float(written)):
                return number
        raise ValueError(f"Expected a number, such as 0.5; got {answer!r}.")

    def _said(self, value: str | float) -> str:
        """A choice or a number in words, with its unit."""
        if self.choices:
            return str(value)
        number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        return f"{number} {self.unit}".strip()

    def _read(self) -> None:
        """Take over what is on file, also from another kernel; with the solutions in force nothing is."""
        if not answers.solutions_in_force():
            self.entry |= _sound(read_record(PREDICTIONS).get(self.question, {}))

    def _write(self) -> None:
        if not answers.solutions_in_force():
            write_record(read_record(PREDICTIONS) | {self.question: self.entry}, PREDICTIONS)


def _sound(entry: dict) -> dict:
    """What of an entry on file is as it should be, after an edit by hand, say."""
    lists = {name: entry[name] for name in ("before", "after") if isinstance(entry.get(name), list)}
    return lists | ({"shown": entry["shown"]} if isinstance(entry.get("shown"), bool) else {})


def merge(record: dict[str, dict]) -> None:
    """Take over another record of predictions: those that are here come last, none is lost."""
    here = read_record(PREDICTIONS)
    for question, entry in record.items():
        old, new = _sound(entry), _sound(here.get(question, {}))
        joined = {
            name: [x for x in old.get(name, []) if x not in new.get(name, [])] + new.get(name, [])
            for name in ("before", "after")
        }
        here[question] = joined | {"shown": old.get("shown", False) or new.get("shown", False)}
    write_record(here, PREDICTIONS)


# ---------------------------------------------------------------- the widget


def _live(asked: Prediction):
    """The question, its buttons or its field, and below them what is recorded."""
    import ipywidgets  # where it is used: a while to import

    status = ipywidgets.HTML(_status(asked.predicted and f"Recorded: {asked.predicted}"))

    def record(answer: str) -> None:
        try:
            asked.record(answer)
            status.value = _status(f"Recorded: {asked.predicted}")
        except ValueError as error:
            status.value = _status(str(error))
        except OSError as error:
            status.value = _status(f"Noted until this kernel ends; {PREDICTIONS} cannot be written: {error}")

    controls = (_buttons if asked.choices else _field)(asked, record)
    question = ipywidgets.HTML(f"<b>Predict.</b> {html.escape(asked.question)}")
    return ipywidgets.VBox([question, controls, status], layout=FRAME)


def _status(text: str) -> str:
    return f'<div role="status">{html.escape(text)}</div>'


def _buttons(asked: Prediction, record: Callable[[str], None]):
    """A button for each choice; the one that is recorded bears a check mark."""
    import ipywidgets

    buttons = [
        ipywidgets.Button(description=choice, tooltip=f"Predict: {choice}", layout={"width": "auto"})
        for choice in asked.choices
    ]

    def mark() -> None:
        for button in buttons:
            button.icon = "check" if button.description == asked.kept else ""

    def press(button) -> None:
        record(button.description)
        mark()

    for button in buttons:
        button.on_click(press)
    mark()
    return ipywidgets.HBox(buttons, layout={"flex_flow": "row wrap"})


def _field(asked: Prediction, record: Callable[[str], None]):
    """A field for a number, which is recorded by Enter or where the field is left."""
    import ipywidgets

    field = ipywidgets.Text(
        value="" if asked.kept is None else f"{asked.kept:g}",
        description=f"Your number ({asked.unit})" if asked.unit else "Your number",
        style={"description_width": "initial"},
        continuous_update=False,  # a number as a whole, not each of its digits
    )
    field.observe(lambda change: record(change["new"]), names="value")
    return field
