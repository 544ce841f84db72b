"""A message of the course in its forms: a line of text, HTML in a notebook or on a page, lines on a terminal."""

from __future__ import annotations

import html
import sys
from dataclasses import dataclass, field

LOOKS = {  # a panel's kind: its colour, told apart with any kind of colour vision, and its sign
    "passed": ("#009E73", "✓"),
    "wrong": ("#D55E00", "✗"),
    "open": ("#888888", "○"),
    "message": ("#0072B2", ""),
}


@dataclass
class Panel:
    """What is shown: `text` where there is text alone (nbval compares it), else the HTML of all that follows."""

    text: str
    kind: str = "message"  # a key of LOOKS
    title: str = ""  # the verdict, after the sign
    name: str = ""  # the exercise
    steps: tuple[str, ...] = ()  # that passed
    failed: str = ""  # the step that did not
    diagnosis: str = ""
    message: str = ""
    markup: str = ""  # HTML of ours: a picture, a table
    details: list[tuple[str, str]] = field(default_factory=list)  # (caption, preformatted text)
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        colour, _ = LOOKS[self.kind]
        role, height = ('role="status" ', ";line-height:1.45") if self.title else ("", "")
        frame = f"border-left:4px solid {colour};padding:.3em .9em;margin:.4em 0;max-width:52em{height}"
        return "\n".join([f'<div {role}style="{frame}">', *filter(None, self._parts()), "</div>"])

    def _parts(self) -> list[str]:
        sign = "" if self.title else LOOKS[self.kind][1]
        message = f"{sign} {self.message}".strip()
        parts = [self._head()] if self.title else []
        if self.diagnosis:
            parts.append(f'<div style="margin:.3em 0"><b>Diagnosis.</b> {html.escape(self.diagnosis)}</div>')
        parts += [f"<div>{html.escape(message)}</div>" if message else "", self.markup, self._details()]
        return parts + [f"<div><i>{html.escape(note)}</i></div>" for note in self.notes]

    def _head(self) -> str:
        colour, sign = LOOKS[self.kind]
        marks = [f'<span style="color:{LOOKS["passed"][0]}">✓</span>&nbsp;{s}' for s in self.steps]
        if self.failed:
            marks.append(f'<span style="color:{LOOKS["wrong"][0]}">✗</span>&nbsp;{self.failed}')
        steps = f" &nbsp;<small>{' &nbsp; '.join(marks)}</small>" if marks else ""
        name = html.escape(self.name)
        return (
            f'<div><b style="color:{colour}">{sign} {self.title}</b> &nbsp;<code>{name}</code>{steps}</div>'
        )

    def _details(self) -> str:
        if not self.details:
            return ""
        grid = "display:grid;grid-template-columns:max-content 1fr;gap:.2em .9em;margin:.3em 0"
        pre = '<pre style="margin:0;white-space:pre-wrap">'
        cells = [f"<span>{html.escape(c)}</span>{pre}{html.escape(text)}</pre>" for c, text in self.details]
        return "\n".join([f'<div style="{grid}">', *cells, "</div>"])

    def lines(self) -> list[str]:
        """All that is text of one line, for a terminal."""
        sign = LOOKS[self.kind][1]
        head = f"{sign} {self.name}: {self.title}" if self.title else sign
        details = [f"{caption} {text}" for caption, text in self.details if "\n" not in text]
        said = [self.diagnosis, self.message, *details, *self.notes]
        return [line for line in (head, *said) if line]


def announce(panel: Panel) -> None:
    """Show a panel now, whatever line of a cell this is; outside a notebook, its text."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    if shell is None:
        print(panel.text)
    else:
        shell.display_pub.publish({"text/plain": panel.text, "text/html": panel._repr_html_()})


class Shown(Panel):
    """A panel that a notebook has shown already: as the last value of its cell it is not shown again."""

    def _ipython_display_(self) -> None:
        """IPython calls this in the place of showing it."""


def shown(panel: Panel) -> Panel:
    """Show a panel at once in a notebook, on any line of a cell; elsewhere it is for the caller to print."""
    ipython = sys.modules.get("IPython")
    if not ipython or ipython.get_ipython() is None:
        return panel
    announce(panel)
    return Shown(**vars(panel))


def message(text: str, code: str = "") -> Panel:
    """A panel of one sentence, and of code below it."""
    markup = f"<pre>{html.escape(code)}</pre>" if code else ""
    return Panel(f"{text}\n{code}".strip(), message=text, markup=markup)
