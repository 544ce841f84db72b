"""Lesson 00, why disentangle: four short exercises, and the plain loops that are given.

Conventions: probabilities and accuracies are fractions from 0 to 1; groups and classes are numbered from 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib.exercise import exercise

# ------------------------------------------------------------------ plain loops, given


def traversal_grid_loop(z: Tensor, latents: Tensor, values: Tensor) -> Tensor:
    """Copy the code once for each picture, and change one number in it."""
    rows = []
    for latent in latents.tolist():
        row = []
        for value in values.tolist():
            code = z.clone()
            code[latent] = value
            row.append(code)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def worst_group_accuracy_loop(correct: Tensor, group: Tensor, groups: int) -> Tensor:
    """One example at a time: how many of each group are right, and how many there are."""
    right, count = [0.0] * groups, [0] * groups
    for c, g in zip(correct.tolist(), group.tolist(), strict=True):
        right[g] += c
        count[g] += 1
    return torch.tensor(min(r / n for r, n in zip(right, count, strict=True) if n))


# ------------------------------------------------------------------ exercises


@exercise("Change one latent", at_scale=lambda n: dict(z=torch.randn(n, 10), latent=3, value=1.5))
def intervene(z: Tensor, latent: int, value: float) -> Tensor:
    """The codes z with z[:, latent] set to value: the question "what if this one factor were different?"

    z (B, D). Returns a new (B, D); z itself stays as it is.
    """


@exercise(
    "All the pictures at once",
    points=2,
    at_scale=lambda n: dict(z=torch.randn(10), latents=torch.randint(10, (n,)), values=torch.randn(n)),
    full_size=256,
    plain=traversal_grid_loop,
    timed_size=32,
)
def traversal_grid(z: Tensor, latents: Tensor, values: Tensor) -> Tensor:
    """grid[k, v] = z with its entry latents[k] set to values[v]: the codes of a table of pictures.

    z (D,), latents (K,) int64, values (V,). Returns (K, V, D). No loop over rows or columns.
    """


@exercise(
    "The group that fares worst",
    points=2,
    gradients=False,
    at_scale=lambda n: dict(correct=torch.rand(n).round(), group=torch.randint(20, (n,)), groups=20),
    plain=worst_group_accuracy_loop,
    timed_size=20_000,
)
def worst_group_accuracy(correct: Tensor, group: Tensor, groups: int) -> Tensor:
    """min_g mean of `correct` over the examples of group g: an average can hide a group that a model fails.

    correct (N,) float, 1 where the model is right and 0 where not; group (N,) int64 in [0, groups). Groups without
    examples do not count. Returns a scalar. Sagawa et al. (2020), https://arxiv.org/abs/1911.08731.
    """


@exercise(
    "A decision and a group",
    at_scale=lambda n: dict(decision=torch.rand(n), group=torch.randint(2, (n,))),
)
def demographic_parity_gap(decision: Tensor, group: Tensor) -> Tensor:
    """|P(ŷ = 1 | a = 1) − P(ŷ = 1 | a = 0)|: how much more often one group gets a yes.

    decision (N,): 0 or 1, or the probability of a yes; group a (N,) int64, 0 or 1, each of them present. Returns a
    scalar from 0 to 1, differentiable in `decision`. Both groups in one go: a boolean mask as an index stalls a GPU.
    """
