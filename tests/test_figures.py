"""Figures and sliders: what those read who cannot see them, and what moves."""

from __future__ import annotations

import base64
import html
import os
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import pytest
import seaborn
import torch

from course_lib import plots, widgets
from course_lib.exercise import MissingAnswer
from course_lib.lessons import elbo


def test_a_figure_in_words():
    figure, (left, right) = plt.subplots(1, 2)
    left.plot([0, 1], [3.0, 0.5], label="bound")
    left.axhline(1.0)
    left.set(title="It falls", xlabel="step", ylabel="nats")
    left.legend()
    right.bar(["a", "b"], [1, 2])
    right.text(0, 1, "1 nat")
    figure.colorbar(plt.cm.ScalarMappable(), ax=right, label="weight")
    figure.suptitle("Two\nthings")
    words = plots.describe(figure)
    plt.close(figure)
    assert words == "Two things. It falls. nats over step. bound from 3 to 0.5. a, b, 1 nat. colour: weight"


def test_numbers_of_ticks_are_no_words():
    figure, axes = plt.subplots()
    axes.loglog([1, 1000], [1, 1000])
    assert plots.describe(figure) == "A picture."
    plt.close(figure)


def test_a_picture_carries_its_words_and_its_bytes():
    figure = plots.image_grid(torch.rand(2, 1, 4, 4), title='x < "y"')
    png = plots.figure_png(figure)
    markup = plots.picture_html(png, 'x < "y"')
    assert markup.startswith('<img alt="x &lt; &quot;y&quot;" src="data:image/png;base64,')
    assert base64.b64decode(re.search(r'base64,([^"]*)"', markup).group(1)) == png
    assert not plt.fignum_exists(figure.number)


def test_lines_between_images_have_the_grey_asked_for():
    for border in (0.0, 1.0):
        figure = plots.image_grid(torch.full((2, 1, 4, 4), 0.25), columns=2, border=border)
        drawn = torch.as_tensor(figure.axes[0].images[0].get_array())[..., 0]
        plt.close(figure)
        inside = torch.zeros(6, 12, dtype=torch.bool)
        inside[1:5, 1:5] = inside[1:5, 7:11] = True
        assert drawn.shape == inside.shape
        assert (drawn[inside] == 0.25).all() and (drawn[~inside] == border).all()


def test_a_process_started_by_a_notebook_draws_too():
    inherited = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    code = "from course_lib import plots; plots.use_style(); print(plots.COLOURS[0])"
    done = subprocess.run([sys.executable, "-c", code], env=inherited, capture_output=True, text=True)
    assert done.stdout.strip() == plots.COLOURS[0], done.stderr


def test_the_colours_are_those_made_for_all_kinds_of_colour_vision():
    assert seaborn.color_palette("colorblind").as_hex() == plots.COLOURS


def test_the_style_is_set_where_figures_are_made_and_once():
    """Importing the module changes nothing; the first figure sets the style, and later ones keep what a notebook set."""
    code = (
        "import matplotlib as mpl, torch\nfrom course_lib import plots\n"
        "sizes = [mpl.rcParams['font.size']]\n"
        "plots.history({'loss': torch.rand(5)}); sizes.append(mpl.rcParams['font.size'])\n"
        "mpl.rcParams['font.size'] = 7\n"
        "plots.image_grid(torch.rand(2, 1, 4, 4)); sizes.append(mpl.rcParams['font.size'])\n"
        "print(*sizes)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["10.0", "11.0", "7.0"], done.stderr


@pytest.fixture
def shown(monkeypatch):
    """What the widgets of a test display: (bundle, metadata) each."""
    found = []
    monkeypatch.setattr(widgets, "display", lambda bundle, metadata, raw: found.append((bundle, metadata)))
    return found


def test_a_slider_redraws_the_picture_and_its_words(shown, monkeypatch):
    boxes = []
    monkeypatch.setattr(widgets, "display_live", lambda live, *_: boxes.append(live))
    widgets.explore(lambda value: torch.full((4, 4), value), value=(0.0, 1.0, 0.25, 0.5))
    slider, picture, message = boxes[0].children
    before = picture.value
    assert 'alt="The picture at value 0.5"' in before
    slider.value = 0.75
    assert 'alt="The picture at value 0.75"' in picture.value
    assert picture.value.partition("src")[2] != before.partition("src")[2]
    assert message.value == ""


def test_without_a_kernel_the_first_picture_stays(shown):
    widgets.explore(lambda value: torch.zeros(4, 4, 3), value=["a", "b"])
    ((bundle, _),) = shown
    assert 'alt="The picture at value a"' in bundle["text/html"] and "image/png" not in bundle
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"]


def test_the_speed_of_an_answer_is_nothing_that_nbval_compares(shown):
    widgets.show_speed("f", 20.0, 0.5, 64)
    ((bundle, metadata),) = shown
    assert bundle.keys() == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert bundle["text/plain"] == "the speed of f"
    assert metadata["image/png"]["alt"].startswith("f: 40 times as fast at size 64")
    assert bundle["image/png"].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("sliders", "words"),
    [
        ({}, "at least one slider"),
        ({"a": (1,)}, r"a: expected \(low, high\)"),
        ({"a": (2, 1)}, "a: expected low < high, got 2 and 1"),
    ],
)
def test_errors_of_sliders(sliders, words):
    with pytest.raises(ValueError, match=words):
        widgets.explore(lambda **_: torch.zeros(2, 2), **sliders)


def test_a_drawing_must_be_a_picture():
    with pytest.raises(ValueError, match=r"a Figure or an image .* got shape \(3,\)"):
        widgets.explore(lambda a: torch.zeros(3), a=(0, 1))


def test_a_slider_whose_function_raises_shows_a_panel(shown, monkeypatch):
    """Not a traceback in a callback, which nobody sees; and the picture comes back with the next value."""
    boxes = []
    monkeypatch.setattr(widgets, "display_live", lambda live, *_: boxes.append(live))

    def draw(value):
        if value == 1:
            raise ValueError("no <picture> at 1")
        if value == 2:
            raise MissingAnswer(elbo.gaussian_kl)
        return torch.zeros(4, 4)

    widgets.explore(draw, value=(0, 2))
    slider, picture, message = boxes[0].children
    before = picture.value
    slider.value = 1
    assert "ValueError: no &lt;picture&gt; at 1" in message.value and 'raise ValueError("no' in html.unescape(
        message.value
    )
    slider.value = 2
    assert "elbo.gaussian_kl has no answer yet" in message.value and "○" in message.value
    assert picture.value == before
    slider.value = 0
    assert message.value == ""
