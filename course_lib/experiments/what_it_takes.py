"""Experiments of lesson 09: independent components, a VAE that is told the segment, pairs, few labels, erased groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import metrics
from course_lib.datasets.grid import FactorGrid
from course_lib.datasets.sprites import Sprites
from course_lib.experiments.elbo import forward
from course_lib.lessons import beta_vae, elbo
from course_lib.lessons import mutual_information as information
from course_lib.lessons.what_it_takes import (
    average_shared,
    erase,
    fastica_step,
    gaussian_kl_between,
    ivae_loss,
    mean_correlation,
    pair_loss,
    whiten,
)
from course_lib.models import VAE, mlp
from course_lib.training import descend, fit, fit_classifier, seeded

SEEDS = (0, 1, 2)


def median(values: list[float]) -> float:
    """The middle one of an odd number of values."""
    return sorted(values)[len(values) // 2]


# ------------------------------------------------------------------ independent components

SOURCES = ("Laplace", "uniform", "Gaussian")


def draw_sources(kind: str, n: int, sources: int, generator: torch.Generator) -> Tensor:
    """Independent sources (n, sources) of mean 0 and variance 1: "Laplace", "uniform" or "Gaussian"."""
    if kind not in SOURCES:
        raise ValueError(f"kind: expected one of {', '.join(SOURCES)}, got {kind!r}")
    shape, device = (n, sources), generator.device
    if kind == "Gaussian":
        return torch.randn(shape, generator=generator, device=device)
    u = torch.rand(shape, generator=generator, device=device) - 0.5
    if kind == "uniform":
        return u * math.sqrt(12)
    return -u.sign() * torch.log1p(-2 * u.abs().clamp(max=0.5 - 1e-7)) / math.sqrt(2)


def fastica(x: Tensor, generator: torch.Generator, steps: int = 60) -> tuple[Tensor, Tensor]:
    """The sources that FastICA finds in mixtures x (N, D), (N, D), and how far W moved in each step, (steps,).

    Your `whiten`, then `steps` times your `fastica_step`, from a random rotation. A step's move is
    max_d (1 − |w_d · w_d before|): 0 where no row turned.
    """
    z = whiten(x)
    start = torch.randn(x.shape[1], x.shape[1], generator=generator, device=generator.device)
    unmixing, moves = torch.linalg.qr(start).Q.to(x.device), []
    for _ in range(steps):
        before, unmixing = unmixing, fastica_step(z, unmixing)
        moves.append((1 - (unmixing * before).sum(1).abs()).amax())
    return z @ unmixing.mT, torch.stack(moves)


def best_matching(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The one-to-one matching of rows and columns whose scores (D, D) add up to most; SciPy finds it, on the host."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(scores.cpu().numpy(), maximize=True)
    return torch.from_numpy(rows).to(scores.device), torch.from_numpy(columns).to(scores.device)


def mcc(codes: Tensor, factors: Tensor) -> float:
    """Your `mean_correlation` under the best matching."""
    return mean_correlation(codes, factors, best_matching).item()


# ------------------------------------------------------------------ a VAE that is told the segment


@dataclass(frozen=True)
class Segments:
    """Observations x (N, P), their segment (N,) int64, and what made them: sources (N, D), variances (S, D), mix."""

    x: Tensor
    segment: Tensor
    sources: Tensor
    variances: Tensor
    mix: Callable[[Tensor], Tensor]


def draw_segments(
    n: int, generator: torch.Generator, segments: int = 20, latents: int = 3, curvature: float = 0.9
) -> Segments:
    """n points: in each segment the sources are Gaussian, mean 0, with variances of the segment's own, e⁻³ to e.

    x = A₂ h(A₁ s), A with orthonormal columns, and h(a) = a where a > 0, (1 − curvature) a elsewhere: a mixture that is
    one to one and not linear. P = 2 D.
    """
    device = generator.device
    variances = (4 * torch.rand(segments, latents, generator=generator, device=device) - 3).exp()
    segment = torch.randint(segments, (n,), generator=generator, device=device)
    sources = variances[segment].sqrt() * torch.randn(n, latents, generator=generator, device=device)
    first, second = (
        torch.linalg.qr(torch.randn(rows, latents, generator=generator, device=device)).Q
        for rows in (latents, 2 * latents)
    )

    def mix(s: Tensor) -> Tensor:
        return F.leaky_relu(s @ first.mT, 1 - curvature) @ second.mT

    return Segments(mix(sources), segment, sources, variances, mix)


class SegmentVAE(nn.Module):
    """q(z|x, u), p(x|z) and p(z|u) for x (B, P); with `told` False u is hidden from it, and p(z) = N(0, I)."""

    def __init__(self, features: int, latents: int, segments: int, told: bool, width: int = 64):
        super().__init__()
        self.told, self.segments = told, segments
        self.encoder = mlp(features + segments, width, width, 2 * latents)
        self.decoder = mlp(latents, width, width, features)
        self.prior_log_var = nn.Parameter(torch.zeros(segments, latents))

    def encode(self, x: Tensor, segment: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x, u), (B, D) each."""
        u = F.one_hot(segment, self.segments).float() * self.told
        mean, log_var = self.encoder(torch.cat([x, u], 1)).chunk(2, 1)
        return mean, log_var

    def prior(self, segment: Tensor) -> tuple[Tensor, Tensor]:
        """Mean 0 and log variance of p(z|u), (B, D) each."""
        log_var = self.prior_log_var[segment] * self.told
        return torch.zeros_like(log_var), log_var


def train_ivae(
    data: Segments,
    told: bool,
    seed: int,
    steps: int = 1500,
    batch: int = 256,
    noise_variance: float = 0.05,
    lr: float = 1e-2,
) -> tuple[SegmentVAE, Tensor]:
    """A VAE of x trained by your `ivae_loss`, and its codes: the means of q(z|x, u) of all points, (N, D)."""
    generator = torch.Generator(data.x.device).manual_seed(seed)
    segments, latents = data.variances.shape
    with seeded(seed):
        model = SegmentVAE(data.x.shape[1], latents, segments, told).to(data.x.device)
    optimiser = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    def step(i: int) -> dict[str, Tensor]:
        rows = torch.randint(len(data.x), (batch,), generator=generator, device=data.x.device)
        x, segment = data.x[rows], data.segment[rows]
        mean, log_var = model.encode(x, segment)
        noise = torch.randn(mean.shape, generator=generator, device=x.device)
        prediction = model.decoder(elbo.reparameterise(mean, log_var, noise))
        loss = ivae_loss(x, prediction, mean, log_var, *model.prior(segment), noise_variance)
        descend(optimiser, loss)
        schedule.step()
        return {"loss": loss}

    fit(step, steps, label=f"{'told the segment' if told else 'not told'}, seed {seed}")
    with torch.no_grad():
        return model, model.encode(data.x, data.segment)[0]


# ------------------------------------------------------------------ pairs, and a few labels


class SmallSprites:
    """Ellipses of 16×16 grey pixels that differ in scale, x and y (lesson 04): 6144 images, drawn once and kept.

    images(factors) looks them up; `grid` are their factors. With every=2 the positions are every other one.
    """

    def __init__(self, only: dict | None = None, device: torch.device | str = "cpu"):
        sprites = Sprites(32, only={"shape": 1, "orientation": 0} if only is None else only, device=device)
        self.grid, self.size, self.channels, self.device = sprites.grid, 16, 1, torch.device(device)
        self.kept = torch.cat([F.avg_pool2d(x, 2) for x, _ in sprites.batches(512)])

    def images(self, factors: Tensor) -> Tensor:
        """Images (N, 1, 16, 16) of factors (N, K)."""
        return self.kept[self.grid.index(factors)]


def draw_pairs(grid: FactorGrid, n: int, generator: torch.Generator, changes: int = 1) -> tuple[Tensor, Tensor]:
    """Factors of n pairs, (n, K) twice, int64: the second differ from the first in exactly `changes` random factors.

    A factor that changes gets any of its other values, all equally likely. What changed is not told.
    """
    sizes = torch.tensor(grid.sizes, device=generator.device)
    if not 1 <= changes <= len(sizes) or min(grid.sizes) < 2:
        raise ValueError(
            f"changes: expected 1 to {len(sizes)}, of factors with two values or more, got {changes}"
        )
    first = grid.sample(n, generator)
    keys = torch.rand(first.shape, generator=generator, device=generator.device)
    changed = keys.argsort(1).argsort(1) < changes
    shift = 1 + (torch.rand(first.shape, generator=generator, device=generator.device) * (sizes - 1)).long()
    return first, torch.where(changed, (first + shift) % sizes, first)


METHODS = {"beta-VAE": 4.0, "beta-TCVAE": 6.0, "Ada-GVAE": 1.0}  # and the weight of each
LABEL_WEIGHT = 20.0


@dataclass(frozen=True)
class Labels:
    """A few images whose factors are known: images (n, C, S, S) and factors (n, K), int64."""

    images: Tensor
    factors: Tensor


def draw_labels(data, share: float, generator: torch.Generator) -> Labels:
    """That share of the grid's images, at least two, drawn without replacement, with their factors."""
    n = max(2, round(share * len(data.grid)))
    rows = torch.randperm(len(data.grid), generator=generator, device=generator.device)[:n]
    factors = data.grid.factors(rows).to(data.device)
    return Labels(data.images(factors), factors)


def label_loss(mean: Tensor, factors: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Σ_k (μ_k − v_k)², averaged over the batch: latent k is to be factor k, scaled to [−1.7, 1.7].

    mean (n, D), factors (n, K), K ≤ D. The values of a factor then have about the prior's variance.
    """
    ends = torch.tensor(sizes, device=mean.device) - 1
    wanted = 1.7 * (2 * factors / ends - 1)
    return (mean[:, : len(sizes)] - wanted).square().sum(1).mean()


def train_method(
    method: str,
    data,
    seed: int,
    steps: int,
    *,
    latents: int = 6,
    batch: int = 128,
    lr: float = 2e-3,
    labels: Labels | None = None,
) -> VAE:
    """A VAE trained by "beta-VAE", "beta-TCVAE" or "Ada-GVAE" with its weight of METHODS.

    data     grid, images(factors), size, channels: `SmallSprites`, or a data set of the library wrapped alike.
    batch    images of a step; for Ada-GVAE half as many pairs, which differ in one factor.
    labels   added to the loss, times LABEL_WEIGHT, all of them in every step (64 at random, where there are more).
    """
    generator = torch.Generator(data.device).manual_seed(seed)
    with seeded(seed):
        vae = VAE(latents, data.size, data.channels).to(data.device)
    optimiser = torch.optim.Adam(vae.parameters(), lr=lr, fused=True)

    def step(i: int) -> dict[str, Tensor]:
        loss = _loss(method, vae, data, batch, generator)
        if labels is not None:
            n = len(labels.images)
            rows = torch.randperm(n, generator=generator, device=generator.device)[:64]
            mean, _ = vae.encode(labels.images[rows])
            loss = loss + LABEL_WEIGHT * label_loss(mean, labels.factors[rows], data.grid.sizes)
        descend(optimiser, loss)
        return {"loss": loss}

    fit(step, steps, label=f"{method}, seed {seed}")
    return vae


def _loss(method: str, vae: VAE, data, batch: int, generator: torch.Generator) -> Tensor:
    """The loss of one batch, in nats per image."""
    weight, device = METHODS[method], data.device
    if method == "Ada-GVAE":
        first, second = draw_pairs(data.grid, batch // 2, generator)
        shape = (2, batch // 2, vae.decoder.latents)
        noise = torch.randn(shape, generator=generator, device=generator.device).to(device)
        return pair_loss(vae, data.images(first), data.images(second), noise, weight) / 2
    x, logits, mean, log_var, z = forward(vae, data.images(data.grid.sample(batch, generator)), generator)
    if method == "beta-VAE":
        return beta_vae.beta_vae_loss(x, logits, mean, log_var, weight)
    return beta_vae.beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size=len(data.grid), beta=weight)


@torch.no_grad()
def encode(vae: VAE, data, factors: Tensor, batch: int = 1024) -> Tensor:
    """The means of q(z|x) of the images of factors (N, K), (N, D)."""
    return torch.cat([vae.encode(data.images(part))[0] for part in factors.split(batch)])


def score(codes: Tensor, factors: Tensor) -> dict[str, float]:
    """MIG, DCI disentanglement (extra trees, a third held out) and FactorVAE score of codes (N, D), factors (N, K)."""
    generator = torch.Generator().manual_seed(0)
    few = {"num_train": 3000, "num_eval": 1500}
    dci = metrics.dci(codes, factors, method="extra_trees", generator=generator)
    votes = metrics.factor_vae_score(codes.__getitem__, metrics.GroupSampler(factors), generator, **few)
    return {
        "MIG": metrics.mutual_information_gap(codes, factors),
        "DCI": dci.disentanglement,
        "FactorVAE score": votes.eval_accuracy,
    }


def label_fit(codes: Tensor, factors: Tensor) -> float:
    """How well latents match factors one to one on labelled images: the MCC of the K latents that match best.

    codes (n, D), factors (n, K) with K ≤ D: missing factors are constants, which match nothing.
    """
    padded = torch.zeros_like(codes)
    padded[:, : factors.shape[1]] = factors.float()
    return mcc(codes, padded) * codes.shape[1] / factors.shape[1]
