"""Scenes against plain loops, definitions and what the eye would check."""

from __future__ import annotations

import pytest
import torch

from course_lib.datasets.scenes import (
    Pool,
    occlude,
    place,
    side_by_side,
    textures,
)
from tests.helpers import generator

# ------------------------------------------------------------------ pools


def numbered(labels: torch.Tensor) -> torch.Tensor:
    """Images (N, 1, 2, 2) that show their own number."""
    return torch.arange(len(labels)).float()[:, None, None, None].expand(-1, 1, 2, 2)


def test_a_pool_draws_the_wanted_class_and_each_of_its_images_alike_often():
    labels = torch.tensor([2, 0, 1, 2, 2, 0, 1, 2])
    pool = Pool(numbered(labels), labels, 3)
    wanted = torch.arange(3).repeat(4000)
    drawn = pool.draw(wanted, generator())[:, 0, 0, 0].long()
    assert torch.equal(labels[drawn], wanted)
    counts = torch.stack([(drawn == i).sum() for i in range(8)]) / 4000
    assert torch.allclose(counts, 1 / pool.count[labels].float(), atol=0.04)
    assert torch.equal(drawn, pool.draw(wanted, generator())[:, 0, 0, 0].long())
    assert not torch.equal(drawn, pool.draw(wanted, generator(1))[:, 0, 0, 0].long())


def test_a_pool_needs_every_class_and_labels_that_fit():
    labels = torch.tensor([0, 0, 2])
    with pytest.raises(ValueError, match=r"each of 3 classes, got counts \[2, 0, 1\]"):
        Pool(numbered(labels), labels, 3)
    for bad in (labels[:2], labels.float()):
        with pytest.raises(ValueError, match="int64 labels"):
            Pool(numbered(labels), bad, 3)


# ------------------------------------------------------------------ occlusion


def bilinear(noise: list[list[float]], size: int, row: int, column: int) -> float:
    """4x4 values, each in the centre of a quarter by quarter of the image, at one pixel's centre."""

    def neighbours(pixel: int) -> tuple[int, int, float]:
        place = max(0.0, (pixel + 0.5) * 4 / size - 0.5)
        low = min(int(place), 3)
        return low, min(low + 1, 3), place - low

    top, bottom, down = neighbours(row)
    left, right, across = neighbours(column)
    upper = (1 - across) * noise[top][left] + across * noise[top][right]
    lower = (1 - across) * noise[bottom][left] + across * noise[bottom][right]
    return (1 - down) * upper + down * lower


def test_clouds_are_grey_where_smooth_noise_is_above_the_threshold():
    images = torch.rand(3, 2, 16, 16, generator=generator())
    clouded = occlude(images, 0.6, generator(7))
    noise = torch.rand(3, 1, 4, 4, generator=generator(7))[:, 0].tolist()
    for i in range(3):
        for row in range(16):
            for column in range(16):
                value = bilinear(noise[i], 16, row, column)
                wanted = torch.full((2,), 0.5) if value > 0.6 else images[i, :, row, column]
                assert abs(value - 0.6) < 1e-6 or torch.equal(clouded[i, :, row, column], wanted)


def test_a_lower_threshold_hides_more():
    images = torch.ones(500, 1, 32, 32)
    hidden = [(occlude(images, t, generator()) == 0.5).float().mean() for t in (1.0, 0.8, 0.5, 0.2, 0.0)]
    assert hidden[0] == 0 and hidden[-1] == 1 and hidden == sorted(hidden)
    assert abs(hidden[2] - 0.5) < 0.02  # by symmetry
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match="threshold"):
            occlude(images, bad, generator())
    with pytest.raises(ValueError, match="shape"):
        occlude(images[0], 0.5, generator())


# ------------------------------------------------------------------ pairs, places


def test_two_pictures_side_by_side():
    left, right = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    both = side_by_side(left, right)
    assert (
        both.shape == (2, 1, 4, 8) and torch.equal(both[..., :4], left) and torch.equal(both[..., 4:], right)
    )
    with pytest.raises(ValueError, match="one shape"):
        side_by_side(left, right[..., :2])


def test_a_figure_hides_its_background_by_its_mask():
    background, colour = (
        torch.rand(2, 3, 4, 4, generator=generator()),
        torch.tensor([[1.0, 0, 0], [0, 1, 0.5]]),
    )
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, 1, 2], mask[:, :, 3, 0] = 1, 0.25
    image = place(mask, colour, background)
    assert torch.equal(image[:, :, 1, 2], colour) and torch.equal(image[:, :, 0], background[:, :, 0])
    assert torch.allclose(image[:, :, 3, 0], 0.25 * colour + 0.75 * background[:, :, 3, 0])
    assert torch.equal(place(mask, colour[:, :, None, None].expand(-1, -1, 4, 4), background), image)
    with pytest.raises(ValueError, match="mask"):
        place(mask[..., :2], colour, background)


# ------------------------------------------------------------------ textures


def test_textures_are_colour_images_and_their_colours_say_nothing_of_the_kind():
    kind = torch.arange(2).repeat(600)
    images = textures(kind, generator())
    assert images.shape == (1200, 3, 32, 32) and images.min() >= 0 and images.max() <= 1
    # The darkest and the lightest pixel of each image come from the same two distributions for both kinds.
    for extreme in (images.flatten(2).amin(2), images.flatten(2).amax(2)):
        means = torch.stack([extreme[kind == k].mean() for k in range(2)])
        assert means.max() - means.min() < 0.06


def features(images: torch.Tensor) -> torch.Tensor:
    """What does not depend on turn, place and colour: contrast along and across, and the share of light pixels."""
    grey = images.mean(1)
    low, high = grey.amin((1, 2), keepdim=True), grey.amax((1, 2), keepdim=True)
    grey = (grey - low) / (high - low).clamp(min=1e-3)
    steps = torch.stack(
        [grey.diff(dim=1).square().mean((1, 2)), grey.diff(dim=2).square().mean((1, 2))], dim=1
    )
    return torch.cat(
        [steps.sum(1, keepdim=True), steps.amin(1, keepdim=True), grey.mean((1, 2))[:, None]], dim=1
    )


def test_the_kinds_can_be_told_apart_without_their_colours():
    from sklearn.ensemble import RandomForestClassifier

    kind = torch.arange(2).repeat(200)
    train, test = features(textures(kind, generator(0))), features(textures(kind, generator(1)))
    forest = RandomForestClassifier(50, random_state=0).fit(train, kind)
    assert forest.score(test, kind) > 0.85


def test_stripes_do_not_change_along_themselves():
    """Rows of the gradient's structure tensor: stripes have one direction, dots two."""
    kind = torch.arange(2).repeat(100)
    grey = textures(kind, generator(), size=64).mean(1)
    dx, dy = grey.diff(dim=2)[:, :-1], grey.diff(dim=1)[:, :, :-1]
    xx, yy, xy = dx.square().mean((1, 2)), dy.square().mean((1, 2)), (dx * dy).mean((1, 2))
    one_way = ((xx - yy).square() + 4 * xy.square()).sqrt() / (xx + yy)
    assert one_way[kind == 0].median() > 0.9 and one_way[kind != 0].median() < 0.2


def test_labels_out_of_range_give_a_clear_error():
    with pytest.raises(ValueError, match="labels 0 and 1, got 0 to 2"):
        textures(torch.tensor([0, 2]), generator())
    with pytest.raises(TypeError, match="int64"):
        textures(torch.tensor([0.0]), generator())


def test_nothing_waits_for_a_value():
    """On `meta` tensors, whose values cannot be read, as on a GPU that the host must not wait for."""
    labels = torch.empty(8, dtype=torch.int64, device="meta")
    g = generator()
    mask, background = torch.rand(8, 1, 16, 16, device="meta"), textures(labels, g, 16)
    image = occlude(place(mask, torch.rand(8, 3, device="meta"), background), 0.6, g)
    assert image.is_meta and side_by_side(image, image).shape == (8, 3, 16, 32)
