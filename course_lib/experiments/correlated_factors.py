"""Experiments of lesson 07: the linear model, three tasks with two attributes, VAEs of correlated positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.datasets.digits import digits
from course_lib.datasets.scenes import Pool, occlude, place, side_by_side, textures
from course_lib.datasets.sprites import Sprites
from course_lib.experiments.elbo import kl_per_latent, train_vae
from course_lib.lessons import beta_vae
from course_lib.lessons.correlated_factors import (
    conditional_critic_loss,
    correlated_joint,
    sample_correlated,
    shuffle_within_groups,
)
from course_lib.models import VAE, mlp
from course_lib.training import descend, fit, seeded

# ------------------------------------------------------------------ pictures


def ellipses(device: torch.device | str = "cpu") -> Sprites:
    """Upright ellipses of one size, 32×32: 32 values of x over the whole width, 8 of y over a quarter of the height."""
    return Sprites(
        size=32, only={"shape": 1, "scale": 5, "orientation": 0, "y": range(12, 20)}, device=device
    )


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
            descend(self.optimiser, loss)

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
    than its critic is judged by what its codes were some steps ago.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, got {method!r}")
    generator = torch.Generator(device).manual_seed(seed)
    joint = binary_joint(correlation, device)
    pixels = draw(sample_correlated(joint, 1, generator), generator).numel()
    with seeded(seed):
        model = TwoHeads(pixels).to(device)
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
        descend(optimiser, heads + weight * penalty)
        return {"heads": heads, "penalty": penalty}

    history = fit(step, steps, label=f"{method}, c = {correlation:g}, seed {seed}")
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
    generator = torch.Generator(device).manual_seed(seed)
    with seeded(seed):
        vae = VAE(latents=4, size=32).to(device)

    def sample(n: int, generator: torch.Generator) -> Tensor:
        return sprites.images(sample_correlated(joint, n, generator))

    def loss(x: Tensor, logits: Tensor, mean: Tensor, log_var: Tensor, z: Tensor) -> Tensor:
        return beta_vae.beta_vae_loss(x, logits, mean, log_var, beta=beta)

    train_vae(vae, sample, steps, batch=64, generator=generator, loss=loss, label=f"beta-VAE, σ = {sigma:g}")
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
    return correlation.abs().cpu(), kl_per_latent(mean, log_var).cpu()


def _standardised(values: Tensor) -> Tensor:
    """Every column with mean 0 and variance 1."""
    return (values - values.mean(0)) / values.std(0, correction=0).clamp(min=1e-6)
