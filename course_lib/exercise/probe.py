"""What the probes of training steps share: tiny networks with given weights, and what a step must report."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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


def watch_gradients(module: nn.Module, optimiser: torch.optim.Optimizer, like: Tensor) -> list[Tensor]:
    """A list that gets, at every step of `optimiser`, the sum of all |gradients| that then stand in `module`."""
    found: list[Tensor] = []

    def note(*_) -> None:
        left = [p.grad.abs().sum() for p in module.parameters() if p.grad is not None]
        found.append(sum(left, like.new_zeros(())))

    optimiser.register_step_pre_hook(note)
    return found


def check_report(report: object, entries: Sequence[str]) -> None:
    """Raise TypeError unless a step returned a dict of exactly these entries."""
    if not isinstance(report, dict) or set(report) != set(entries):
        raise TypeError(
            f"expected a dict with the entries {', '.join(entries)}; the step returned {report!r}"
        )
