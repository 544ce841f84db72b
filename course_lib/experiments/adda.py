"""Experiments of lesson 05: pairs of digit domains, five ways to a classifier for the target, the A-distance.

Labels of the target domain are used for two things only, both at the end: to report accuracies, and to train the
ceiling.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.datasets.digits import digits
from course_lib.exercise import needs
from course_lib.lessons.adda import (
    Players,
    adda_step,
    copy_encoder,
    coral_loss,
    domain_critic_loss,
    gradient_reverse,
    proxy_a_distance,
)
from course_lib.training import descend, fit, seeded

# ------------------------------------------------------------------ networks and data

FEATURES = 64
CLASSES = 10
BATCH = 48


def make_encoder() -> nn.Sequential:
    """x (B, 3, 32, 32) to features (B, 64): three convolutions of stride 2, with batch norm.

    The last batch norm learns nothing (affine=False): features have mean 0 and variance 1 on the source, so no game can
    be won by changing their scale.
    """
    layers: list[nn.Module] = []
    for width_in, width_out, kernel in ((3, 16, 5), (16, 32, 5), (32, 64, 3)):
        layers += [nn.Conv2d(width_in, width_out, kernel, stride=2, padding=kernel // 2)]
        layers += [nn.BatchNorm2d(width_out), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(64 * 16, FEATURES), nn.BatchNorm1d(FEATURES, affine=False)
    )


def make_classifier() -> nn.Linear:
    """Features (B, 64) to the logits of the ten digits (B, 10)."""
    return nn.Linear(FEATURES, CLASSES)


def make_critic(features: int = FEATURES, width: int = 128) -> nn.Sequential:
    """Features (B, D) to the logit of "from the source", (B,)."""
    layers = [nn.Linear(features, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(width, 1), nn.Flatten(0))


@dataclass
class Pair:
    """A labelled source and an unlabelled target: images (N, 3, 32, 32), digits (N,).

    `target_y` and `test_y` are for the ceiling and for the final report. No method of adaptation is given either.
    """

    source: str
    target: str
    x: Tensor
    y: Tensor
    target_x: Tensor
    target_y: Tensor
    test_x: Tensor
    test_y: Tensor

    @property
    def name(self) -> str:
        return f"{self.source} → {self.target}"


def load_pair(source: str, target: str, n: int = 4000, device: torch.device | str = "cpu") -> Pair:
    """The first n training images of both domains (all where there are fewer), and the target's test images."""

    def part(domain: str, split: str, count: int) -> tuple[Tensor, Tensor]:
        return digits(domain, split, n=None if domain == "optdigits" else count, device=device)

    train, other, test = part(source, "train", n), part(target, "train", n), part(target, "test", 2000)
    return Pair(source, target, *train, *other, *test)


def skewed(x: Tensor, y: Tensor, digits_kept: int) -> Tensor:
    """The images of the digits 0 … digits_kept − 1 alone: a target whose labels are distributed unlike the source's."""
    return x[y < digits_kept]


def draw(n: int, generator: torch.Generator) -> Tensor:
    """The rows of a minibatch out of n, (BATCH,), on the generator's device."""
    return torch.randint(n, (BATCH,), generator=generator, device=generator.device)


# ------------------------------------------------------------------ training


def pretrain(
    x: Tensor, y: Tensor, seed: int, steps: int = 300
) -> tuple[nn.Sequential, nn.Linear, dict[str, Tensor]]:
    """An encoder and a classifier trained on labelled images, in eval mode, and the history of their loss."""
    generator = torch.Generator(x.device).manual_seed(seed)
    with seeded(seed):
        encoder, classifier = make_encoder().to(x.device), make_classifier().to(x.device)
    optimiser = torch.optim.Adam([*encoder.parameters(), *classifier.parameters()], lr=2e-3, fused=True)

    def step(i: int) -> dict[str, Tensor]:
        rows = draw(len(x), generator)
        loss = F.cross_entropy(classifier(encoder(x[rows])), y[rows])
        descend(optimiser, loss)
        return {"cross-entropy": loss}

    history = fit(step, steps, label=f"pre-training, seed {seed}")
    return encoder.eval(), classifier.eval(), history


def adapt(
    encoder: nn.Module,
    source_x: Tensor,
    target_x: Tensor,
    seed: int,
    steps: int = 300,
    lr: float = 1e-4,
    critic_lr: float = 1e-3,
    label: str = "ADDA",
) -> tuple[nn.Module, dict[str, Tensor]]:
    """ADDA: a target encoder, adapted from `encoder` without any label, and the history of the game's losses.

    `encoder` (in eval mode) is frozen here. The target encoder's small learning rate lets the critic keep up.
    """
    generator = torch.Generator(source_x.device).manual_seed(seed)
    encoder.eval().requires_grad_(False)
    with seeded(seed):
        target_encoder, critic = copy_encoder(encoder), make_critic().to(source_x.device)
    optimisers = [
        torch.optim.Adam(module.parameters(), lr=rate, betas=(0.5, 0.99), fused=True)
        for module, rate in ((target_encoder, lr), (critic, critic_lr))
    ]
    players = Players(encoder, target_encoder, critic, *optimisers)

    def step(i: int) -> dict[str, Tensor]:
        source, target = (x[draw(len(x), generator)] for x in (source_x, target_x))
        return adda_step(players, source, target)

    return target_encoder, fit(step, steps, label=f"{label}, seed {seed}")


def train_jointly(
    method: str, x: Tensor, y: Tensor, target_x: Tensor, seed: int, steps: int = 300
) -> tuple[nn.Module, nn.Module]:
    """One encoder for both domains, and a classifier, trained from scratch; both in eval mode.

    method  "CORAL" adds `coral_loss` to the source's cross-entropy, "reversal" a critic behind `gradient_reverse`.

    Both domains pass the encoder as one batch, so that batch norm treats them alike, in training and in the end.
    """
    if method not in ALIGNMENTS:
        raise ValueError(f"method: expected one of {', '.join(ALIGNMENTS)}, got {method!r}")
    generator = torch.Generator(x.device).manual_seed(seed)
    with seeded(seed):
        encoder, classifier = make_encoder().to(x.device), make_classifier().to(x.device)
        alignment, extra = ALIGNMENTS[method](steps, x.device)
    parameters = [*encoder.parameters(), *classifier.parameters(), *extra]
    optimiser = torch.optim.Adam(parameters, lr=2e-3, fused=True)

    def step(i: int) -> dict[str, Tensor]:
        rows = draw(len(x), generator)
        source, target = encoder(torch.cat([x[rows], target_x[draw(len(target_x), generator)]])).chunk(2)
        cross_entropy, distance = F.cross_entropy(classifier(source), y[rows]), alignment(i, source, target)
        descend(optimiser, cross_entropy + distance)
        return {"cross-entropy": cross_entropy, "alignment": distance}

    fit(step, steps, label=f"{method}, seed {seed}")
    return encoder.eval(), classifier.eval()


Alignment = tuple[Callable[[int, Tensor, Tensor], Tensor], list[nn.Parameter]]


def coral_alignment(steps: int, device: torch.device) -> Alignment:
    return lambda i, source, target: CORAL_WEIGHT * coral_loss(source, target), []


def reversal_alignment(steps: int, device: torch.device) -> Alignment:
    """The critic's cross-entropy behind a reversal whose weight rises from 0 (Ganin & Lempitsky's schedule)."""
    critic = make_critic().to(device)

    def alignment(i: int, source: Tensor, target: Tensor) -> Tensor:
        weight = REVERSAL_WEIGHT * (2 / (1 + math.exp(-10 * i / steps)) - 1)
        logits = critic(gradient_reverse(torch.cat([source, target]), weight))
        labels = torch.zeros_like(logits)
        labels[: len(source)] = 1
        return F.binary_cross_entropy_with_logits(logits, labels)

    return alignment, list(critic.parameters())


ALIGNMENTS = {"CORAL": coral_alignment, "reversal": reversal_alignment}
CORAL_WEIGHT = 100.0
REVERSAL_WEIGHT = 0.1
METHODS = ("source only", "CORAL", "reversal", "ADDA", "target-trained")
NEEDS = {"CORAL": (coral_loss,), "reversal": (gradient_reverse,), "ADDA": (copy_encoder, adda_step)}


def compare(pair: Pair, seed: int, methods: tuple[str, ...] = METHODS) -> dict[str, float]:
    """The accuracy of each method on the target's test images, from one seed. The same settings for every pair."""
    needs(*(ex for method in methods for ex in NEEDS.get(method, ())))

    @functools.cache
    def source() -> tuple[nn.Module, nn.Module]:
        return pretrain(pair.x, pair.y, seed)[:2]

    def adapted() -> tuple[nn.Module, nn.Module]:
        encoder, classifier = source()
        return adapt(encoder, pair.x, pair.target_x, seed)[0], classifier

    networks = {
        "source only": source,
        "CORAL": lambda: train_jointly("CORAL", pair.x, pair.y, pair.target_x, seed),
        "reversal": lambda: train_jointly("reversal", pair.x, pair.y, pair.target_x, seed),
        "ADDA": adapted,
        "target-trained": lambda: pretrain(pair.target_x, pair.target_y, seed)[:2],
    }
    return {m: accuracy(*networks[m](), pair.test_x, pair.test_y).item() for m in methods}


# ------------------------------------------------------------------ looking at it


@torch.no_grad()
def encode(encoder: nn.Module, x: Tensor) -> Tensor:
    """Features (N, 64) of all images, in the encoder's present mode."""
    return torch.cat([encoder(part) for part in x.split(500)])


@torch.no_grad()
def accuracy(encoder: nn.Module, classifier: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The share of images whose digit is recognised, a scalar."""
    return (classifier(encode(encoder, x)).argmax(1) == y).float().mean()


def a_distance(source: Tensor, target: Tensor, steps: int = 300, label: str = "domain classifier") -> Tensor:
    """`proxy_a_distance` of (N, D) and (M, D), features or what a classifier makes of them: a fresh critic tells.

    It learns on one half of each domain and is tested on the other.
    """
    source, target = source.detach(), target.detach()
    generator = torch.Generator(source.device).manual_seed(0)
    halves = [
        x[torch.randperm(len(x), generator=generator, device=x.device)].chunk(2) for x in (source, target)
    ]
    (train_s, test_s), (train_t, test_t) = halves
    with seeded(0):
        critic = make_critic(source.shape[1]).to(source.device)
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3, fused=True)

    def step(i: int) -> dict[str, Tensor]:
        batch = [x[draw(len(x), generator)] for x in (train_s, train_t)]
        loss = domain_critic_loss(critic, *batch)
        descend(optimiser, loss)
        return {"critic loss": loss}

    fit(step, steps, label=label)
    with torch.no_grad():
        return proxy_a_distance(critic(test_s), critic(test_t))


def plane(features: Tensor) -> Callable[[Tensor], Tensor]:
    """The first two principal components of `features` (N, D), as a map of features (M, D) to the plane (M, 2)."""
    mean = features.mean(0)
    _, _, directions = torch.linalg.svd(features - mean, full_matrices=False)
    return lambda other: (other - mean) @ directions[:2].T
