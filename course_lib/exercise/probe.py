"""What the probes of training steps share: tiny networks with given weights, and what a step must report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from course_lib.exercise.compare import kind_of, structure
from course_lib.exercise.contract import generator_for
from course_lib.exercise.findings import Wrong


def linear(weight: Tensor) -> nn.Linear:
    """A layer (out, in) without bias, that starts from a copy of this weight."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    return layer


class TinyEncoder(nn.Module):
    """Linear encoder (2D, P) and decoder with given weights; `encode` gives a mean and a log variance."""

    def __init__(self, encoder: Tensor, decoder: Tensor):
        super().__init__()
        self.encoder, self.decoder = linear(encoder), linear(decoder)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        return mean, log_var


def number(value: float, like: Tensor) -> Tensor:
    """A scalar tensor on the device of `like`."""
    return torch.full((), float(value), device=like.device)


def flag(value: bool, like: Tensor) -> Tensor:
    """A scalar tensor on the device of `like`, True or False."""
    return torch.full((), value, dtype=torch.bool, device=like.device)


class Ear(nn.Module):
    """Passes its input on, and counts how often a gradient comes back to it."""

    def __init__(self):
        super().__init__()
        self.heard = 0

    def forward(self, x: Tensor) -> Tensor:
        y = x.view_as(x)  # a tensor of its own: what comes back to x from elsewhere is not counted
        if y.requires_grad:
            y.register_hook(self._note)
        return y

    def _note(self, gradient: Tensor) -> None:
        self.heard += 1


def count_steps(optimiser: torch.optim.Optimizer) -> list[None]:
    """A list that grows by one entry at every step of `optimiser`."""
    steps: list[None] = []
    optimiser.register_step_post_hook(lambda *_: steps.append(None))
    return steps


def expect_like(value: object, like: Tensor) -> None:
    """Raise Wrong, with words, unless `value` is a tensor of the shape, dtype and device of `like`."""
    if problem := structure({"result": value}, {"result": like}):
        raise Wrong(problem)


DRAWS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "again")


def draws(
    draw: Callable[[torch.Generator], Tensor],
    like: Tensor,
    seed: int = 0,
    names: Sequence[str] = ("first", "second", "again"),
) -> dict[str, Tensor]:
    """Draws from one generator on the device of `like`; "again" is the first of another one with the same seed."""
    generator = generator_for(like, seed)
    return {name: draw(generator_for(like, seed) if name == "again" else generator) for name in names}


def look_at_orders(orders: Sequence[Tensor]) -> dict[str, Tensor]:
    """What random orders do not show, from all DRAWS (B,) of the row that each place got.

    With eight of them chance plays no part: a row of a group of ten stays in place in all of them once in 10⁸.
    """
    places, half = torch.arange(len(orders[0]), device=orders[0].device), len(orders[0]) / 2
    drawn = torch.stack(list(orders))  # (draws, B)
    rows = 1 + (drawn.sort(0).values.diff(dim=0) != 0).sum(0)  # how many different ones a place got
    return {
        "rows that were neighbours still are": (drawn[0].diff().abs() == 1).sum() > half,
        "a row stays in place in every draw": (drawn == places).all(0).any(),
        "a place gets one of two rows": rows.float().mean() < 3,
        "rows come from all over the batch": ((drawn < half) != (places < half)).any(),
    }


def expect_module(value: object) -> None:
    """Raise Wrong, with words, unless `value` is an nn.Module."""
    if not isinstance(value, nn.Module):
        raise Wrong("no module", got=kind_of(value))


def check_report(report: object, entries: Sequence[str], like: Tensor) -> None:
    """Raise Wrong, with words, unless a step returned a dict of exactly these entries, detached scalars like `like`."""
    wanted = ", ".join(f'"{entry}"' for entry in entries)
    if not isinstance(report, dict):
        raise Wrong("report", expected=wanted, got=kind_of(report))
    if set(report) != set(entries):
        raise Wrong("report", expected=wanted, got=f"one with {', '.join(map(repr, report)) or 'none'}")
    if problem := structure(report, dict.fromkeys(entries, like.new_empty(()))):
        raise Wrong(problem)
    for entry in entries:
        if report[entry].requires_grad:
            raise Wrong("report graph", entry=f'"{entry}"')
