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
LIFT = (0.0, 0.0, 1.5)
REACH = (
    13.6  # no point of a shape of scale 1 is farther than this from its centre: the square's corner, 13.58
)

CPU_CHUNK = 50_000  # pixels in one step: a temporary of 200 kB stays in the cache of one core
ACCELERATOR_CHUNK = 1 << 24  # pixels in one step: few launches, temporaries of 64 MiB

ARRAYS = ("imgs", "latents_values", "latents_classes")
ADVICE = "download dsprites_ndarray_*.npz from https://github.com/google-deepmind/dsprites-dataset"


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
    shape, scale, cos, sin = (
        column[:, None] for column in (shape, scale, angle.cos(), angle.sin())
    )  # (n, 1)
    half_width, half_height, lift = (
        _of_shape(shape, *(scale * length for length in lengths))
        for lengths in (HALF_WIDTH, HALF_HEIGHT, LIFT)
    )
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

    variant: "plain" (1 channel), or with 3 channels, r drawn for each image from the caller's generator,
        "colour": sprite · r, r ~ U(½, 1)³;
        "noisy": min(sprite + r, 1), r ~ U(0, 1) for each channel of each pixel;
        "scream": (crop of a photo + r) / 2, r ~ U(0, 1)³, inverted under the sprite.
    photo: for "scream", (3, H, W) in [0, 1], resized to 3.5 images on its shorter side. The literature's is
        Munch's painting, which cannot be bundled; the default is scikit-learn's photograph "china.jpg".
    path: the original dsprites_ndarray_*.npz, or a smaller file in its format, read instead of drawn.
    device: where images, latents and sampled factors are.
    """

    def __init__(
        self,
        size: int = 64,
        variant: str = "plain",
        path: str | Path | None = None,
        photo: Tensor | None = None,
        device: torch.device | str = "cpu",
    ):
        _check_size(size)
        if variant not in VARIANTS:
            raise ValueError(f"variant: expected one of {VARIANTS}, got {variant!r}")
        if photo is not None and variant != "scream":
            raise ValueError(f"photo: only variant='scream' uses it, got variant={variant!r}; leave it out")
        self.size, self.variant, self.device = size, variant, torch.device(device)
        if path is None:
            self.grid, values, self._stored = FactorGrid(NAMES, (3, 6, 40, 32, 32)), _values(), None
        else:
            self.grid, values, images = _load(Path(path), size)
            self._stored = images.to(self.device)  # (N, size, size) uint8, in the order of the grid
        self._values = [column.to(self.device) for column in values]
        if variant == "scream":
            self._photo = _resize(_china() if photo is None else photo, size).to(self.device)

    def __len__(self) -> int:
        return len(self.grid)

    def latents(self, factors: Tensor) -> Tensor:
        """The float32 arguments of `render`, (N, 5), of the grid's int64 factors (N, 5)."""
        self.grid.check(factors)
        columns = factors.to(self.device).unbind(1)
        return torch.stack([values[k] for values, k in zip(self._values, columns, strict=True)], dim=1)

    def images(self, factors: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (N, C, size, size) in [0, 1] of factors (N, 5). All but "plain" need a generator."""
        if self.variant != "plain" and not isinstance(generator, torch.Generator):
            raise TypeError(
                f"variant {self.variant!r} draws a random number for each image: expected "
                f"generator=torch.Generator(), got {type(generator).__name__}"
            )
        if self._stored is None:
            sprites = render(self.latents(factors), self.size)
        else:
            sprites = self._stored[self.grid.index(factors).to(self.device)][:, None].float()
        match self.variant:
            case "colour":
                return sprites * (0.5 + 0.5 * _uniform((len(sprites), 3, 1, 1), generator, self.device))
            case "noisy":
                shape = (len(sprites), 3, self.size, self.size)
                return (sprites + _uniform(shape, generator, self.device)).clamp(max=1)
            case "scream":
                return _scream(sprites, self._photo, generator)
        return sprites

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n images (n, C, size, size) and their factors (n, 5), uniform over the grid."""
        factors = self.grid.sample(n, generator).to(self.device)
        return self.images(factors, generator), factors


def _values() -> list[Tensor]:
    """The latent values of the original grid: shape, scale, orientation, x, y."""
    position = torch.linspace(0, 1, 32)
    return [torch.arange(3.0), torch.linspace(0.5, 1, 6), torch.linspace(0, math.tau, 40), position, position]


def _uniform(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """U(0, 1), drawn where the generator is: a CPU generator gives the same numbers for every device."""
    return torch.rand(shape, generator=generator, device=generator.device).to(device)


def _scream(sprites: Tensor, photo: Tensor, generator: torch.Generator) -> Tensor:
    """Crops of the photo (3, H, W), tinted, and inverted where sprites (N, 1, s, s) are 1: (N, 3, s, s)."""
    n, _, size, _ = sprites.shape
    windows = photo.unfold(1, size, 1).unfold(2, size, 1)  # (3, H - s + 1, W - s + 1, s, s), a view
    top, left = (
        torch.randint(count, (n,), generator=generator, device=generator.device).to(photo.device)
        for count in windows.shape[1:3]
    )
    tint = _uniform((n, 3, 1, 1), generator, photo.device)
    background = (windows[:, top, left].transpose(0, 1) + tint) / 2
    return torch.where(sprites == 1, 1 - background, background)


def _china() -> Tensor:
    """scikit-learn's photograph of a Chinese temple, (3, 427, 640) in [0, 1]."""
    return torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1) / 255


def _resize(photo: Tensor, size: int) -> Tensor:
    """The photo with a shorter side of 3.5 sizes: 224 for 64, close to the literature's 350 x 274 at most."""
    if not isinstance(photo, Tensor) or not photo.is_floating_point():
        got = photo.dtype if isinstance(photo, Tensor) else type(photo).__name__
        raise TypeError(f"photo: expected a floating torch.Tensor, got {got}")
    if photo.ndim != 3 or photo.shape[0] != 3 or photo.numel() == 0:
        raise ValueError(f"photo: expected shape (3, H, W), got {tuple(photo.shape)}")
    if not ((photo >= 0) & (photo <= 1)).all():
        raise ValueError("photo: expected values in [0, 1]; divide 8-bit values by 255")
    ratio = 3.5 * size / min(photo.shape[1:])
    shape = [max(size, round(ratio * side)) for side in photo.shape[1:]]
    resized = F.interpolate(photo[None].float(), shape, mode="bilinear", antialias=True)[0]
    return resized.clamp(0, 1)


def _load(path: Path, size: int) -> tuple[FactorGrid, list[Tensor], Tensor]:
    """A dSprites file's grid, the latent values of each factor, and its uint8 images (N, size, size) in grid order."""
    images, latents, classes = (torch.from_numpy(array) for array in _read(path))
    if images.shape[1] != size:
        raise ValueError(f"{path}: expected images of size={size}, got {images.shape[1]}; ask for that size")
    # Column 0, the colour, is always white; the file numbers its shapes from 1.
    classes = classes[:, 1:].long()
    latents = latents[:, 1:].float() - torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    grid = FactorGrid(NAMES, tuple((classes.amax(0) + 1).tolist()))
    index, order = grid.index(classes).sort()
    if not torch.equal(index, torch.arange(len(grid))):
        raise ValueError(
            f"{path}: expected each of the {' x '.join(map(str, grid.sizes))} = {len(grid)} combinations of "
            f"factors once, got {len(index)} rows; some are missing or repeated: {ADVICE}"
        )
    if not torch.equal(order, index):  # the original is in order already: spare a copy of its 3 GB
        images, latents = images[order], latents[order]
    columns = zip(latents.unbind(1), grid.strides, grid.sizes, strict=True)
    values = [column[: stride * count : stride].clone() for column, stride, count in columns]
    if not torch.equal(torch.cartesian_prod(*values), latents):
        raise ValueError(f"{path}: expected latents_values to follow latents_classes, they do not; {ADVICE}")
    return grid, values, images


def _read(path: Path) -> list[np.ndarray]:
    """The arrays of a dSprites file: imgs (N, s, s) uint8, latents_values (N, 6), latents_classes (N, 6).

    Its fourth, `metadata`, is a pickle, which could run any code when opened: it is never touched.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a dSprites file, found none; leave out path= or {ADVICE}")
    try:
        with zipfile.ZipFile(path) as archive:
            found = sorted(name.removesuffix(".npy") for name in archive.namelist())
        if not set(ARRAYS) <= set(found):
            raise KeyError
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in ARRAYS]
    except KeyError:
        raise ValueError(f"{path}: expected the arrays {ARRAYS}, found {found}; {ADVICE}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected a readable .npz file, but: {error}; {ADVICE}") from error
    _check_arrays(path, *arrays)
    return arrays


def _check_arrays(path: Path, images: np.ndarray, values: np.ndarray, classes: np.ndarray) -> None:
    n = len(images) if images.ndim else 0
    shapes_agree = images.shape[1:2] * 2 == images.shape[1:] and values.shape == classes.shape == (n, 6)
    kinds_agree = images.dtype == np.uint8 and values.dtype.kind == "f" and classes.dtype.kind in "iu"
    if n == 0 or images.ndim != 3 or not shapes_agree or not kinds_agree:
        found = ", ".join(f"{array.dtype} {array.shape}" for array in (images, values, classes))
        raise ValueError(
            f"{path}: expected imgs uint8 (N, s, s), latents_values float (N, 6), latents_classes int (N, 6), "
            f"found {found}; {ADVICE}"
        )
    if images.max() > 1 or classes.min() < 0 or not np.isfinite(values).all():
        raise ValueError(f"{path}: expected pixels 0 or 1, classes from 0 and finite values; {ADVICE}")
