"""Experiments of lesson 04: discriminators of codes, the training of a FactorVAE, votes for its score."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from course_lib import metrics
from course_lib.experiments.elbo import Sample, draw_images
from course_lib.lessons import elbo
from course_lib.lessons.factor_vae import (
    Players,
    discriminator_loss,
    factor_vae_step,
    permute_dims,
    total_correlation_from_logits,
)
from course_lib.models import VAE
from course_lib.training import descend, fit, normal_like

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# ------------------------------------------------------------------ built on the exercises


def make_discriminator(latents: int, width: int = 128, layers: int = 3) -> nn.Sequential:
    """z (B, D) to a logit (B,), such as that of "encoded together": `layers` hidden layers of LeakyReLU(0.2).

    Kim and Mnih (2018) use width 1000 and 6 layers; that is much more than these small problems need.
    """
    if min(latents, width, layers) < 1:
        raise ValueError(f"expected positive numbers, got latents={latents}, width={width}, layers={layers}")
    hidden: list[nn.Module] = []
    for width_in, width_out in pairwise([latents] + [width] * layers):
        hidden += [nn.Linear(width_in, width_out), nn.LeakyReLU(0.2)]
    return nn.Sequential(*hidden, nn.Linear(width, 1), nn.Flatten(0))


def update_discriminator(
    discriminator: nn.Module, optimiser: torch.optim.Optimizer, z: Tensor, permute: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """A step of the discriminator alone, on codes z (B, D): the first half against `permute` of the second."""
    joint, other = z.chunk(2)
    logits = discriminator(joint)
    loss = discriminator_loss(logits, discriminator(permute(other)))
    descend(optimiser, loss)
    estimate = total_correlation_from_logits(logits.detach())
    return {"total correlation": estimate, "discriminator loss": loss.detach()}


def train_discriminator(
    discriminator: nn.Module,
    sample: Callable[[int, torch.Generator], Tensor],
    steps: int,
    *,
    batch: int,
    generator: torch.Generator,
    lr: float = 3e-3,
    label: str = "discriminator",
) -> dict[str, Tensor]:
    """Train a discriminator alone, on codes `sample(batch, generator)` (B, D) of a fixed distribution.

    Returns the history {"total correlation", "discriminator loss"}, each (steps,) in nats.
    """
    optimiser = torch.optim.Adam(discriminator.parameters(), lr=lr, fused=True)
    permute = partial(permute_dims, generator=generator)
    return fit(
        lambda i: update_discriminator(discriminator, optimiser, sample(batch, generator), permute),
        steps,
        label=label,
        draws=generator,
    )


@torch.no_grad()
def sample_codes(vae: VAE, x: Tensor, generator: torch.Generator) -> Tensor:
    """One z ~ q(z|x) for each image x (B, …), (B, D), without a gradient."""
    mean, log_var = vae.encode(x)
    return elbo.reparameterise(mean, log_var, normal_like(mean, generator))


def optimal_logit(z: Tensor, correlation: Tensor) -> Tensor:
    """log N(z; 0, R) − log N(z; 0, I) = −½ log det R − ½ zᵀ(R⁻¹ − I) z, (B,): quadratic in z (B, D).

    The best possible discriminator between N(0, R), R (D, D) a correlation matrix, and its shuffled codes, N(0, I).
    """
    if correlation.shape != (z.shape[1], z.shape[1]):
        raise ValueError(
            f"correlation: expected ({z.shape[1]}, {z.shape[1]}), got {tuple(correlation.shape)}"
        )
    identity = torch.eye(len(correlation), device=z.device)
    excess = torch.linalg.inv(correlation) - identity
    return -0.5 * (torch.linalg.slogdet(correlation).logabsdet + ((z @ excess) * z).sum(1))


def make_players(
    vae: VAE, discriminator: nn.Module, lr: float = 1e-3, discriminator_lr: float = 1e-3
) -> Players:
    """Both networks with an Adam each; the discriminator's has betas (0.5, 0.9), as in the paper."""
    return Players(
        vae,
        discriminator,
        torch.optim.Adam(vae.parameters(), lr=lr, fused=True),
        torch.optim.Adam(discriminator.parameters(), lr=discriminator_lr, betas=(0.5, 0.9), fused=True),
    )


def update(
    players: Players,
    sample: Sample,
    *,
    batch: int,
    generator: torch.Generator,
    gamma: float,
    discriminator_steps: int = 1,
) -> dict[str, Tensor]:
    """One `factor_vae_step` on images drawn afresh, and the discriminator's further updates; the step's report.

    sample, generator     as in `elbo.train_vae`.
    discriminator_steps   updates of the discriminator for each of the VAE. Those beyond the first use the codes of
                          2 · batch images of their own; the encoder moves, and they help the discriminator to keep up.
    """
    if batch < 2 or batch % 2 or discriminator_steps < 1:
        raise ValueError(
            f"expected an even batch, to be halved, and at least one discriminator step, got batch={batch}, "
            f"discriminator_steps={discriminator_steps}"
        )
    vae, discriminator, _, optimiser = players
    device = next(vae.parameters()).device
    permute = partial(permute_dims, generator=generator)
    x = draw_images(sample, batch, generator).to(device)
    noise = torch.randn(batch, vae.decoder.latents, generator=generator, device=generator.device)
    report = factor_vae_step(players, x, noise.to(device), gamma, permute)
    for _ in range(discriminator_steps - 1):
        other = draw_images(sample, 2 * batch, generator).to(device)
        update_discriminator(discriminator, optimiser, sample_codes(vae, other, generator), permute)
    return report


def train_factor_vae(
    players: Players,
    sample: Sample,
    steps: int,
    *,
    batch: int,
    generator: torch.Generator,
    gamma: float,
    discriminator_steps: int = 1,
    label: str = "FactorVAE",
) -> dict[str, Tensor]:
    """Train both players in place by `update`, whose settings these are; returns the history of its reports."""
    settings = {"batch": batch, "gamma": gamma, "discriminator_steps": discriminator_steps}
    return fit(
        lambda i: update(players, sample, generator=generator, **settings),
        steps,
        label=label,
        draws=generator,
    )


def draw_votes(
    codes: Tensor, factors: Tensor, votes: int, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The groups of codes for `factor_vae_score`: (votes, size, D), and the factor held still in each, (votes,).

    codes (N, D), factors (N, K) int64. Each vote draws one factor that varies and one value of it; the others vary.
    """
    if codes.ndim != 2 or len(codes) != len(factors):
        raise ValueError(
            f"codes: expected one row for each of {len(factors)} points, got {tuple(codes.shape)}"
        )
    if size < 2:
        raise ValueError(f"size: a variance needs at least two codes, got {size}")
    sampler = metrics.GroupSampler(factors)
    choice = torch.randint(len(sampler.varying), (votes,), generator=generator, device=generator.device)
    held = torch.tensor(sampler.varying, device=generator.device)[choice]
    rows = sampler(held, size, generator).to(codes.device)
    return codes[rows].unflatten(0, (votes, size)), held.to(codes.device)


# ------------------------------------------------------------------ the sweep: `course pretrain --sweep`

# FactorVAE scores that Kim and Mnih (2018) report for their best settings, gamma = 40 and beta = 4, both at a reconstruction of
# about 45 nats: 64×64 pixels, so that nats are not ours.
PUBLISHED = {"FactorVAE": 0.82, "beta-VAE": 0.73}
SETTING = ("method", "weight", "seed", "steps", "seconds", "machine")  # of a run; all else is measured


def sweep_medians(rows: list[dict]) -> list[dict]:
    """One row for each method and weight: the number of its runs, and the medians of what was measured."""
    settings: dict[tuple[str, float], list[dict]] = {}
    for row in rows:
        settings.setdefault((row["method"], row["weight"]), []).append(row)
    found = []
    for (method, weight), runs in settings.items():
        measured = [name for name in runs[0] if name not in SETTING]
        medians = {name: median(run[name] for run in runs) for name in measured}
        found.append({"method": method, "weight": weight, "runs": len(runs)} | medians)
    return found


def best_median(rows: list[dict], method: str, score: str, most: float = math.inf) -> dict:
    """Of a method's medians, those of the weight with the best score; only weights that reconstruct with at most so many nats."""
    medians = [m for m in sweep_medians(rows) if m["method"] == method and m["reconstruction (nats)"] <= most]
    return max(medians, key=lambda m: m[score])


def sweep_figure(rows: list[dict]) -> Figure:
    """FactorVAE score and MIG against reconstruction: a dot a run, medians of each weight joined and labelled, published scores dashed."""
    import matplotlib.pyplot as plt

    from course_lib import plots

    plots.use_style()
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.9))
    for ax, score in zip(axes, ("FactorVAE score", "MIG"), strict=True):
        for method in dict.fromkeys(row["method"] for row in rows):
            runs = [row for row in rows if row["method"] == method]
            _draw_runs(ax, runs, score, plots.PALETTE[method])
        ax.set(xlabel="reconstruction (nats per image)", ylabel=score, ylim=(0, None))
    for method, value in PUBLISHED.items():
        axes[0].axhline(value, color=plots.PALETTE[method], linestyle="--", linewidth=1)
        place = {"ha": "right", "va": "bottom", "transform": axes[0].get_yaxis_transform()}
        axes[0].text(1, value, f"published, {method}", fontsize=8, **place)
    axes[0].legend(loc="lower right", fontsize=9)
    return figure


def _draw_runs(ax: Axes, runs: list[dict], score: str, colour: str) -> None:
    """One method's runs as dots, and the medians of its weights joined."""
    from matplotlib.patheffects import withStroke

    def places(rows: list[dict]) -> list[list[float]]:
        return [[row[name] for row in rows] for name in ("reconstruction (nats)", score)]

    medians = sweep_medians(runs)
    ax.scatter(*places(runs), 16, colour, alpha=0.45)
    ax.plot(*places(medians), "o-", color=colour, markersize=7, label=runs[0]["method"])
    for row, x, y in zip(medians, *places(medians), strict=True):
        if row["method"] != "VAE":
            beside = {"xytext": (3, 5), "textcoords": "offset points", "zorder": 5}  # on other methods' dots
            halo = [withStroke(linewidth=2, foreground="white")]
            ax.annotate(f"{row['weight']:g}", (x, y), **beside, fontsize=9, color=colour, path_effects=halo)
