"""What a check found, as one deterministic line of text and as a small HTML panel."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

QUIET = ("not attempted", "waiting", "interrupted", "cannot be checked")  # no step of the answer's failed


class Wrong(Exception):
    """Ends a check: the status, the message, and whatever else its report says."""

    def __init__(self, status: str, message: str = "", **more):
        self.report = {"status": status, "message": message, **more}


@dataclass
class Report:
    """The result of one check. `status` is "passed", "not attempted" or what went wrong, in two words."""

    exercise: str
    status: str = "passed"
    message: str = ""
    diagnosis: str = ""
    done: tuple[str, ...] = ()  # steps that passed, in order
    failed: str = ""  # the step that did not
    details: list[tuple[str, str]] = field(default_factory=list)  # (caption, preformatted text)
    picture: str = ""  # SVG
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step of a check: done if its block ends, failed if it raises."""
        self.failed = name
        yield
        self.done, self.failed = (*self.done, name), ""

    def end(self, status: str, message: str = "", **more) -> None:
        """Record why the check ended early."""
        for name, value in {"status": status, "message": message, **more}.items():
            setattr(self, name, value)
        if status in QUIET:
            self.failed = ""

    def __repr__(self) -> str:
        return f"{self.exercise}: {self.status}" + (f" ({', '.join(self.done)})" if self.passed else "")

    def _repr_html_(self) -> str:
        colour, sign = ("#009E73", "✓") if self.passed else ("#D55E00", "✗")
        if self.status in QUIET:
            colour, sign = "#888888", "○"
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
        parts.append(self.picture)
        if self.details:
            parts.append(
                '<div style="display:grid;grid-template-columns:max-content 1fr;gap:.2em .9em;margin:.3em 0">'
            )
            pre = '<pre style="margin:0;white-space:pre-wrap">'
            for caption, text in self.details:
                parts.append(f"<span>{html.escape(caption)}</span>{pre}{html.escape(text)}</pre>")
            parts.append("</div>")
        parts += [f"<div><i>{html.escape(note)}</i></div>" for note in self.notes]
        return "\n".join([*filter(None, parts), "</div>"])

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
    part = part + 0 if part.is_floating_point() else part  # no −0.
    cut = any(n > rows for n in part.shape)
    for axis in range(part.ndim):
        part = part.narrow(axis, 0, min(rows, part.shape[axis]))
    text = str(part).removeprefix("tensor(").removesuffix(")")
    text = text.split(", dtype=")[0].split(", size=")[0].replace("\n       ", "\n")
    return f"{text}{' …' if cut else ''}   ({shape}, {str(value.dtype).removeprefix('torch.')})"


def megabytes(size: int) -> str:
    """A size in bytes, as GB or MB."""
    return f"{size / 1024**3:.1f} GB" if size >= 1024**3 else f"{max(size / 1024**2, 0.1):.1f} MB"


# ---------------------------------------------------------------- what your code did against what was wanted

CELL, ROWS, COLUMNS = 14, 10, 14  # pixels; the most rows and columns that are drawn


def picture(expected: Tensor, yours: Tensor) -> str:
    """Expected, yours and their difference as three maps of colour, an inline SVG: blue below 0, orange above.

    Tensors of one shape; further axes than two are laid out in rows. "" for so few numbers that they say it all.
    """
    maps = [
        x.detach().cpu().double().reshape(len(x) if x.ndim > 1 else 1, -1)[:ROWS, :COLUMNS]
        for x in (expected, yours)
        if x.numel() > 3
    ]
    if not maps:
        return ""
    scale = _largest(torch.cat(maps))
    maps.append(maps[1] - maps[0])
    scales = (scale, scale, _largest(maps[2]))
    rows, columns = maps[0].shape
    width = max(columns * CELL, 70) + 18
    parts = []
    for i, (name, values) in enumerate(zip(("expected", "yours", "difference"), maps, strict=True)):
        parts.append(f'<text x="{i * width}" y="11" font-size="12" fill="currentColor">{name}</text>')
        for j, value in enumerate(values.flatten().tolist()):
            x, y = i * width + j % columns * CELL, 17 + j // columns * CELL
            parts.append(
                f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" fill="{_colour(value / scales[i])}" '
                f'stroke="#888" stroke-width=".5"><title>{value:.4g}</title></rect>'
            )
    size = f'width="{3 * width}" height="{rows * CELL + 20}"'
    label = 'role="img" aria-label="expected, yours and their difference as colours"'
    return f'<svg {size} {label} style="margin:.4em 0;max-width:100%">{"".join(parts)}</svg>'


def _largest(x: Tensor) -> float:
    return x.abs().nan_to_num(0, 0, 0).max().item() or 1.0


def _colour(value: float) -> str:
    """−1 blue, 0 white, 1 orange; black for NaN. Told apart with any kind of colour vision."""
    if value != value:
        return "#000"
    end = (0, 114, 178) if value < 0 else (213, 94, 0)
    return "#" + "".join(f"{round(255 + (c - 255) * min(abs(value), 1)):02x}" for c in end)
