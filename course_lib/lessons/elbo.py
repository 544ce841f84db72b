"""Lesson 02, the evidence lower bound: contracts, and the plain loops that are given.

Conventions: natural logarithms (nats); log densities and KLs are summed over pixels and latents; `log_var` is
the logarithm of the variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_lib.exercise import MB, exercise
from course_lib.exercise.probe import flag

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

    mean, log_var, noise (B, D), noise drawn from N(0, 1) by the caller. Returns z (B, D).
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

    mean, log_var (B, D). Returns (B,): summed over latents, not averaged over the batch.
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

    x, logits (B, …), logits = decode(z); mean, log_var (B, D). Returns a scalar, to be maximised. Use your own
    `elbo.bernoulli_log_likelihood` and `elbo.gaussian_kl`.
    """


@exercise("More samples, a tighter bound", points=2, at_scale=lambda n: dict(log_weights=torch.randn(64, n)))
def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """L_K = (1/B) Σ_b log (1/K) Σ_k w_kb, in nats, from log w = log p(x, z) − log q(z|x).

    log_weights (K, B), K samples of q(z|x) for each of B images. Returns a scalar. ELBO = L_1 ≤ L_K ≤ log p(x).
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
    return {"images": images, "the decoder is called once, on one batch": flag(len(calls) == 1, z)}


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
