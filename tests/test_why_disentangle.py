"""Lesson 00: the models with sliders that it opens with, which need no answer."""

from __future__ import annotations

import re

import pytest
import torch

from course_lib import widgets
from course_lib.datasets.shapes3d import Shapes3D
from course_lib.experiments import why_disentangle as experiments


@pytest.fixture(scope="module")
def scenes():
    return Shapes3D(32)


@pytest.fixture(scope="module")
def models():
    """Made without any answer in force."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_ANSWERS", "nowhere")
        return {name: experiments.SceneModel(name) for name in ("scenes_outlines", "scenes_vae")}


def left(model, shares: dict[str, float], scenes: Shapes3D) -> float:
    """What is left of the wished change at these sliders, in squared pixels: 1 for the picture as it was, 0 for the wish."""
    before, after = scenes.images(torch.tensor([experiments.PICTURE, experiments.WISH]))
    drawn = model.beside(**shares).permute(2, 0, 1)[:, :, 33:]
    return ((drawn - after).square().mean() / (before - after).square().mean()).item()


def first(model) -> dict[str, float]:
    return {label: spec[3] for label, spec in model.sliders.items()}


def best_of_one_slider(model, scenes: Shapes3D) -> float:
    moves = [first(model) | {label: place / 20} for label in model.sliders for place in range(21)]
    return min(left(model, shares, scenes) for shares in moves)


def test_the_sliders_of_the_first_model_have_names_and_those_of_the_second_have_none(models):
    named, nameless = (list(model.sliders) for model in models.values())
    assert sorted(re.sub(r" \(latent \d\)$", "", label) for label in named) == sorted(
        models["scenes_outlines"].names
    )
    assert len(named) == 6 and len(nameless) == 10
    assert all(re.fullmatch(r"latent \d", label) for label in nameless)


def test_they_begin_at_the_picture(models, scenes):
    for model in models.values():
        both = model.beside(**first(model)).permute(2, 0, 1)
        assert both.shape == (3, 32, 65) and both.min() >= 0 and both.max() <= 1
        assert torch.equal(both[:, :, :32], scenes.images(torch.tensor([experiments.PICTURE]))[0])
        assert (both[:, :, :32] - both[:, :, 33:]).abs().mean() < 0.05


def test_one_slider_makes_the_object_red_in_the_first_model_and_none_does_in_the_second(models, scenes):
    """The lesson names that slider, and the place on it."""
    named, mixed = models.values()
    assert left(named, first(named) | {"object hue (latent 0)": 0.45}, scenes) < 0.12
    assert best_of_one_slider(mixed, scenes) > 0.7


def test_both_can_draw_it_and_draw_all_scenes_alike(models, scenes):
    for model in models.values():
        _, wish = scenes.images(torch.tensor([experiments.PICTURE, experiments.WISH]))
        assert (model.draw(model.code(experiments.WISH))[0] - wish).abs().mean() < 0.05
    few = [(model.draw(model.codes[:1000]), scenes.images(model.factors[:1000])) for model in models.values()]
    errors = [(drawn - true).abs().mean() for drawn, true in few]
    assert max(errors) < 1.2 * min(errors) < 0.05


def test_the_wish_is_one_slider_away_in_the_first_model_and_most_in_the_second(models):
    moves = [
        (model.code(experiments.WISH) - model.code(experiments.PICTURE))[0, model.latents].abs()
        for model in models.values()
    ]
    assert [(move > 0.2).sum().item() for move in moves] == [1, 7] and moves[0].sort().values[-2] < 0.05


def test_what_a_factor_explains_is_what_a_regression_on_its_values_explains(models, scenes):
    for model in models.values():
        codes = model.codes[:, model.latents].double()
        for k, size in enumerate(scenes.grid.sizes):
            indicators = torch.nn.functional.one_hot(model.factors[:, k], size).double()
            rest = codes - indicators @ torch.linalg.lstsq(indicators, codes).solution
            expected = 1 - rest.square().sum(0) / (codes - codes.mean(0)).square().sum(0)
            assert torch.allclose(model.explained[:, k].double(), expected, atol=1e-4)
        assert (model.explained.sum(1) < 1.02).all()


def test_sliders_keep_their_places_while_another_moves(models, monkeypatch):
    boxes = []
    monkeypatch.setattr(widgets, "display_live", lambda live, *_: boxes.append(live))
    for model in models.values():
        widgets.explore(model.beside, **model.sliders)
        *sliders, picture, message = boxes.pop().children
        before = [slider.value for slider in sliders]
        assert before == list(first(model).values())
        shown = picture.value
        sliders[2].value = 0.7
        assert [slider.value for slider in sliders] == [*before[:2], 0.7, *before[3:]]
        assert (
            picture.value != shown and f"{sliders[2].description} 0.7" in picture.value and not message.value
        )
