"""Experiments of lesson 05: pairs of digit domains, five ways to a classifier for the target, the A-distance.

Labels of the target domain are used for two things only, both at the end: to report accuracies, and to train the
ceiling.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.datasets.digit_rendering import street_numbers
from course_lib.datasets.digits import digits
from course_lib.exercise import needs
from course_lib.experiments.factor_vae import make_discriminator
from course_lib.files import data_folder, read_table
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
BATCH = 32


def make_encoder() -> nn.Sequential:
    """x (B, 3, 32, 32) to features (B, 64): three convolutions of stride 2, with batch norm.

    The first layer gives each image mean 0 and variance 1, so that the range of a domain's pixels cannot matter. The
    last batch norm learns nothing (affine=False): features have mean 0 and variance 1, too, so no game can be won by
    changing their scale.
    """
    layers: list[nn.Module] = [nn.GroupNorm(1, 3, affine=False)]
    for width_in, width_out, kernel in ((3, 16, 5), (16, 32, 5), (32, 64, 3)):
        layers += [nn.Conv2d(width_in, width_out, kernel, stride=2, padding=kernel // 2)]
        layers += [nn.BatchNorm2d(width_out), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(64 * 16, FEATURES), nn.BatchNorm1d(FEATURES, affine=False)
    )


@torch.no_grad()
def take_statistics(encoder: nn.Module, x: Tensor) -> nn.Module:
    """Give the encoder's batch norms the means and variances of images x (N, 3, 32, 32); in place, then in eval mode.

    Of a target's images this is adaptive batch norm, Li et al. (2016), https://arxiv.org/abs/1603.04779. All images pass
    at once, so each layer's statistics are those that it has when the layers before it have theirs.
    """
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # an average of all batches, here of one
    encoder.train()(x)
    return encoder.eval()


def make_classifier() -> nn.Linear:
    """Features (B, 64) to the logits of the ten digits (B, 10)."""
    return nn.Linear(FEATURES, CLASSES)


HALF = 5000  # of the bundled MNIST training digits


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
    source_test_x: Tensor
    source_test_y: Tensor
    test_x: Tensor
    test_y: Tensor

    @property
    def name(self) -> str:
        return f"{self.source} → {self.target}"


def load_pair(source: str, target: str, n: int = 4000, device: torch.device | str = "cpu") -> Pair:
    """n training images of each domain (of optdigits all 1,297), and up to 2,000 test images.

    mnist_m is made of mnist. A source takes its digits from the first half of them, a target from the second, so no digit
    is in both domains, with one look here and another there; n ≤ 5000. "synth alone" is synth, drawn without the
    neighbours of the middle digit and else alike.
    """
    if not 1 <= n <= HALF:
        raise ValueError(f"n: expected 1 to {HALF}, half of the bundled mnist, got {n}")

    def part(domain: str, split: str, first: int, count: int) -> tuple[Tensor, Tensor]:
        if domain == "synth alone":
            generator = torch.Generator().manual_seed(int(split == "test"))  # as `digits` draws synth
            return tuple(t.to(device) for t in street_numbers(count, generator, neighbours=False))
        first, count = {"optdigits": (0, None), "synth": (0, count)}.get(domain, (first, first + count))
        return tuple(t[first:] for t in digits(domain, split, n=count, device=device))

    train = part(source, "train", 0, n), part(target, "train", HALF, n)
    test = part(source, "test", 0, 2000), part(target, "test", 0, 2000)
    return Pair(source, target, *train[0], *train[1], *test[0], *test[1])


def skewed(x: Tensor, y: Tensor, digits_kept: int) -> Tensor:
    """The images of the digits 0 … digits_kept − 1 alone: a target whose labels are distributed unlike the source's."""
    return x[y < digits_kept]


def draw(n: int, generator: torch.Generator) -> Tensor:
    """The rows of a minibatch out of n, (BATCH,), on the generator's device."""
    return torch.randint(n, (BATCH,), generator=generator, device=generator.device)


# ------------------------------------------------------------------ training


PRETRAINING, GAME = 300, 1500  # steps of ADDA's two stages; every other method takes as many in one
LR, CRITIC_LR = 1e-4, 1e-3  # of ADDA's game


def pretrain(
    x: Tensor, y: Tensor, seed: int, steps: int = PRETRAINING
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

    history = fit(step, steps, label=f"pre-training, seed {seed}", draws=generator)
    return take_statistics(encoder, x), classifier.eval(), history


def adapt(
    encoder: nn.Module,
    source_x: Tensor,
    target_x: Tensor,
    seed: int,
    steps: int = GAME,
    lr: float = LR,
    label: str = "ADDA",
) -> tuple[nn.Module, dict[str, Tensor]]:
    """ADDA: a target encoder, adapted from `encoder` without any label, and the history of the game's losses.

    `encoder` (in eval mode) is frozen here. The target encoder starts as its copy, but with the target's statistics in its
    batch norms. Its small learning rate lets the critic keep up.
    """
    generator = torch.Generator(source_x.device).manual_seed(seed)
    encoder.eval().requires_grad_(False)
    with seeded(seed):
        target_encoder = copy_encoder(encoder)
        critic = make_discriminator(FEATURES, layers=2).to(source_x.device)
    take_statistics(target_encoder, target_x)
    optimisers = [
        torch.optim.Adam(module.parameters(), lr=rate, betas=(0.5, 0.99), fused=True)
        for module, rate in ((target_encoder, lr), (critic, CRITIC_LR))
    ]
    players = Players(encoder, target_encoder, critic, *optimisers)

    def step(i: int) -> dict[str, Tensor]:
        source, target = (x[draw(len(x), generator)] for x in (source_x, target_x))
        return adda_step(players, source, target)

    return target_encoder, fit(step, steps, label=f"{label}, seed {seed}", draws=generator)


def train_jointly(
    method: str, pair: Pair, seed: int, steps: int = PRETRAINING + GAME, weight: float | None = None
) -> tuple[nn.Module, nn.Module]:
    """One encoder for both domains, and a classifier, trained from scratch; both in eval mode.

    method  "CORAL" adds `coral_loss` to the source's cross-entropy, "reversal" a critic behind `gradient_reverse`.
    weight  of that; the one of CHOSEN where None is given.

    Each domain passes the encoder as a batch of its own, normalised by itself. The statistics in the end are the target's.
    """
    if method not in ALIGNMENTS:
        raise ValueError(f"method: expected one of {', '.join(ALIGNMENTS)}, got {method!r}")
    x, y, target_x = pair.x, pair.y, pair.target_x
    generator = torch.Generator(x.device).manual_seed(seed)
    weight = CHOSEN[method] if weight is None else weight
    with seeded(seed):
        encoder, classifier = make_encoder().to(x.device), make_classifier().to(x.device)
        alignment, extra = ALIGNMENTS[method](steps, weight, x.device)
    parameters = [*encoder.parameters(), *classifier.parameters(), *extra]
    optimiser = torch.optim.Adam(parameters, lr=2e-3, fused=True)

    def step(i: int) -> dict[str, Tensor]:
        rows = draw(len(x), generator)
        source, target = encoder(x[rows]), encoder(target_x[draw(len(target_x), generator)])
        cross_entropy, distance = F.cross_entropy(classifier(source), y[rows]), alignment(i, source, target)
        descend(optimiser, cross_entropy + distance)
        return {"cross-entropy": cross_entropy, "alignment": distance}

    fit(step, steps, label=f"{method}, seed {seed}")
    return take_statistics(encoder, target_x), classifier.eval()


Alignment = tuple[Callable[[int, Tensor, Tensor], Tensor], list[nn.Parameter]]


def coral_alignment(steps: int, weight: float, device: torch.device) -> Alignment:
    return lambda i, source, target: weight * coral_loss(source, target), []


def reversal_alignment(steps: int, weight: float, device: torch.device) -> Alignment:
    """The critic's cross-entropy behind a reversal whose weight rises from 0 (Ganin & Lempitsky's schedule)."""
    critic = make_discriminator(FEATURES, layers=2).to(device)

    def alignment(i: int, source: Tensor, target: Tensor) -> Tensor:
        now = weight * (2 / (1 + math.exp(-10 * i / steps)) - 1)
        logits = critic(gradient_reverse(torch.cat([source, target]), now))
        labels = torch.zeros_like(logits)
        labels[: len(source)] = 1
        return F.binary_cross_entropy_with_logits(logits, labels)

    return alignment, list(critic.parameters())


ALIGNMENTS = {"CORAL": coral_alignment, "reversal": reversal_alignment}
METHODS = ("source only", "AdaBN", "CORAL", "reversal", "ADDA", "target-trained")
NEEDS = {"CORAL": (coral_loss,), "reversal": (gradient_reverse,), "ADDA": (copy_encoder, adda_step)}
SETTINGS = {  # tried: weights of CORAL and of the reversed gradient, learning rates of ADDA's target encoder
    "CORAL": (10.0, 100.0, 1000.0),
    "reversal": (0.1, 1.0),
    "ADDA": (1e-4, 2e-4),
}
CHOSEN = {"CORAL": 10.0, "reversal": 0.1, "ADDA": LR}  # what `choose` finds in the table


def compare(
    pair: Pair,
    seed: int,
    methods: tuple[str, ...] = METHODS,
    settings: dict[str, float] = CHOSEN,
    steps: tuple[int, int] = (PRETRAINING, GAME),
) -> dict[str, dict[str, float]]:
    """For each method "target accuracy", "source accuracy" (both on test images) and "information", from one seed.

    Every method has the same number of updates of an encoder, sum(steps); those of ADDA are split. All trained encoders
    have the batch-norm statistics of the domain that they are used on, but for "source only", which is "AdaBN" without them.
    """
    needs(*(ex for method in methods for ex in NEEDS.get(method, ())))
    trained = functools.cache(lambda steps: pretrain(pair.x, pair.y, seed, steps)[:2])

    def networks(method: str) -> tuple[nn.Module, nn.Module, nn.Module]:
        """An encoder for the target, one for the source, and their classifier."""
        if method in ALIGNMENTS:
            encoder, classifier = train_jointly(method, pair, seed, sum(steps), settings[method])
            return encoder, take_statistics(copy.deepcopy(encoder), pair.x), classifier
        if method == "target-trained":
            encoder, classifier, _ = pretrain(pair.target_x, pair.target_y, seed, sum(steps))
            return encoder, take_statistics(copy.deepcopy(encoder), pair.x), classifier
        source, classifier = trained(steps[0] if method == "ADDA" else sum(steps))
        if method == "source only":
            return source, source, classifier
        if method == "AdaBN":
            return take_statistics(copy.deepcopy(source), pair.target_x), source, classifier
        lr = settings["ADDA"]
        return adapt(source, pair.x, pair.target_x, seed, steps[1], lr)[0], source, classifier

    def measure(encoder: nn.Module, source: nn.Module, classifier: nn.Module) -> dict[str, float]:
        return {
            "target accuracy": accuracy(encoder, classifier, pair.test_x, pair.test_y).item(),
            "source accuracy": accuracy(source, classifier, pair.source_test_x, pair.source_test_y).item(),
            "information": information(encoder, classifier, pair.target_x).item(),
        }

    return {method: measure(*networks(method)) for method in methods}


# ------------------------------------------------------------------ the long comparison (`benchmarks/adaptation.py --write`)

PAIRS = (("mnist", "optdigits"), ("mnist", "mnist_m"))
STREET = (("synth", "mnist"), ("synth alone", "mnist"))
SEEDS = range(5)
TRIAL_SEED = 100  # the settings are tried with this one, on the first pair
TEXTS = ("pair", "method", "machine")  # columns of the table that are no numbers


def read_comparison(table: Path | None = None) -> list[dict]:
    """The rows of data/sweeps/adaptation.csv, numbers as numbers; what a method has no setting of is left out."""
    table = table or data_folder() / "sweeps/adaptation.csv"
    return read_table(table, TEXTS)


def accuracies(rows: list[dict], pair: str, method: str) -> list[float]:
    """The accuracies on the target of a pair and a method, one a seed, but for the trials of settings."""
    return [
        row["target accuracy"]
        for row in rows
        if (row["pair"], row["method"]) == (pair, method) and row["seed"] != TRIAL_SEED
    ]


def choose(rows: list[dict]) -> dict[str, float]:
    """For each method of SETTINGS the one whose trial ended with the largest information: no label of the target counts."""
    trials = [row for row in rows if row["seed"] == TRIAL_SEED]
    return {
        method: max((r for r in trials if r["method"] == method), key=lambda r: r["information"])["setting"]
        for method in SETTINGS
    }


# ------------------------------------------------------------------ looking at it


@torch.no_grad()
def encode(encoder: nn.Module, x: Tensor) -> Tensor:
    """Features (N, 64) of all images, in the encoder's present mode."""
    return torch.cat([encoder(part) for part in x.split(500)])


@torch.no_grad()
def accuracy(encoder: nn.Module, classifier: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The share of images whose digit is recognised, a scalar."""
    return (classifier(encode(encoder, x)).argmax(1) == y).float().mean()


@torch.no_grad()
def information(encoder: nn.Module, classifier: nn.Module, x: Tensor) -> Tensor:
    """I(image; predicted digit) over images x, in nats: the entropy of the mean prediction less the mean entropy.

    It needs no label. It is at most log 10, where every prediction is sure and all digits are predicted equally often, and 0
    where all images get the same prediction. Bridle, Heading & MacKay (1991).
    """
    p = classifier(encode(encoder, x)).softmax(1)

    def entropy(p: Tensor) -> Tensor:
        return torch.special.entr(p).sum(-1)

    return entropy(p.mean(0)) - entropy(p).mean()


def a_distance(source: Tensor, target: Tensor, steps: int = 300, label: str = "domain classifier") -> Tensor:
    """`proxy_a_distance` of (N, D) and (M, D), features or what a classifier makes of them: a fresh, small critic tells.

    It learns on one half of each domain and is tested on the other. In 64 features even a small one finds the difference
    between any two domains, and the distance is 2 for all; in ten class probabilities it has room to differ.
    """
    source, target = source.detach(), target.detach()
    generator = torch.Generator(source.device).manual_seed(0)
    halves = [
        x[torch.randperm(len(x), generator=generator, device=x.device)].chunk(2) for x in (source, target)
    ]
    (train_s, test_s), (train_t, test_t) = halves
    with seeded(0):
        critic = make_discriminator(source.shape[1], width=32, layers=2).to(source.device)
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3, fused=True)

    def step(i: int) -> dict[str, Tensor]:
        batch = [x[draw(len(x), generator)] for x in (train_s, train_t)]
        loss = domain_critic_loss(critic, *batch)
        descend(optimiser, loss)
        return {"critic loss": loss}

    fit(step, steps, label=label, draws=generator)
    with torch.no_grad():
        return proxy_a_distance(critic(test_s), critic(test_t))


def plane(features: Tensor) -> Callable[[Tensor], Tensor]:
    """The first two principal components of `features` (N, D), as a map of features (M, D) to the plane (M, 2)."""
    mean = features.mean(0)
    _, _, directions = torch.linalg.svd(features - mean, full_matrices=False)
    return lambda other: (other - mean) @ directions[:2].T
