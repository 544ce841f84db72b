"""Lesson 04, FactorVAE: contracts, and the plain loops that are given.

Conventions: natural logarithms (nats); log densities and KLs are summed over pixels and latents, and averaged over
the batch. The discriminator has ONE output, the logit log D/(1 − D) of "these codes were encoded together". At its
optimum that logit is the log density ratio log q(z) / Π_j q(z_j).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib.exercise import MB, exercise
from course_lib.exercise.probe import (
    Ear,
    TinyEncoder,
    check_report,
    count_steps,
    draws,
    expect_like,
    linear,
    number,
)
from course_lib.models import VAE

# ------------------------------------------------------------------ plain loops, given


def permute_dims_loop(z: Tensor, generator: torch.Generator) -> Tensor:
    """Shuffle one latent after the other, one code at a time, on the host."""
    rows = z.tolist()
    result = [list(row) for row in rows]
    for latent in range(z.shape[1]):
        order = torch.randperm(len(z), generator=generator, device=generator.device).tolist()
        for i, source in enumerate(order):
            result[i][latent] = rows[source][latent]
    return torch.tensor(result)


def factor_vae_score_loop(
    codes: Tensor, factors: Tensor, global_variance: Tensor, n_factors: int, threshold: float = 0.05
) -> Tensor:
    """One vote at a time: find the latent that varies least, then count."""
    spread = global_variance.tolist()
    counts = [[0] * n_factors for _ in spread]  # counts[latent][factor]
    for group, factor in zip(codes, factors.tolist(), strict=True):
        variance = group.var(0).tolist()
        ratios = {j: v / g for j, (v, g) in enumerate(zip(variance, spread, strict=True)) if g >= threshold}
        if ratios:
            counts[min(ratios, key=ratios.get)][factor] += 1
    return torch.tensor(sum(max(row) for row in counts) / len(codes))


# ------------------------------------------------------------------ exercises


def _probe_permute(implementation: Callable, z: Tensor, seed: int) -> dict[str, Tensor]:
    return draws(lambda generator: implementation(z, generator), z, seed)


def _permuted(draws: dict, z: Tensor, seed: int) -> dict[str, Tensor]:
    """What holds whatever the draw, for z whose values differ within each latent (as those of real codes do).

    Row numbers, (B, D): where each value of a draw stood before.
    """
    for draw in draws.values():
        expect_like(draw, z)
    order = z.argsort(0)
    rows = [order.gather(0, draw.argsort(0).argsort(0)) for draw in draws.values()]
    first, second, again = rows[0], rows[1], rows[-1]
    in_place = torch.arange(len(z), device=z.device)[:, None]
    half = len(z) / 2  # rows that agree: about one of B by chance, all of them by mistake

    def agree(a: Tensor, b: Tensor) -> Tensor:
        return ((a == b).sum(0) > half).any()

    moved = (first - in_place) % len(z)  # the same number in every row where a latent is rolled
    crossed = (torch.stack(rows) < half) != (in_place < half)  # into the other half of the batch
    return {
        "each latent's values, sorted": draws["first"].sort(0).values,
        "a latent stays in place": agree(first, in_place),
        "a latent is only rolled": agree(moved, moved[:1]),
        "values come from all over the batch": crossed.any(),
        "two latents are shuffled alike": agree(first[:, 1:], first[:, :-1]),
        "two calls shuffle alike": agree(first, second),
        "the same seed shuffles alike": (first == again).all(),
    }


@exercise(
    "Breaking the dependence, keeping the marginals",
    points=2,
    gradients=False,
    probe=_probe_permute,
    properties=_permuted,
    at_scale=lambda n: dict(z=torch.randn(n, 64), seed=0),
    operations=150,
    plain=permute_dims_loop,
    timed_size=1024,
)
def permute_dims(z: Tensor, generator: torch.Generator) -> Tensor:
    """Codes with every latent shuffled over the batch by a permutation of its own: samples of Π_j q(z_j).

    z (B, D). Returns (B, D) on z's device. All randomness comes from `generator`, drawn on the generator's device
    and moved to z's; no loop over codes or latents. Kim & Mnih (2018), https://arxiv.org/abs/1802.05983, Alg. 1.
    """


@exercise("The total correlation, read off a logit", at_scale=lambda n: dict(logits=torch.randn(n)))
def total_correlation_from_logits(logits: Tensor) -> Tensor:
    """TC ≈ E_q(z)[log D(z)/(1 − D(z))], in nats, from the discriminator's logits at codes z ~ q(z).

    logits (B,): log D/(1 − D). Returns a scalar; an estimate, so it may be negative. Finite for logits of any size.
    """


@exercise(
    "A classifier that knows a density ratio",
    at_scale=lambda n: dict(joint_logits=torch.randn(n), permuted_logits=torch.randn(n)),
)
def discriminator_loss(joint_logits: Tensor, permuted_logits: Tensor) -> Tensor:
    """½ E_q(z)[−log D] + ½ E_Πq(z_j)[−log(1 − D)], D = sigmoid(logit), in nats: log 2 where it cannot tell.

    joint_logits (B,) at codes as encoded, permuted_logits (C,) at shuffled codes. Returns a scalar: each half is a
    mean of its own. Finite for logits of any size (at ±200, too).
    """


@exercise(
    "The objective",
    at_scale=lambda n: dict(
        x=torch.rand(n, 1, 32, 32),
        logits=torch.randn(n, 1, 32, 32),
        mean=torch.randn(n, 10),
        log_var=torch.randn(n, 10),
        z_logits=torch.randn(n),
        gamma=10.0,
    ),
    full_size=256,
)
def factor_vae_loss(
    x: Tensor, logits: Tensor, mean: Tensor, log_var: Tensor, z_logits: Tensor, gamma: float
) -> Tensor:
    """−ELBO + γ TC, in nats per image: what the encoder and the decoder minimise.

    x, logits (B, …), logits = decode(z); mean, log_var (B, D); z_logits (B,): the discriminator's logits at z.
    Returns a scalar. Use `elbo.elbo` and your own `factor_vae.total_correlation_from_logits`.
    """


class Players(NamedTuple):
    """The two networks of the game, and an optimiser for each."""

    vae: VAE  # encode(x) gives mean and log_var, (B, D) each; decode(z) gives logits (B, …)
    discriminator: nn.Module  # codes (B, D) to logits (B,)
    vae_optimiser: torch.optim.Optimizer
    discriminator_optimiser: torch.optim.Optimizer


class _TinyVAE(TinyEncoder):
    """Linear encoder and decoder with given weights: encoder (2D, P), decoder (P, D)."""

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)


def _roll_each(z: Tensor) -> Tensor:
    """A permute without chance, for the check: latent j moves down by j + 1 rows."""
    return torch.stack([column.roll(j + 1) for j, column in enumerate(z.unbind(1))], dim=1)


STEP_REPORT = ("loss", "total correlation", "discriminator loss")


def _probe_step(
    implementation: Callable,
    x: Tensor,
    noise: Tensor,
    gamma: float,
    encoder: Tensor,
    decoder: Tensor,
    discriminator: Tensor,
) -> dict[str, Tensor]:
    """Two steps of plain gradient descent on tiny networks: what is reported, the weights, and what leaked."""
    vae, ear = _TinyVAE(encoder, decoder), Ear()
    layers = linear(discriminator), nn.Tanh(), linear(discriminator[:, :1].T), nn.Flatten(0)
    critic = nn.Sequential(ear, *layers)
    optimisers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (vae, critic)]
    steps = [count_steps(optimiser) for optimiser in optimisers]
    players = Players(vae, critic, *optimisers)
    for part in noise:
        report = implementation(players, x, part, gamma, _roll_each)
        check_report(report, STEP_REPORT, x)
    return {
        **report,
        "encoder's weights after two steps": vae.encoder.weight.detach(),
        "decoder's weights after two steps": vae.decoder.weight.detach(),
        "discriminator's weights after two steps": critic[1].weight.detach(),
        "gradients that came back to codes through the discriminator in two steps": number(ear.heard, x),
        "updates of the VAE in two steps": number(len(steps[0]), x),
        "updates of the discriminator in two steps": number(len(steps[1]), x),
    }


@exercise(
    "Two players, one step",
    points=3,
    gradients=False,
    probe=_probe_step,
    at_scale=lambda n: dict(
        x=torch.rand(n, 64),
        noise=torch.randn(2, n, 10),
        gamma=10.0,
        encoder=torch.randn(20, 64) / 8,
        decoder=torch.randn(64, 10) / 8,
        discriminator=torch.randn(32, 10) / 4,
    ),
    full_size=256,
)
def factor_vae_step(
    players: Players, x: Tensor, noise: Tensor, gamma: float, permute: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """One update of the VAE, then one of the discriminator, both on the codes z = μ + σ ε of the same batch.

    1. The VAE descends factor_vae_loss, the discriminator held fixed.
    2. The discriminator descends discriminator_loss: the first half of the codes as they are against
       `permute` of the second half. No gradient of that reaches the VAE: its codes are detached.

    Each update uses the gradients of its own loss alone: none from the step before, none from the other's loss.

    players: vae, discriminator, vae_optimiser, discriminator_optimiser, in this order and under these names. x (B, …)
    and noise ε (B, D), B even; permute: your permute_dims with its generator. Returns {"loss", "total correlation",
    "discriminator loss"}, detached scalar tensors on the device, each from before the update that it drives.
    After Kim & Mnih (2018), Alg. 2, who encode a second batch to be permuted; here the halves are independent.
    """


@exercise(
    "Whose variance vanishes? The FactorVAE score",
    points=3,
    gradients=False,
    at_scale=lambda n: dict(
        codes=torch.randn(n, 64, 10),
        factors=torch.zeros(n, dtype=torch.long),
        global_variance=torch.rand(10),
        n_factors=5,
    ),
    full_size=800,
    memory=16 * MB,
    plain=factor_vae_score_loop,
    timed_size=800,
)
def factor_vae_score(
    codes: Tensor, factors: Tensor, global_variance: Tensor, n_factors: int, threshold: float = 0.05
) -> Tensor:
    """How well the latent that varies least tells which factor was held still: from 1/K or so up to 1.

    Vote v: L codes, codes[v] (L, D), of images that share the value of one factor, factors[v] in 0 … K − 1. It goes
    to the latent j with the smallest variance over the L codes, relative to global_variance[j]; only latents with
    global_variance ≥ threshold take part (a dead latent never varies). Each latent stands for the factor that most
    of its votes have. The score is the share of all V votes that this gets right; 0 where no latent takes part.

    codes (V, L, D), factors (V,) int64, global_variance (D,), K = n_factors. Returns a scalar on the device of the
    codes. All votes in one batch. Kim & Mnih (2018), section 4.
    """
