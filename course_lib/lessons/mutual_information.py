"""Lesson 01, mutual information: contracts, and the plain loops that are given.

Conventions: natural logarithms (nats); losses are averaged over the batch; logits are log odds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from course_lib.exercise import MB, exercise
from course_lib.exercise.probe import DRAWS, draws, expect_like, look_at_orders

# ------------------------------------------------------------------ plain loops, given


def contingency_table_loop(a: Tensor, b: Tensor, classes_a: int, classes_b: int) -> Tensor:
    """Count pairs one at a time on the host."""
    counts = Counter(zip(a.tolist(), b.tolist(), strict=True))
    return torch.tensor([[counts[i, j] for j in range(classes_b)] for i in range(classes_a)])


def mmd2_loop(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    """The unbiased MMD², one pair of points at a time."""

    def mean_kernel(pairs: list[tuple[Tensor, Tensor]]) -> float:
        distances = [(p - q).square().sum().item() for p, q in pairs]
        return sum(math.exp(-d / (2 * bandwidth**2)) for d in distances) / len(distances)

    within_x = mean_kernel([(p, q) for i, p in enumerate(x) for j, q in enumerate(x) if i != j])
    within_y = mean_kernel([(p, q) for i, p in enumerate(y) for j, q in enumerate(y) if i != j])
    between = mean_kernel([(p, q) for p in x for q in y])
    return torch.tensor(within_x + within_y - 2 * between)


# ------------------------------------------------------------------ exercises: measuring dependence


@exercise("Entropy", gradients=False, at_scale=lambda n: dict(p=torch.randn(n, 10).softmax(1)))
def entropy(p: Tensor) -> Tensor:
    """H(p) = −Σ_k p_k log p_k, in nats, with 0 log 0 = 0.

    p (…, K), probabilities that sum to 1 over the last axis. Returns (…).
    """


@exercise(
    "Counting pairs",
    points=2,
    gradients=False,
    at_scale=lambda n: dict(
        a=torch.randint(80, (n,)), b=torch.randint(100, (n,)), classes_a=80, classes_b=100
    ),
    full_size=1_000_000,
    memory=64 * MB,
    plain=contingency_table_loop,
    timed_size=20_000,
)
def contingency_table(a: Tensor, b: Tensor, classes_a: int, classes_b: int) -> Tensor:
    """table[i, j] = how many n have a_n = i and b_n = j.

    a, b (N,) int64 in [0, classes). Returns counts (classes_a, classes_b), int64. No loop, nothing read on the host.
    """


@exercise("Mutual information of a table", points=2, gradients=False)
def discrete_mutual_information(table: Tensor) -> Tensor:
    """I(a; b) = Σ_ij p_ij log[p_ij / (p_i p_j)] = KL[p(a, b) || p(a) p(b)], in nats, with 0 log 0 = 0.

    table (…, K, L), counts (int64) or probabilities (float32): p_ij is the table over its sum. Rows and columns may be
    empty. Returns (…), float32.
    """


def _covariances(n: int) -> Tensor:
    """Covariances of 8 variables, (n, 8, 8)."""
    x = torch.randn(n, 8, 8)
    return x @ x.mT / 8 + torch.eye(8)


@exercise("Total correlation of a Gaussian", at_scale=lambda n: dict(covariance=_covariances(n)))
def gaussian_total_correlation(covariance: Tensor) -> Tensor:
    """TC = KL[p(x_1 … x_D) || Π p(x_d)] = ½ (Σ_d log Σ_dd − log det Σ), in nats, of N(μ, Σ).

    covariance Σ: (…, D, D), symmetric, positive definite. Returns (…). For D = 2 it is I = −½ log(1 − ρ²).
    Finite where det Σ itself is too small for float32. Watanabe (1960).
    """


# ------------------------------------------------------------------ exercises: making it small


def _probe_shuffle(implementation: Callable, z: Tensor) -> dict[str, Tensor]:
    return draws(lambda generator: implementation(z, generator), z, names=DRAWS)


def _shuffled(draws: dict, z: Tensor) -> dict[str, Tensor]:
    """What must hold whatever the draw, on z (B, D) whose rows differ and repeat one number each."""
    for draw in draws.values():
        expect_like(draw, z)
    first, second, again = draws["first"], draws["second"], draws["again"]
    order = z[:, 0].argsort()
    return {
        "each row comes once": (first[:, 0].sort().values == z[:, 0].sort().values).all(),
        "rows stay whole": (first == first[:, :1]).all(),
        "the order is another one": (first != z).any(),
        "a second draw differs": (first != second).any(),
        "the same seed gives the same order": (first == again).all(),
        **look_at_orders([order[draw[:, 0].argsort().argsort()] for draw in draws.values()]),
    }


@exercise(
    "Samples of the product of marginals",
    gradients=False,
    probe=_probe_shuffle,
    properties=_shuffled,
    at_scale=lambda n: dict(z=torch.randn(n, 10)),
)
def shuffle_across_batch(z: Tensor, generator: torch.Generator) -> Tensor:
    """The rows of z in random order: with pairs (y_i, z_i) from p(y, z), (y_i, shuffled_i) come from p(y) p(z).

    z (B, D). Returns (B, D), every row once and whole, on z's device. All randomness from `generator`, which is on
    z's device.
    """


@exercise(
    "The critic's loss",
    at_scale=lambda n: dict(joint_logits=torch.randn(n), shuffled_logits=torch.randn(n)),
)
def critic_loss(joint_logits: Tensor, shuffled_logits: Tensor) -> Tensor:
    """½ [mean −log σ(joint) + mean −log(1 − σ(shuffled))], σ the sigmoid: joint pairs are class 1. A scalar.

    joint_logits, shuffled_logits (B,). Averaged over each half, so a critic that knows nothing pays log 2.
    Finite for logits of any size.
    """


@exercise(
    "From logits to nats",
    points=2,
    at_scale=lambda n: dict(joint_logits=torch.randn(n), shuffled_logits=torch.randn(n)),
)
def mutual_information_from_logits(joint_logits: Tensor, shuffled_logits: Tensor) -> tuple[Tensor, Tensor]:
    """(E_joint[T], E_joint[T] − log E_shuffled[exp T]), two scalars in nats, T the critic's logit.

    The first is I at the optimal critic, whose logit is log p(x, y) / p(x) p(y), and anything for another critic.
    The second, the Donsker–Varadhan bound, is at most I for every critic. Means over the batch (B,); finite for
    logits of any size. Donsker & Varadhan (1983); Belghazi et al. (2018), https://arxiv.org/abs/1801.04062.
    """


@exercise(
    "How much leaks",
    points=2,
    gradients=False,
    at_scale=lambda n: dict(a=torch.randint(10, (n,)), logits=torch.randn(n, 10)),
)
def leakage(a: Tensor, logits: Tensor) -> Tensor:
    """H(a) − CE = H(a) + mean_n log softmax(logits_n)[a_n], in nats: what the probe knows about a. A scalar.

    a (N,) int64 attributes; logits (N, K) of a probe. H(a) is the entropy of the frequencies of a in this batch.
    On fresh data I(z; a) is at least this, on average. Negative for a probe worse than no probe at all.
    """


@exercise(
    "The encoder's side of the game",
    at_scale=lambda n: dict(joint_logits=torch.randn(n), shuffled_logits=torch.randn(n)),
)
def independence_loss(joint_logits: Tensor, shuffled_logits: Tensor) -> Tensor:
    """½ [mean −log(1 − σ(joint)) + mean −log σ(shuffled)]: the critic's loss with its labels exchanged. A scalar.

    The encoder wants joint pairs taken for shuffled ones, and shuffled ones for joint ones. Finite for any logits.
    """


@exercise(
    "Matching without a critic",
    points=3,
    at_scale=lambda n: dict(x=torch.randn(n, 64), y=torch.randn(n, 64), bandwidth=4.0),
    full_size=1024,
    memory=80 * MB,
    plain=mmd2_loop,
    timed_size=48,
)
def mmd2(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    """MMD² = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) − 2 mean_ij k(x_i, y_j), unbiased. A scalar.

    x (M, D), y (N, D); k(a, b) = exp(−|a − b|² / 2 bandwidth²). Zero on average where both come from one
    distribution, so a single value may be negative. Never an (M, N, D) tensor.
    Gretton et al. (2012), https://jmlr.org/papers/v13/gretton12a.html.
    """
