"""Digits that are made here: MNIST-M blended with photographs, and street-number-like digits drawn from fonts.

Ganin & Lempitsky (2015), https://arxiv.org/abs/1409.7495, describe both kinds (theirs use other photographs and fonts).
"""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey: ITU-R BT.601
FONTS = (  # TrueType files that matplotlib ships
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSansMono"),
    *("DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral"),
    *("STIXGeneralBol", "STIXGeneralItalic", "cmss10", "cmb10", "cmtt10"),
)
SIZE = 32  # pixels along each side of an image
ATLAS = 48  # pixels of a glyph's field, which spans
SPAN = 2.0  # digit heights
CHUNK = 1024  # images drawn at once


def uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator)


# ------------------------------------------------------------------ MNIST-M


@functools.cache
def photographs() -> Tensor:
    """The two photographs that scikit-learn ships, (2, H, W, 3), uint8."""
    from sklearn.datasets import load_sample_image

    return torch.stack([torch.tensor(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")])


def blend(digits: Tensor, generator: torch.Generator) -> Tensor:
    """|background − digit| per channel: digits (N, 1, S, S) in [0, 1] to (N, 3, S, S) in [0, 1] on the same device.

    Each background is a crop of its own, at a random place in one of the photographs, drawn by a CPU generator.
    """
    n, size, photos = len(digits), digits.shape[-1], photographs()
    count, height, width, _ = photos.shape
    places = [
        torch.randint(high, (n, 1, 1), generator=generator).to(digits.device)
        for high in (count, height - size + 1, width - size + 1)
    ]
    photo, top, left = places
    pixel = torch.arange(size, device=digits.device)
    photos = photos.to(digits.device)
    crops = photos[photo, top + pixel[:, None], left + pixel]  # (N, S, S, 3)
    return (crops.permute(0, 3, 1, 2).float() / 255 - digits).abs()


# ------------------------------------------------------------------ digits from fonts


@functools.cache
def glyphs() -> tuple[Tensor, Tensor]:
    """For each font and digit: the signed distance to its outline (F · 10, 1, ATLAS, ATLAS), and its width (F · 10,).

    Lengths are in heights of the digit, inside is positive. A digit stands in the middle of a field of SPAN × SPAN.
    """
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont
    from scipy.ndimage import distance_transform_edt

    fine, fields, widths = 3 * ATLAS, [], []
    for name in FONTS:
        font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{name}.ttf", 90)
        for digit in "0123456789":
            left, top, right, bottom = font.getbbox(digit)
            image = Image.new("L", (fine, fine))
            corner = (fine / 2 - (left + right) / 2, fine / 2 - (top + bottom) / 2)
            ImageDraw.Draw(image).text(corner, digit, fill=255, font=font)
            inside = np.asarray(image) > 127
            # To the nearest pixel of the other side; the outline lies half a pixel before it.
            field = distance_transform_edt(inside) - distance_transform_edt(~inside) - inside + 0.5
            height = bottom - top
            fields.append(_resample(torch.from_numpy(field).float() / height, height, fine))
            widths.append((right - left) / height)
    return torch.stack(fields), torch.tensor(widths)


def _resample(field: Tensor, height: int, fine: int) -> Tensor:
    """A field (fine, fine) around a glyph of `height` pixels to (1, ATLAS, ATLAS) that spans SPAN heights."""
    axis = torch.linspace(-1, 1, ATLAS) * SPAN * height / fine  # of the fine image: −1 … 1
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([u, v], dim=-1)[None]
    return F.grid_sample(field[None, None], grid, padding_mode="border", align_corners=True)[0]


def street_numbers(n: int, generator: torch.Generator, neighbours: bool = True) -> tuple[Tensor, Tensor]:
    """n images (n, 3, 32, 32) in [0, 1] and the labels (n,) of their middle digits, on the CPU generator's draws.

    One to three digits in one font: the middle one is the label, and there may be one to its left, to its right, or
    both, as in SVHN; without neighbours the same images, but for these. Random place, height, rotation, blur, stroke
    around the digits, and colours.
    """
    parts = [_draw_numbers(min(CHUNK, n - i), generator, neighbours) for i in range(0, n, CHUNK)]
    images, labels = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(labels)


def _draw_numbers(n: int, generator: torch.Generator, neighbours: bool) -> tuple[Tensor, Tensor]:
    fields, widths = glyphs()
    digits = torch.randint(10, (n, 3), generator=generator)  # left, middle, right
    glyph = 10 * torch.randint(len(FONTS), (n, 1), generator=generator) + digits
    present = torch.rand(n, 3, generator=generator) < torch.tensor([0.5, 2.0, 0.5])
    present &= torch.tensor([neighbours, True, neighbours])
    height = uniform(generator, 0.5, 0.85, n) * SIZE  # pixels
    u, v = _text_coordinates(height, generator)  # (n, S, S) each, in digit heights

    w = widths[glyph]  # (n, 3)
    gap = uniform(generator, 0.05, 0.2, n)
    offset = torch.stack(
        [-(w[:, 0] + w[:, 1]) / 2 - gap, torch.zeros(n), (w[:, 1] + w[:, 2]) / 2 + gap], dim=1
    )
    grid = torch.stack([u[:, None] - offset[:, :, None, None], v[:, None].expand(-1, 3, -1, -1)], dim=-1)
    grid = grid.flatten(0, 1) * 2 / SPAN  # (3n, S, S, 2)
    distance = F.grid_sample(fields[glyph.flatten()], grid, padding_mode="border", align_corners=True)
    distance = distance.view(n, 3, SIZE, SIZE) * height[:, None, None, None]  # pixels
    distance = distance.masked_fill(~present[:, :, None, None], -SIZE).amax(1, keepdim=True)
    return _paint(distance, generator), digits[:, 1]


def _text_coordinates(height: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Where pixel centres lie, seen from the middle digit: right and down, (n, S, S), in digit heights."""
    n = len(height)
    angle = uniform(generator, -0.35, 0.35, n, 1, 1)  # radians
    shift = uniform(generator, -0.08, 0.08, 2, n, 1, 1) * SIZE
    pixel = torch.arange(SIZE) + 0.5 - SIZE / 2
    x, y = pixel - shift[0], pixel[:, None] - shift[1]
    scale = height[:, None, None]
    return (angle.cos() * x + angle.sin() * y) / scale, (angle.cos() * y - angle.sin() * x) / scale


def _paint(distance: Tensor, generator: torch.Generator) -> Tensor:
    """Colours for the signed distances (n, 1, S, S), in pixels, from the outline: (n, 3, S, S)."""
    n = len(distance)
    background, ink = _colours(n, generator)
    stroke = torch.rand(n, 3, 1, 1, generator=generator)  # a line around the digits; often none
    width = uniform(generator, -1.5, 1.5, n, 1, 1, 1).clamp(min=0)
    blur = uniform(generator, 1, 4, n, 1, 1, 1)  # pixels from nothing to full ink

    def cover(d: Tensor) -> Tensor:
        t = (0.5 + d / blur).clamp(0, 1)
        return t * t * (3 - 2 * t)

    image = torch.lerp(background, stroke, cover(distance + width) * (width > 0))
    return torch.lerp(image, ink, cover(distance))


def _colours(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Background and ink (n, 3, 1, 1): of four random inks, the one that differs most in brightness."""
    background = torch.rand(n, 1, 3, generator=generator)
    inks = torch.rand(n, 4, 3, generator=generator)
    contrast = ((inks - background) @ torch.tensor(LUMA)).abs()  # (n, 4)
    best = contrast.argmax(1)
    ink = inks[torch.arange(n), best]
    return background.view(n, 3, 1, 1), ink.view(n, 3, 1, 1)
