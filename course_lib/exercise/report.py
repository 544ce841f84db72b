"""The report of one check, and the values and pictures that it shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from course_lib.exercise.findings import QUIET, Finding, Wrong
from course_lib.exercise.panel import Panel


@dataclass
class Report:
    """The result of one check: no finding, and it has passed; or the finding that ended it."""

    exercise: str
    finding: Finding | None = None
    done: tuple[str, ...] = ()  # steps that passed, in order
    failed: str = ""  # the step that did not
    details: list[tuple[str, str]] = field(default_factory=list)  # (caption, preformatted text)
    picture: str = ""  # SVG
    remarks: list[Finding] = field(default_factory=list)  # what should be known besides

    @property
    def passed(self) -> bool:
        return self.finding is None

    @property
    def status(self) -> str:
        """ "passed", "not attempted" or what went wrong, in two words."""
        return self.finding.status if self.finding else "passed"

    @property
    def message(self) -> str:
        return self.finding.sentence if self.finding else ""

    @property
    def diagnosis(self) -> str:
        return self.finding.diagnosis if self.finding else ""

    @property
    def notes(self) -> list[str]:
        return [remark.sentence for remark in self.remarks]

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step of a check: done if its block ends, failed if it raises."""
        self.failed = name
        yield
        self.done, self.failed = (*self.done, name), ""

    def end(self, wrong: Wrong) -> None:
        """Record why the check ended early."""
        self.finding, self.picture = wrong.finding, wrong.picture
        self.details = [*wrong.details, *self.details]
        if self.status in QUIET:
            self.failed = ""

    def remark(self, code: str, **fields) -> None:
        """Add what should be known besides, once."""
        if (found := Finding(code, fields)) not in self.remarks:
            self.remarks.append(found)

    def panel(self) -> Panel:
        """What is shown of it."""
        return Panel(
            f"{self.exercise}: {self.status}" + (f" ({', '.join(self.done)})" if self.passed else ""),
            kind="passed" if self.passed else "open" if self.status in QUIET else "wrong",
            title=self.status,
            name=self.exercise,
            steps=self.done,
            failed=self.failed,
            diagnosis=self.diagnosis,
            message=self.message,
            markup=self.picture,
            details=self.details,
            notes=self.notes,
        )

    def __repr__(self) -> str:
        return repr(self.panel())

    def _repr_html_(self) -> str:
        return self.panel()._repr_html_()


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
