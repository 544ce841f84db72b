"""Lesson 07, correlated factors: contracts, and the plain loops that are given.

Conventions: natural logarithms (nats); losses are averaged over the batch; logits are log odds.
Funke, Vicol, Wang, Kümmerer, Zemel, Bethge (2022), https://arxiv.org/abs/2112.14754.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from course_lib.exercise import MB, exercise
from course_lib.exercise.probe import DRAWS, draws, expect_like, look_at_orders

# ------------------------------------------------------------------ plain loops, given


def sample_correlated_loop(joint: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw one point of the grid at a time: a random number, and the cell whose share of [0, 1) it falls into."""
    shares = list(accumulate(joint.flatten().tolist()))
    rows = []
    for u in torch.rand(n, generator=generator, dtype=torch.float64).tolist():
        cell, factors = min(bisect.bisect_right(shares, u * shares[-1]), len(shares) - 1), []
        for size in reversed(joint.shape):
            cell, factor = divmod(cell, size)
            factors.insert(0, factor)
        rows.append(factors)
    return torch.tensor(rows)


def conditional_mutual_information_loop(table: Tensor) -> Tensor:
    """I(x; y | a), one cell at a time on the host."""
    result = []
    for t in table.double().reshape(-1, *table.shape[-3:]):
        p, total = (t / t.sum()).tolist(), 0.0
        p_xa, p_ya = (t / t.sum()).sum(1).tolist(), (t / t.sum()).sum(0).tolist()
        p_a = (t / t.sum()).sum((0, 1)).tolist()
        for x, rows in enumerate(p):
            for y, row in enumerate(rows):
                for a, q in enumerate(row):
                    total += q * math.log(q * p_a[a] / (p_xa[x][a] * p_ya[y][a])) if q > 0 else 0.0
        result.append(total)
    return torch.tensor(result).view(table.shape[:-3])


def shuffle_within_groups_loop(z: Tensor, a: Tensor, generator: torch.Generator) -> Tensor:
    """Shuffle the members of one group after the other."""
    dice = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    groups: dict[int, list[int]] = {}
    for i, label in enumerate(a.tolist()):
        groups.setdefault(label, []).append(i)
    result = torch.empty_like(z)
    for members in groups.values():
        for target, source in zip(members, dice.sample(members, len(members)), strict=True):
            result[target] = z[source]
    return result


# ------------------------------------------------------------------ exercises: correlated data, and what independence costs


@exercise("Factors that go together", points=2, gradients=False)
def correlated_joint(sizes: Sequence[int], pair: Sequence[int], sigma: Tensor) -> Tensor:
    """p(c) ∝ exp(−(u_i − u_j)² / 2σ²) over a grid of factors, (i, j) = pair, u_k = c_k / (sizes[k] − 1) in [0, 1].

    sizes: how many values each factor takes; sigma: a scalar. All other factors are uniform and independent.
    Returns a table of shape sizes that sums to 1, float32, on sigma's device. Träuble et al. (2021),
    https://arxiv.org/abs/2006.07886.
    """


def _probe_sample(implementation: Callable, joint: Tensor, n: int) -> dict[str, Tensor]:
    return draws(lambda generator: implementation(joint, n, generator), joint)


def _sampled(draws: dict, joint: Tensor, n: int) -> dict[str, Tensor]:
    """What must hold whatever the draw: n points of the grid, as often as `joint` (a table) says."""
    for draw in draws.values():
        expect_like(draw, torch.zeros(n, joint.ndim, dtype=torch.int64, device=joint.device))
    first, second, again = draws["first"], draws["second"], draws["again"]
    inside, cell = torch.ones((), dtype=torch.bool, device=joint.device), 0
    for size, column in zip(joint.shape, first.unbind(1), strict=True):
        inside = inside & ((column >= 0) & (column < size)).all()
        cell = cell * size + column.clamp(0, size - 1)
    ones = torch.ones(n, device=joint.device)
    frequency = torch.zeros(joint.numel(), device=joint.device).index_add_(0, cell, ones / n).view_as(joint)

    def as_often(counted: Tensor, wanted: Tensor) -> Tensor:  # within 5 standard deviations, and one draw
        return ((counted - wanted).abs() < 5 * (wanted * (1 - wanted) / n).sqrt() + 1 / n).all()

    twice = (cell[1:] == cell[:-1]).float().mean()  # how often a cell comes twice running
    alone = [
        as_often(frequency.sum(others), joint.sum(others))
        for others in ([k for k in range(joint.ndim) if k != axis] for axis in range(joint.ndim))
    ]
    return {
        "inside the grid": inside,
        "as often as the table says": as_often(frequency, joint),
        "each factor alone as often as the table says": torch.stack(alone).all(),
        "a draw is independent of the one before": as_often(twice, joint.square().sum()),
        "a second draw differs": (first != second).any(),
        "the same seed gives the same draw": (first == again).all(),
    }


@exercise(
    "One draw for the whole batch",
    points=2,
    gradients=False,
    probe=_probe_sample,
    properties=_sampled,
    at_scale=lambda n: dict(joint=torch.full((6, 32, 32), 1 / 6144), n=n),
    full_size=100_000,
    memory=32 * MB,
    plain=sample_correlated_loop,
    timed_size=5000,
)
def sample_correlated(joint: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n independent points of the grid, each cell c with probability joint[c].

    joint: a table of any shape (size_1, …, size_K) that sums to 1. Returns factors (n, K), int64, on joint's device.
    All randomness from `generator`, which is on that device, too. No loop, and no (n, cells) tensor.
    """


@exercise(
    "What independence costs",
    points=2,
    gradients=False,
    at_scale=lambda n: dict(joint=torch.randn(n, 64).softmax(1).view(n, 8, 8)),
)
def accuracy_bound(joint: Tensor) -> Tensor:
    """The highest P(ŷ_1 = a_1 and ŷ_2 = a_2) of predictions ŷ_1, ŷ_2 that are independent of each other.

    joint p(a_1, a_2): (…, K, L), sums to 1. Predictions are as frequent as the attributes: P(ŷ_1 = i) = p(a_1 = i),
    and so for 2. Returns (…): Σ_ij min(p_ij, p_i p_j) = 1 − ½ Σ_ij |p_ij − p_i p_j|.
    """


# ------------------------------------------------------------------ exercises: conditional dependence


@exercise(
    "What is left when the attribute is known",
    points=2,
    gradients=False,
    at_scale=lambda n: dict(table=torch.rand(n, 8, 8, 4)),
    full_size=2048,
    plain=conditional_mutual_information_loop,
    timed_size=32,
)
def conditional_mutual_information(table: Tensor) -> Tensor:
    """I(x; y | a) = Σ_a p(a) KL[p(x, y | a) || p(x | a) p(y | a)], in nats, with 0 log 0 = 0.

    table (…, K, L, M), counts or probabilities of (x, y, a), of any dtype: p is the table over its sum. Groups a may
    be empty. Returns (…), float32.
    """


def _covariances(n: int) -> Tensor:
    """Covariances of 6 variables, (n, 6, 6)."""
    x = torch.randn(n, 6, 6)
    return x @ x.mT / 6 + torch.eye(6)


@exercise(
    "The same for a Gaussian",
    points=3,
    at_scale=lambda n: dict(covariance=_covariances(n), x=2, y=2),
)
def gaussian_conditional_mutual_information(covariance: Tensor, x: int, y: int) -> Tensor:
    """I(x; y | a) = ½ (log det S_xx + log det S_yy − log det S), in nats, S the covariance of (x, y) given a.

    covariance Σ: (…, D, D) of (x, y, a), in this order: the first `x` variables, the next `y`, and the others, at
    least one, are a. S = Σ_11 − Σ_12 Σ_22⁻¹ Σ_21, with 1 = (x, y) and 2 = a (Schur complement). Returns (…).
    On a GPU torch.linalg.inv and solve report errors to the host and so stall; solve_ex, inv_ex and slogdet do not.
    """


@exercise(
    "Three encoders, exactly",
    points=3,
    at_scale=lambda n: dict(correlation=torch.rand(n) - 0.5, noise=torch.rand(n) + 0.1),
)
def linear_optimum(correlation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best linear predictions ŝ = W x of s from x = s + n, under three conditions. W (…, 2, 2) each.

    s ~ N(0, [[1, ρ], [ρ, 1]]), n ~ N(0, σ² I); correlation ρ in (−1, 1) and noise σ²: (…). Smallest E|ŝ − s|² with
    1. no condition: W = Σ_s Σ_x⁻¹;
    2. I(ŝ_1; ŝ_2) = 0: W = diag(Σ_x^{−½} Σ_s) Σ_x^{−½} (whiten, then scale each component);
    3. I(ŝ_1; ŝ_2 | s_k) = 0 for k = 1 and 2: W = I / (1 + σ²).
    """


# ------------------------------------------------------------------ exercises: the game


def _probe_shuffle(implementation: Callable, z: Tensor, a: Tensor) -> dict[str, Tensor]:
    return draws(lambda generator: implementation(z, a, generator), z, names=DRAWS)


def _shuffled(draws: dict, z: Tensor, a: Tensor) -> dict[str, Tensor]:
    """What must hold whatever the draw, on z (B, D) whose rows repeat one number each: their place in the batch."""
    for draw in draws.values():
        expect_like(draw, z)
    first, second, again = draws["first"], draws["second"], draws["again"]
    came_from = [draw[:, 0].long().clamp(0, len(z) - 1) for draw in draws.values()]
    by_group = a.argsort(stable=True)
    return {
        "each row comes once": (first[:, 0].sort().values == z[:, 0].sort().values).all(),
        "rows stay whole": (first == first[:, :1]).all(),
        "rows stay in their group": (a[came_from[0]] == a).all(),
        "the order is another one": (first != z).any(),
        "a second draw differs": (first != second).any(),
        "the same seed gives the same order": (first == again).all(),
        **look_at_orders([by_group.argsort()[rows[by_group]] for rows in came_from]),
    }


@exercise(
    "Shuffle among equals",
    points=3,
    gradients=False,
    probe=_probe_shuffle,
    properties=_shuffled,
    at_scale=lambda n: dict(z=torch.randn(n, 10), a=torch.randint(10, (n,))),
    memory=4 * MB,
    operations=500,
    plain=shuffle_within_groups_loop,
    timed_size=4096,
)
def shuffle_within_groups(z: Tensor, a: Tensor, generator: torch.Generator) -> Tensor:
    """The rows of z in a random order that moves each row only to places of the same attribute a.

    With triples (z_i, w_i, a_i) from p(z, w, a), the triples (shuffled_i, w_i, a_i) come from p(z | a) p(w | a) p(a).
    z (B, D); a (B,) int64, any labels. Returns (B, D), every row once and whole, on z's device. No loop over the
    groups; all randomness from `generator`, which is on z's device.
    """


def _probe_critic(
    implementation: Callable,
    weight: Tensor,
    own: Tensor,
    shuffled: Tensor,
    rest: Tensor,
    a: Tensor,
    classes: int,
) -> Tensor:
    """A critic with one layer of given weights (D + E + classes, H), and the sum of tanh over its H units."""

    def critic(x: Tensor) -> Tensor:
        return (x @ weight).tanh().sum(1, keepdim=True)

    return implementation(critic, own, shuffled, rest, a, classes)


@exercise(
    "A critic that knows the attribute",
    points=2,
    probe=_probe_critic,
    at_scale=lambda n: dict(
        weight=torch.randn(13, 16),
        own=torch.randn(n, 5),
        shuffled=torch.randn(n, 5),
        rest=torch.randn(n, 5),
        a=torch.randint(3, (n,)),
        classes=3,
    ),
)
def conditional_critic_loss(
    critic: Callable[[Tensor], Tensor],
    own: Tensor,
    shuffled: Tensor,
    rest: Tensor,
    a: Tensor,
    classes: int,
) -> Tensor:
    """Lesson 01's critic_loss of a critic that sees [own, rest, onehot(a)] and [shuffled, rest, onehot(a)]. A scalar.

    own, shuffled (B, D), the second shuffled within groups of equal a; rest (B, E); a (B,) int64 in [0, classes).
    critic: (N, D + E + classes) to logits (N, 1); own is class 1. Gradients reach all three codes: a caller who trains
    the critic alone detaches them. Exchange own and shuffled, and it is the encoder's loss.
    """
