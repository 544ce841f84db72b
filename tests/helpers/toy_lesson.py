"""A lesson for the tests of the exercise mechanism: a module and an optimiser, a random answer, a memory bound."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from course_lib.exercise import MB, exercise
from course_lib.exercise.contract import generator_for


def _probe_step(implementation, weight: Tensor, x: Tensor, y: Tensor) -> dict:
    with torch.device(weight.device):
        model = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    model.weight = nn.Parameter(weight.clone())
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    model.weight.grad = torch.ones_like(weight)  # left over from an earlier step
    loss = implementation(model, optimiser, x, y)
    return {"loss": loss.detach(), "weight afterwards": model.weight.detach()}


@exercise(
    "A step",
    gradients=False,
    probe=_probe_step,
    at_scale=lambda n: dict(weight=torch.randn(3, 5), x=torch.randn(n, 5), y=torch.randn(n, 3)),
)
def step(model: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
    """One step on the mean squared error, which is returned."""


def _probe_shuffle(implementation, x: Tensor) -> dict:
    """What must hold whatever the draw: the same rows, another order at each draw, repeatable."""
    generator, again = generator_for(x, 1), generator_for(x, 1)
    first, second = implementation(x, generator), implementation(x, generator)
    return {
        "sorted": first.sort(0).values,
        "draws differ": (first != second).any(),
        "repeats": (first == implementation(x, again)).all(),
    }


@exercise(
    "Chance",
    gradients=False,
    probe=_probe_shuffle,
    at_scale=lambda n: dict(x=torch.randn(n)),
)
def shuffle(x: Tensor, generator: torch.Generator) -> Tensor:
    """x (B,) in random order, drawn on the generator's device."""


@exercise(
    "Room",
    memory=200 * MB,
    at_scale=lambda n: dict(x=torch.randn(n, 10), y=torch.randn(n, 10)),
)
def distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances, (B, C), of x (B, D) to y (C, D)."""
