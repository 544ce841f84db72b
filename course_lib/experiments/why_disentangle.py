"""Experiments of lesson 00: two models with sliders, a classifier in domains that it never saw, a bank's decisions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import checkpoints
from course_lib.datasets.shapes3d import Shapes3D
from course_lib.datasets.sprites import Sprites
from course_lib.lessons.why_disentangle import demographic_parity_gap
from course_lib.training import descend, fit, seeded

# ------------------------------------------------------------------ two models with sliders

# The scene that the sliders change: hues of floor, wall and object, scale, shape, orientation.
PICTURE = (2, 6, 4, 5, 0, 7)
WISH = (2, 6, 0, 5, 0, 7)  # the same with a red object
DRAWN = 12_000  # random scenes, of which a latent's range is known, and what explains it


class SceneModel:
    """A VAE of all 480,000 scenes, trained beforehand, with sliders: "scenes_outlines" or "scenes_vae". It needs no answers.

    Codes are in shares of each latent's range: 5 % of the scenes lie below 0, 5 % above 1.

    latents    (L,), those that differ from scene to scene: the means' variance is above .05, the prior's being 1
    explained  (L, K), the share of a latent's variance that goes with a factor alone: that of the latent's averages over
               scenes with the same value of the factor, over the latent's variance. A row's sum is about 1 at most.
    sliders    by label, as `widgets.explore` takes them, one for each latent, PICTURE's code being the first values. A
               label names the factor that explains at least .8, where one does.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu"):
        self.vae, self.scenes = checkpoints.load(name, device).network, Shapes3D(32, device=device)
        self.names = [factor.replace("_", " ") for factor in self.scenes.grid.names]
        self.factors = self.scenes.grid.sample(DRAWN, torch.Generator(device).manual_seed(0))
        means = torch.cat([self.vae.encode(self.scenes.images(part))[0] for part in self.factors.split(500)])
        self.low, self.high = means.quantile(torch.tensor([0.05, 0.95], device=means.device), dim=0)
        self.codes = self._shares(means)  # (N, D)
        self.latents = (means.var(0) > 0.05).nonzero()[:, 0]
        self.explained = self._explained(self.codes[:, self.latents])
        self.picture, self.start = self.image(PICTURE), self.code(PICTURE)
        first = self.start[0, self.latents].clamp(0, 1).tolist()
        self.sliders = {
            label: (0.0, 1.0, 0.05, round(20 * share) / 20)
            for label, share in zip(self._labels(), first, strict=True)
        }

    def image(self, factors: tuple[int, ...]) -> Tensor:
        """The scene with these factors, (1, 3, 32, 32)."""
        return self.scenes.images(torch.tensor([factors], device=self.scenes.device))

    def code(self, factors: tuple[int, ...]) -> Tensor:
        """The code of the scene with these factors, (1, D)."""
        return self._shares(self.vae.encode(self.image(factors))[0])

    def draw(self, codes: Tensor) -> Tensor:
        """Codes (B, D) to images (B, 3, 32, 32) in [0, 1]."""
        return self.vae.decode(self.low + codes * (self.high - self.low)).sigmoid()

    def beside(self, **shares: float) -> Tensor:
        """PICTURE, and right of it what the model draws of its code with the latents at these shares, (32, 65, 3).

        shares: by the labels of the sliders, all of them. Between the two there is a white line.
        """
        places = torch.tensor([[shares[label] for label in self.sliders]], device=self.codes.device)
        drawn = self.draw(self.start.index_copy(1, self.latents, places))
        return torch.cat([self.picture, torch.ones_like(drawn[..., :1]), drawn], dim=3)[0].permute(1, 2, 0)

    def _shares(self, means: Tensor) -> Tensor:
        return (means - self.low) / (self.high - self.low)

    def _explained(self, codes: Tensor) -> Tensor:
        shares = []
        for values, size in zip(self.factors.unbind(1), self.scenes.grid.sizes, strict=True):
            member = F.one_hot(values, size).float()  # (N, values)
            off = member.mT @ (codes - codes.mean(0)) / member.sum(0)[:, None]  # the averages, (values, L)
            shares.append(member.mean(0) @ off.square() / codes.var(0, correction=0))
        return torch.stack(shares, dim=1)

    def _labels(self) -> list[str]:
        shares, factors = self.explained.max(dim=1)
        named = zip(self.latents.tolist(), shares.tolist(), factors.tolist(), strict=True)
        return [f"{self.names[k]} (latent {j})" if share >= 0.8 else f"latent {j}" for j, share, k in named]


# ------------------------------------------------------------------ a classifier, and domains that it never saw


class ShapeClassifier(nn.Module):
    """Images (B, 1, 32, 32) to the logits (B, 3) of square, ellipse, heart."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def upright_sprites(device: torch.device | str = "cpu") -> Sprites:
    """Upright sprites of the three larger sizes, 32×32: shape, scale, x and y vary."""
    return Sprites(size=32, only={"orientation": 0, "scale": range(3, 6)}, device=device)


def train_classifier(sprites: Sprites, steps: int = 300, batch: int = 128) -> ShapeClassifier:
    """A shape classifier of white sprites on black, trained by Adam."""
    generator = torch.Generator(sprites.device).manual_seed(0)
    with seeded(0):
        model = ShapeClassifier().to(sprites.device)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)

    def step(i: int) -> dict[str, Tensor]:
        x, factors = sprites.sample(batch, generator)
        loss = F.cross_entropy(model(x), factors[:, 0])
        descend(optimiser, loss)
        return {"loss": loss}

    fit(step, steps, label="shape classifier", draws=generator)
    return model


DOMAINS = {
    "white on black": lambda x, g: x,
    "black on white": lambda x, g: 1 - x,
    "grey on black": lambda x, g: 0.6 * x,
    "noisy": lambda x, g: (x + 0.2 * _uniform(x, g)).clamp(max=1),
    "on stripes": lambda x, g: torch.maximum(x, 0.2 * _stripes(x)),
}


def _uniform(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(x.shape, generator=generator, device=generator.device).to(x.device)


def _stripes(x: Tensor) -> Tensor:
    """Vertical stripes, four pixels wide, (1, 1, 1, S)."""
    return (torch.arange(x.shape[-1], device=x.device) // 4 % 2).float()[None, None, None]


# ------------------------------------------------------------------ loans


def loans(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A made-up bank: features (n, 6), group a (n,) and whether the loan was paid back y (n,), int64 both.

    Half of the people are of group 1. Feature 0 is a merit that decides about paying back; the groups' histories
    differ in it by half a standard deviation. Feature 1 is nothing but the group, with noise ("the postcode"), and past
    decisions were unfair: the recorded y was turned to 0 for one in five of group 0. Features 2 to 5 are noise.
    """
    a = torch.randint(2, (n,), generator=generator)
    x = torch.randn(n, 6, generator=generator)
    x[:, 0] += 0.5 * (a - 0.5)
    y = (x[:, 0] + 0.5 * torch.randn(n, generator=generator) > 0).long()
    unfair = (a == 0) & (torch.rand(n, generator=generator) < 0.2)
    x[:, 1] = 2 * (a - 0.5) + 0.5 * x[:, 1]
    return x, a, torch.where(unfair, 0, y)


def purge(x: Tensor, a: Tensor) -> Tensor:
    """The representation z = x − (score of x) · δ, in which both groups have the same mean. x (N, D), a (N,) 0 or 1.

    δ is the difference of the groups' means; the score is the linear function of x that tells the groups apart best, so
    that nothing else is removed. A linear cousin of what an adversary does.
    Belrose et al. (2023), https://arxiv.org/abs/2306.03819.
    """
    weight = torch.stack([1 - a, a]).float()  # (2, N)
    means = weight @ x / weight.sum(1, keepdim=True)  # (2, D)
    within = x - means[a]
    delta = means[1] - means[0]
    direction = torch.linalg.solve(within.T @ within / len(x), delta)  # (D,)
    score = (x - x.mean(0)) @ direction / (delta @ direction)  # (N,): its means in the groups are 1 apart
    return x - score[:, None] * delta


def train_decision(
    z: Tensor, y: Tensor, a: Tensor, weight: float = 0.0, steps: int = 200, label: str = "decision"
) -> Tensor:
    """Logistic regression of y (N,) on z (N, D) by full-batch Adam; returns the decisions (N,), 0 or 1.

    The loss is the cross-entropy plus weight · `demographic_parity_gap` of the predicted probabilities.
    """
    with seeded(0):
        model = nn.Linear(z.shape[1], 1).to(z.device)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)

    def step(i: int) -> dict[str, Tensor]:
        logits = model(z)[:, 0]
        gap = demographic_parity_gap(logits.sigmoid(), a)
        loss = F.binary_cross_entropy_with_logits(logits, y.float()) + weight * gap
        descend(optimiser, loss)
        return {"loss": loss}

    fit(step, steps, label=label)
    with torch.no_grad():
        return (model(z)[:, 0] > 0).float()
