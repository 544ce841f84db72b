"""What a check found, as one deterministic line of text and as a small HTML panel."""

from __future__ import annotations

import html
from dataclasses import dataclass, field

import torch
from torch import Tensor

STEPS = ("runs", "values", "gradients", "GPU-ready", "memory")


@dataclass
class Report:
    """The result of one check. `status` is "passed", "not attempted" or what went wrong, in two words."""

    exercise: str
    status: str
    message: str = ""
    diagnosis: str = ""
    done: tuple[str, ...] = ()  # steps that passed, in order
    failed: str = ""  # the step that did not
    details: list[tuple[str, str]] = field(default_factory=list)  # (caption, preformatted text)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    def __repr__(self) -> str:
        return f"{self.exercise}: {self.status}" + (f" ({', '.join(self.done)})" if self.passed else "")

    def _repr_html_(self) -> str:
        colour = {"passed": "#009E73", "not attempted": "#888888", "waiting": "#888888"}.get(
            self.status, "#D55E00"
        )
        sign = {"passed": "✓", "not attempted": "○", "waiting": "○"}.get(self.status, "✗")
        parts = [
            f'<div role="status" style="border-left:4px solid {colour};padding:.3em .9em;margin:.4em 0;'
            'max-width:52em;line-height:1.45">',
            f'<div><b style="color:{colour}">{sign} {self.status}</b> &nbsp;<code>{self.exercise}</code>'
            f"{self._steps()}</div>",
        ]
        if self.diagnosis:
            parts.append(f'<div style="margin:.3em 0"><b>Diagnosis.</b> {html.escape(self.diagnosis)}</div>')
        if self.message:
            parts.append(f"<div>{html.escape(self.message)}</div>")
        for caption, text in self.details:
            parts.append(
                f'<div style="margin-top:.3em">{html.escape(caption)}</div>'
                f'<pre style="margin:.1em 0 .3em 1em;white-space:pre-wrap">{html.escape(text)}</pre>'
            )
        parts += [f"<div><i>{html.escape(note)}</i></div>" for note in self.notes]
        return "\n".join([*parts, "</div>"])

    def _steps(self) -> str:
        marks = [f'<span style="color:#009E73">✓</span>&nbsp;{s}' for s in self.done]
        if self.failed:
            marks.append(f'<span style="color:#D55E00">✗</span>&nbsp;{self.failed}')
        return f" &nbsp;<small>{' &nbsp; '.join(marks)}</small>" if marks else ""


def show(value: object, rows: int = 6) -> str:
    """A value, small enough to read: the first rows of a tensor, and its shape."""
    if not isinstance(value, Tensor):
        return repr(value)
    shape = " × ".join(map(str, value.shape)) or "scalar"
    part = value.detach().cpu()
    cut = any(n > rows for n in part.shape)
    for axis in range(part.ndim):
        part = part.narrow(axis, 0, min(rows, part.shape[axis]))
    with torch.no_grad():
        text = str(part).removeprefix("tensor(").removesuffix(")")
    text = text.split(", dtype=")[0].replace("\n       ", "\n")
    return f"{text}{' …' if cut else ''}   ({shape}, {str(value.dtype).removeprefix('torch.')})"


def megabytes(size: int) -> str:
    return f"{size / 1024**3:.1f} GB" if size >= 1024**3 else f"{max(size / 1024**2, 0.1):.1f} MB"
