"""The renderer against outlines traced in float64, the file against the truth."""

from __future__ import annotations

import math
import os
import zipfile
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.datasets.dsprites_file import read_dsprites
from course_lib.datasets.sprites import Sprites, render
from course_lib.metrics import Symmetry
from tests.helpers import generator

SQUARE, ELLIPSE, HEART = 0.0, 1.0, 2.0


def random_latents(n: int, seed: int = 0) -> torch.Tensor:
    """Latents (n, 5) between the grid's points."""
    u = torch.rand(n, 5, generator=generator(seed))
    u[:, 0] = (3 * u[:, 0]).floor()
    u[:, 1] = 0.5 + u[:, 1] / 2
    u[:, 2] *= math.tau
    return u


# ------------------------------------------------------------------ the ground truth: an outline and crossings


@cache
def outline(shape: int, corners: int = 20_000) -> np.ndarray:
    """The shape as a fine polygon (corners, 2): x and y in pixels at scale 1, y downwards, unrotated."""
    t = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    if shape == 0:
        side = np.linspace(-9.6, 9.6, corners // 4, endpoint=False)
        edge = np.full_like(side, 9.6)
        pieces = [(side, -edge), (edge, side), (-side, edge), (-edge, -side)]
        return np.concatenate([np.stack(piece, 1) for piece in pieces])
    if shape == 1:
        return np.stack([12.8 * np.cos(t), 7.2 * np.sin(t)], 1)
    y = -0.6627 * (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) - 1.5
    return np.stack([0.6 * 16 * np.sin(t) ** 3, y], 1)


def placed_outline(latent: np.ndarray) -> np.ndarray:
    shape, scale, angle, x, y = latent
    cos, sin = math.cos(-angle), math.sin(-angle)  # -θ with y downwards is counter-clockwise on the screen
    turned = scale * outline(int(shape)) @ np.array([[cos, sin], [-sin, cos]])
    return turned + np.array([16 + 32 * x, 16 + 32 * y])


def trace(latent: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The image (size, size) by counting crossings along each row of pixel centres, and the outline."""
    points = placed_outline(latent)
    centres = (np.arange(size) + 0.5) * 64 / size
    image = np.zeros((size, size), dtype=bool)
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, axis=0).T
    for row, y in enumerate(centres):
        cut = (y0 > y) != (y1 > y)
        crossings = x0[cut] + (y - y0[cut]) / (y1[cut] - y0[cut]) * (x1[cut] - x0[cut])
        image[row] = (crossings[:, None] < centres).sum(0) % 2
    return image, points


def assert_traced(latents: torch.Tensor, size: int) -> None:
    """Each pixel is as traced, but for centres within 1e-5 pixels of the outline."""
    for latent, image in zip(latents.double().numpy(), render(latents, size)[:, 0].numpy(), strict=True):
        wanted, points = trace(latent, size)
        for row, column in np.argwhere(wanted != image):
            centre = (np.array([column, row]) + 0.5) * 64 / size
            distance = np.hypot(*(points - centre).T).min()
            assert distance < 1e-5, f"{latent}: pixel ({row}, {column}) is {distance:.2g} from the outline"


@pytest.mark.parametrize(("size", "n"), [(64, 250), (32, 60), (48, 40), (128, 20), (7, 40), (65, 20)])
def test_pixels_are_those_inside_the_outline(size, n):
    sprites = Sprites()
    assert_traced(sprites.latents(sprites.grid.sample(n, generator(size))), size)
    assert_traced(random_latents(n // 2, size), size)


def test_corners_of_the_grid_are_as_traced():
    corners = [
        (s, k, o, x, y) for s in range(3) for k in (0, 5) for o in (0, 39) for x in (0, 31) for y in (0, 31)
    ]
    assert_traced(Sprites().latents(torch.tensor(corners)), 64)


def test_the_trace_finds_a_known_error():
    """The ground truth is not blind: the same image turned the other way is far from the outline."""
    latents = torch.tensor([[HEART, 1.0, 0.5, 0.5, 0.5]])
    wanted, _ = trace(latents[0].double().numpy(), 64)
    turned = render(latents * torch.tensor([1, 1, -1, 1, 1]))[0, 0].numpy()
    assert (wanted != turned).sum() > 50


def test_the_heart_is_between_its_outlines_everywhere():
    """At 400 pixels across a sprite, every pixel and every near miss: 300,000 centres."""
    angles = torch.tensor([0.0, 0.7, math.pi])
    latents = torch.stack([torch.tensor([HEART, 1.0, float(a), 0.5, 0.5]) for a in angles])
    assert_traced(latents, 640)


def test_no_centre_ties_with_an_upright_square():
    """Its sides fall between pixel centres for every scale and position, so that < and <= draw the same image."""
    grid = np.array([16 + 32 * k / 31 + sign * 9.6 * s for k in range(32) for s in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
                     for sign in (-1, 1)])  # fmt: skip
    assert np.abs((grid - 0.5) - np.round(grid - 0.5)).min() > 1e-3


def rows_and_columns(image: torch.Tensor) -> tuple[list[int], list[int]]:
    return image[0].any(1).nonzero().flatten().tolist(), image[0].any(0).nonzero().flatten().tolist()


def test_directions_on_the_screen():
    left, right, top, bottom = render(
        torch.tensor([[SQUARE, 0.5, 0, *xy] for xy in ([0, 0.5], [1, 0.5], [0.5, 0], [0.5, 1])])
    )
    # 32 ± 4.8 down and 16 ± 4.8 across
    assert rows_and_columns(left) == (list(range(27, 37)), list(range(11, 21)))
    assert rows_and_columns(right) == (list(range(27, 37)), list(range(43, 53)))
    assert torch.equal(top, left.mT) and torch.equal(bottom, right.mT)


def test_the_heart_has_its_lobes_up_and_turns_counter_clockwise():
    upright, turned = render(torch.tensor([[HEART, 1.0, 0.0, 0.5, 0.5], [HEART, 1.0, math.pi / 2, 0.5, 0.5]]))
    widths = upright[0].sum(1)
    rows = widths.nonzero().flatten()
    assert widths[rows[:6]].sum() > 2 * widths[rows[-6:]].sum()  # two lobes above, a tip below
    # rot90 turns counter-clockwise: the tip now points to the right
    assert torch.equal(turned, upright.rot90(1, (1, 2)))


@pytest.mark.parametrize(("shape", "area"), [(SQUARE, 19.2**2), (ELLIPSE, math.pi * 12.8 * 7.2)])
def test_areas_are_those_of_the_formula(shape, area):
    images = render(torch.tensor([[shape, 1.0, 0.3, 0.4, 0.6], [shape, 0.5, 0.3, 0.4, 0.6]]), size=1280)
    assert (images.sum((1, 2, 3)) / 400).tolist() == pytest.approx([area, area / 4], rel=2e-3)


def test_a_full_turn_changes_nothing():
    grid = Sprites().grid
    first = grid.sample(2000, generator(1))
    last = first.clone()
    first[:, 2], last[:, 2] = 0, 39
    assert torch.equal(Sprites().images(first), Sprites().images(last))


@pytest.mark.parametrize("shape", [0, 1, 2])
def test_symmetry_counts_the_rotations_that_change_nothing(shape):
    turns = torch.arange(12) / 12 * math.tau
    latents = torch.stack([torch.tensor([shape, 0.9, float(turn), 0.45, 0.55]) for turn in turns])
    images = render(latents)
    same = (images == images[0]).flatten(1).all(1)
    folds = Symmetry().folds[shape]
    assert same.sum() == folds and same[:: 12 // folds].all()


def test_a_coarser_size_is_a_sample_of_a_finer_one():
    """Centres of 64 pixels are every third centre of 192."""
    latents = random_latents(30)
    assert torch.equal(render(latents, 64), render(latents, 192)[:, :, 1::3, 1::3])
    assert torch.equal(render(latents, 32), render(latents, 96)[:, :, 1::3, 1::3])


# ------------------------------------------------------------------ batches, types and devices


@settings(max_examples=30)
@given(
    st.integers(0, 2**31), st.lists(st.integers(1, 400), min_size=1, max_size=6), st.sampled_from([16, 64])
)
def test_an_image_does_not_depend_on_its_batch(seed, parts, size):
    latents = random_latents(sum(parts), seed)
    whole = render(latents, size)
    assert torch.equal(whole, torch.cat([render(part, size) for part in latents.split(parts)]))
    order = torch.randperm(len(latents), generator=generator(seed))
    assert torch.equal(whole[order], render(latents[order], size))
    last = render(latents[-1:], size)
    assert torch.equal(last, whole[-1:])


def test_images_are_zeros_and_ones_in_float32():
    images = render(random_latents(50))
    assert images.dtype == torch.float32 and images.shape == (50, 1, 64, 64)
    assert images.unique().tolist() == [0.0, 1.0] and images.flatten(1).any(1).all()


def test_the_precision_of_the_latents_does_not_matter():
    latents = random_latents(100)
    assert torch.equal(render(latents), render(latents.double()))
    coarse = latents.half()
    assert torch.equal(render(coarse), render(coarse.float()))


def test_strides_of_the_latents_do_not_matter():
    latents = random_latents(90)
    assert torch.equal(render(latents.T.contiguous().T), render(latents))


def test_an_empty_batch_is_an_empty_batch():
    assert render(torch.empty(0, 5), 16).shape == (0, 1, 16, 16)


def test_drawing_waits_for_no_value():
    """On `meta` tensors, whose values cannot be read, as on a GPU that the host must not wait for."""
    images = render(torch.empty(3000, 5, device="meta"), 64)
    assert images.is_meta and images.shape == (3000, 1, 64, 64)
    images, factors = Sprites(size=32, device="meta").sample(40, generator())
    assert images.is_meta and factors.is_meta and images.shape == (40, 1, 32, 32)


def test_no_gradient_is_recorded():
    assert not render(random_latents(2).requires_grad_()).requires_grad


# ------------------------------------------------------------------ the data set and its parts


def test_the_grid_is_that_of_the_original():
    sprites = Sprites()
    assert sprites.grid.names == ("shape", "scale", "orientation", "x", "y")
    assert sprites.grid.sizes == (3, 6, 40, 32, 32) and len(sprites) == 737_280
    latents = sprites.latents(torch.tensor([[0, 0, 0, 0, 0], [2, 5, 39, 31, 31], [1, 1, 1, 1, 1]]))
    wanted = [[0, 0.5, 0, 0, 0], [2, 1, math.tau, 1, 1], [1, 0.6, math.tau / 39, 1 / 31, 1 / 31]]
    assert torch.equal(latents, torch.tensor(wanted))


def test_samples_pair_images_with_their_factors():
    sprites = Sprites(size=32)
    images, factors = sprites.sample(200, generator(5))
    assert torch.equal(images, render(sprites.latents(factors), 32))
    again, same = sprites.sample(200, generator(5))
    assert torch.equal(images, again) and torch.equal(factors, same)


ONLY = {"shape": 1, "orientation": 0, "x": range(0, 32, 2), "y": [31, 0]}


def test_a_part_of_the_grid_is_the_same_images():
    part, complete = Sprites(size=32, only=ONLY), Sprites(size=32)
    assert part.grid.names == ("scale", "x", "y") and part.grid.sizes == (6, 16, 2) and len(part) == 192
    rows = [[1, s, 0, x, y] for s in range(6) for x in range(0, 32, 2) for y in (31, 0)]
    wanted = complete.images(torch.tensor(rows))
    assert torch.equal(part.images(part.grid.factors(torch.arange(192))), wanted)
    images, factors = part.sample(60, generator())
    assert torch.equal(images, wanted[part.grid.index(factors)])


@pytest.mark.parametrize("batch", [1, 50, 64, 192, 1000])
def test_batches_run_once_through_the_grid_in_order(batch):
    sprites = Sprites(size=16, only=ONLY)
    images, factors = zip(*sprites.batches(batch), strict=True)
    assert [len(part) for part in images[:-1]] == [batch] * (len(images) - 1)
    assert sprites.grid.index(torch.cat(factors)).tolist() == list(range(192))
    assert torch.equal(torch.cat(images), sprites.images(torch.cat(factors)))


# ------------------------------------------------------------------ the original file


SIZES = (3, 2, 3, 2, 2)  # of the small file


class Trap:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def small_file(path, seed: int | None = None, drop: int = 0, **changes):
    """A file in the original's format, of 72 random images 8x8; its rows shuffled where a seed is given."""
    classes = np.array([(0, *row) for row in np.ndindex(*SIZES)])
    axes = [np.arange(1.0, 4), np.linspace(0.5, 1, 2), np.linspace(0, 2 * np.pi, 3), np.array([0, 1.0])]
    axes.append(axes[-1])
    values = np.array([(1.0, *(axes[k][i] for k, i in enumerate(row[1:]))) for row in classes])
    images = np.random.default_rng(0).integers(0, 2, (len(classes), 8, 8), dtype=np.uint8)
    order = np.arange(len(classes)) if seed is None else np.random.default_rng(seed).permutation(len(classes))
    order = order[drop:]
    arrays = {"imgs": images[order], "latents_values": values[order], "latents_classes": classes[order]}
    metadata = np.array(Trap(path.parent / "trapped"), dtype=object)
    arrays |= {"metadata": metadata} | changes
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})
    return images  # in the order of the grid


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_a_file_is_read_through_the_same_interface(tmp_path, seed):
    images = small_file(tmp_path / "small.npz", seed)
    sprites = Sprites(size=8, path=tmp_path / "small.npz")
    assert sprites.grid.sizes == SIZES and len(sprites) == 72
    factors = sprites.grid.factors(torch.arange(72))
    assert np.array_equal(sprites.images(factors)[:, 0].numpy(), images.astype(np.float32))
    latents = sprites.latents(torch.tensor([[2, 1, 1, 0, 1]]))
    assert torch.equal(latents, torch.tensor([[2, 1, math.pi, 0, 1]]))  # the file numbers its shapes from 1
    drawn, rows = sprites.sample(30, generator())
    assert torch.equal(drawn, sprites.images(rows)) and drawn.dtype == torch.float32
    assert not (tmp_path / "trapped").exists()


def test_the_trap_would_have_sprung(tmp_path):
    small_file(tmp_path / "small.npz")
    np.load(tmp_path / "small.npz", allow_pickle=True)["metadata"]
    assert (tmp_path / "trapped").exists()


def test_a_part_of_a_file(tmp_path):
    images = small_file(tmp_path / "small.npz", 3).reshape(*SIZES, 8, 8)
    only = {"shape": 2, "orientation": [2, 0]}
    part = Sprites(size=8, path=str(tmp_path / "small.npz"), only=only)
    assert part.grid.names == ("scale", "orientation", "x", "y") and len(part) == 16
    wanted = torch.from_numpy(images[2][:, [2, 0]].reshape(16, 1, 8, 8)).float()
    assert torch.equal(torch.cat([x for x, _ in part.batches(5)]), wanted)


def test_a_file_of_rendered_images_gives_back_what_was_drawn(tmp_path):
    """The original's numbering of rows and values, round trip."""
    sprites = Sprites(size=64, only={"x": [3], "y": [7]})
    factors = sprites.grid.factors(torch.arange(len(sprites)))
    images, latents = sprites.images(factors)[:, 0].byte().numpy(), sprites.latents(factors).double().numpy()
    ones = np.ones((len(images), 1))
    small_file(
        tmp_path / "drawn.npz",
        imgs=images,
        latents_values=np.hstack([ones, latents + np.array([1, 0, 0, 0, 0])]),
        latents_classes=np.hstack([0 * ones, factors.numpy()]).astype(np.int64),
    )
    stored = Sprites(path=tmp_path / "drawn.npz")
    assert torch.equal(stored.images(factors[::5]), sprites.images(factors[::5]))
    assert torch.equal(stored.latents(factors), sprites.latents(factors))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"imgs": None}, r"expected the arrays \('imgs'.*found \['latents_classes'"),
        ({"imgs": np.zeros((72, 8, 9), np.uint8)}, r"imgs uint8 \(N, s, s\).*found uint8 \(72, 8, 9\)"),
        ({"imgs": np.zeros((72, 8, 8))}, r"found float64 \(72, 8, 8\)"),
        ({"imgs": np.zeros((71, 8, 8), np.uint8)}, r"found uint8 \(71, 8, 8\)"),
        ({"imgs": np.zeros((0, 8, 8), np.uint8)}, r"found uint8 \(0, 8, 8\)"),
        ({"imgs": np.full((72, 8, 8), 255, np.uint8)}, "expected pixels 0 or 1"),
        ({"latents_values": np.full((72, 6), np.nan)}, "finite values"),
        ({"latents_values": np.zeros((72, 6))[:, ::-1] + np.arange(72)[:, None]}, "latents_values to follow"),
        ({"latents_classes": np.full((72, 6), -1)}, "classes from 0"),
        ({"latents_classes": np.zeros((72, 6), int)}, "= 1 combinations of factors once, got 72 rows"),
        ({"latents_classes": np.full((72, 6), 10**9)}, "combinations of factors once, got 72 rows"),
        ({"latents_classes": np.array(Trap("never"), dtype=object)}, "readable .npz file"),
        ({"drop": 1}, "= 72 combinations of factors once, got 71 rows"),
    ],
)
def test_a_wrong_file_is_refused_in_words(tmp_path, changes, words):
    small_file(tmp_path / "wrong.npz", **changes)
    with pytest.raises(ValueError, match=words) as caught:
        Sprites(size=8, path=tmp_path / "wrong.npz")
    assert "wrong.npz" in str(caught.value)
    assert "dsprites-dataset" in str(caught.value)


def damage_end(data: bytes) -> bytes:
    return data[: len(data) // 2]


def damage_middle(data: bytes) -> bytes:
    return data[:200] + bytes(x ^ 255 for x in data[200:300]) + data[300:]


@pytest.mark.parametrize("damage", [damage_end, damage_middle, lambda data: b"", lambda data: b"no zip"])
def test_a_damaged_file_is_refused_in_words(tmp_path, damage):
    path = tmp_path / "damaged.npz"
    small_file(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"damaged\.npz: expected a readable .npz file, but"):
        read_dsprites(path, 8)


def test_a_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="expected the arrays"):
        read_dsprites(tmp_path / "other.npz", 8)


def test_a_file_of_another_size_or_none_at_all(tmp_path):
    small_file(tmp_path / "small.npz")
    with pytest.raises(ValueError, match="expected images of size=64, got 8; ask for that size"):
        Sprites(path=tmp_path / "small.npz")
    with pytest.raises(FileNotFoundError, match="found none; leave out path= or download"):
        Sprites(path=tmp_path / "missing.npz")


# ------------------------------------------------------------------ errors


def with_value(column: int, value: float) -> torch.Tensor:
    latents = random_latents(3)
    latents[1, column] = value
    return latents


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: render([[0, 1, 0, 0, 0]]), TypeError, "latents: expected a torch.Tensor, got list"),
        (lambda: render(torch.zeros(2, 5, dtype=torch.int64)), TypeError, r"torch.int64; convert with .float"),
        (lambda: render(torch.zeros(5)), ValueError, r"expected shape \(N, 5\), columns .* got \(5,\)"),
        (lambda: render(torch.zeros(2, 6)), ValueError, r"got \(2, 6\)"),
        (lambda: render(random_latents(1), 0), ValueError, "size: expected a positive integer"),
        (lambda: render(random_latents(1), 64.0), ValueError, "size: expected a positive integer"),
        (lambda: render(with_value(0, 3)), ValueError, "shape 0 .square.*but row 1 is"),
        (lambda: render(with_value(0, 0.5)), ValueError, "shape 0 .square.*but row 1 is"),
        (lambda: render(with_value(1, 0)), ValueError, r"scale in \(0, 1\], but row 1"),
        (lambda: render(with_value(1, 1.5)), ValueError, r"scale in \(0, 1\], but row 1"),
        (lambda: render(with_value(2, math.inf)), ValueError, "only finite numbers, but row 1"),
        (lambda: render(with_value(3, -0.1)), ValueError, r"x in \[0, 1\], but row 1"),
        (lambda: render(with_value(4, 1.1)), ValueError, r"y in \[0, 1\], but row 1"),
        (lambda: render(with_value(4, math.nan)), ValueError, "only finite numbers"),
        (lambda: Sprites(size=-1), ValueError, "size: expected a positive integer"),
        (lambda: Sprites(only={"colour": 1}), ValueError, "only: no factor is called 'colour'; choose from"),
        (lambda: Sprites(only={"scale": 6}), ValueError, "only: 'scale' takes the integers 0 to 5, got 6"),
        (lambda: Sprites(only=ONLY).images(torch.zeros(2, 5).long()), ValueError, r"expected shape \(N, 3\)"),
        (lambda: Sprites().images(torch.zeros(2, 5)), TypeError, "int64"),
        (lambda: Sprites().images(torch.tensor([[3, 0, 0, 0, 0]])), ValueError, "factor 'shape'"),
        (lambda: Sprites().sample(-1, generator()), ValueError, "number of points"),
        (lambda: Sprites().sample(1, None), TypeError, "torch.Generator, got NoneType"),
        (lambda: next(Sprites().batches(0)), ValueError, "batch: expected a positive integer, got 0"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected(act, error, words):
    with pytest.raises(error, match=words):
        act()
