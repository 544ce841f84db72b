"""Lesson 07, correlated factors: contracts, the plain loops that are given, the exact linear model, and three tasks.

Conventions: natural logarithms (nats); losses are averaged over the batch; logits are log odds.
Funke, Vicol, Wang, Kümmerer, Zemel, Bethge (2022), https://arxiv.org/abs/2112.14754.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.datasets.digits import digits
from course_lib.datasets.scenes import Pool, occlude, place, side_by_side, textures
from course_lib.datasets.sprites import Sprites
from course_lib.exercise import MB, exercise
from course_lib.exercise.contract import generator_for
from course_lib.lessons import beta_vae, elbo
from course_lib.models import VAE, mlp
from course_lib.plots import PALETTE
from course_lib.training import fit

# ------------------------------------------------------------------ plain loops, given


def sample_correlated_loop(joint: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw one point of the grid at a time: a random number, and the cell whose share of [0, 1) it falls into."""
    shares = list(accumulate(joint.flatten().tolist()))
    rows = []
    for u in torch.rand(n, generator=generator, dtype=torch.float64).tolist():
        cell, factors = min(bisect.bisect_right(shares, u * shares[-1]), len(shares) - 1), []
        for size in reversed(joint.shape):
            cell, factor = divmod(cell, size)
            factors.insert(0, factor)
        rows.append(factors)
    return torch.tensor(rows)


def conditional_mutual_information_loop(table: Tensor) -> Tensor:
    """I(x; y | a), one cell at a time on the host."""
    result = []
    for t in table.double().reshape(-1, *table.shape[-3:]):
        p, total = (t / t.sum()).tolist(), 0.0
        p_xa, p_ya = (t / t.sum()).sum(1).tolist(), (t / t.sum()).sum(0).tolist()
        p_a = (t / t.sum()).sum((0, 1)).tolist()
        for x, rows in enumerate(p):
            for y, row in enumerate(rows):
                for a, q in enumerate(row):
                    total += q * math.log(q * p_a[a] / (p_xa[x][a] * p_ya[y][a])) if q > 0 else 0.0
        result.append(total)
    return torch.tensor(result).view(table.shape[:-3])


def shuffle_within_groups_loop(z: Tensor, a: Tensor, generator: torch.Generator) -> Tensor:
    """Shuffle the members of one group after the other."""
    dice = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    groups: dict[int, list[int]] = {}
    for i, label in enumerate(a.tolist()):
        groups.setdefault(label, []).append(i)
    result = torch.empty_like(z)
    for members in groups.values():
        for target, source in zip(members, dice.sample(members, len(members)), strict=True):
            result[target] = z[source]
    return result


# ------------------------------------------------------------------ exercises: correlated data, and what independence costs


@exercise("Factors that go together", points=2, gradients=False)
def correlated_joint(sizes: Sequence[int], pair: Sequence[int], sigma: Tensor) -> Tensor:
    """p(c) ∝ exp(−(u_i − u_j)² / 2σ²) over a grid of factors, (i, j) = pair, u_k = c_k / (sizes[k] − 1) in [0, 1].

    sizes: how many values each factor takes; sigma: a scalar. All other factors are uniform and independent.
    Returns a table of shape sizes that sums to 1, float32, on sigma's device. Träuble et al. (2021),
    https://arxiv.org/abs/2006.07886.
    """


def _probe_sample(implementation: Callable, joint: Tensor, n: int) -> dict[str, Tensor]:
    """What must hold whatever the draw: n points of the grid, as often as `joint` (a table) says."""
    generator = generator_for(joint)
    first, second = implementation(joint, n, generator), implementation(joint, n, generator)
    if not isinstance(first, Tensor) or first.shape != (n, joint.ndim) or first.dtype != torch.int64:
        return {"factors": first}
    again = implementation(joint, n, generator_for(joint))
    inside, cell = torch.ones((), dtype=torch.bool, device=joint.device), 0
    for size, column in zip(joint.shape, first.unbind(1), strict=True):
        inside = inside & ((column >= 0) & (column < size)).all()
        cell = cell * size + column.clamp(0, size - 1)
    ones = torch.ones(n, device=joint.device)
    frequency = torch.zeros(joint.numel(), device=joint.device).index_add_(0, cell, ones / n).view_as(joint)

    def as_often(counted: Tensor, wanted: Tensor) -> Tensor:  # within 5 standard deviations, and one draw
        return ((counted - wanted).abs() < 5 * (wanted * (1 - wanted) / n).sqrt() + 1 / n).all()

    alone = [
        as_often(frequency.sum(others), joint.sum(others))
        for others in ([k for k in range(joint.ndim) if k != axis] for axis in range(joint.ndim))
    ]
    return {
        "factors": torch.zeros_like(first),  # their shape and type; the values may be any
        "inside the grid": inside,
        "as often as the table says": as_often(frequency, joint),
        "each factor alone as often as the table says": torch.stack(alone).all(),
        "a second draw differs": (first != second).any(),
        "the same seed gives the same draw": (first == again).all(),
    }


@exercise(
    "One draw for the whole batch",
    points=2,
    gradients=False,
    probe=_probe_sample,
    at_scale=lambda n: dict(joint=torch.full((6, 32, 32), 1 / 6144), n=n),
    full_size=100_000,
    memory=32 * MB,
    plain=sample_correlated_loop,
    timed_size=5000,
)
def sample_correlated(joint: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n independent points of the grid, each cell c with probability joint[c].

    joint: a table of any shape (size_1, …, size_K) that sums to 1. Returns factors (n, K), int64, on joint's device.
    All randomness from `generator`, which is on that device, too. No loop, and no (n, cells) tensor.
    """


@exercise("What independence costs", points=2, at_scale=lambda n: dict(joint=torch.rand(n, 8, 8)))
def accuracy_bound(joint: Tensor) -> Tensor:
    """The highest P(ŷ_1 = a_1 and ŷ_2 = a_2) of predictions ŷ_1, ŷ_2 that are independent of each other.

    joint p(a_1, a_2): (…, K, L), sums to 1. Predictions are as frequent as the attributes: P(ŷ_1 = i) = p(a_1 = i),
    and so for 2. Returns (…): Σ_ij min(p_ij, p_i p_j) = 1 − ½ Σ_ij |p_ij − p_i p_j|.
    """


# ------------------------------------------------------------------ exercises: conditional dependence


@exercise(
    "What is left when the attribute is known",
    points=2,
    gradients=False,
    at_scale=lambda n: dict(table=torch.rand(n, 8, 8, 4)),
    full_size=2048,
    plain=conditional_mutual_information_loop,
    timed_size=32,
)
def conditional_mutual_information(table: Tensor) -> Tensor:
    """I(x; y | a) = Σ_a p(a) KL[p(x, y | a) || p(x | a) p(y | a)], in nats, with 0 log 0 = 0.

    table: (…, K, L, M), counts or probabilities of (x, y, a), of any dtype: p is the table over its sum. Groups a may
    be empty. Returns (…), float32.
    """


@exercise(
    "The same for a Gaussian",
    points=3,
    at_scale=lambda n: dict(covariance=torch.eye(6).expand(n, 6, 6).clone(), x=2, y=2),
)
def gaussian_conditional_mutual_information(covariance: Tensor, x: int, y: int) -> Tensor:
    """I(x; y | a) = ½ (log det S_xx + log det S_yy − log det S), in nats, S the covariance of (x, y) given a.

    covariance Σ: (…, D, D) of (x, y, a), in this order: the first `x` variables, the next `y`, and the others, at
    least one, are a. S = Σ_11 − Σ_12 Σ_22⁻¹ Σ_21, with 1 = (x, y) and 2 = a (Schur complement). Returns (…).
    On a GPU torch.linalg.inv and solve report errors to the host and so stall; solve_ex, inv_ex and slogdet do not.
    """


@exercise(
    "Three encoders, exactly",
    points=3,
    at_scale=lambda n: dict(correlation=torch.rand(n) - 0.5, noise=torch.rand(n) + 0.1),
)
def linear_optimum(correlation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best linear predictions ŝ = W x of s from x = s + n, under three conditions. W (…, 2, 2) each.

    s ~ N(0, [[1, ρ], [ρ, 1]]), n ~ N(0, σ² I); correlation ρ in (−1, 1) and noise σ²: (…). Smallest E|ŝ − s|² with
    1. no condition: W = Σ_s Σ_x⁻¹;
    2. I(ŝ_1; ŝ_2) = 0: W = diag(Σ_x^{−½} Σ_s) Σ_x^{−½} (whiten, then scale each component);
    3. I(ŝ_1; ŝ_2 | s_k) = 0 for k = 1 and 2: W = I / (1 + σ²).
    """


# ------------------------------------------------------------------ exercises: the game


def _probe_shuffle(implementation: Callable, z: Tensor, a: Tensor) -> dict[str, Tensor]:
    """What must hold whatever the draw, on z (B, D) whose rows repeat one number each: their place in the batch."""
    generator = generator_for(z)
    first, second = implementation(z, a, generator), implementation(z, a, generator)
    if not isinstance(first, Tensor) or first.shape != z.shape:
        return {"shuffled": first}
    again = implementation(z, a, generator_for(z))
    came_from = first[:, 0].long().clamp(0, len(z) - 1)
    return {
        "shuffled": torch.zeros_like(first),  # its shape and type; the values may be any
        "each row comes once": (first[:, 0].sort().values == z[:, 0].sort().values).all(),
        "rows stay whole": (first == first[:, :1]).all(),
        "rows stay in their group": (a[came_from] == a).all(),
        "the order is another one": (first != z).any(),
        "a second draw differs": (first != second).any(),
        "the same seed gives the same order": (first == again).all(),
    }


@exercise(
    "Shuffle among equals",
    points=3,
    gradients=False,
    probe=_probe_shuffle,
    at_scale=lambda n: dict(z=torch.randn(n, 10), a=torch.randint(10, (n,))),
    memory=4 * MB,
    operations=200,
    plain=shuffle_within_groups_loop,
    timed_size=4096,
)
def shuffle_within_groups(z: Tensor, a: Tensor, generator: torch.Generator) -> Tensor:
    """The rows of z in a random order that moves each row only to places of the same attribute a.

    With triples (z_i, w_i, a_i) from p(z, w, a), the triples (shuffled_i, w_i, a_i) come from p(z | a) p(w | a) p(a).
    z: (B, D); a: (B,) int64, any labels. Returns (B, D), every row once and whole, on z's device. No loop over the
    groups; all randomness from `generator`, which is on z's device.
    """


def _probe_critic(
    implementation: Callable,
    weight: Tensor,
    own: Tensor,
    shuffled: Tensor,
    rest: Tensor,
    a: Tensor,
    classes: int,
) -> Tensor:
    """A critic with one layer of given weights (D + E + classes, H), and the sum of tanh over its H units."""

    def critic(x: Tensor) -> Tensor:
        return (x @ weight).tanh().sum(1, keepdim=True)

    return implementation(critic, own, shuffled, rest, a, classes)


@exercise(
    "A critic that knows the attribute",
    points=2,
    probe=_probe_critic,
    at_scale=lambda n: dict(
        weight=torch.randn(13, 16),
        own=torch.randn(n, 5),
        shuffled=torch.randn(n, 5),
        rest=torch.randn(n, 5),
        a=torch.randint(3, (n,)),
        classes=3,
    ),
)
def conditional_critic_loss(
    critic: Callable[[Tensor], Tensor],
    own: Tensor,
    shuffled: Tensor,
    rest: Tensor,
    a: Tensor,
    classes: int,
) -> Tensor:
    """Lesson 01's critic_loss of a critic that sees [own, rest, onehot(a)] and [shuffled, rest, onehot(a)]. A scalar.

    own, shuffled: (B, D), the second shuffled within groups of equal a; rest (B, E); a (B,) int64 in [0, classes).
    critic: (N, D + E + classes) to logits (N, 1); own is class 1. Gradients reach all three codes: a caller who trains
    the critic alone detaches them. Exchange own and shuffled, and it is the encoder's loss.
    """


# ------------------------------------------------------------------ pictures


def ellipses(device: torch.device | str = "cpu") -> Sprites:
    """Upright ellipses of one size, 32×32: 32 values of x over the whole width, 8 of y over a quarter of the height."""
    return Sprites(
        size=32, only={"shape": 1, "scale": 5, "orientation": 0, "y": range(12, 20)}, device=device
    )


# ------------------------------------------------------------------ the linear model

METHODS = ("Base", "MI", "CMI")  # no condition; I(z1; z2) = 0; I(z1; z2 | a_k) = 0 for k = 1 and 2
COLOURS = {"Base": PALETTE["none"], "MI": PALETTE["critic"], "CMI": PALETTE["answer"]}


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

SIZE = 16  # pixels along a side: the digits at a quarter of the bundled images' area, so that training takes seconds
THREE_OR_EIGHT = (3, 8)  # digits that are easily confused where a cloud hides a part
DOMAINS = ("mnist", "mnist_m")  # white on black, and blended with photographs
Draw = Callable[[Tensor, torch.Generator], Tensor]  # attributes (n, 2) to images (n, C, H, W)


def _digits(domain: str, split: str, channels: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """The threes and eights of a domain, 16×16, and their class, 0 or 1."""
    images, labels = digits(domain, split, channels=channels)
    keep = (labels == THREE_OR_EIGHT[0]) | (labels == THREE_OR_EIGHT[1])
    small = F.interpolate(images[keep], size=(SIZE, SIZE), mode="area")
    return small.to(device), (labels[keep] == THREE_OR_EIGHT[1]).long().to(device)


def two_digits(split: str, device: torch.device | str = "cpu", threshold: float = 0.6) -> Draw:
    """A digit on the left and one on the right, each behind clouds: the attributes are their classes."""
    pool = Pool(*_digits("mnist", split, 1, device), classes=2)

    def draw(a: Tensor, generator: torch.Generator) -> Tensor:
        left, right = (occlude(pool.draw(label, generator), threshold, generator) for label in a.unbind(1))
        return side_by_side(left, right)

    return draw


def digit_and_domain(split: str, device: torch.device | str = "cpu") -> Draw:
    """One colour image of a digit, plain or blended with a photograph: the attributes are its class and its domain."""
    sets = [_digits(domain, split, 3, device) for domain in DOMAINS]
    images = torch.cat([images for images, _ in sets])
    cells = torch.cat([2 * labels + domain for domain, (_, labels) in enumerate(sets)])
    pool = Pool(images, cells, classes=4)
    return lambda a, generator: pool.draw(2 * a[:, 0] + a[:, 1], generator)


def digit_on_texture(split: str, device: torch.device | str = "cpu") -> Draw:
    """A bright digit in front of stripes or dots: the attributes are its class and the texture's."""
    pool = Pool(*_digits("mnist", split, 1, device), classes=2)

    def draw(a: Tensor, generator: torch.Generator) -> Tensor:
        background = textures(2 * a[:, 1], generator, SIZE)  # 0 stripes, 2 dots
        u = torch.rand(len(a), 3, generator=generator, device=generator.device).to(a.device)
        return place(pool.draw(a[:, 0], generator), 0.5 + 0.5 * u, background)

    return draw


# ------------------------------------------------------------------ two subspaces, and what they may share

HALF = 5  # latents in each subspace
NOISE = 0.2  # of the channel noise, a standard deviation; that of the latents is 1


class TwoHeads(nn.Module):
    """An encoder x → (z1, z2), 5 latents each, and a linear head for attribute k on z_k.

    As in lesson 01, latents are scaled to variance 1 and pass through a little noise.
    """

    def __init__(self, pixels: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), mlp(pixels, 64, 2 * HALF))
        self.scale = nn.BatchNorm1d(2 * HALF, affine=False)
        self.heads = nn.ModuleList(nn.Linear(HALF, 2) for _ in range(2))

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) to z1, z2 (B, 5) each, channel noise included."""
        z = self.scale(self.encoder(x))
        noise = torch.randn(z.shape, generator=generator, device=generator.device).to(z.device)
        return (z + NOISE * noise).split(HALF, dim=1)

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
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=6e-3, betas=(0.5, 0.99))

    def train(self, codes: tuple[Tensor, Tensor], a: Tensor, steps: int = 3) -> None:
        own, rest, group, groups = pairs(self.method, [z.detach() for z in codes], a)
        for _ in range(steps):
            shuffled = shuffle_within_groups(own, group, self.generator)
            loss = conditional_critic_loss(self.network, own, shuffled, rest, group, groups)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()

    def penalty(self, codes: tuple[Tensor, Tensor], a: Tensor) -> Tensor:
        """The critic's loss with its classes exchanged; log 2 where it can tell nothing apart."""
        own, rest, group, groups = pairs(self.method, codes, a)
        shuffled = shuffle_within_groups(own, group, self.generator)
        return conditional_critic_loss(self.network, shuffled, own, rest, group, groups)


def train_heads(
    method: str,
    draw: Draw,
    correlation: float,
    seed: int,
    steps: int = 400,
    batch: int = 128,
    weight: float = 8.0,
    device: torch.device | str = "cpu",
) -> tuple[TwoHeads, dict[str, Tensor]]:
    """Two heads on data of this correlation, their subspaces left alone ("Base") or made independent; the history.

    The critic learns six times as fast as the encoder and takes three steps to its one: an encoder that moves faster
    than its critic runs from an opponent that has not seen it yet.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, got {method!r}")
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    joint = binary_joint(correlation, device)
    model = TwoHeads(draw(sample_correlated(joint, 1, generator), generator).numel()).to(device)
    critic = None if method == "Base" else Critic(method, generator)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.5, 0.99))

    def step(i: int) -> dict[str, Tensor]:
        a = sample_correlated(joint, batch, generator)
        codes = model(draw(a, generator), generator)
        heads = 2 * F.cross_entropy(model.logits(codes).flatten(0, 1), a.flatten())
        penalty = torch.zeros_like(heads)
        if critic is not None:
            critic.train(codes, a)
            penalty = critic.penalty(codes, a)
        optimiser.zero_grad()
        (heads + weight * penalty).backward()
        optimiser.step()
        return {"heads": heads, "penalty": penalty}

    history = fit(step, steps, label=f"{method}, seed {seed}")
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


def train_positions(
    sigma: float, seed: int, steps: int = 1500, beta: float = 2.5, device: torch.device | str = "cpu"
) -> VAE:
    """A beta-VAE with four latents of ellipses whose x and y go together as `correlated_joint` says for sigma."""
    sprites = ellipses(device)
    joint = correlated_joint(sprites.grid.sizes, (0, 1), torch.tensor(sigma, device=device))
    torch.manual_seed(seed)
    vae, generator = VAE(latents=4, size=32).to(device), torch.Generator(device).manual_seed(seed)

    def sample(n: int, generator: torch.Generator) -> Tensor:
        return sprites.images(sample_correlated(joint, n, generator))

    def loss(x: Tensor, logits: Tensor, mean: Tensor, log_var: Tensor, z: Tensor) -> Tensor:
        return beta_vae.beta_vae_loss(x, logits, mean, log_var, beta=beta)

    elbo.train_vae(vae, sample, steps, batch=64, generator=generator, loss=loss)
    return vae.eval()


@torch.no_grad()
def mixing(vae: VAE, sigma: float, n: int = 4000) -> tuple[Tensor, Tensor]:
    """What each latent goes with, on n images like those of its training.

    |correlation| of every latent's mean with x, y, x + y, x − y (both positions scaled to variance 1), (D, 4), and how
    much each latent carries, its KL to the prior in nats, (D,).
    """
    device = next(vae.parameters()).device
    sprites, generator = ellipses(device), torch.Generator(device).manual_seed(1)
    joint = correlated_joint(sprites.grid.sizes, (0, 1), torch.tensor(sigma, device=device))
    factors = sample_correlated(joint, n, generator)
    mean, log_var = vae.encode(sprites.images(factors))
    x, y = _standardised(factors.float()).unbind(1)
    directions = _standardised(torch.stack([x, y, x + y, x - y], dim=1))
    correlation = _standardised(mean).T @ directions / n
    return correlation.abs().cpu(), elbo.kl_per_latent(mean, log_var).cpu()


def _standardised(values: Tensor) -> Tensor:
    """Every column with mean 0 and variance 1."""
    return (values - values.mean(0)) / values.std(0, correction=0).clamp(min=1e-6)
