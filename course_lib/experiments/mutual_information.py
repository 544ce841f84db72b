"""Experiments of lesson 01: a critic of pairs, and two supervised subspaces that leak into each other."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.datasets.sprites import Sprites
from course_lib.exercise import needs
from course_lib.lessons.mutual_information import (
    critic_loss,
    independence_loss,
    leakage,
    mmd2,
    mutual_information_from_logits,
    shuffle_across_batch,
)
from course_lib.models import mlp
from course_lib.training import descend, fit, fit_classifier, normal_like, seeded

# ------------------------------------------------------------------ a critic of pairs


def critic_logits(
    critic: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The critic's logits (B,) on pairs (x_i, y_i) and on pairs with y shuffled. x (B, D), y (B, E)."""
    joint = torch.cat([x, y], dim=1)
    shuffled = torch.cat([x, shuffle_across_batch(y, generator)], dim=1)
    return critic(torch.cat([joint, shuffled])).squeeze(1).chunk(2)


def train_critic(
    sample: Callable[[int, torch.Generator], tuple[Tensor, Tensor]],
    generator: torch.Generator,
    steps: int = 1500,
    batch: int = 512,
    label: str = "critic",
) -> tuple[nn.Module, dict[str, Tensor]]:
    """An MLP critic of pairs `sample(batch, generator)`, and its history, "ratio" and "bound" (steps,) in nats.

    Its first weights are drawn from the seed that the generator was made with.
    """
    x, y = sample(2, generator)
    with seeded(generator.initial_seed()):
        critic = mlp(x.shape[1] + y.shape[1], 64, 64, 1).to(x.device)
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3, fused=True)

    def step(i: int) -> dict[str, Tensor]:
        joint, shuffled = critic_logits(critic, *sample(batch, generator), generator)
        loss = critic_loss(joint, shuffled)
        descend(optimiser, loss)
        ratio, bound = mutual_information_from_logits(joint.detach(), shuffled.detach())
        return {"ratio": ratio, "bound": bound}

    return critic, fit(step, steps, label=label, draws=generator)


def gaussian_pairs(rho: float, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n pairs of standard normal numbers with correlation rho, (n, 1) each, on the generator's device."""
    if not -1 < rho < 1:
        raise ValueError(f"rho: expected a correlation inside (-1, 1), got {rho}")
    x, noise = torch.randn(2, n, 1, generator=generator, device=generator.device)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


# ------------------------------------------------------------------ two classifiers on two subspaces

ATTRIBUTES = ("column", "row")  # of an ellipse: in which quarter of the image it stands, across and down
CLASSES = 4
HALF = 4  # latents in each subspace
NOISE = 0.2  # of the channel noise, a standard deviation; that of the latents is 1


def ellipses(device: torch.device | str = "cpu") -> Sprites:
    """Upright ellipses, 32×32: six scales, 32 × 32 positions."""
    return Sprites(size=32, only={"shape": 1, "orientation": 0}, device=device).keep()


def attributes(factors: Tensor) -> Tensor:
    """Factors (N, 3) of `ellipses`, (scale, x, y), to the attributes (N, 2), int64: ⌊x / 8⌋ and ⌊y / 8⌋."""
    return factors[:, 1:] // 8


class TwoSubspaces(nn.Module):
    """An encoder x → (z1, z2), 4 latents each, a linear head for one attribute on each, and a decoder of both.

    Latents are scaled to mean 0 and variance 1 (nothing learned), so that no game can be won by shrinking them, and
    pass through noise, so that none can hide a second number in its last decimal places.
    """

    def __init__(self, noise: float = NOISE):
        super().__init__()
        self.noise = noise
        self.encoder = nn.Sequential(nn.Flatten(), mlp(32 * 32, 128, 2 * HALF))
        self.scale = nn.BatchNorm1d(2 * HALF, affine=False)
        self.heads = nn.ModuleList(nn.Linear(HALF, CLASSES) for _ in ATTRIBUTES)
        self.decoder = mlp(2 * HALF, 128, 32 * 32)

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x (B, 1, 32, 32) to z1, z2 (B, 4) each, channel noise included."""
        z = self.scale(self.encoder(x))
        return (z + self.noise * normal_like(z, generator)).chunk(2, dim=1)

    def head_loss(self, z1: Tensor, z2: Tensor, a: Tensor) -> Tensor:
        """The sum of both heads' cross-entropies, a scalar in nats. z1, z2 (B, 4), a (B, 2)."""
        pairs = zip(self.heads, (z1, z2), a.unbind(1), strict=True)
        return sum(F.cross_entropy(head(z), labels) for head, z, labels in pairs)

    def reconstruction_loss(self, z1: Tensor, z2: Tensor, x: Tensor) -> Tensor:
        """−log p(x|z1, z2) of binary pixels, in nats per image, averaged over the batch."""
        logits = self.decoder(torch.cat([z1, z2], dim=1))
        return F.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="sum") / len(x)


def train_subspaces(
    method: str,
    seed: int,
    steps: int = 400,
    batch: int = 256,
    noise: float = NOISE,
    momentum: float = 0.5,
    device: torch.device | str = "cpu",
    label: str = "",
) -> tuple[TwoSubspaces, dict[str, Tensor]]:
    """Two supervised subspaces of ellipses, their dependence left alone or removed; and the history.

    method    "none" trains heads and decoder alone; "critic" adds `independence_loss` against a critic that learns
              along; "MMD" adds `mmd2` between pairs and shuffled pairs.
    momentum  Adam's β1 of the encoder; with the usual 0.9 the two players overshoot, and the game circles instead of
              settling.
    """
    if method not in PENALTIES:
        raise ValueError(f"method: expected one of {tuple(PENALTIES)}, got {method!r}")
    generator = torch.Generator(device).manual_seed(seed)
    sprites = ellipses(device)
    with seeded(seed):
        model = TwoSubspaces(noise).to(device)
        penalty = PENALTIES[method](generator)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(momentum, 0.99), fused=True)

    def step(i: int) -> dict[str, Tensor]:
        x, factors = sprites.sample(batch, generator)
        z1, z2 = model(x, generator)
        heads = model.head_loss(z1, z2, attributes(factors))
        reconstruction, dependence = model.reconstruction_loss(z1, z2, x), penalty(z1, z2)
        descend(optimiser, heads + 0.1 * reconstruction + dependence)
        return {"heads": heads, "reconstruction": reconstruction, "penalty": dependence}

    history = fit(step, steps, label=f"{label or method}, seed {seed}", draws=generator)
    return model.eval(), history


def no_penalty(generator: torch.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda z1, z2: torch.zeros((), device=z1.device)


def critic_penalty(generator: torch.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    """Each call trains the critic three steps on detached codes, then gives the encoder's loss against it."""
    critic = mlp(2 * HALF, 128, 128, 1).to(generator.device)
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3, betas=(0.5, 0.99), fused=True)

    def penalty(z1: Tensor, z2: Tensor) -> Tensor:
        for _ in range(3):
            loss = critic_loss(*critic_logits(critic, z1.detach(), z2.detach(), generator))
            descend(optimiser, loss)
        return 2 * independence_loss(*critic_logits(critic, z1, z2, generator))

    return penalty


def mmd_penalty(generator: torch.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    """MMD² between pairs of one half of the batch and shuffled pairs of the other: two independent samples."""

    def penalty(z1: Tensor, z2: Tensor) -> Tensor:
        half = len(z1) // 2
        joint = torch.cat([z1[:half], z2[:half]], dim=1)
        shuffled = torch.cat([z1[half:], shuffle_across_batch(z2[half:], generator)], dim=1)
        return 200 * mmd2(joint, shuffled, bandwidth=1.0)

    return penalty


PENALTIES = {"none": no_penalty, "critic": critic_penalty, "MMD": mmd_penalty}
COMPARISON = (
    shuffle_across_batch,
    critic_loss,
    independence_loss,
    mmd2,
    leakage,
)  # what these and the probes call


# ------------------------------------------------------------------ probes


@torch.no_grad()
def codes_and_attributes(model: TwoSubspaces, n: int, seed: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Codes (z1, z2), (n, 4) each, and attributes (n, 2), of n freshly drawn ellipses."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    x, factors = ellipses(device).sample(n, generator)
    return model(x, generator), attributes(factors)


def train_probe(z: Tensor, a: Tensor, steps: int = 300, label: str = "probe") -> nn.Module:
    """An MLP that is taught, after the fact, to read attribute a (N,) off the frozen codes z (N, 4)."""
    return fit_classifier(z, a, CLASSES, hidden=64, lr=1e-2, batch=512, steps=steps, label=label)


def probe_subspaces(model: TwoSubspaces, n: int = 4096) -> tuple[Tensor, Tensor]:
    """Accuracy[subspace, attribute] and leakage[subspace, attribute] in nats, (2, 2) each, on fresh ellipses."""
    needs(leakage)
    accuracy, nats = torch.zeros(2, 2), torch.zeros(2, 2)
    (codes, a), (new_codes, new_a) = (codes_and_attributes(model, n, seed) for seed in (1, 2))
    for i in range(2):
        for j in range(2):
            probe = train_probe(codes[i], a[:, j], label=f"probe of z{i + 1} for the {ATTRIBUTES[j]}")
            with torch.no_grad():
                logits = probe(new_codes[i])
            accuracy[i, j] = (logits.argmax(1) == new_a[:, j]).float().mean()
            nats[i, j] = leakage(new_a[:, j], logits)
    return accuracy, nats
