"""dSprites: a white square, ellipse or heart on black, drawn on demand or read from the original file.

Matthey, Higgins, Hassabis, Lerchner (2017), https://github.com/google-deepmind/dsprites-dataset.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from course_lib.datasets.dsprites_file import NAMES, read_dsprites
from course_lib.datasets.grid import FactorGrid

SHAPES = ("square", "ellipse", "heart")

# Lengths are in pixels of the original 64x64 images; other sizes are the same picture, sampled differently.
EXTENT = 64
# Heart: x = 9.6 sin³t, y = -0.6627 (13 cos t - 5 cos 2t - 2 cos 3t - cos 4t) - 1.5, y downwards.
HALF_WIDTH = (9.6, 12.8, 9.6)  # of the square, the ellipse, the heart
HALF_HEIGHT = (9.6, 7.2, 0.6627)  # the heart's is a factor: its curve is not of unit height
LIFT = (0.0, 0.0, 1.5)
REACH = 13.6  # farthest from the centre that a shape of scale 1 comes: the square's corner, at 13.58

CPU_CHUNK = 1 << 17  # pixels in one step: a temporary of 1 MiB stays in the cache of one core
ACCELERATOR_CHUNK = 1 << 23  # pixels in one step: few launches, temporaries of 64 MiB


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
    # float64: no rounding, of a vectorised or a scalar cosine, say, comes within 1e-12 pixels of the outline.
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
    columns = (shape, scale, angle.cos(), angle.sin())
    shape, scale, cos, sin = (column[:, None] for column in columns)  # (n, 1)
    half_width, half_height, lift = (
        _of_shape(shape, *(scale * length for length in lengths))
        for lengths in (HALF_WIDTH, HALF_HEIGHT, LIFT)
    )
    u = (cos * dx / half_width)[:, None, :] - (sin * dy / half_width)[:, :, None]  # (n, w, w)
    v = (sin * dx / half_height)[:, None, :] + ((cos * dy + lift) / half_height)[:, :, None]
    uu, vv = u * u, v * v
    return _of_shape(shape[..., None], torch.maximum(uu, vv) < 1, uu + vv < 1, _inside_heart(uu, v))


def _inside_heart(uu: Tensor, v: Tensor) -> Tensor:
    """Whether points are inside the curve u = sin³t, v = -(13 cos t - 5 cos 2t - 2 cos 3t - cos 4t), given u² and v.

    With q = sin²t = (u²)^⅓ and cos t = ±√(1 - q), the multiple angles give v = 6 - 18q + 8q² ∓ √(1 - q) (11 + 8q):
    one lower and one upper outline over each u, and inside is between them. Where q > 1 there is neither.
    """
    q = uu.pow(1 / 3)
    return (v - 6 + q * (18 - 8 * q)).square() < (1 - q) * (11 + 8 * q).square()


def _of_shape(shape: Tensor, square: Tensor, ellipse: Tensor, heart: Tensor) -> Tensor:
    """The value for each sprite's shape. No table to index: it would have to be copied to the device."""
    return torch.where(shape == 0, square, torch.where(shape == 1, ellipse, heart))


def _check_size(size: int) -> None:
    if type(size) is not int or size < 1:
        raise ValueError(f"size: expected a positive integer number of pixels, got {size!r}")


def _check_latents(latents: Tensor) -> None:
    if not isinstance(latents, Tensor):
        raise TypeError(f"latents: expected a torch.Tensor, got {type(latents).__name__}")
    if not latents.is_floating_point():
        raise TypeError(f"latents: expected a floating dtype, got {latents.dtype}; convert with .float()")
    if latents.ndim != 2 or latents.shape[1] != len(NAMES):
        raise ValueError(f"latents: expected shape (N, 5), columns {NAMES}, got {tuple(latents.shape)}")
    if latents.device.type != "cpu":
        return
    shape, scale, _, x, y = latents.unbind(1)
    rules = {
        "only finite numbers": latents.isfinite(),
        "shape 0 (square), 1 (ellipse) or 2 (heart)": (shape == 0) | (shape == 1) | (shape == 2),
        "scale in (0, 1]": (scale > 0) & (scale <= 1),
        "x in [0, 1]": (x >= 0) & (x <= 1),
        "y in [0, 1]": (y >= 0) & (y <= 1),
    }
    for rule, holds in rules.items():
        if not holds.all():
            row = int((~holds).nonzero()[0, 0])
            raise ValueError(f"latents: expected {rule}, but row {row} is {latents[row].tolist()}")


class Sprites:
    """The dSprites data set: 3 shapes x 6 scales x 40 orientations x 32 x 32 positions, 737,280 images.

    Orientations run from 0 to 2π inclusive, so that the first and the last give the same image.

    only    a part of the grid, by factor. An integer holds the factor at that index and takes it out of the grid;
            a range or list keeps those indices, renumbered from 0. `Sprites(only={"shape": 1, "orientation": 0,
            "x": range(0, 32, 2)})` are upright ellipses, whose grid has the factors scale (6), x (16) and y (32).
    path    the original dsprites_ndarray_*.npz, or a smaller file in its format, read instead of drawn.
    device  where images, latents and sampled factors are.
    """

    def __init__(
        self,
        size: int = 64,
        only: dict[str, int | Sequence[int]] | None = None,
        path: str | Path | None = None,
        device: torch.device | str = "cpu",
    ):
        _check_size(size)
        self.size, self.device = size, torch.device(device)
        complete, values, stored = _complete_grid() if path is None else read_dsprites(path, size)
        self.grid, kept = complete.restrict(only or {})
        self._values = [column[k].to(self.device) for column, k in zip(values, kept, strict=True)]
        self._stored = None if stored is None else _rows(stored, complete, kept).to(self.device)

    def __len__(self) -> int:
        return len(self.grid)

    def latents(self, factors: Tensor) -> Tensor:
        """The float32 arguments of `render`, (N, 5), of the grid's int64 factors (N, K)."""
        self.grid.check(factors)
        varying = dict(zip(self.grid.names, factors.to(self.device).unbind(1), strict=True))
        columns = [
            values[varying[name]] if name in varying else values.expand(len(factors))
            for name, values in zip(NAMES, self._values, strict=True)
        ]
        return torch.stack(columns, dim=1)

    def images(self, factors: Tensor) -> Tensor:
        """Images (N, 1, size, size), float32 of exactly 0 and 1, of factors (N, K)."""
        if self._stored is None:
            return render(self.latents(factors), self.size)
        return self._stored[self.grid.index(factors).to(self.device)][:, None].float()

    def keep(self) -> "Sprites":
        """Draw every image once and keep it, a byte a pixel: .8 GB for all at 32×32. For many epochs of few images, and on a GPU."""
        if self._stored is None:
            self._stored = torch.cat([images[:, 0].to(torch.uint8) for images, _ in self.batches(8192)])
        return self

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n images (n, 1, size, size) and their factors (n, K), uniform over the grid."""
        factors = self.grid.sample(n, generator).to(self.device)
        return self.images(factors), factors

    def batches(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The whole grid once, in its order: images (n, 1, size, size) and factors (n, K), n = batch but for the last."""
        if type(batch) is not int or batch < 1:
            raise ValueError(f"batch: expected a positive integer, got {batch!r}")
        for index in torch.arange(len(self), device=self.device).split(batch):
            factors = self.grid.factors(index)
            yield self.images(factors), factors


def _complete_grid() -> tuple[FactorGrid, list[Tensor], None]:
    """The original grid and the latent values of each factor: shape, scale, orientation, x, y. Nothing is stored."""
    ends = ((0.5, 1, 6), (0, math.tau, 40), (0, 1, 32), (0, 1, 32))
    values = [torch.arange(3.0), *(torch.linspace(*end, dtype=torch.float64).float() for end in ends)]
    return FactorGrid(NAMES, tuple(map(len, values))), values, None


def _rows(images: Tensor, grid: FactorGrid, kept: list[list[int]]) -> Tensor:
    """Of images (N, s, s) in the order of the grid, those that combine kept values, in the same order."""
    images = images.unflatten(0, grid.sizes)
    for axis, values in enumerate(kept):
        if values != list(range(grid.sizes[axis])):  # spare a copy of the original's 3 GB
            images = images.index_select(axis, torch.tensor(values))
    return images.flatten(0, len(kept) - 1)
