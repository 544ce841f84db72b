"""Experiments of lesson 07: the linear model, three tasks with two attributes, VAEs of correlated positions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import checkpoints
from course_lib.datasets.digits import digits
from course_lib.datasets.scenes import Pool, occlude, place, side_by_side, textures
from course_lib.datasets.sprites import Sprites
from course_lib.experiments.elbo import kl_per_latent, train_vae
from course_lib.files import add_rows, data_folder, read_table
from course_lib.lessons import beta_vae
from course_lib.lessons.correlated_factors import (
    conditional_critic_loss,
    correlated_joint,
    sample_correlated,
    shuffle_within_groups,
)
from course_lib.models import VAE, mlp
from course_lib.training import descend, fit, normal_like, seeded, whole_trainings

# ------------------------------------------------------------------ pictures


def ellipses(device: torch.device | str = "cpu") -> Sprites:
    """Upright ellipses of one size, 32×32: 32 values of x over the whole width, 8 of y over a quarter of the height."""
    only = {"shape": 1, "scale": 5, "orientation": 0, "y": range(12, 20)}
    return Sprites(size=32, only=only, device=device).keep()


# ------------------------------------------------------------------ the linear model

METHODS = ("Base", "MI", "CMI")  # no condition; I(z1; z2) = 0; I(z1; z2 | a_k) = 0 for k = 1 and 2


def variance_explained(weight: Tensor, correlation: Tensor, noise: Tensor) -> Tensor:
    """1 − E|W x − s|² / 2 in the linear model, for data of this correlation. weight (…, 2, 2); the others (…)."""
    one = torch.ones_like(correlation)
    signal = torch.stack([one, correlation, correlation, one], dim=-1).unflatten(-1, (2, 2))
    inputs = signal + noise[..., None, None] * torch.eye(2, device=noise.device)
    error = signal - 2 * weight @ signal + weight @ inputs @ weight.mT
    return 1 - error.diagonal(dim1=-2, dim2=-1).sum(-1) / 2


def binary_joint(correlation: float, device: torch.device | str = "cpu") -> Tensor:
    """p(a_1, a_2) = [[1 + c, 1 − c], [1 − c, 1 + c]] / 4 of two balanced attributes with correlation c in [−1, 1]."""
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation: expected a number in [-1, 1], got {correlation!r}")
    same, different = (1 + correlation) / 4, (1 - correlation) / 4
    return torch.tensor([[same, different], [different, same]], device=device)


# ------------------------------------------------------------------ three tasks with two binary attributes

THREE_OR_EIGHT = (3, 8)  # digits that are easily confused where a cloud hides a part
DOMAINS = ("mnist", "mnist_m")  # white on black, and blended with photographs
Draw = Callable[[Tensor, torch.Generator], Tensor]  # attributes (n, 2) to images (n, C, H, W)


def _digits(domain: str, split: str, channels: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """The threes and eights of a domain, 32×32, and their class, 0 or 1.

    "train" has four fifths of the training digits, "valid" the others, by which settings are chosen; "test" is "test".
    """
    images, labels = digits(domain, "test" if split == "test" else "train", channels=channels)
    keep = (labels == THREE_OR_EIGHT[0]) | (labels == THREE_OR_EIGHT[1])
    fifth = torch.arange(len(labels)) % 5 == 0
    keep &= {"train": ~fifth, "valid": fifth, "test": torch.ones_like(fifth)}[split]
    return images[keep].to(device), (labels[keep] == THREE_OR_EIGHT[1]).long().to(device)


def two_digits(split: str, device: torch.device | str = "cpu", threshold: float = 0.6) -> Draw:
    """A digit on the left and one on the right, each behind clouds: the attributes are their classes."""
    pool = Pool(*_digits("mnist", split, 1, device), classes=2)

    def draw(a: Tensor, generator: torch.Generator) -> Tensor:
        left, right = (occlude(pool.draw(label, generator), threshold, generator) for label in a.unbind(1))
        return side_by_side(left, right)

    return draw


def digit_and_domain(split: str, device: torch.device | str = "cpu", threshold: float = 0.75) -> Draw:
    """A digit behind clouds, plain or blended with a photograph: the attributes are its class and its domain."""
    sets = [_digits(domain, split, 3, device) for domain in DOMAINS]
    images = torch.cat([images for images, _ in sets])
    cells = torch.cat([2 * labels + domain for domain, (_, labels) in enumerate(sets)])
    pool = Pool(images, cells, classes=4)
    return lambda a, generator: occlude(pool.draw(2 * a[:, 0] + a[:, 1], generator), threshold, generator)


def digit_on_texture(split: str, device: torch.device | str = "cpu") -> Draw:
    """A bright digit in front of stripes or dots: the attributes are its class and the texture's."""
    pool = Pool(*_digits("mnist", split, 1, device), classes=2)

    def draw(a: Tensor, generator: torch.Generator) -> Tensor:
        background = textures(a[:, 1], generator)
        u = torch.rand(len(a), 3, generator=generator, device=generator.device).to(a.device)
        return place(pool.draw(a[:, 0], generator), 0.5 + 0.5 * u, background)

    return draw


# ------------------------------------------------------------------ two subspaces, and what they may share

HALF = 5  # latents in each subspace
NOISE = 0.2  # of the channel noise, a standard deviation; that of the latents is 1


WIDTHS = (8, 16, 32)  # channels of the encoder's convolutions


class TwoHeads(nn.Module):
    """A convolutional encoder x → (z1, z2), 5 latents each, and a linear head for attribute k on z_k.

    shape: that of an image, (C, H, W), H and W multiples of 8. As in lesson 01, latents are scaled to variance 1 and
    pass through a little noise.
    """

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__()
        channels, height, width = shape
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise((channels, *WIDTHS)):
            layers += [nn.Conv2d(c_in, c_out, 4, stride=2, padding=1), nn.ReLU()]
        self.encoder = nn.Sequential(*layers, nn.Flatten(), mlp(32 * height * width // 64, 64, 2 * HALF))
        self.scale = nn.BatchNorm1d(2 * HALF, affine=False)
        self.heads = nn.ModuleList(nn.Linear(HALF, 2) for _ in range(2))

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) to z1, z2 (B, 5) each, channel noise included."""
        z = self.scale(self.encoder(x))
        return (z + NOISE * normal_like(z, generator)).split(HALF, dim=1)

    def logits(self, codes: tuple[Tensor, Tensor]) -> Tensor:
        """The heads' logits, (B, 2 attributes, 2 classes)."""
        return torch.stack([head(z) for head, z in zip(self.heads, codes, strict=True)], dim=1)


def pairs(method: str, codes: tuple[Tensor, Tensor], a: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """own, rest, groups, number of groups: what may not depend on what, inside which groups.

    "MI": z1 and z2, all in one group. "CMI": z1 and z2 in groups of equal a_1, and z2 and z1 in groups of equal a_2;
    both questions go to one critic, which is told the group out of four.
    """
    z1, z2 = codes
    if method == "MI":
        return z1, z2, torch.zeros_like(a[:, 0]), 1
    return torch.cat([z1, z2]), torch.cat([z2, z1]), torch.cat([a[:, 0], 2 + a[:, 1]]), 4


class Critic:
    """The critic of one method, and both sides of the game: `train` it on codes, then `penalty` for the encoder."""

    def __init__(self, method: str, generator: torch.Generator):
        self.method, self.generator = method, generator
        self.network = mlp(2 * HALF + (1 if method == "MI" else 4), 64, 64, 1).to(generator.device)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=6e-3, betas=(0.5, 0.99), fused=True)

    def train(self, codes: tuple[Tensor, Tensor], a: Tensor, steps: int = 3) -> None:
        own, rest, group, groups = pairs(self.method, [z.detach() for z in codes], a)
        for _ in range(steps):
            shuffled = shuffle_within_groups(own, group, self.generator)
            loss = conditional_critic_loss(self.network, own, shuffled, rest, group, groups)
            descend(self.optimiser, loss)

    def penalty(self, codes: tuple[Tensor, Tensor], a: Tensor) -> Tensor:
        """The critic's loss with its classes exchanged; log 2 where it can tell nothing apart."""
        own, rest, group, groups = pairs(self.method, codes, a)
        shuffled = shuffle_within_groups(own, group, self.generator)
        return conditional_critic_loss(self.network, shuffled, own, rest, group, groups)


class GroupDRO:
    """The loss of the group that fares worst, softly: Σ_g q_g loss_g, Sagawa et al. (2020), https://arxiv.org/abs/1911.08731.

    Before each step q_g is multiplied by exp(rate · loss_g), and all are scaled to sum 1. loss_g is the mean over the
    batch's members of group g, and 0 where there are none.
    """

    def __init__(self, groups: int, rate: float, device: torch.device | str = "cpu"):
        self.rate, self.weights = rate, torch.full((groups,), 1 / groups, device=device)

    def __call__(self, losses: Tensor, group: Tensor) -> Tensor:
        """losses (B,) and groups (B,) int64 to the loss to descend, a scalar."""
        count, total = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        count = count.index_add(0, group, torch.ones_like(losses))
        loss = total.index_add(0, group, losses) / count.clamp(min=1)
        weights = self.weights * (self.rate * loss.detach()).exp()
        self.weights.copy_(weights / weights.sum())
        return (self.weights * loss).sum()


TRAINED = (*METHODS, "reweighting", "GroupDRO", "balanced")
WEIGHTS = {"MI": 2.0, "CMI": 8.0}  # of the critic's penalty
DRO_RATE = 0.01


def train_heads(
    method: str,
    draw: Draw,
    correlation: float,
    seed: int,
    steps: int = 400,
    batch: int = 128,
    device: torch.device | str = "cpu",
) -> tuple[TwoHeads, dict[str, Tensor]]:
    """Two heads on data of this correlation, by one of TRAINED; the history of both losses.

    "Base"         both heads' cross-entropies, averaged over the batch.
    "MI", "CMI"    and, times its weight of WEIGHTS, the penalty of a critic of the two subspaces.
    "reweighting"  each example counts 1 / (4 p(a_1, a_2)): in the mean all groups alike.
    "GroupDRO"     the `GroupDRO` of the four groups (a_1, a_2).
    "balanced"     Base on data *without* the correlation: what the others would like to have.

    The critic learns six times as fast as the encoder and takes three steps to its one: an encoder that moves faster
    than its critic is judged by what its codes were some steps ago.
    """
    if method not in TRAINED:
        raise ValueError(f"method: expected one of {TRAINED}, got {method!r}")
    generator = torch.Generator(device).manual_seed(seed)
    joint = binary_joint(0.0 if method == "balanced" else correlation, device)
    shape = draw(sample_correlated(joint, 1, generator), generator).shape[1:]
    with seeded(seed):
        model = TwoHeads(shape).to(device)
        critic = Critic(method, generator) if method in WEIGHTS else None
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3, betas=(0.5, 0.99), fused=True)
    worst, share = GroupDRO(4, DRO_RATE, device), joint.flatten()

    def step(i: int) -> dict[str, Tensor]:
        a = sample_correlated(joint, batch, generator)
        group = 2 * a[:, 0] + a[:, 1]
        codes = model(draw(a, generator), generator)
        losses = F.cross_entropy(model.logits(codes).mT, a, reduction="none").sum(1)  # (B,)
        if method == "reweighting":
            losses = losses / (4 * share[group])
        heads = worst(losses, group) if method == "GroupDRO" else losses.mean()
        penalty = torch.zeros_like(heads)
        if critic is not None:
            critic.train(codes, a)
            penalty = critic.penalty(codes, a)
        descend(optimiser, heads + WEIGHTS.get(method, 0.0) * penalty)
        return {"heads": heads, "penalty": penalty}

    history = fit(step, steps, label=f"{method}, c = {correlation:g}, seed {seed}", draws=generator)
    return model.eval(), history


@torch.no_grad()
def correct(model: TwoHeads, draw: Draw, correlation: float, n: int = 4000) -> tuple[Tensor, Tensor]:
    """On n fresh images of this correlation: which of both heads are right (n, 2), and the attributes (n, 2)."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(1)
    a = sample_correlated(binary_joint(correlation, device), n, generator)
    prediction = model.logits(model(draw(a, generator), generator)).argmax(2)
    return prediction == a, a


def group_accuracy(model: TwoHeads, draw: Draw, n: int = 4000) -> Tensor:
    """The first head's accuracy in each group (a_1, a_2), (2, 2), all groups alike frequent."""
    right, a = correct(model, draw, 0.0, n)
    group = 2 * a[:, 0] + a[:, 1]
    count, total = (torch.zeros(4, device=a.device) for _ in range(2))
    count.index_add_(0, group, torch.ones(n, device=a.device))
    total.index_add_(0, group, right[:, 0].float())
    return (total / count).view(2, 2).cpu()


# ------------------------------------------------------------------ without labels


def train_positions(sigma: float, seed: int, steps: int = 1000, device: torch.device | str = "cpu") -> VAE:
    """A beta-VAE (beta 2.5) with four latents, of ellipses whose x and y go together as `correlated_joint` says for sigma."""
    sprites = ellipses(device)
    joint = correlated_joint(sprites.grid.sizes, (0, 1), torch.tensor(sigma, device=device))
    generator = torch.Generator(device).manual_seed(seed)
    with seeded(seed):
        vae = VAE(latents=4, size=32).to(device)

    def sample(n: int, generator: torch.Generator) -> Tensor:
        return sprites.images(sample_correlated(joint, n, generator))

    def loss(x: Tensor, logits: Tensor, mean: Tensor, log_var: Tensor, z: Tensor) -> Tensor:
        return beta_vae.beta_vae_loss(x, logits, mean, log_var, beta=2.5)

    label = f"beta-VAE, σ = {sigma:g}"
    train_vae(vae, sample, steps, batch=32, generator=generator, loss=loss, label=label)
    return vae.eval()


@dataclass(frozen=True)
class Directions:
    """Of each of D latents: what it reads (D, 2), what it moves (D, 2), R² (D,) of the regression, nats (D,), on the CPU.

    reads: μ_j, standardised, is nearest to reads_j · (x, y) in the least-squares sense.
    moves: by how much (x, y) of the decoded picture change from z_j = −1 to 1, over 2, all other latents 0.
    x and y are scaled to mean 0 and variance 1. The sign of a latent means nothing: the larger entry of a row is positive.
    """

    reads: Tensor
    moves: Tensor
    fit: Tensor
    nats: Tensor


@torch.no_grad()
def directions(vae: VAE, sigma: float) -> Directions:
    """The directions of the latents in the plane of x and y, on 4000 images like those of the training.

    A correlation of μ_j with x does not say that the latent reads x: where x and y go together, a latent that is y
    alone has it, too. The regression on both holds the other one fixed.
    """
    device = next(vae.parameters()).device
    sprites, generator = ellipses(device), torch.Generator(device).manual_seed(1)
    joint = correlated_joint(sprites.grid.sizes, (0, 1), torch.tensor(sigma, device=device))
    factors = sample_correlated(joint, 4000, generator)
    images = sprites.images(factors)
    mean, log_var = vae.encode(images)
    xy, target = _standardised(factors.float()), _standardised(mean)
    reads = torch.linalg.lstsq(xy, target).solution  # (2, D)
    left = (target - xy @ reads).square().mean(0)  # the part of variance 1 that x and y do not explain
    ends = torch.eye(mean.shape[1], device=device)
    places = [_centres(vae.decode(z).sigmoid()) for z in (ends, -ends)]
    moves = (places[0] - places[1]) / 2 / _centres(images).std(0, correction=0)
    return Directions(
        _upright(reads.mT).cpu(), _upright(moves).cpu(), (1 - left).cpu(), kl_per_latent(mean, log_var).cpu()
    )


def linear_directions(sigma: float) -> Directions:
    """The same of the linear VAE, exactly: its two latents are the principal axes of (x, y), the larger variance first.

    With axes V and variances λ the codes are λ_j^{-½} v_j · (x, y), and z_j moves (x, y) by λ_j^{½} v_j; nats are left out.
    """
    joint = correlated_joint((32, 8), (0, 1), torch.tensor(sigma)).flatten()
    points = torch.cartesian_prod(torch.arange(32.0), torch.arange(8.0))
    points = points - joint @ points
    covariance = (points * joint[:, None]).T @ points
    variances, axes = torch.linalg.eigh(covariance)
    variances, axes, spread = variances.flip(0), axes.flip(1).T, covariance.diagonal().sqrt()
    reads, moves = axes * spread / variances.sqrt()[:, None], axes * variances.sqrt()[:, None] / spread
    return Directions(_upright(reads), _upright(moves), torch.ones(2), torch.full((2,), float("nan")))


def degrees(rows: Tensor) -> Tensor:
    """The angles (…) of directions (…, 2) from the x axis, in (−90, 90]: x has 0, y 90, x + y 45, x − y −45."""
    angle = torch.rad2deg(torch.atan2(rows[..., 1], rows[..., 0]))
    return 90 - (90 - angle) % 180


def _centres(images: Tensor) -> Tensor:
    """The centres of mass (N, 2) of images (N, 1, S, S), in pixels: to the right and downwards."""
    pixel = torch.arange(images.shape[-1], device=images.device).float()
    mass = images.sum((1, 2, 3)).clamp(min=1e-6)
    return torch.stack([images.sum((1, 2)) @ pixel, images.sum((1, 3)) @ pixel], dim=1) / mass[:, None]


def _upright(rows: Tensor) -> Tensor:
    """Rows (D, 2) with their signs turned so that the entry of larger size is positive."""
    larger = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return rows * torch.where(larger < 0, -1.0, 1.0)


def _standardised(values: Tensor) -> Tensor:
    """Every column with mean 0 and variance 1."""
    return (values - values.mean(0)) / values.std(0, correction=0).clamp(min=1e-6)


# ------------------------------------------------------------------ the long comparison (`course pretrain --correlated`)

TASKS = {"two digits": two_digits, "domain": digit_and_domain, "texture": digit_on_texture}
RUNS = [(task, method) for task in TASKS for method in TRAINED]
SEED_SETS = (range(5), range(5, 10), range(10, 15))  # the reported one, and two others to see what varies
CORRELATION = 0.9
TESTS = ("at c", "at 0", "at -c", "both right at c")
GROUPS = ("group 00", "group 01", "group 10", "group 11")
LONG_STEPS = 400


TEXTS = ("task", "method", "machine")  # columns of the tables that are no numbers


@whole_trainings()
def compare_long(folder: Path, steps: int = LONG_STEPS, device: torch.device | str = "cpu") -> None:
    """Train all RUNS at CORRELATION, a set of seeds after the other, and write a row of each into `correlated.csv` in `folder`.

    A run that is in the table with as many steps is done.
    """
    table, c = folder / "correlated.csv", CORRELATION
    draws = {name: [task(split, device) for split in ("train", "test")] for name, task in TASKS.items()}
    runs = [(t, m, seed) for seeds in SEED_SETS for seed in seeds for m in TRAINED for t in TASKS]
    for task, method, seed in runs:
        rows = read_table(table, TEXTS)
        key = {"task": task, "method": method, "seed": seed, "steps": steps}
        if any(all(row[k] == v for k, v in key.items()) for row in rows):
            continue
        start = time.process_time()
        model, _ = train_heads(method, draws[task][0], c, seed, steps, device=device)
        key["CPU seconds"] = round(time.process_time() - start)
        key["machine"] = checkpoints.machine(device)
        row = key | measure(model, draws[task][1], c)
        add_rows(table, [row], TEXTS, lambda r: (RUNS.index((r["task"], r["method"])), r["seed"], r["steps"]))


def measure(model: TwoHeads, draw: Draw, c: float, n: int = 4000) -> dict[str, float]:
    """Accuracies on n fresh images each: TESTS, means of both heads, and GROUPS, the first head's by (a_1, a_2)."""
    right = [correct(model, draw, t, n)[0].float() for t in (c, 0.0, -c)]
    values = [*(r.mean() for r in right), right[0].prod(1).mean(), *group_accuracy(model, draw, n).flatten()]
    return {name: round(value.item(), 4) for name, value in zip(TESTS + GROUPS, values, strict=True)}


SIGMAS, POSITION_STEPS = (10.0, 0.2), 1000
IN_USE = 0.1  # nats that a latent carries at least


@whole_trainings()
def compare_positions(folder: Path, steps: int = POSITION_STEPS, device: torch.device | str = "cpu") -> None:
    """Train a beta-VAE of positions for each of SIGMAS and five seeds; `positions.csv` in `folder` has a row a latent in use.

    Latents are numbered by what they carry, the most first; where none is in use, the training has a row of latent 0.
    A training that is in the table with as many steps is done.
    """
    table = folder / "positions.csv"
    for sigma, seed in ((sigma, seed) for seed in SEED_SETS[0] for sigma in SIGMAS):
        rows = read_table(table, TEXTS)
        key = {"sigma": sigma, "seed": seed, "steps": steps}
        if any(all(row[k] == v for k, v in key.items()) for row in rows):
            continue
        start = time.process_time()
        vae = train_positions(sigma, seed, steps, device=device)
        key["CPU seconds"] = round(time.process_time() - start)
        found = directions(vae, sigma)
        numbers = {
            "nats": found.nats,
            "fit": found.fit,
            **{
                f"{kind} {axis}": value[:, k]
                for kind, value in (("reads", found.reads), ("moves", found.moves))
                for k, axis in enumerate("xy")
            },
        }
        new = [
            key | {"latent": rank} | {name: round(v[j].item(), 3) for name, v in numbers.items()}
            for rank, j in enumerate(in_use(found), 1)
        ]
        new = new or [key | {"latent": 0}]
        add_rows(table, new, TEXTS, lambda r: (SIGMAS.index(r["sigma"]), r["seed"], r["steps"]))


def in_use(found: Directions) -> list[int]:
    """The latents that carry IN_USE nats or more, the most first."""
    return [j for j in found.nats.argsort(descending=True).tolist() if found.nats[j] >= IN_USE]


def comparison() -> list[dict]:
    """The recorded rows of `compare_long`."""
    return read_table(data_folder() / "sweeps/correlated.csv", TEXTS)


def positions(table: Path | None = None) -> list[dict]:
    """The recorded rows of `compare_positions`, of latents in use."""
    rows = read_table(table or data_folder() / "sweeps/positions.csv", TEXTS)
    return [row for row in rows if row["latent"]]
