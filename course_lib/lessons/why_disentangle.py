"""Lesson 00, why disentangle: four short exercises, and light data on which each reason can be seen.

Conventions: probabilities and accuracies are fractions from 0 to 1; groups and classes are numbered from 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.datasets.sprites import Sprites
from course_lib.exercise import exercise
from course_lib.training import fit

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
    at_scale=lambda n: dict(correct=torch.rand(n), group=torch.randint(20, (n,)), groups=20),
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


# ------------------------------------------------------------------ a classifier, and domains that it never saw


class ShapeClassifier(nn.Module):
    """Images (B, 1, 32, 32) to the logits (B, 3) of square, ellipse, heart."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def upright_sprites(device: torch.device | str = "cpu") -> Sprites:
    """Upright sprites of the three larger sizes, 32×32: shape, scale, x and y vary."""
    return Sprites(size=32, only={"orientation": 0, "scale": range(3, 6)}, device=device)


def train_classifier(sprites: Sprites, seed: int = 0, steps: int = 300, batch: int = 128) -> ShapeClassifier:
    """A shape classifier of white sprites on black, trained by Adam."""
    torch.manual_seed(seed)
    generator = torch.Generator(sprites.device).manual_seed(seed)
    model = ShapeClassifier().to(sprites.device)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)

    def step(i: int) -> dict[str, Tensor]:
        x, factors = sprites.sample(batch, generator)
        loss = F.cross_entropy(model(x), factors[:, 0])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return {"loss": loss}

    fit(step, steps, label="shape classifier")
    return model


DOMAINS = {
    "white on black": lambda x, g: x,
    "black on white": lambda x, g: 1 - x,
    "grey on black": lambda x, g: 0.6 * x,
    "noisy": lambda x, g: (x + 0.2 * _uniform(x, g)).clamp(max=1),
    "on stripes": lambda x, g: torch.maximum(x, 0.2 * _stripes(x)),
}


def _uniform(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(x.shape, generator=generator, device=generator.device).to(x.device)


def _stripes(x: Tensor) -> Tensor:
    """Vertical stripes, four pixels wide, (1, 1, 1, S)."""
    return (torch.arange(x.shape[-1], device=x.device) // 4 % 2).float()[None, None, None]


# ------------------------------------------------------------------ loans


def loans(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A made-up bank: features (n, 6), group a (n,) and whether the loan was paid back y (n,), int64 both.

    Half of the people are of group 1. Feature 0 is a merit that decides about paying back; the groups' histories
    differ in it by half a standard deviation. Feature 1 is nothing but the group, with noise ("the postcode"), and past
    decisions were unfair: the recorded y was turned to 0 for one in five of group 0. Features 2 to 5 are noise.
    """
    a = torch.randint(2, (n,), generator=generator)
    x = torch.randn(n, 6, generator=generator)
    x[:, 0] += 0.5 * (a - 0.5)
    y = (x[:, 0] + 0.5 * torch.randn(n, generator=generator) > 0).long()
    unfair = (a == 0) & (torch.rand(n, generator=generator) < 0.2)
    x[:, 1] = 2 * (a - 0.5) + 0.5 * x[:, 1]
    return x, a, torch.where(unfair, 0, y)


def purge(x: Tensor, a: Tensor) -> Tensor:
    """The representation z = x − (score of x) · δ, in which both groups have the same mean. x (N, D), a (N,) 0 or 1.

    δ is the difference of the groups' means; the score is the linear function of x that tells the groups apart best, so
    that nothing else is removed. A linear cousin of what an adversary does.
    Belrose et al. (2023), https://arxiv.org/abs/2306.03819.
    """
    weight = torch.stack([1 - a, a]).float()  # (2, N)
    means = weight @ x / weight.sum(1, keepdim=True)  # (2, D)
    within = x - means[a]
    delta = means[1] - means[0]
    direction = torch.linalg.solve(within.T @ within / len(x), delta)  # (D,)
    score = (x - x.mean(0)) @ direction / (delta @ direction)  # (N,): its means in the groups are 1 apart
    return x - score[:, None] * delta


def train_decision(z: Tensor, y: Tensor, a: Tensor, weight: float = 0.0, steps: int = 200) -> Tensor:
    """Logistic regression of y (N,) on z (N, D) by full-batch Adam; returns the decisions (N,), 0 or 1.

    The loss is the cross-entropy plus weight · `demographic_parity_gap` of the predicted probabilities.
    """
    torch.manual_seed(0)
    model = nn.Linear(z.shape[1], 1).to(z.device)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)

    def step(i: int) -> dict[str, Tensor]:
        logits = model(z)[:, 0]
        gap = demographic_parity_gap(logits.sigmoid(), a)
        loss = F.binary_cross_entropy_with_logits(logits, y.float()) + weight * gap
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return {"loss": loss}

    fit(step, steps, label="decision")
    with torch.no_grad():
        return (model(z)[:, 0] > 0).float()
