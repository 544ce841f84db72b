"""Lesson 01, mutual information: contracts, the plain loops that are given, and two subspaces that leak.

Conventions: natural logarithms (nats); losses are averaged over the batch; logits are log odds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.datasets.sprites import Sprites
from course_lib.exercise import MB, exercise
from course_lib.exercise.contract import generator_for
from course_lib.models import mlp
from course_lib.training import fit

# ------------------------------------------------------------------ plain loops, given


def contingency_table_loop(a: Tensor, b: Tensor, classes_a: int, classes_b: int) -> Tensor:
    """Count pairs one at a time on the host."""
    counts = Counter(zip(a.tolist(), b.tolist(), strict=True))
    return torch.tensor([[counts[i, j] for j in range(classes_b)] for i in range(classes_a)])


def mmd2_loop(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    """The unbiased MMD², one pair of points at a time."""

    def mean_kernel(pairs: list[tuple[Tensor, Tensor]]) -> float:
        distances = [(p - q).square().sum().item() for p, q in pairs]
        return sum(math.exp(-d / (2 * bandwidth**2)) for d in distances) / len(distances)

    within_x = mean_kernel([(p, q) for i, p in enumerate(x) for j, q in enumerate(x) if i != j])
    within_y = mean_kernel([(p, q) for i, p in enumerate(y) for j, q in enumerate(y) if i != j])
    between = mean_kernel([(p, q) for p in x for q in y])
    return torch.tensor(within_x + within_y - 2 * between)


# ------------------------------------------------------------------ exercises: measuring dependence


@exercise("Entropy", gradients=False, at_scale=lambda n: dict(p=torch.rand(n, 10)))
def entropy(p: Tensor) -> Tensor:
    """H(p) = −Σ_k p_k log p_k, in nats, with 0 log 0 = 0.

    p: (…, K), probabilities that sum to 1 over the last axis. Returns (…).
    """


@exercise(
    "Counting pairs",
    points=2,
    gradients=False,
    at_scale=lambda n: dict(
        a=torch.randint(100, (n,)), b=torch.randint(80, (n,)), classes_a=100, classes_b=80
    ),
    full_size=1_000_000,
    memory=64 * MB,
    plain=contingency_table_loop,
    timed_size=20_000,
)
def contingency_table(a: Tensor, b: Tensor, classes_a: int, classes_b: int) -> Tensor:
    """table[i, j] = how many n have a_n = i and b_n = j.

    a, b: (N,) int64 in [0, classes). Returns counts (classes_a, classes_b), int64. No loop, nothing read on the host.
    """


@exercise("Mutual information of a table", points=2, gradients=False)
def discrete_mutual_information(table: Tensor) -> Tensor:
    """I(a; b) = Σ_ij p_ij log[p_ij / (p_i p_j)] = KL[p(a, b) || p(a) p(b)], in nats, with 0 log 0 = 0.

    table: (…, K, L), counts or probabilities, of any dtype: p_ij is the table over its sum. Returns (…), float32.
    """


@exercise("Total correlation of a Gaussian", at_scale=lambda n: dict(covariance=torch.randn(n, 8, 8)))
def gaussian_total_correlation(covariance: Tensor) -> Tensor:
    """TC = KL[p(x_1 … x_D) || Π p(x_d)] = ½ (Σ_d log Σ_dd − log det Σ), in nats, of N(μ, Σ).

    covariance Σ: (…, D, D), symmetric, positive definite. Returns (…). For D = 2 it is I = −½ log(1 − ρ²).
    Finite where det Σ itself is too small for float32. Watanabe (1960).
    """


# ------------------------------------------------------------------ exercises: making it small


def _probe_shuffle(implementation: Callable, z: Tensor) -> dict[str, Tensor]:
    """What must hold whatever the draw, on z (B, D) whose rows differ and repeat one number each."""
    generator = generator_for(z)
    first, second = implementation(z, generator), implementation(z, generator)
    if not isinstance(first, Tensor) or first.shape != z.shape:
        return {"shuffled": first}
    again = implementation(z, generator_for(z))
    return {
        "shuffled": torch.zeros_like(first),  # its shape and type; the values may be any
        "each row comes once": (first[:, 0].sort().values == z[:, 0].sort().values).all(),
        "rows stay whole": (first == first[:, :1]).all(),
        "the order is another one": (first != z).any(),
        "a second draw differs": (first != second).any(),
        "the same seed gives the same order": (first == again).all(),
    }


@exercise(
    "Samples of the product of marginals",
    gradients=False,
    probe=_probe_shuffle,
    at_scale=lambda n: dict(z=torch.randn(n, 10)),
)
def shuffle_across_batch(z: Tensor, generator: torch.Generator) -> Tensor:
    """The rows of z in random order: with pairs (y_i, z_i) from p(y, z), (y_i, shuffled_i) come from p(y) p(z).

    z: (B, D). Returns (B, D), every row once and whole, on z's device. All randomness from `generator`, which is on
    z's device.
    """


@exercise(
    "The critic's loss",
    at_scale=lambda n: dict(joint_logits=torch.randn(n), shuffled_logits=torch.randn(n)),
)
def critic_loss(joint_logits: Tensor, shuffled_logits: Tensor) -> Tensor:
    """½ [mean −log σ(joint) + mean −log(1 − σ(shuffled))], σ the sigmoid: joint pairs are class 1. A scalar.

    joint_logits, shuffled_logits: (B,). Averaged over each half, so a critic that knows nothing pays log 2.
    Finite for logits of any size.
    """


@exercise(
    "From logits to nats",
    points=2,
    at_scale=lambda n: dict(joint_logits=torch.randn(n), shuffled_logits=torch.randn(n)),
)
def mutual_information_from_logits(joint_logits: Tensor, shuffled_logits: Tensor) -> tuple[Tensor, Tensor]:
    """(E_joint[T], E_joint[T] − log E_shuffled[exp T]), two scalars in nats, T the critic's logit.

    The first is I at the optimal critic, whose logit is log p(x, y) / p(x) p(y), and anything for another critic.
    The second, the Donsker–Varadhan bound, is at most I for every critic. Means over the batch (B,); finite for
    logits of any size. Donsker & Varadhan (1983); Belghazi et al. (2018), https://arxiv.org/abs/1801.04062.
    """


@exercise(
    "How much leaks",
    points=2,
    gradients=False,
    at_scale=lambda n: dict(a=torch.randint(10, (n,)), logits=torch.randn(n, 10)),
)
def leakage(a: Tensor, logits: Tensor) -> Tensor:
    """H(a) − CE = H(a) + mean_n log softmax(logits_n)[a_n], in nats: what the probe knows about a. A scalar.

    a: (N,) int64 attributes; logits: (N, K) of a probe. H(a) is the entropy of the frequencies of a in this batch.
    On fresh data I(z; a) is at least this, on average. Negative for a probe worse than no probe at all.
    """


@exercise(
    "The encoder's side of the game",
    at_scale=lambda n: dict(joint_logits=torch.randn(n), shuffled_logits=torch.randn(n)),
)
def independence_loss(joint_logits: Tensor, shuffled_logits: Tensor) -> Tensor:
    """½ [mean −log(1 − σ(joint)) + mean −log σ(shuffled)]: the critic's loss with its labels exchanged. A scalar.

    The encoder wants joint pairs taken for shuffled ones, and shuffled ones for joint ones. Finite for any logits.
    """


@exercise(
    "Matching without a critic",
    points=3,
    at_scale=lambda n: dict(x=torch.randn(n, 64), y=torch.randn(n, 64), bandwidth=4.0),
    full_size=1024,
    memory=80 * MB,
    plain=mmd2_loop,
    timed_size=48,
)
def mmd2(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    """MMD² = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) − 2 mean_ij k(x_i, y_j), unbiased. A scalar.

    x (M, D), y (N, D); k(a, b) = exp(−|a − b|² / 2 bandwidth²). Zero on average where both come from one
    distribution, so a single value may be negative. Never an (M, N, D) tensor.
    Gretton et al. (2012), https://jmlr.org/papers/v13/gretton12a.html.
    """


# ------------------------------------------------------------------ a critic of pairs


def critic_logits(
    critic: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The critic's logits (B,) on pairs (x_i, y_i) and on pairs with y shuffled. x (B, D), y (B, E)."""
    joint = torch.cat([x, y], dim=1)
    shuffled = torch.cat([x, shuffle_across_batch(y, generator)], dim=1)
    return critic(torch.cat([joint, shuffled])).squeeze(1).chunk(2)


def train_critic(
    sample: Callable[[int, torch.Generator], tuple[Tensor, Tensor]],
    generator: torch.Generator,
    steps: int = 1500,
    batch: int = 512,
) -> tuple[nn.Module, dict[str, Tensor]]:
    """An MLP critic of pairs `sample(batch, generator)`, and its history, "ratio" and "bound" (steps,) in nats."""
    x, y = sample(2, generator)
    critic = mlp(x.shape[1] + y.shape[1], 64, 64, 1).to(x.device)
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3)

    def step(i: int) -> dict[str, Tensor]:
        joint, shuffled = critic_logits(critic, *sample(batch, generator), generator)
        loss = critic_loss(joint, shuffled)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        ratio, bound = mutual_information_from_logits(joint.detach(), shuffled.detach())
        return {"ratio": ratio, "bound": bound}

    return critic, fit(step, steps, label="critic")


def gaussian_pairs(rho: float, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n pairs of standard normal numbers with correlation rho, (n, 1) each, on the generator's device."""
    if not -1 < rho < 1:
        raise ValueError(f"rho: expected a correlation inside (-1, 1), got {rho}")
    x, noise = torch.randn(2, n, 1, generator=generator, device=generator.device)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


# ------------------------------------------------------------------ two classifiers on two subspaces

ATTRIBUTES = ("column", "row")  # of an ellipse: in which quarter of the image it stands, across and down
CLASSES = 4
HALF = 4  # latents in each subspace
NOISE = 0.2  # of the channel noise, a standard deviation; that of the latents is 1


def ellipses(device: torch.device | str = "cpu") -> Sprites:
    """Upright ellipses, 32×32: six scales, 32 × 32 positions."""
    return Sprites(size=32, only={"shape": 1, "orientation": 0}, device=device)


def attributes(factors: Tensor) -> Tensor:
    """Factors (N, 3) of `ellipses`, (scale, x, y), to the attributes (N, 2), int64: ⌊x / 8⌋ and ⌊y / 8⌋."""
    return factors[:, 1:] // 8


class TwoSubspaces(nn.Module):
    """An encoder x → (z1, z2), 4 latents each, a linear head for one attribute on each, and a decoder of both.

    Latents are scaled to mean 0 and variance 1 (nothing learned), so that no game can be won by shrinking them, and
    pass through noise, so that none can hide a second number in its last decimal places.
    """

    def __init__(self, noise: float = NOISE):
        super().__init__()
        self.noise = noise
        self.encoder = nn.Sequential(nn.Flatten(), mlp(32 * 32, 128, 2 * HALF))
        self.scale = nn.BatchNorm1d(2 * HALF, affine=False)
        self.heads = nn.ModuleList(nn.Linear(HALF, CLASSES) for _ in ATTRIBUTES)
        self.decoder = mlp(2 * HALF, 128, 32 * 32)

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x (B, 1, 32, 32) to z1, z2 (B, 4) each, channel noise included."""
        z = self.scale(self.encoder(x))
        noise = torch.randn(z.shape, generator=generator, device=generator.device).to(z.device)
        return (z + self.noise * noise).chunk(2, dim=1)

    def head_loss(self, z1: Tensor, z2: Tensor, a: Tensor) -> Tensor:
        """The sum of both heads' cross-entropies, a scalar in nats. z1, z2 (B, 4), a (B, 2)."""
        pairs = zip(self.heads, (z1, z2), a.unbind(1), strict=True)
        return sum(F.cross_entropy(head(z), labels) for head, z, labels in pairs)

    def reconstruction_loss(self, z1: Tensor, z2: Tensor, x: Tensor) -> Tensor:
        """−log p(x|z1, z2) of binary pixels, in nats per image, averaged over the batch."""
        logits = self.decoder(torch.cat([z1, z2], dim=1))
        return F.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="sum") / len(x)


def train_subspaces(
    method: str,
    seed: int,
    steps: int = 800,
    batch: int = 256,
    noise: float = NOISE,
    momentum: float = 0.5,
    device: torch.device | str = "cpu",
) -> tuple[TwoSubspaces, dict[str, Tensor]]:
    """Two supervised subspaces of ellipses, their dependence left alone or removed; and the history.

    method: "none" trains heads and decoder alone; "critic" adds `independence_loss` against a critic that learns
    along; "MMD" adds `mmd2` between pairs and shuffled pairs. momentum: Adam's β1 of the encoder; with the usual 0.9
    the two players overshoot, and the game circles instead of settling.
    """
    if method not in PENALTIES:
        raise ValueError(f"method: expected one of {tuple(PENALTIES)}, got {method!r}")
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    sprites, model = ellipses(device), TwoSubspaces(noise).to(device)
    penalty = PENALTIES[method](generator)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(momentum, 0.99))

    def step(i: int) -> dict[str, Tensor]:
        x, factors = sprites.sample(batch, generator)
        z1, z2 = model(x, generator)
        heads = model.head_loss(z1, z2, attributes(factors))
        reconstruction, dependence = model.reconstruction_loss(z1, z2, x), penalty(z1, z2)
        optimiser.zero_grad()
        (heads + 0.1 * reconstruction + dependence).backward()
        optimiser.step()
        return {"heads": heads, "reconstruction": reconstruction, "penalty": dependence}

    history = fit(step, steps, label=f"{method}, seed {seed}")
    return model.eval(), history


def no_penalty(generator: torch.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda z1, z2: torch.zeros((), device=z1.device)


def critic_penalty(generator: torch.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    """Each call trains the critic three steps on detached codes, then gives the encoder's loss against it."""
    critic = mlp(2 * HALF, 128, 128, 1).to(generator.device)
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3, betas=(0.5, 0.99))

    def penalty(z1: Tensor, z2: Tensor) -> Tensor:
        for _ in range(3):
            loss = critic_loss(*critic_logits(critic, z1.detach(), z2.detach(), generator))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return 2 * independence_loss(*critic_logits(critic, z1, z2, generator))

    return penalty


def mmd_penalty(generator: torch.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    """MMD² between pairs of one half of the batch and shuffled pairs of the other: two independent samples."""

    def penalty(z1: Tensor, z2: Tensor) -> Tensor:
        half = len(z1) // 2
        joint = torch.cat([z1[:half], z2[:half]], dim=1)
        shuffled = torch.cat([z1[half:], shuffle_across_batch(z2[half:], generator)], dim=1)
        return 200 * mmd2(joint, shuffled, bandwidth=1.0)

    return penalty


PENALTIES = {"none": no_penalty, "critic": critic_penalty, "MMD": mmd_penalty}


# ------------------------------------------------------------------ probes


@torch.no_grad()
def codes_and_attributes(model: TwoSubspaces, n: int, seed: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Codes (z1, z2), (n, 4) each, and attributes (n, 2), of n freshly drawn ellipses."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    x, factors = ellipses(device).sample(n, generator)
    return model(x, generator), attributes(factors)


def train_probe(z: Tensor, a: Tensor, steps: int = 300, batch: int = 512) -> nn.Module:
    """An MLP that is taught, after the fact, to read attribute a (N,) off the frozen codes z (N, 4)."""
    generator = torch.Generator(z.device).manual_seed(0)
    probe = mlp(HALF, 64, CLASSES).to(z.device)
    optimiser = torch.optim.Adam(probe.parameters(), lr=1e-2)

    def step(i: int) -> dict[str, Tensor]:
        rows = torch.randint(len(z), (batch,), generator=generator, device=z.device)
        loss = F.cross_entropy(probe(z[rows]), a[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return {"cross-entropy": loss}

    fit(step, steps, label="probe")
    return probe


def probe_subspaces(model: TwoSubspaces, n: int = 4096) -> tuple[Tensor, Tensor]:
    """Accuracy[subspace, attribute] and leakage[subspace, attribute] in nats, (2, 2) each, on fresh ellipses."""
    accuracy, nats = torch.zeros(2, 2), torch.zeros(2, 2)
    (codes, a), (new_codes, new_a) = (codes_and_attributes(model, n, seed) for seed in (1, 2))
    for i in range(2):
        for j in range(2):
            probe = train_probe(codes[i], a[:, j])
            with torch.no_grad():
                logits = probe(new_codes[i])
            accuracy[i, j] = (logits.argmax(1) == new_a[:, j]).float().mean()
            nats[i, j] = leakage(new_a[:, j], logits)
    return accuracy, nats
