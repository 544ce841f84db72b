"""Sliders that redraw a figure. Without a kernel (on a web page, say) the figure at the first values stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ipywidgets
import matplotlib.image
import torch
from IPython.display import display
from matplotlib.figure import Figure

from course_lib.exercise import MissingAnswer
from course_lib.plots import figure_png


def explore(draw: Callable, **sliders) -> None:
    """Show `draw(**values)`, redrawn whenever a slider moves, by mouse or by arrow keys.

    draw     returns a matplotlib Figure, or an image (H, W) or (H, W, 3) in [0, 1].
    sliders  by argument of `draw`: (low, high), (low, high, step) or (low, high, step, first value), whole
             numbers or not; or a list of choices.
    """
    if not sliders:
        raise ValueError("explore: expected at least one slider, such as rho=(-0.9, 0.9)")
    controls = {name: _control(name, spec) for name, spec in sliders.items()}

    def picture() -> bytes:
        return _png(draw(**{name: control.value for name, control in controls.items()}))

    first = picture()
    image = ipywidgets.Image(value=first, format="png", layout={"max_width": "100%", "object_fit": "contain"})
    message = ipywidgets.Label()

    def redraw(change) -> None:
        try:
            image.value, message.value = picture(), ""
        except MissingAnswer as error:  # an answer was deleted meanwhile: say so beside the sliders
            message.value = str(error)

    for control in controls.values():
        control.observe(redraw, names="value")
    # One message with three forms: the live widget, else the picture, else the words.
    bundle = {
        "application/vnd.jupyter.widget-view+json": {
            "version_major": 2,
            "version_minor": 0,
            "model_id": ipywidgets.VBox(
                [*controls.values(), message, image], layout={"align_items": "flex-start"}
            ).model_id,
        },
        "image/png": first,
        "text/plain": f"sliders: {', '.join(controls)}",
    }
    display(bundle, raw=True)


def _control(name: str, spec: Sequence) -> ipywidgets.ValueWidget:
    """The labelled slider, or the choice, that one argument of `explore` describes."""
    look = {
        "description": name.replace("_", " "),
        "style": {"description_width": "8em"},
        "layout": {"width": "28em", "max_width": "100%"},
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


def _png(drawing: object, width: int = 320) -> bytes:
    """A Figure or an image (H, W) or (H, W, 3) in [0, 1] as PNG, small images enlarged to about `width` pixels."""
    if isinstance(drawing, Figure):
        return figure_png(drawing)
    values = torch.as_tensor(drawing).detach().float().cpu().squeeze()
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)):
        raise ValueError(
            f"draw: expected a Figure or an image (H, W) or (H, W, 3), got shape {tuple(values.shape)}"
        )
    factor = max(1, width // values.shape[1])
    values = values.clamp(0, 1).repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    if values.ndim == 2:
        values = values[..., None].expand(-1, -1, 3)
    import io

    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, values.numpy(), format="png", metadata={"Software": None})
    return buffer.getvalue()
