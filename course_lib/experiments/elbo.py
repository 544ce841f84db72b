"""Experiments of lesson 02: the training of a VAE, and a linear VAE whose likelihood is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.lessons.elbo import elbo, gaussian_kl, reparameterise
from course_lib.models import VAE
from course_lib.training import check_images, check_positive, check_scalar, descend, fit, normal_like

# How a training loop gets its images: sample(n, generator) gives (n, C, S, S), alone or first in a tuple.
Sample = Callable[[int, torch.Generator], Tensor | tuple[Tensor, ...]]


# ------------------------------------------------------------------ built on the exercises


def kl_per_latent(mean: Tensor, log_var: Tensor) -> Tensor:
    """Nats that each latent carries, (D,): the KL of one latent at a time, averaged over the batch (B, D)."""
    return torch.stack(
        [gaussian_kl(m[:, None], v[:, None]).mean() for m, v in zip(mean.T, log_var.T, strict=True)]
    )


@dataclass
class LinearVAE:
    """z ~ N(0, I), x|z ~ N(W z + b, σ² I): the one VAE whose likelihood and posterior are known exactly.

    weight (P, D), bias (P,), noise_variance scalar.
    """

    weight: Tensor
    bias: Tensor
    noise_variance: Tensor

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The true p(z|x) = N(mean, C): mean (B, D), C = σ² (WᵀW + σ² I)⁻¹ (D, D), the same for every x."""
        precision = self.weight.T @ self.weight / self.noise_variance
        covariance = torch.linalg.inv(precision + torch.eye(len(precision), device=x.device))
        return (x - self.bias) @ self.weight @ covariance / self.noise_variance, covariance

    def log_weights(self, x: Tensor, mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
        """log p(x, z) − log q(z|x), (K, B), at z = reparameterise(mean, log_var, noise); noise (K, B, D)."""
        z = reparameterise(mean.expand_as(noise), log_var.expand_as(noise), noise)  # (K, B, D)
        prediction = z @ self.weight.T + self.bias  # (K, B, P)
        log_likelihood = log_normal(x, prediction, self.noise_variance.log())
        log_prior = log_normal(z, torch.zeros_like(z), torch.zeros_like(z))
        return log_likelihood + log_prior - log_normal(z, mean, log_var)

    def exact_gap(self, x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        """KL(q(z|x) || p(z|x)), (B,): what the ELBO is short of log p(x), in closed form."""
        true_mean, covariance = self.posterior(x)
        precision = torch.linalg.inv(covariance)
        off = mean - true_mean  # (B, D)
        trace = log_var.exp() @ precision.diagonal()
        distance = ((off @ precision) * off).sum(1)
        log_ratio = torch.linalg.slogdet(covariance).logabsdet - log_var.sum(1)
        return 0.5 * (trace + distance + log_ratio - len(precision))


def log_normal(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log N(x; mean, diag exp(log_var)), summed over the last axis."""
    return -0.5 * ((x - mean) ** 2 / log_var.exp() + log_var + math.log(2 * math.pi)).sum(-1)


# ------------------------------------------------------------------ a VAE on these functions


def train_vae(
    vae: VAE,
    sample: Sample,
    steps: int,
    *,
    batch: int,
    generator: torch.Generator,
    lr: float = 1e-3,
    loss: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] | None = None,
    label: str = "VAE",
) -> dict[str, Tensor]:
    """Train `vae` in place with Adam and return the history {"loss": (steps,)} in nats per image.

    sample     `sample(batch, generator)` gives images (B, C, S, S) in [0, 1], alone or first in a tuple.
    generator  the source of all randomness; on the model's device, nothing has to be copied.
    loss       `loss(x, logits, mean, log_var, z)`, a scalar to minimise; −ELBO where it is left out.
    label      of the progress bar.
    """
    check_positive(batch, "batch")
    if not lr > 0:
        raise ValueError(f"lr: expected a positive learning rate, got {lr!r}")
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected torch.Generator(), got {type(generator).__name__}")
    loss = loss or _negative_elbo
    optimiser = torch.optim.Adam(vae.parameters(), lr=lr, fused=True)
    device = next(vae.parameters()).device

    def step(i: int) -> dict[str, Tensor]:
        x = draw_images(sample, batch, generator)
        if i == 0:
            check_images(x, vae.encoder.shape)
        value = loss(*forward(vae, x.to(device), generator))
        check_scalar(value, "loss")
        descend(optimiser, value)
        return {"loss": value}

    vae.train()
    return fit(step, steps, label=label, draws=generator)


def draw_images(sample: Sample, n: int, generator: torch.Generator) -> Tensor:
    """`sample(n, generator)` without what may come with the images."""
    drawn = sample(n, generator)
    return drawn[0] if isinstance(drawn, tuple) else drawn


def forward(vae: VAE, x: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """x (B, C, S, S) to all that a VAE's loss may need: x, logits (B, C, S, S), mean, log_var and z (B, D).

    z is one sample of q(z|x), by the student's `elbo.reparameterise`, and logits = decode(z).
    """
    mean, log_var = vae.encode(x)
    z = reparameterise(mean, log_var, normal_like(mean, generator))
    return x, vae.decode(z), mean, log_var, z


def _negative_elbo(x: Tensor, logits: Tensor, mean: Tensor, log_var: Tensor, z: Tensor) -> Tensor:
    return -elbo(x, logits, mean, log_var)
