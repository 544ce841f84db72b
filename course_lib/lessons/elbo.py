"""Lesson 02, the evidence lower bound: contracts, the plain loops that are given, and an exact linear VAE.

Conventions: natural logarithms (nats); log densities and KLs are summed over pixels and latents; `log_var` is
the logarithm of the variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.exercise import MB, exercise
from course_lib.models import VAE
from course_lib.training import check_images, check_positive, check_scalar, fit

# How a training loop gets its images: sample(n, generator) gives (n, C, S, S), alone or first in a tuple.
Sample = Callable[[int, torch.Generator], Tensor | tuple[Tensor, ...]]

# ------------------------------------------------------------------ plain loops, given


def gaussian_kl_loop(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(q(z|x) || N(0, I)), one number at a time on the host."""
    result = []
    for m, lv in zip(mean.tolist(), log_var.tolist(), strict=True):
        result.append(sum(0.5 * (a**2 + math.exp(b) - b - 1) for a, b in zip(m, lv, strict=True)))
    return torch.tensor(result)


def linear_gaussian_log_likelihood_loop(
    x: Tensor, weight: Tensor, bias: Tensor, noise_variance: Tensor
) -> Tensor:
    """log N(x; b, W Wᵀ + σ² I), one example at a time."""
    covariance = weight @ weight.T + noise_variance * torch.eye(len(bias), dtype=x.dtype)
    result = []
    for row in x:
        centred = row - bias
        distance = (centred @ torch.linalg.inv(covariance) @ centred).item()
        log_det = torch.logdet(covariance).item()
        result.append(-0.5 * (distance + log_det + len(bias) * math.log(2 * math.pi)))
    return torch.tensor(result)


def traverse_loop(decode: Callable[[Tensor], Tensor], z: Tensor, latent: int, values: Tensor) -> Tensor:
    """Decode one changed code at a time."""
    images = []
    for value in values.tolist():
        code = z.clone()
        code[latent] = value
        images.append(decode(code[None])[0])
    return torch.stack(images)


# ------------------------------------------------------------------ exercises


@exercise(
    "Sampling that lets gradients through",
    at_scale=lambda n: dict(mean=torch.randn(n, 10), log_var=torch.randn(n, 10), noise=torch.randn(n, 10)),
)
def reparameterise(mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    """z = μ + σ ε with σ = exp(½ log σ²): a sample of N(μ, σ²) that is differentiable in μ and σ.

    mean, log_var, noise: (B, D), noise drawn from N(0, 1) by the caller. Returns z (B, D).
    Kingma & Welling (2014), https://arxiv.org/abs/1312.6114.
    """


@exercise(
    "The KL term in closed form",
    points=2,
    at_scale=lambda n: dict(mean=torch.randn(n, 10), log_var=torch.randn(n, 10)),
    memory=4 * MB,
    plain=gaussian_kl_loop,
    timed_size=512,
)
def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(μ, diag σ²) || N(0, I)) = ½ Σ_d (μ_d² + σ_d² − log σ_d² − 1), in nats, one number per example.

    mean, log_var: (B, D). Returns (B,): summed over latents, not averaged over the batch.
    """


@exercise(
    "The likelihood of binary images",
    points=2,
    at_scale=lambda n: dict(x=torch.rand(n, 1, 32, 32), logits=torch.randn(n, 1, 32, 32)),
    full_size=256,
)
def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x|z) = Σ_i x_i log p_i + (1 − x_i) log(1 − p_i) with p = sigmoid(logits), in nats.

    x in [0, 1] and logits: (B, …) alike. Returns (B,): summed over everything but the batch. Finite for logits
    of any size (at ±200, too).
    """


@exercise(
    "The bound",
    at_scale=lambda n: dict(
        x=torch.rand(n, 1, 32, 32),
        logits=torch.randn(n, 1, 32, 32),
        mean=torch.randn(n, 10),
        log_var=torch.randn(n, 10),
    ),
    full_size=256,
)
def elbo(x: Tensor, logits: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """ELBO = (1/B) Σ_b [log p(x_b|z_b) − KL(q(z|x_b) || N(0, I))], in nats per image, from one sample z each.

    x, logits: (B, …), logits = decode(z); mean, log_var: (B, D). Returns a scalar, to be maximised. Use your own
    `elbo.bernoulli_log_likelihood` and `elbo.gaussian_kl`.
    """


@exercise("More samples, a tighter bound", points=2, at_scale=lambda n: dict(log_weights=torch.randn(64, n)))
def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """L_K = (1/B) Σ_b log (1/K) Σ_k w_kb, in nats, from log w = log p(x, z) − log q(z|x).

    log_weights: (K, B), K samples of q(z|x) for each of B images. Returns a scalar. ELBO = L_1 ≤ L_K ≤ log p(x).
    Finite for weights of any size. Burda et al. (2016), https://arxiv.org/abs/1509.00519.
    """


@exercise(
    "A model whose likelihood is known",
    points=3,
    at_scale=lambda n: dict(
        x=torch.randn(n, 16),
        weight=torch.randn(16, 4),
        bias=torch.randn(16),
        noise_variance=torch.rand(()) + 0.1,
    ),
    memory=8 * MB,
    plain=linear_gaussian_log_likelihood_loop,
    timed_size=256,
)
def linear_gaussian_log_likelihood(x: Tensor, weight: Tensor, bias: Tensor, noise_variance: Tensor) -> Tensor:
    """log p(x) = log N(x; b, W Wᵀ + σ² I) of the model z ~ N(0, I), x|z ~ N(W z + b, σ² I), in nats.

    x (B, P), weight W (P, D), bias b (P,), noise_variance σ² a positive scalar tensor. Returns (B,).
    On a GPU `torch.linalg.cholesky`, `solve` and `inv` report errors to the host and so stall;
    `torch.linalg.cholesky_ex`, `solve_ex`, `solve_triangular` and `slogdet` do not.
    """


def _probe_traverse(implementation: Callable, weight: Tensor, z: Tensor, latent: int, values: Tensor) -> dict:
    """Decode with tanh(z W), and count the calls of the decoder."""
    calls = []

    def decode(codes: Tensor) -> Tensor:
        calls.append(codes.shape)
        return (codes @ weight).tanh().unflatten(1, (1, 2, -1))

    images = implementation(decode, z, latent, values)
    count = torch.full((), float(len(calls)), device=z.device)  # filled on the device: nothing is copied
    return {"images": images, "calls of the decoder": count}


@exercise(
    "Turning one knob",
    points=2,
    gradients=False,
    probe=_probe_traverse,
    at_scale=lambda n: dict(weight=torch.randn(10, 64), z=torch.randn(10), latent=3, values=torch.randn(n)),
    full_size=512,
    plain=traverse_loop,
    timed_size=256,
)
def traverse(decode: Callable[[Tensor], Tensor], z: Tensor, latent: int, values: Tensor) -> Tensor:
    """The images of code z with its entry `latent` set to each of the values, decoded in ONE batch.

    decode: (V, D) to (V, …); z (D,), left untouched; values (V,). Returns (V, …).
    """


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
) -> dict[str, Tensor]:
    """Train `vae` in place with Adam and return the history {"loss": (steps,)} in nats per image.

    sample     `sample(batch, generator)` gives images (B, C, S, S) in [0, 1], alone or first in a tuple.
    generator  the source of all randomness; on the model's device, nothing has to be copied.
    loss       `loss(x, logits, mean, log_var, z)`, a scalar to minimise; −ELBO where it is left out.
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
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        return {"loss": value}

    vae.train()
    return fit(step, steps)


def draw_images(sample: Sample, n: int, generator: torch.Generator) -> Tensor:
    """`sample(n, generator)` without what may come with the images."""
    drawn = sample(n, generator)
    return drawn[0] if isinstance(drawn, tuple) else drawn


def forward(vae: VAE, x: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """x (B, C, S, S) to all that a VAE's loss may need: x, logits (B, C, S, S), mean, log_var and z (B, D).

    z is one sample of q(z|x), by the student's `elbo.reparameterise`, and logits = decode(z).
    """
    mean, log_var = vae.encode(x)
    noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(x.device)
    z = reparameterise(mean, log_var, noise)
    return x, vae.decode(z), mean, log_var, z


def _negative_elbo(x: Tensor, logits: Tensor, mean: Tensor, log_var: Tensor, z: Tensor) -> Tensor:
    return -elbo(x, logits, mean, log_var)
