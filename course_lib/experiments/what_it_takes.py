"""Experiments of lesson 09: independent components, a VAE that is told the segment, pairs, few labels, erased groups."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import checkpoints, metrics
from course_lib.datasets.grid import FactorGrid
from course_lib.datasets.shapes3d import Shapes3D
from course_lib.datasets.sprites import Sprites
from course_lib.experiments.elbo import forward
from course_lib.files import add_rows, data_folder, read_table
from course_lib.lessons import beta_vae, elbo
from course_lib.lessons import mutual_information as information
from course_lib.lessons.what_it_takes import (
    erase,
    fastica_step,
    ivae_loss,
    mean_correlation,
    pair_loss,
    whiten,
)
from course_lib.models import VAE, mlp
from course_lib.training import descend, fit, fit_classifier, normal_like, seeded, whole_trainings

SEEDS = (0, 1, 2)


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


def fastica(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The sources that FastICA finds in mixtures x (N, D), (N, D), and how far W moved in each step, (60,).

    Your `whiten`, then 60 times your `fastica_step`, from a random rotation. A step's move is
    max_d (1 − |w_d · w_d before|): 0 where no row turned.
    """
    z = whiten(x)
    start = torch.randn(x.shape[1], x.shape[1], generator=generator, device=generator.device)
    unmixing, moves = torch.linalg.qr(start).Q.to(x.device), []
    for _ in range(60):
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


def draw_segments(n: int, generator: torch.Generator, segments: int = 20, latents: int = 3) -> Segments:
    """n points: in each segment the sources are Gaussian, mean 0, with variances of the segment's own, e⁻³ to e.

    x = A₂ h(A₁ s), A with orthonormal columns, and h(a) = a where a > 0, 0.1 a elsewhere: a mixture that is
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
        return F.leaky_relu(s @ first.mT, 0.1) @ second.mT

    return Segments(mix(sources), segment, sources, variances, mix)


class SegmentVAE(nn.Module):
    """q(z|x, u), p(x|z) and p(z|u) for x (B, P); with `sees_segment` False u is hidden from it, and p(z) = N(0, I)."""

    def __init__(self, features: int, latents: int, segments: int, sees_segment: bool):
        super().__init__()
        self.sees_segment, self.segments = sees_segment, segments
        self.encoder = mlp(features + segments, 64, 64, 2 * latents)
        self.decoder = mlp(latents, 64, 64, features)
        self.prior_log_var = nn.Parameter(torch.zeros(segments, latents))

    def encode(self, x: Tensor, segment: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x, u), (B, D) each."""
        u = F.one_hot(segment, self.segments).float() * self.sees_segment
        mean, log_var = self.encoder(torch.cat([x, u], 1)).chunk(2, 1)
        return mean, log_var

    def prior(self, segment: Tensor) -> tuple[Tensor, Tensor]:
        """Mean 0 and log variance of p(z|u), (B, D) each."""
        log_var = self.prior_log_var[segment] * self.sees_segment
        return torch.zeros_like(log_var), log_var


IVAE_STEPS = 1500


def train_ivae(data: Segments, sees_segment: bool, seed: int) -> tuple[SegmentVAE, Tensor]:
    """A VAE of x trained by your `ivae_loss`, and its codes: the means of q(z|x, u) of all points, (N, D)."""
    generator = torch.Generator(data.x.device).manual_seed(seed)
    segments, latents = data.variances.shape
    with seeded(seed):
        model = SegmentVAE(data.x.shape[1], latents, segments, sees_segment).to(data.x.device)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, IVAE_STEPS)

    def step(i: int) -> dict[str, Tensor]:
        rows = torch.randint(len(data.x), (256,), generator=generator, device=data.x.device)
        x, segment = data.x[rows], data.segment[rows]
        mean, log_var = model.encode(x, segment)
        prediction = model.decoder(elbo.reparameterise(mean, log_var, normal_like(mean, generator)))
        loss = ivae_loss(x, prediction, mean, log_var, *model.prior(segment), noise_variance=0.05)
        descend(optimiser, loss)
        return {"loss": loss}

    label = "told the segment" if sees_segment else "not told"
    fit(step, IVAE_STEPS, label=f"{label}, seed {seed}", draws=generator, schedule=schedule)
    with torch.no_grad():
        return model, model.encode(data.x, data.segment)[0]


# ------------------------------------------------------------------ pairs, and a few labels


SMALL = {  # complete grids of images of 16×16 pixels, small enough to be drawn once and kept
    "ellipses": (Sprites, {"shape": 1, "orientation": 0}),  # scale, x, y
    # Half of the circle of hues: no single latent can follow all of it without a jump.
    "scenes": (
        Shapes3D,
        {f"{part}_hue": range(6) for part in ("floor", "wall", "object")} | {"orientation": 7},
    ),
}


class SmallImages:
    """One of SMALL: `images(factors)` looks images (N, C, 16, 16) up by their factors (N, K), those of `grid`.

    Drawn at 32×32 and averaged over 2×2 pixels. 6144 ellipses, 6912 scenes in colour.
    """

    def __init__(self, kind: str, device: torch.device | str = "cpu"):
        if kind not in SMALL:
            raise ValueError(f"kind: expected one of {', '.join(SMALL)}, got {kind!r}")
        make, only = SMALL[kind]
        large = make(32, only=only, device=device)
        self.grid, self.device = large.grid, torch.device(device)
        self.kept = torch.cat([F.avg_pool2d(x, 2) for x, _ in large.batches(512)])
        self.factors = self.grid.factors(torch.arange(len(self.grid), device=device))

    def images(self, factors: Tensor) -> Tensor:
        """Images (N, C, 16, 16) of factors (N, K)."""
        return self.kept[self.grid.index(factors)]


def _filled(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """The numbers as a tensor that the device writes: torch.tensor would copy them there, and wait."""
    return torch.cat([torch.full((1,), number, device=device) for number in numbers])


def draw_pairs(
    grid: FactorGrid, n: int, generator: torch.Generator, changes: int = 1
) -> tuple[Tensor, Tensor]:
    """Factors of n pairs, (n, K) twice, int64: the second differ from the first in exactly `changes` random factors.

    A factor that changes gets any of its other values, all equally likely. What changed is not told.
    """
    sizes = _filled(grid.sizes, generator.device)
    if not 1 <= changes <= len(sizes) or min(grid.sizes) < 2:
        raise ValueError(
            f"changes: expected 1 to {len(sizes)}, of factors with two values or more, got {changes}"
        )
    first = grid.sample(n, generator)
    keys = torch.rand(first.shape, generator=generator, device=generator.device)
    changed = keys.argsort(1).argsort(1) < changes
    shift = 1 + (torch.rand(first.shape, generator=generator, device=generator.device) * (sizes - 1)).long()
    return first, torch.where(changed, (first + shift) % sizes, first)


METHODS = {"beta-VAE": 4.0, "beta-TCVAE": 6.0, "Ada-GVAE": 1.0}  # and the usual weight of each
BATCH = 128
LABEL_WEIGHT = 20.0


@dataclass(frozen=True)
class Labels:
    """A few images whose factors are known: their rows in the grid (n,), images (n, C, S, S) and factors (n, K)."""

    rows: Tensor
    images: Tensor
    factors: Tensor


def draw_labels(data: SmallImages, share: float, generator: torch.Generator) -> Labels:
    """That share of the grid's images, at least two, drawn without replacement, with their factors."""
    n = max(2, round(share * len(data.grid)))
    rows = torch.randperm(len(data.grid), generator=generator, device=generator.device)[:n].to(data.device)
    return Labels(rows, data.kept[rows], data.factors[rows])


def label_loss(mean: Tensor, factors: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Σ_k (μ_k − v_k)², averaged over the batch: latent k is to be factor k, scaled to [−1.7, 1.7].

    mean (n, D), factors (n, K), K ≤ D. The values of a factor then have about the prior's variance.
    """
    ends = _filled(sizes, mean.device) - 1
    wanted = 1.7 * (2 * factors / ends - 1)
    return (mean[:, : len(sizes)] - wanted).square().sum(1).mean()


def train_method(
    method: str,
    data: SmallImages,
    seed: int,
    steps: int,
    *,
    latents: int = 6,
    weight: float | None = None,
    labels: Labels | None = None,
) -> VAE:
    """A VAE trained by "beta-VAE", "beta-TCVAE" or "Ada-GVAE", on BATCH images a step, or half as many pairs of them.

    weight   beta, or the weight of the total correlation; None for the one of METHODS.
    labels   added to the loss, times LABEL_WEIGHT, all of them in every step (64 at random, where there are more).
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    generator = torch.Generator(data.device).manual_seed(seed)
    with seeded(seed):
        vae = VAE(latents, 16, data.kept.shape[1]).to(data.device)
    optimiser = torch.optim.Adam(vae.parameters(), lr=2e-3, fused=True)

    def step(i: int) -> dict[str, Tensor]:
        loss = _loss(method, vae, data, generator, METHODS[method] if weight is None else weight)
        if labels is not None:
            n = len(labels.images)
            rows = torch.randperm(n, generator=generator, device=generator.device)[:64]
            mean, _ = vae.encode(labels.images[rows])
            loss = loss + LABEL_WEIGHT * label_loss(mean, labels.factors[rows], data.grid.sizes)
        descend(optimiser, loss)
        return {"loss": loss}

    fit(step, steps, label=f"{method}, seed {seed}", draws=generator)
    return vae


def _loss(method: str, vae: VAE, data: SmallImages, generator: torch.Generator, weight: float) -> Tensor:
    """The loss of one batch, in nats per image."""
    device = data.device
    if method == "Ada-GVAE":
        first, second = (f.to(device) for f in draw_pairs(data.grid, BATCH // 2, generator))
        shape = (2, BATCH // 2, vae.decoder.latents)
        noise = torch.randn(shape, generator=generator, device=generator.device).to(device)
        return pair_loss(vae, data.images(first), data.images(second), noise, weight) / 2
    x, logits, mean, log_var, z = forward(
        vae, data.images(data.grid.sample(BATCH, generator).to(device)), generator
    )
    if method == "beta-VAE":
        return beta_vae.beta_vae_loss(x, logits, mean, log_var, weight)
    return beta_vae.beta_tcvae_loss(x, logits, mean, log_var, z, dataset_size=len(data.grid), beta=weight)


@torch.no_grad()
def encode(vae: VAE, data: SmallImages) -> Tensor:
    """The means of q(z|x) of all images, in the grid's order, (N, D)."""
    return torch.cat([vae.encode(part)[0] for part in data.kept.split(2048)])


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


# ------------------------------------------------------------------ the long comparison (`course pretrain --pairs`)

SHARES = (0.001, 0.01)  # of labels
LONG_STEPS = {"scenes": 12_000, "ellipses": 3000}
FEWER = 64  # A likelihood sums over pixels, and scale and shape change few of 16×16: the scenes have small weights, too.
RUNS = [  # data, method, weight, share of labels in the loss
    *(("scenes", method, weight / k, 0.0) for k in (1, FEWER) for method, weight in METHODS.items()),
    *(("ellipses", method, weight, 0.0) for method, weight in METHODS.items()),
    *(("ellipses", "beta-TCVAE", METHODS["beta-TCVAE"], share) for share in SHARES),
]
KEPT = {  # the checkpoint: a run, and the seed of its median DCI
    "ada_gvae": (("scenes", "Ada-GVAE", METHODS["Ada-GVAE"] / FEWER), 2),
}
TEXTS = ("data", "method")  # columns of the table that are no numbers


@whole_trainings()
def compare_long(
    folder: Path, weights: Path, steps: int | None = None, device: torch.device | str = "cpu"
) -> None:
    """Train all RUNS with three seeds and write a row of scores for each into `pairs.csv` in `folder`.

    `steps` stands for those of LONG_STEPS. A run that is in the table with as many is done. The models of KEPT are saved in the
    folder `weights`; where one is missing there, its run is done again.
    """
    table = folder / "pairs.csv"
    data = {name: SmallImages(name, device) for name in ("scenes", "ellipses")}
    for seed in SEEDS:
        for name, method, weight, share in RUNS:
            rows, wanted = read_comparison(table), steps or LONG_STEPS[name]
            key = dict(data=name, method=method, weight=weight, labels=share, seed=seed, steps=wanted)
            kept = [k for k, chosen in KEPT.items() if chosen == ((name, method, weight), seed)]
            missing = any(not (weights / f"{k}.json").exists() for k in kept)
            if not missing and any(all(row[k] == v for k, v in key.items()) for row in rows):
                continue
            start = time.process_time()
            labels = (
                draw_labels(data[name], share, torch.Generator(device).manual_seed(seed)) if share else None
            )
            vae = train_method(method, data[name], seed, wanted, latents=10, weight=weight, labels=labels)
            key["CPU seconds"] = round(time.process_time() - start)
            row = key | _measure(vae, data[name], seed)
            add_rows(table, [row], TEXTS, _place)
            for checkpoint in kept:
                checkpoints.save(weights, checkpoint, vae, _card(row, device))


def _measure(vae: VAE, data: SmallImages, seed: int) -> dict[str, float]:
    """Scores on the whole grid, and the fit to the labels that a run with this seed would get."""
    codes = encode(vae, data)
    values = score(codes, data.factors)
    for share in SHARES:
        labels = draw_labels(data, share, torch.Generator(data.device).manual_seed(seed))
        values[f"fit to {share:.1%} of labels"] = label_fit(codes[labels.rows], labels.factors)
    return {name: round(value, 4) for name, value in values.items()}


def _card(row: dict, device: torch.device | str) -> dict:
    pairs = row["method"] == "Ada-GVAE"
    return {
        "method": row["method"],
        "network": {"latents": 10, "size": 16, "channels": 3},
        "data": "Shapes3D-like scenes, 6,912 images of 16×16, rendered"
        + ("; in pairs that differ in one factor" if pairs else ""),
        "settings": {
            "beta": row["weight"],
            "latents": 10,
            "batch": "64 pairs" if pairs else 128,
            "Adam lr": 2e-3,
            "seed": row["seed"],
        },
        "steps": row["steps"],
        "seconds": row["CPU seconds"],
        "machine": checkpoints.machine(device),
        "metrics": {name: row[name] for name in ("MIG", "DCI", "FactorVAE score")},
    }


def read_comparison(table: Path | None = None) -> list[dict]:
    """The rows of the long comparison, numbers as numbers; an empty list where there is no file yet."""
    table = table or data_folder() / "sweeps/pairs.csv"
    return read_table(table, TEXTS)


def _place(row: dict) -> tuple:
    """In the order of RUNS and seeds."""
    run = (row["data"], row["method"], row["weight"], row["labels"])
    return RUNS.index(run), row["seed"], row["steps"]


# ------------------------------------------------------------------ erased for whom?

GROUP_MEANS = torch.tensor([[-0.7, 0.0], [0.7, 0.0]])  # of the two features that tell the groups apart
GROUP_DEVIATIONS = torch.tensor([[1.0, 0.5], [1.0, 2.0]])


def draw_groups(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features x (n, 3) and group a (n,), 0 or 1, equally likely: one feature's mean and another one's spread differ.

    Gaussian within a group, with GROUP_MEANS and GROUP_DEVIATIONS; the third feature is N(0, 1) in both. All three are
    then rotated, so that no column is any of them.
    """
    a = torch.randint(2, (n,), generator=generator)
    noise = torch.randn(n, 3, generator=generator)
    informative = GROUP_MEANS[a] + GROUP_DEVIATIONS[a] * noise[:, :2]
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
    return torch.cat([informative, noise[:, 2:]], 1) @ turn.T, a


def group_information(means: Tensor, deviations: Tensor, points: int = 801) -> float:
    """I(x; a) in nats, by quadrature, of x given group a: independent N(mean, deviation²) in each of D ≤ 2 features.

    means, deviations (2, D), the groups equally likely. I = Σ_a ½ ∫ p(x|a) log [p(x|a) / p(x)] dx, over a grid of
    `points` along each feature that reaches 8 deviations beyond the means.
    """
    means, deviations = means.double(), deviations.double()
    if means.shape != deviations.shape or len(means) != 2 or means.shape[1] > 2:
        raise ValueError(
            f"means, deviations: expected (2, D), D ≤ 2, got {tuple(means.shape)}, {tuple(deviations.shape)}"
        )
    log_p = torch.zeros(2, *[1] * means.shape[1], dtype=torch.float64)
    cell = 1.0
    for d in range(means.shape[1]):
        low, high = (means[:, d] - 8 * deviations[:, d]).min(), (means[:, d] + 8 * deviations[:, d]).max()
        axis = torch.linspace(low.item(), high.item(), points, dtype=torch.float64)
        cell *= (axis[1] - axis[0]).item()
        log_density = torch.distributions.Normal(means[:, d, None], deviations[:, d, None]).log_prob(axis)
        log_p = log_p + log_density.view(2, *[points if d == other else 1 for other in range(means.shape[1])])
    log_mixture = torch.logaddexp(log_p[0], log_p[1]) - math.log(2)
    return (0.5 * log_p.exp() * (log_p - log_mixture)).sum().item() * cell


def read(z: Tensor, a: Tensor, hidden: int = 0, seed: int = 0) -> float:
    """What a reader of z (N, D) knows about the groups a (N,), in nats, by your `mutual_information.leakage`.

    A linear classifier, trained by 100 steps on the whole first half of the rows, or with `hidden` units an MLP,
    trained by 400 on batches of 512 of them; both are read off the second half.
    """
    half = len(z) // 2
    if hidden:
        reader = fit_classifier(
            z[:half], a[:half], 2, hidden=hidden, steps=400, batch=512, seed=seed, label="MLP reader"
        )
    else:
        with seeded(seed):
            reader = nn.Linear(z.shape[1], 2).to(z.device)
        optimiser = torch.optim.Adam(reader.parameters(), lr=0.05)

        def step(i: int) -> dict[str, Tensor]:
            loss = F.cross_entropy(reader(z[:half]), a[:half])
            descend(optimiser, loss)
            return {"loss": loss}

        fit(step, 100, label="linear reader")
    with torch.no_grad():
        return information.leakage(a[half:], reader(z[half:])).item()


PURGE_WEIGHTS = {"MMD": 100.0, "critic": 10.0}  # of each penalty beside the change


def train_purge(tool: str, x: Tensor, a: Tensor, seed: int = 0, steps: int = 800) -> Tensor:
    """x (N, D) changed by a small network until "MMD" or a "critic" finds no trace of a (N,): (N, D).

    The network minimises the mean squared change plus, times its weight of PURGE_WEIGHTS, your
    `mmd2` of the two groups, or your `independence_loss` of a critic that sees z and a, together or shuffled.
    """
    if tool not in PURGE_WEIGHTS:
        raise ValueError(f"tool: expected one of {', '.join(PURGE_WEIGHTS)}, got {tool!r}")
    generator = torch.Generator(x.device).manual_seed(seed)
    with seeded(seed):
        change = mlp(x.shape[1], 64, 64, x.shape[1]).to(x.device)
        critic = mlp(x.shape[1] + 1, 64, 64, 1).to(x.device)
    optimiser = torch.optim.Adam(change.parameters(), lr=2e-3)
    critic_optimiser = torch.optim.Adam(critic.parameters(), lr=2e-3)
    groups = [x[a == 0], x[a == 1]]

    def draw(part: Tensor) -> Tensor:
        return part[torch.randint(len(part), (128,), generator=generator, device=x.device)]

    def logits(z: Tensor, group: Tensor) -> Tensor:
        return critic(torch.cat([z, group[:, None]], 1))[:, 0]

    group = torch.arange(2, device=x.device).repeat_interleave(128).float()

    def step(i: int) -> dict[str, Tensor]:
        rows = torch.cat([draw(part) for part in groups])
        moved = change(rows)
        z = rows + moved
        shuffled = group[torch.randperm(len(group), generator=generator, device=x.device)]
        if tool == "critic":
            for _ in range(2):
                fixed = z.detach()
                descend(
                    critic_optimiser, information.critic_loss(logits(fixed, group), logits(fixed, shuffled))
                )
            penalty = information.independence_loss(logits(z, group), logits(z, shuffled))
        else:
            penalty = information.mmd2(*z.chunk(2), bandwidth=1.0)
        loss = moved.square().sum(1).mean() + PURGE_WEIGHTS[tool] * penalty
        descend(optimiser, loss)
        return {"loss": loss}

    fit(step, steps, label=f"purged by {tool}", draws=generator)
    with torch.no_grad():
        return x + change(x)


def erase_groups(x: Tensor, a: Tensor) -> Tensor:
    """Your `erase`, for groups a (N,), 0 or 1."""
    return erase(x, a[:, None].float())
