"""Scenes put together from pictures: two side by side, behind clouds, in front of a texture.

Everything runs for the whole batch at once on the device of its inputs; random numbers come from a torch.Generator,
drawn where it lives.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = 0.5
CELLS = 4  # independent cells of cloud along each side of an image


class Pool:
    """Images (N, C, S, S) and labels (N,), from which images of wanted classes are drawn at random.

    The labels are sorted once; after that a draw reads nothing on the host.
    """

    def __init__(self, images: Tensor, labels: Tensor, classes: int):
        if images.ndim != 4 or labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"expected images (N, C, S, S) and int64 labels (N,), got {tuple(images.shape)} and "
                f"{labels.dtype} {tuple(labels.shape)}"
            )
        count = torch.zeros(classes, dtype=torch.int64, device=labels.device)
        self.count = count.index_add_(0, labels, torch.ones_like(labels))
        if (self.count == 0).any():
            raise ValueError(f"labels: expected each of {classes} classes, got counts {self.count.tolist()}")
        self.images = images[labels.argsort(stable=True)]
        self.first = self.count.cumsum(0) - self.count

    def draw(self, wanted: Tensor, generator: torch.Generator) -> Tensor:
        """Images (n, C, S, S) of the wanted classes (n,), each uniform among those of its class."""
        u = torch.rand(len(wanted), generator=generator, device=generator.device).to(wanted.device)
        row = (u * self.count[wanted]).long().clamp(max=self.count[wanted] - 1)
        return self.images[self.first[wanted] + row]


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Two pictures (N, C, S, S) in one, (N, C, S, 2S)."""
    if left.shape != right.shape or left.ndim != 4:
        raise ValueError(
            f"expected two batches of one shape (N, C, S, S), got {tuple(left.shape)}, {tuple(right.shape)}"
        )
    return torch.cat([left, right], dim=3)


def occlude(images: Tensor, threshold: float, generator: torch.Generator) -> Tensor:
    """Images (N, C, S, S) behind grey clouds: 0.5 where smooth noise is above the threshold in [0, 1].

    The noise is uniform on 4x4 points, other ones for every image, and bilinear between them. Funke et al. (2022),
    https://arxiv.org/abs/2112.14754.
    """
    if images.ndim != 4 or images.shape[-1] != images.shape[-2]:
        raise ValueError(f"images: expected shape (N, C, S, S), got {tuple(images.shape)}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: expected a number in [0, 1], got {threshold!r}")
    noise = _clouds(len(images), images.shape[-1], generator, images.device)
    return torch.where(noise > threshold, GREY, images)


def textures(kind: Tensor, generator: torch.Generator, size: int = 32) -> Tensor:
    """Colour images (N, 3, size, size) in [0, 1] of textures (N,): 0 stripes, 1 dots.

    Turn, width, place and the two colours are random for every image and alike for both kinds.
    """
    _check_kind(kind)
    n, device = len(kind), kind.device
    turn, width, *place = _uniform((4, n, 1, 1), generator, device)
    frequency = math.tau / (size * (0.2 + 0.15 * width))  # 3 to 5 periods in the image
    pixel = torch.arange(size, device=device) + 0.5 - size / 2
    cos, sin = (math.tau * turn).cos(), (math.tau * turn).sin()
    u = frequency * (cos * pixel - sin * pixel[:, None]) + math.tau * place[0]  # (n, size, size)
    v = frequency * (sin * pixel + cos * pixel[:, None]) + math.tau * place[1]
    wave = torch.where(kind[:, None, None] == 0, u.sin(), u.sin() + v.sin() - 0.9)
    amount = torch.sigmoid(4 * wave)[:, None]  # soft edges: no aliasing
    # Not used: the recorded numbers of lesson 07 were drawn with these in between.
    _uniform((n, 1, CELLS, CELLS), generator, device)
    dark, light = _uniform((2, n, 3, 1, 1), generator, device)
    return amount * (0.4 + 0.6 * light) + (1 - amount) * 0.4 * dark


def place(mask: Tensor, colour: Tensor, background: Tensor) -> Tensor:
    """A figure in front of a background: mask · colour + (1 − mask) · background, (N, 3, S, S).

    mask (N, 1, S, S) in [0, 1]; colour (N, 3) or an image (N, 3, S, S); background (N, 3, S, S).
    """
    if colour.ndim == 2:
        colour = colour[:, :, None, None]
    if mask.shape != (len(background), 1, *background.shape[2:]) or background.shape[1:2] != (3,):
        raise ValueError(
            f"expected mask (N, 1, S, S) and background (N, 3, S, S), got {tuple(mask.shape)} and "
            f"{tuple(background.shape)}"
        )
    return mask * colour + (1 - mask) * background


def _clouds(n: int, size: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Uniform noise on 4x4 points, bilinear between them, (n, 1, size, size)."""
    noise = _uniform((n, 1, CELLS, CELLS), generator, device)
    return F.interpolate(noise, size=(size, size), mode="bilinear", align_corners=False)


def _uniform(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """U(0, 1), drawn where the generator is: a CPU generator gives the same numbers for every device."""
    return torch.rand(shape, generator=generator, device=generator.device).to(device)


def _check_kind(kind: Tensor) -> None:
    if not isinstance(kind, Tensor) or kind.dtype != torch.int64 or kind.ndim != 1:
        got = f"{kind.dtype} {tuple(kind.shape)}" if isinstance(kind, Tensor) else type(kind).__name__
        raise TypeError(f"kind: expected int64 labels (N,), got {got}")
    if kind.device.type == "cpu" and len(kind) and not (kind.min() >= 0 and kind.max() <= 1):
        raise ValueError(f"kind: expected labels 0 and 1, got {int(kind.min())} to {int(kind.max())}")
