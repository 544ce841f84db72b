"""Networks: a convolutional VAE for 64×64 or 32×32 images, and a plain MLP. They know nothing of training."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

WIDTHS = {64: (32, 32, 64, 64), 32: (16, 32, 32)}  # channels of the layers that halve the image, down to 4×4
HIDDEN = {64: 256, 32: 128}


class Encoder(nn.Module):
    """x (B, C, S, S) in [0, 1] to the mean and log variance of q(z|x), (B, D) each.

    S = 64 is the architecture of Locatello et al. (2019) with 4×4 kernels in every layer, as in Kim and Mnih (2018):
    convolutions of stride 2, one hidden layer, ReLU. S = 32 is a smaller one of the same kind. No batch norm: q(z|x)
    of an image must not depend on the other images of its batch.
    """

    def __init__(self, latents: int = 10, size: int = 64, channels: int = 1):
        super().__init__()
        widths = _widths(latents, size, channels)
        self.shape = (channels, size, size)
        layers: list[nn.Module] = []
        for width_in, width_out in zip((channels, *widths), widths, strict=False):
            layers += [nn.Conv2d(width_in, width_out, 4, stride=2, padding=1), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.head = mlp(widths[-1] * 16, HIDDEN[size], 2 * latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[1:] != self.shape:
            raise ValueError(f"images: this model expects (B, {_shape(self.shape)}), got {tuple(x.shape)}")
        mean, log_var = self.head(self.convolutions(x)).chunk(2, dim=1)
        return mean, log_var


class Decoder(nn.Module):
    """z (B, D) to the logits of p(x|z), (B, C, S, S): the mirror image of the encoder.

    Logits, not probabilities: the likelihood is stable in logits, and `.sigmoid()` is the picture.
    """

    def __init__(self, latents: int = 10, size: int = 64, channels: int = 1):
        super().__init__()
        widths = _widths(latents, size, channels)[::-1]
        self.latents = latents
        layers: list[nn.Module] = [nn.ReLU(), nn.Unflatten(1, (widths[0], 4, 4))]
        for width_in, width_out in zip(widths, (*widths[1:], channels), strict=True):
            layers += [nn.ConvTranspose2d(width_in, width_out, 4, stride=2, padding=1), nn.ReLU()]
        self.head = mlp(latents, HIDDEN[size], widths[0] * 16)
        self.convolutions = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor) -> Tensor:
        if z.ndim != 2 or z.shape[1] != self.latents:
            raise ValueError(f"codes: this model expects (B, {self.latents}), got {tuple(z.shape)}")
        return self.convolutions(self.head(z))


class VAE(nn.Module):
    """An encoder q(z|x) and a decoder p(x|z). Sampling and the loss are the student's (lessons.elbo)."""

    def __init__(self, latents: int = 10, size: int = 64, channels: int = 1):
        super().__init__()
        self.encoder = Encoder(latents, size, channels)
        self.decoder = Decoder(latents, size, channels)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, S, S) to mean (B, D), log_var (B, D)."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """z (B, D) to logits (B, C, S, S)."""
        return self.decoder(z)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths, input first, with ReLU between them."""
    if len(widths) < 2 or not all(type(w) is int and w > 0 for w in widths):
        raise ValueError(f"mlp: expected at least two positive widths, input first, got {widths}")
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _widths(latents: int, size: int, channels: int) -> tuple[int, ...]:
    if size not in WIDTHS:
        raise ValueError(f"size: expected one of {tuple(WIDTHS)} pixels, got {size!r}")
    if latents < 1 or channels < 1:
        raise ValueError(f"expected at least one latent and one channel, got {latents} and {channels}")
    return WIDTHS[size]


def _shape(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
