"""dSprites: a white square, ellipse or heart on black, drawn on demand or read from the original file.

Matthey, Higgins, Hassabis, Lerchner (2017), https://github.com/google-deepmind/dsprites-dataset.
The three random variants are those of Locatello et al. (2019), https://arxiv.org/abs/1811.12359.
"""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torch import Tensor

from course_lib.datasets.grid import FactorGrid

NAMES = ("shape", "scale", "orientation", "x", "y")
SHAPES = ("square", "ellipse", "heart")
SYMMETRY = (4, 2, 1)  # how many rotations in a full turn leave the square, the ellipse, the heart unchanged
VARIANTS = ("plain", "colour", "noisy", "scream")

# Lengths are in pixels of the original 64x64 images; other sizes are the same picture, sampled differently.
EXTENT = 64
# Heart: x = 9.6 sin³t, y = -0.6627 (13 cos t - 5 cos 2t - 2 cos 3t - cos 4t) - 1.5, y downwards.
HALF_WIDTH = (9.6, 12.8, 9.6)  # of the square, the ellipse, the heart
HALF_HEIGHT = (9.6, 7.2, 0.6627)  # the heart's is a factor: its curve is not of unit height
HEART_LIFT = 1.5
REACH = 13.6  # no point of a shape of scale 1 is farther than this from its centre: the square's corner, 13.58

CPU_CHUNK = 50_000  # pixels in one step: a temporary of 200 kB stays in the cache of one core
ACCELERATOR_CHUNK = 1 << 24  # pixels in one step: few launches, temporaries of 64 MiB

ARRAYS = ("imgs", "latents_values", "latents_classes")


@torch.no_grad()
def render(latents: Tensor, size: int = 64) -> Tensor:
    """Draw sprites: latents (N, 5) to float32 images (N, 1, size, size) of exactly 0 and 1, on the same device.

    Columns: shape (0 square, 1 ellipse, 2 heart), scale in (0, 1], orientation in radians (counter-clockwise),
    x (rightwards) and y (downwards) in [0, 1]. A pixel is 1 iff its centre is inside the shape: no antialiasing.
    An image does not depend on the batch it is drawn in. Raises TypeError or ValueError for anything else;
    values are checked on the CPU only, since on an accelerator the check would make the host wait.
    """
    _check_size(size)
    _check_latents(latents)
    images = torch.zeros(len(latents), 1, size, size, device=latents.device)
    budget = CPU_CHUNK if latents.device.type == "cpu" else ACCELERATOR_CHUNK
    chunk = max(1, budget // _window_width(size) ** 2)
    for part, canvas in zip(latents.split(chunk), images.split(chunk), strict=True):
        _draw(part, canvas)
    return images


def _draw(latents: Tensor, images: Tensor) -> None:
    """Draw latents (n, 5) into black images (n, 1, size, size), each in a window (w, w) around its sprite."""
    size = images.shape[-1]
    # In float64 a last-digit difference between vectorised and scalar sine or cosine cannot reach a pixel.
    dtype = torch.float32 if latents.device.type == "mps" else torch.float64
    shape, scale, angle, x, y = latents.to(dtype).unbind(1)  # (n,) each
    left, dx = _window(x, size)  # (n,), (n, w)
    top, dy = _window(y, size)
    inside = _inside(shape, scale, angle, dx, dy)  # (n, w, w)
    pixel = torch.arange(dx.shape[1], device=latents.device)
    offset = (pixel[:, None] * size + pixel).flatten()  # (w²,)
    index = (top * size + left)[:, None] + offset  # (n, w²)
    images.flatten(1).scatter_(1, index, inside.flatten(1).float())


def _window_width(size: int) -> int:
    """The most pixel centres that fit into the diameter of the largest sprite."""
    return min(size, math.floor(2 * REACH * size / EXTENT) + 1)


def _window(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Along one axis: the first pixel (n,) that a sprite may touch, and the offsets of w pixels from its centre."""
    width, step = _window_width(size), EXTENT / size
    centre = 16 + 32 * position
    first = ((centre - REACH) / step - 0.5).ceil().clamp(0, size - width)  # (n,)
    pixel = first[:, None] + torch.arange(width, device=position.device)
    return first.long(), (pixel + 0.5) * step - centre[:, None]  # (n,), (n, w)


def _inside(shape: Tensor, scale: Tensor, angle: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Which offsets (dx, dy) from the centre are inside the shape: (n,) x 3, (n, w) x 2 to bool (n, w, w).

    Undo the rotation, then divide by the half axes, so that one pair (u, v) serves all three shapes:
    square max(u², v²) < 1, ellipse u² + v² < 1, heart as in `_inside_heart`.
    """
    shape, scale, cos, sin = (column[:, None] for column in (shape, scale, angle.cos(), angle.sin()))  # (n, 1)
    half_width = scale * _of_shape(shape, *HALF_WIDTH)
    half_height = scale * _of_shape(shape, *HALF_HEIGHT)
    lift = scale * _of_shape(shape, 0.0, 0.0, HEART_LIFT)
    u = _outer_sum(-sin * dy / half_width, cos * dx / half_width)  # (n, w, w)
    v = _outer_sum((cos * dy + lift) / half_height, sin * dx / half_height)
    # From here on only + - x and comparisons, which every device rounds alike, in vectors and in single steps.
    uu, vv = u * u, v * v
    return _of_shape(shape[:, :, None], torch.maximum(uu, vv) < 1, uu + vv < 1, _inside_heart(uu, v))


def _inside_heart(uu: Tensor, v: Tensor) -> Tensor:
    """Whether points are inside the curve u = sin³t, v = -(13 cos t - 5 cos 2t - 2 cos 3t - cos 4t), given u² and v.

    With q = sin²t = (u²)^⅓, v = 6 - 18q + 8q² ± √((1 - q)(11 + 8q)²), so a point is inside iff
    (v - 6 + 18q - 8q²)² < (1 - q)(11 + 8q)². With q³ = u² this reads a + bq + cq² < 0 for a, b, c below.
    The product of a + bq + cq² over all three cube roots q of u² is a³ + b³u² + c³u⁴ - 3abcu². The other two
    are conjugate and multiply to a positive number: the product has the sign we want, and needs no root.
    """
    uu = uu.clamp(max=4)  # outside remains outside, and powers of it cannot overflow for tiny sprites
    a = (v - 17) * (v + 5) - 224 * uu
    b = 36 * v + 64 * uu - 271
    c = 532 - 16 * v
    return a * a * a + uu * (b * b * b + uu * (c * c * c) - 3 * a * b * c) < 0


def _outer_sum(down: Tensor, across: Tensor) -> Tensor:
    """float32 (n, w, w): down (n, w) changes from row to row, across (n, w) from column to column."""
    return down.float()[:, :, None] + across.float()[:, None, :]


def _of_shape(shape: Tensor, square, ellipse, heart) -> Tensor:
    """The value for each sprite's shape. No table to index: it would have to be copied to the device."""
    return torch.where(shape == 0, square, torch.where(shape == 1, ellipse, heart))
