"""Networks: VAEs for images of 64×64, 32×32 or 16×16 pixels, and a plain MLP. They know nothing of training."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# By image size. Each of the encoder's convolutions halves the image, down to 4×4: channels out, and kernel.
LAYERS = {64: ((32, 4), (32, 4), (64, 2), (64, 2)), 32: ((16, 4), (32, 4), (32, 4)), 16: ()}
HIDDEN = {64: (256,), 32: (128,), 16: (256, 256)}  # units of the hidden layers


class Encoder(nn.Module):
    """x (B, C, S, S) in [0, 1] to the mean and log variance of q(z|x), (B, D) each.

    S = 64 is the architecture of Locatello et al. (2019), https://arxiv.org/abs/1811.12359, after Burgess et al.
    (2018): convolutions of stride 2, one hidden layer, ReLU. S = 32 is a smaller one of the same kind; S = 16 has no
    convolution, but two hidden layers. No batch norm: q(z|x) of an image must not depend on the others of its batch.
    """

    def __init__(self, latents: int = 10, size: int = 64, channels: int = 1):
        super().__init__()
        _check(latents, size, channels)
        self.shape = (channels, size, size)
        layers: list[nn.Module] = []
        width_in = channels
        for width, kernel in LAYERS[size]:
            layers += [nn.Conv2d(width_in, width, kernel, stride=2, padding=kernel // 2 - 1), nn.ReLU()]
            width_in = width
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        side = size >> len(LAYERS[size])  # of the image that the convolutions leave
        self.head = mlp(width_in * side**2, *HIDDEN[size], 2 * latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[1:] != self.shape:
            raise ValueError(f"images: this model expects (B, *{self.shape}), got {tuple(x.shape)}")
        mean, log_var = self.head(self.convolutions(x)).chunk(2, dim=1)
        return mean, log_var


class Decoder(nn.Module):
    """z (B, D) to the logits of p(x|z), (B, C, S, S): the mirror image of the encoder, but for 4×4 kernels only.

    Logits, not probabilities: the likelihood is stable in logits, and `.sigmoid()` is the picture.
    """

    def __init__(self, latents: int = 10, size: int = 64, channels: int = 1):
        super().__init__()
        _check(latents, size, channels)
        self.latents = latents
        widths = [*(width for width, _ in reversed(LAYERS[size])), channels]
        side = size >> len(LAYERS[size])  # of the image that the convolutions start from
        self.head = mlp(latents, *HIDDEN[size], widths[0] * side**2)
        layers: list[nn.Module] = [nn.Unflatten(1, (widths[0], side, side))]
        for width_in, width_out in pairwise(widths):
            layers += [nn.ReLU(), nn.ConvTranspose2d(width_in, width_out, 4, stride=2, padding=1)]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        if z.ndim != 2 or z.shape[1] != self.latents:
            raise ValueError(f"codes: this model expects (B, {self.latents}), got {tuple(z.shape)}")
        return self.convolutions(self.head(z))


class VAE(nn.Module):
    """An encoder q(z|x) and a decoder p(x|z). Sampling and the loss are the student's (lessons.elbo).

    outlines: how many of the latents, the last ones, are read from the outlines of x, by an encoder of their own; not all.
    """

    def __init__(self, latents: int = 10, size: int = 64, channels: int = 1, outlines: int = 0):
        super().__init__()
        _check(latents, size, channels)
        if type(outlines) is not int or not 0 <= outlines < latents:
            raise ValueError(f"outlines: expected an integer from 0 to {latents - 1}, got {outlines!r}")
        self.encoder = Encoder(latents - outlines, size, channels)
        self.decoder = Decoder(latents, size, channels)
        self.outline_encoder = Encoder(outlines, size) if outlines else None

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, S, S) to mean (B, D), log_var (B, D)."""
        mean, log_var = self.encoder(x)
        if self.outline_encoder is not None:
            more = self.outline_encoder(outlines(x))
            mean, log_var = (torch.cat(parts, dim=1) for parts in zip((mean, log_var), more, strict=True))
        return mean, log_var

    def decode(self, z: Tensor) -> Tensor:
        """z (B, D) to logits (B, C, S, S)."""
        return self.decoder(z)


def outlines(x: Tensor) -> Tensor:
    """How far each pixel's colour is from those of its neighbours on the right and below: (B, C, S, S) to (B, 1, S, S).

    √(Σ_c (right_c − x_c)² + (below_c − x_c)²), where a pixel at the edge is its own neighbour. Which of two colours lies
    on which side does not matter.
    """
    right = F.pad(x[..., 1:] - x[..., :-1], (0, 1))
    below = F.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
    return torch.cat([right, below], dim=1).norm(dim=1, keepdim=True)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths, input first, with ReLU between them."""
    if len(widths) < 2 or not all(type(w) is int and w > 0 for w in widths):
        raise ValueError(f"mlp: expected at least two positive widths, input first, got {widths}")
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _check(latents: int, size: int, channels: int) -> None:
    if size not in LAYERS:
        raise ValueError(f"size: expected one of {tuple(LAYERS)} pixels, got {size!r}")
    for name, number in (("latents", latents), ("channels", channels)):
        if type(number) is not int or number < 1:
            raise ValueError(f"{name}: expected a positive integer, got {number!r}")
