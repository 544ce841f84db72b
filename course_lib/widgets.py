"""Sliders that redraw a figure. Without a kernel (on a web page, say) the figure at the first values stays."""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets
import matplotlib.image
import torch
from IPython.display import display
from matplotlib.figure import Figure

from course_lib.exercise.answers import MissingAnswer, answers_folder
from course_lib.exercise.panel import Panel
from course_lib.plots import describe, figure_png, picture_html, speed_bars


def explore(draw: Callable, **sliders) -> None:
    """Show `draw(**values)`, redrawn whenever a slider moves, by mouse or by arrow keys.

    draw     returns a matplotlib Figure, or an image (H, W) or (H, W, 3) in [0, 1].
    sliders  by argument of `draw`: (low, high), (low, high, step) or (low, high, step, first value), whole
             numbers or not; or a list of choices.
    """
    if not sliders:
        raise ValueError("explore: expected at least one slider, such as rho=(-0.9, 0.9)")
    controls = {name: _control(name, spec) for name, spec in sliders.items()}

    def drawn() -> tuple[bytes, str]:
        values = {name: control.value for name, control in controls.items()}
        return _drawn(draw(**values), values)

    first = drawn()
    image = picture(*first)
    message = ipywidgets.HTML()

    def redraw(change) -> None:
        try:
            image.value, message.value = picture_html(*drawn()), ""
        except Exception as error:  # a traceback in a callback is seen by nobody
            message.value = _panel(error)._repr_html_()

    for control in controls.values():
        control.observe(redraw, names="value")
    live = ipywidgets.VBox([*controls.values(), image, message], layout={"align_items": "flex-start"})
    names = ", ".join(controls)
    display_live(live, {"text/html": picture_html(*first), "text/plain": f"sliders: {names}"})


def _panel(error: Exception) -> Panel:
    """What is shown below the picture where `draw` raised: an answer was deleted meanwhile, or fails."""
    if isinstance(error, MissingAnswer):
        return Panel(str(error), kind="open", message=str(error))
    text = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename).is_relative_to(answers_folder())] or frames[-1:]
    details = [("In your code:", own[-1].line or "")] if own else []
    return Panel(text, kind="wrong", message=text, details=details)


def show_speed(name: str, plain_ms: float, answer_ms: float, size: int) -> None:
    """Display `plots.speed_bars`. As a widget or a PNG, which nbval does not compare: times are never the same."""
    figure = speed_bars(name, plain_ms, answer_ms, size)
    words, png = describe(figure), figure_png(figure)
    display_live(picture(png, words), {"image/png": png, "text/plain": f"the speed of {name}"}, words)


def picture(png: bytes, alt: str) -> ipywidgets.HTML:
    """A picture with an alternative text; `ipywidgets.Image` has none."""
    return ipywidgets.HTML(picture_html(png, alt), layout={"max_width": "100%"})


def display_live(widget: ipywidgets.Widget, otherwise: dict, alt: str = "") -> None:
    """One message with several forms: the live widget, and for where there is no kernel, others by MIME type.

    alt: of "image/png", for the programs that read it.
    """
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    bundle = {"application/vnd.jupyter.widget-view+json": view, **otherwise}
    display(bundle, metadata={"image/png": {"alt": alt}} if alt else {}, raw=True)


def _control(name: str, spec: Sequence) -> ipywidgets.ValueWidget:
    """The labelled slider, or the choice, that one argument of `explore` describes."""
    look = {
        "description": name.replace("_", " "),
        "style": {"description_width": "11em"},
        "layout": {"width": "31em", "max_width": "100%"},
    }
    if isinstance(spec, list):
        return ipywidgets.SelectionSlider(options=spec, **look)
    if not isinstance(spec, tuple) or not 2 <= len(spec) <= 4:
        raise ValueError(
            f"{name}: expected (low, high), (low, high, step, first value) or a list, got {spec!r}"
        )
    low, high = spec[:2]
    if not low < high:
        raise ValueError(f"{name}: expected low < high, got {low} and {high}")
    whole = all(isinstance(x, int) for x in spec)
    step = spec[2] if len(spec) > 2 else (1 if whole else (high - low) / 20)
    value = spec[3] if len(spec) > 3 else low
    slider = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return slider(value=value, min=low, max=high, step=step, **look)


def _drawn(drawing: object, values: dict, width: int = 320) -> tuple[bytes, str]:
    """A Figure or an image (H, W) or (H, W, 3) in [0, 1] as PNG, small images enlarged to about `width` pixels.

    And the same in words: those of the figure, or the values of the sliders.
    """
    if isinstance(drawing, Figure):
        words = describe(drawing)
        return figure_png(drawing), words
    pixels = torch.as_tensor(drawing).detach().float().cpu().squeeze()
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(
            f"draw: expected a Figure or an image (H, W) or (H, W, 3), got shape {tuple(pixels.shape)}"
        )
    factor = max(1, width // pixels.shape[1])
    pixels = pixels.clamp(0, 1).repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    if pixels.ndim == 2:
        pixels = pixels[..., None].expand(-1, -1, 3)
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, pixels.numpy(), format="png", metadata={"Software": None})
    words = ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )
    return buffer.getvalue(), f"The picture at {words}"
