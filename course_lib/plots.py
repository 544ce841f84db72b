"""Figures: one style, one palette, and the few kinds of plot that the lessons share."""

from __future__ import annotations

import base64
import functools
import html
import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

COLOURS = [  # seaborn's "colorblind": to be told apart with any kind of colour vision
    *("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc"),
    *("#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9"),
]
PALETTE = {  # the same colour for the same method in every lesson
    "exact": "#333333",
    "none": COLOURS[7],  # no adversary, no regulariser
    "VAE": COLOURS[0],
    "beta-VAE": COLOURS[3],
    "beta-TCVAE": COLOURS[2],
    "beta-TCVAE, in turns": COLOURS[4],
    "FactorVAE": COLOURS[1],
    "Ada-GVAE": COLOURS[4],
    "critic": COLOURS[1],
    "MMD": COLOURS[2],
    "source only": COLOURS[7],
    "AdaBN": COLOURS[9],
    "CORAL": COLOURS[2],
    "reversal": COLOURS[4],
    "ADDA": COLOURS[1],
    "no confusion": COLOURS[9],
    "UFDN": COLOURS[5],
    "Base": COLOURS[7],
    "MI": COLOURS[1],
    "CMI": COLOURS[0],
    "reweighting": COLOURS[2],
    "GroupDRO": COLOURS[4],
    "balanced": "#333333",
    "target-trained": "#333333",
    "source": COLOURS[0],  # the two domains of a picture
    "target": COLOURS[1],
    "bound": COLOURS[4],
    "plain": COLOURS[7],
    "answer": COLOURS[0],
}
STYLE = {
    "figure.dpi": 100,
    "figure.figsize": (6.4, 3.2),
    "figure.facecolor": "white",  # legible on a dark notebook too
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.06,  # inches: a title does not touch the edge
    "savefig.facecolor": "white",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "lines.linewidth": 2,
    "legend.frameon": False,
    "image.interpolation": "nearest",
}


@functools.cache
def use_style() -> None:
    """Put the course's style in force for all figures of this process; in a notebook they get an alternative text.

    Once: what a notebook sets afterwards stays.
    """
    from IPython import get_ipython
    from matplotlib_inline.config import InlineBackend

    mpl.rcParams.update(STYLE)
    shell = get_ipython()  # None in a process that a notebook has started, with the notebook's backend
    if shell is None or "inline" not in mpl.get_backend():
        return
    shell.enable_matplotlib("inline")  # else this happens at the first figure, and undoes what follows
    # Figures as HTML and not as PNG, whose alternative text JupyterLab does not show.
    InlineBackend.instance(parent=shell).figure_formats = set()
    formatter = shell.display_formatter.formatters["text/html"]
    formatter.for_type(Figure, lambda figure: picture_html(figure_png(figure, tight=True), describe(figure)))


def figure_png(figure: Figure, tight: bool = False) -> bytes:
    """The figure as PNG, without the versions and dates that would differ between two runs; closes it.

    tight: cut off empty margins.
    """
    from PIL import Image

    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight" if tight else None, facecolor="white")
    plt.close(figure)
    # Nothing is transparent, and 256 colours are enough: half the bytes.
    picture = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def picture_html(png: bytes, alt: str) -> str:
    """A PNG as an HTML element, with a text for those who cannot see it."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}" style="max-width:100%">'


def describe(figure: Figure) -> str:
    """The words of a figure as one text: for each of its axes the title, what is drawn over what, curves and labels."""
    parts = [figure.get_suptitle()]
    for axes in figure.axes:
        if axes.get_label() == "<colorbar>":
            parts.append(f"colour: {axes.get_ylabel()}" if axes.get_ylabel() else "")
            continue
        x, y = axes.get_xlabel(), axes.get_ylabel()
        parts += [axes.get_title(), f"{y} over {x}" if x and y else x or y, ", ".join(_labels(axes))]
    return ". ".join(" ".join(part.split()) for part in parts if part) or "A picture."


def _labels(axes: Axes) -> list[str]:
    """What is written in one system of axes, curves with their first and last values; no numbers of ticks."""
    ends = {
        line.get_label(): f"{line.get_label()} from {values[0]:.3g} to {values[-1]:.3g}"
        for line in axes.lines
        if len(values := line.get_ydata()) > 1 and line.get_xdata()[0] != line.get_xdata()[-1]
    }
    legend = axes.get_legend()
    names = [ends.get(t.get_text(), t.get_text()) for t in legend.get_texts()] if legend else []
    ticks = [t.get_text() for t in (*axes.get_yticklabels(), *axes.get_xticklabels())]
    names += [t for t in ticks if any(c.isalpha() for c in t) and "mathdefault" not in t]
    return [name for name in (*names, *(t.get_text() for t in axes.texts)) if name]


def image_grid(
    images: Tensor,
    rows: Sequence[str] | None = None,
    columns: int | None = None,
    title: str = "",
    border: float = 0.5,
) -> Figure:
    """Images in [0, 1], (N, C, S, S) in rows of `columns`, or (R, N, C, S, S) one row each; labels left of the rows.

    border: the grey of the lines between them, 0 black, 1 white.
    """
    images = _values(images)
    if images.ndim == 4:
        images = _in_rows(images, columns or len(images) // max(1, len(rows or [])) or 1, fill=0.5)
    if images.ndim != 5 or images.shape[2] not in (1, 3):
        raise ValueError(
            f"images: expected (N, C, S, S) or (R, N, C, S, S), C 1 or 3, got {tuple(images.shape)}"
        )
    if rows is not None and len(rows) != len(images):
        raise ValueError(f"rows: expected {len(images)} labels, one for each row of images, got {len(rows)}")
    r, n, _, height, width = images.shape
    cell = min(0.75, 6.4 / n)
    use_style()
    figure, axes = plt.subplots(
        figsize=(n * cell + (1.1 if rows else 0.1), r * cell + (0.4 if title else 0.1))
    )
    framed = torch.nn.functional.pad(images.clamp(0, 1), (1, 1, 1, 1), value=border)
    picture = framed.permute(0, 3, 1, 4, 2).reshape(r * (height + 2), n * (width + 2), -1)
    axes.imshow(picture.expand(-1, -1, 3).numpy())
    axes.set(xticks=[], title=title)
    axes.set_yticks([(i + 0.5) * (height + 2) for i in range(r)] if rows else [], rows or [])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def reconstructions(images: Tensor, logits: Tensor, title: str = "") -> Figure:
    """Images (N, C, S, S) above their reconstructions sigmoid(logits), of the same shape."""
    if images.shape != logits.shape:
        raise ValueError(
            f"logits: expected the images' shape {tuple(images.shape)}, got {tuple(logits.shape)}"
        )
    pair = torch.stack([_values(images), _values(logits).sigmoid()])
    return image_grid(pair, rows=["image", "recon-\nstruction"], title=title)


def history(
    curves: Mapping[str, Tensor], ylabel: str = "loss (nats)", smooth: int = 20, title: str = ""
) -> Figure:
    """Curves (steps,) over the training step: each value faintly, and the mean of the last `smooth` in full."""
    use_style()
    figure, axes = plt.subplots()
    for i, (name, values) in enumerate(curves.items()):
        values, colour = _values(values), PALETTE.get(name, COLOURS[i % len(COLOURS)])
        width = max(1, min(smooth, len(values)))
        axes.plot(values, color=colour, alpha=0.25, linewidth=1)
        axes.plot(range(width - 1, len(values)), values.unfold(0, width, 1).mean(1), color=colour, label=name)
    axes.set(xlabel="training step", ylabel=ylabel, title=title)
    if len(curves) > 1:
        axes.legend()
    return figure


def heat_map(
    matrix: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    label: str = "",
    vmin: float | None = None,
    vmax: float | None = None,
) -> Figure:
    """A matrix (R, C) as colours with its numbers written in; `label` names its unit."""
    import seaborn as sns

    matrix = _values(matrix)
    if matrix.shape != (len(rows), len(columns)):
        raise ValueError(
            f"matrix: expected {len(rows)} x {len(columns)} as labelled, got {tuple(matrix.shape)}"
        )
    use_style()
    figure, axes = plt.subplots(figsize=(2.2 + 0.95 * len(columns), 1.0 + 0.55 * len(rows)))
    options = {"annot": True, "fmt": ".2f", "cmap": "cividis", "linewidths": 1, "cbar_kws": {"label": label}}
    sns.heatmap(
        matrix.numpy(), xticklabels=columns, yticklabels=rows, vmin=vmin, vmax=vmax, ax=axes, **options
    )
    axes.set(title=title)
    axes.tick_params(length=0, axis="both")
    axes.tick_params(axis="y", rotation=0)
    return figure


def speed_bars(name: str, plain_ms: float, answer_ms: float, size: int) -> Figure:
    """The times of the plain loop and of the answer, in milliseconds at a batch of `size`."""
    times = [plain_ms, answer_ms]
    use_style()
    figure, axes = plt.subplots(figsize=(6.4, 1.5), dpi=90)
    axes.barh(["plain loop", "your answer"], times, color=[PALETTE["plain"], PALETTE["answer"]])
    for i, ms in enumerate(times):
        axes.annotate(f"{ms:.3g} ms", (ms, i), xytext=(4, 0), textcoords="offset points", va="center")
    axes.invert_yaxis()
    ratio = float(f"{plain_ms / max(answer_ms, 1e-6):.3g}")
    title = f"{name}: {ratio:,g} times as fast at size {size:,}"
    axes.set(title=title, xticks=[], xlim=(0, 1.2 * max(times)))
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _in_rows(images: Tensor, columns: int, fill: float) -> Tensor:
    """(N, …) to (R, columns, …), the last row filled up."""
    missing = -len(images) % columns
    blank = torch.full((missing, *images.shape[1:]), fill)
    return torch.cat([images, blank]).unflatten(0, (-1, columns))


def _values(x: Tensor) -> Tensor:
    """A tensor of numbers to draw: detached, float32, on the CPU."""
    return torch.as_tensor(x).detach().float().cpu()
