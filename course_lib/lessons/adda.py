"""Lesson 05, ADDA: contracts, and the plain loops that are given.

Conventions: natural logarithms (nats); losses are averaged over the batch. The domain critic has ONE output, the logit
of "this feature comes from the source".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib.exercise import MB, exercise
from course_lib.exercise.probe import (
    check_report,
    count_steps,
    expect_like,
    expect_module,
    flag,
    linear,
    number,
)

# ------------------------------------------------------------------ plain loops, given


def proxy_a_distance_loop(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Count the classifier's errors one feature at a time, on the host."""
    source_errors = sum(1 for logit in source_logits.tolist() if logit <= 0)
    target_errors = sum(1 for logit in target_logits.tolist() if logit > 0)
    error = (source_errors / len(source_logits) + target_errors / len(target_logits)) / 2
    return torch.tensor(max(0.0, 2 * (1 - 2 * error)))


def coral_loss_loop(source_features: Tensor, target_features: Tensor) -> Tensor:
    """Two covariance matrices, one example and one pair of features at a time, on the host."""

    def covariance(features: Tensor) -> list[list[float]]:
        rows, d = features.tolist(), features.shape[1]
        mean = [sum(row[i] for row in rows) / len(rows) for i in range(d)]
        return [
            [sum((row[i] - mean[i]) * (row[j] - mean[j]) for row in rows) / (len(rows) - 1) for j in range(d)]
            for i in range(d)
        ]

    source, target = covariance(source_features), covariance(target_features)
    d = len(source)
    return torch.tensor(
        sum((source[i][j] - target[i][j]) ** 2 for i in range(d) for j in range(d)) / (4 * d**2)
    )


# ------------------------------------------------------------------ exercises: measuring the gap


@exercise(
    "How far apart are two domains?",
    gradients=False,
    at_scale=lambda n: dict(source_logits=torch.randn(n), target_logits=torch.randn(n)),
    plain=proxy_a_distance_loop,
    timed_size=20_000,
)
def proxy_a_distance(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """2 (1 − 2ε), at least 0: ε is the error of a domain classifier on features that it was not trained on. A scalar.

    0: it does no better than a coin; 2: it makes no mistake. ε is the mean of two rates, the errors among source_logits
    (B,) and among target_logits (C,), so that the larger set counts no more. A logit above 0 says source.
    Ben-David et al. (2007), Analysis of Representations for Domain Adaptation.
    """


# ------------------------------------------------------------------ exercises: ADDA


def _tiny_encoder(weight: Tensor, running_mean: Tensor) -> nn.Sequential:
    """A linear layer (D, P), and a batch norm whose running statistics, a buffer each, are not those of any batch."""
    norm = nn.BatchNorm1d(len(running_mean), device=weight.device)
    norm.running_mean.copy_(running_mean.detach())
    return nn.Sequential(linear(weight), norm)


def _probe_copy(implementation: Callable, x: Tensor, weight: Tensor, running_mean: Tensor) -> dict:
    """Copies a source encoder that is frozen, in training mode; what both of them are and give, before and after."""
    source = _tiny_encoder(weight, running_mean).requires_grad_(False).train()
    copy = implementation(source)
    expect_module(copy)
    found = {
        "the copy is an object of its own": flag(copy is not source, x),
        "the copy is in eval mode": flag(not any(m.training for m in copy.modules()), x),
        "the copy can be trained": flag(all(p.requires_grad for p in copy.parameters()), x),
        "the source is still frozen": flag(not any(p.requires_grad for p in source.parameters()), x),
        "the source's mode is as it was": flag(all(m.training for m in source.modules()), x),
    }
    with torch.no_grad():
        found["the copy's output"] = copy(x)
        for p in copy.parameters():
            p.add_(1.0)
        found["the source's output after the copy was trained"] = source.eval()(x)
    return found


@exercise(
    "Two encoders, one classifier",
    gradients=False,
    probe=_probe_copy,
    at_scale=lambda n: dict(x=torch.randn(n, 64), weight=torch.randn(32, 64), running_mean=torch.randn(32)),
)
def copy_encoder(encoder: nn.Module) -> nn.Module:
    """The target encoder at the start: a copy of the source encoder, bitwise equal and independent of it.

    Parameters and buffers are the copy's own. All its parameters can be trained, also where the source's are frozen;
    it is in eval mode, whatever the source's mode is: the frozen source encoder will run in eval mode, and if dropout
    or batch norm worked differently in the two, the critic would tell the modes apart, not the domains.
    The source encoder is left as it was. Tzeng et al. (2017), https://arxiv.org/abs/1702.05464.
    """


def _probe_critic_loss(
    implementation: Callable, source_features: Tensor, target_features: Tensor, weight: Tensor
) -> Tensor:
    return implementation(lambda features: features @ weight, source_features, target_features)


@exercise(
    "The critic: which domain is this?",
    probe=_probe_critic_loss,
    at_scale=lambda n: dict(
        source_features=torch.randn(n, 64), target_features=torch.randn(n, 64), weight=torch.randn(64)
    ),
)
def domain_critic_loss(
    critic: Callable[[Tensor], Tensor], source_features: Tensor, target_features: Tensor
) -> Tensor:
    """½ [mean −log σ(critic(source)) + mean −log(1 − σ(critic(target)))]: source is class 1. A scalar in nats.

    critic: features (B, D) to logits (B,). source_features (B, D), target_features (C, D): a mean over each, so a critic
    that cannot tell pays log 2. The gradient reaches the critic and NOT the features: they are detached in here.
    Finite for logits of any size.
    """


@exercise("The encoder: take me for the source", at_scale=lambda n: dict(target_logits=torch.randn(n)))
def inverted_label_loss(target_logits: Tensor) -> Tensor:
    """mean −log σ(target_logits): the cross-entropy of target features under the label of the source. A scalar.

    target_logits (B,), the critic's. Its gradient is largest where the critic is surest, just where the encoder has
    most to learn; that of the minimax form, mean log(1 − σ), vanishes there. Finite for logits of any size.
    """


class Players(NamedTuple):
    """The networks of the game, and an optimiser for each of the two that learn."""

    source_encoder: nn.Module  # images to features (·, D); fixed
    target_encoder: nn.Module  # images to features (·, D)
    critic: nn.Module  # features (·, D) to logits (·,)
    encoder_optimiser: torch.optim.Optimizer  # of the target encoder
    critic_optimiser: torch.optim.Optimizer


STEP_REPORT = ("critic loss", "encoder loss")


def _probe_step(
    implementation: Callable,
    source_x: Tensor,
    target_x: Tensor,
    source_weight: Tensor,
    target_weight: Tensor,
    running_mean: Tensor,
    critic_weight: Tensor,
) -> dict:
    """Two steps of plain gradient descent on tiny networks: what is reported, and what has become of the weights."""
    source = _tiny_encoder(source_weight, running_mean).eval()
    target = _tiny_encoder(target_weight, running_mean).eval()
    critic = nn.Sequential(linear(critic_weight), nn.Tanh(), linear(critic_weight[:, :1].T), nn.Flatten(0))
    optimisers = [torch.optim.SGD(m.parameters(), lr=0.2) for m in (target, critic)]
    steps = [count_steps(optimiser) for optimiser in optimisers]
    players = Players(source, target, critic, *optimisers)
    modes = [m.training for network in players[:3] for m in network.modules()]
    for _ in range(2):
        report = implementation(players, source_x, target_x)
        check_report(report, STEP_REPORT, source_x)
    left = [p.grad.abs().sum() for p in source.parameters() if p.grad is not None]
    return {
        **report,
        "target encoder's weights after two steps": target[0].weight.detach(),
        "critic's weights after two steps": critic[0].weight.detach(),
        "gradients in the source encoder": sum(left, torch.zeros_like(report["critic loss"])).detach(),
        "target encoder's running mean": target[1].running_mean.clone(),
        "updates of the target encoder in two steps": number(len(steps[0]), source_x),
        "updates of the critic in two steps": number(len(steps[1]), source_x),
        "every module is in the mode it was in": flag(
            modes == [m.training for network in players[:3] for m in network.modules()], source_x
        ),
    }


@exercise(
    "One step of the game",
    points=3,
    gradients=False,
    probe=_probe_step,
    at_scale=lambda n: dict(
        source_x=torch.randn(n, 64),
        target_x=torch.randn(n, 64),
        source_weight=torch.randn(32, 64) / 8,
        target_weight=torch.randn(32, 64) / 8,
        running_mean=torch.randn(32),
        critic_weight=torch.randn(16, 32) / 4,
    ),
    full_size=256,
)
def adda_step(players: Players, source_x: Tensor, target_x: Tensor) -> dict[str, Tensor]:
    """One update of the critic, then one of the target encoder against the updated critic.

    1. The critic descends `domain_critic_loss` on the features of both batches.
    2. The target encoder descends `inverted_label_loss` of the critic's logits on its own features of target_x.

    Nothing reaches the source encoder, not even a gradient, and no module changes its mode. Each optimiser starts from
    cleared gradients: those that step 2 leaves in the critic must not enter its next update.
    players: source_encoder, target_encoder, critic, encoder_optimiser, critic_optimiser, in this order and under these
    names. source_x (B, …), target_x (C, …).
    Returns {"critic loss", "encoder loss"}, detached scalars, each from before the update it is used for.
    """


# ------------------------------------------------------------------ exercises: the alternatives


def _probe_reverse(implementation: Callable, x: Tensor, weight: float) -> dict[str, Tensor]:
    """What comes out, and beside it two other uses of x, one with the same gradient: both must stay as they are."""
    x = x * 1.0  # not a leaf, like features
    other = x.sin()
    result = implementation(x, weight)
    expect_like(result, x)
    return {
        "result": result.detach(),
        "its sum with another use of x": other + result,
        "a third use": x.cos(),
    }


@exercise(
    "The alternative: a gradient turned round",
    probe=_probe_reverse,
    at_scale=lambda n: dict(x=torch.randn(n, 64), weight=0.5),
)
def gradient_reverse(x: Tensor, weight: float) -> Tensor:
    """x itself on the way forward; on the way back, −weight times the gradient.

    Placed between encoder and critic it lets one backward pass train both: the critic descends its loss, the encoder
    climbs it. x (…), any shape, is left as it is, and so is the gradient that comes back: others may use both. weight ≥ 0,
    a plain number without gradient. Write a torch.autograd.Function (a class, in the answer's cell).
    Ganin & Lempitsky (2015), https://arxiv.org/abs/1409.7495.
    """


@exercise(
    "Matching covariances",
    points=2,
    at_scale=lambda n: dict(source_features=torch.randn(n, 64), target_features=torch.randn(n, 64)),
    memory=12 * MB,
    plain=coral_loss_loop,
    timed_size=64,
)
def coral_loss(source_features: Tensor, target_features: Tensor) -> Tensor:
    """‖C_s − C_t‖²_F / 4D², C the covariance matrices (D, D), with B − 1 in the denominator. A scalar.

    source_features (B, D), target_features (C, D). ‖·‖²_F is the sum of squares of all elements. Never a (B, D, D)
    tensor. The means are not compared. Sun & Saenko (2016), Deep CORAL, https://arxiv.org/abs/1607.01719.
    """
