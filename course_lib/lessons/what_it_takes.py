"""Lesson 09, what it takes to identify factors: contracts, and the plain loops that are given.

Conventions: natural logarithms (nats); log densities and KLs of a loss are summed over pixels and latents and averaged
over the batch; `log_var` is the logarithm of the variance; covariances of N points divide by N.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from course_lib.exercise import MB, exercise

# ------------------------------------------------------------------ given


def orthogonalise(weight: Tensor) -> Tensor:
    """(W Wᵀ)^(−½) W, (D, D): the orthogonal matrix nearest to W, whose rows are all treated alike.

    By W ← 1.5 W − 0.5 W Wᵀ W, which takes every singular value in (0, √3) to 1: matrix products only, so that a GPU
    never waits, as it does for an eigendecomposition. Hyvärinen and Oja (2000).
    """
    weight = weight / weight.norm()
    for _ in range(40):
        weight = 1.5 * weight - 0.5 * weight @ weight.mT @ weight
    return weight


# ------------------------------------------------------------------ plain loops, given


def fastica_step_loop(z: Tensor, unmixing: Tensor) -> Tensor:
    """One source after the other, one point at a time, on the host."""
    points, result = z.tolist(), []
    for row in unmixing.tolist():
        total, slope = [0.0] * len(row), 0.0
        for point in points:
            response = math.tanh(sum(w * value for w, value in zip(row, point, strict=True)))
            total = [t + response * value for t, value in zip(total, point, strict=True)]
            slope += 1 - response**2
        result.append([(t - slope * w) / len(points) for t, w in zip(total, row, strict=True)])
    return orthogonalise(torch.tensor(result))


def kl_number(mean: float, log_var: float, other_mean: float, other_log_var: float) -> float:
    """KL(N(mean, exp log_var) || N(other_mean, exp other_log_var)) of numbers, in nats."""
    ratio = math.exp(log_var - other_log_var)
    return 0.5 * (ratio + (mean - other_mean) ** 2 / math.exp(other_log_var) - 1 - log_var + other_log_var)


def average_shared_loop(
    mean: Tensor, log_var: Tensor, other_mean: Tensor, other_log_var: Tensor
) -> tuple[Tensor, ...]:
    """One pair after the other, one latent at a time, on the host."""
    parts = [x.tolist() for x in (mean, log_var, other_mean, other_log_var)]
    for rows in zip(*parts, strict=True):  # changed in place
        kls = [kl_number(*latent) for latent in zip(*rows, strict=True)]
        threshold = (max(kls) + min(kls)) / 2
        m, v, n, w = rows
        for j in (j for j, kl in enumerate(kls) if kl < threshold):
            m[j] = n[j] = (m[j] + n[j]) / 2
            v[j] = w[j] = math.log((math.exp(v[j]) + math.exp(w[j])) / 2)
    return tuple(torch.tensor(part) for part in parts)


# ------------------------------------------------------------------ impossible in general


@exercise(
    "Impossible, in general",
    at_scale=lambda n: dict(u=0.01 + 0.98 * torch.rand(n, 2), rotation=torch.eye(2)),
)
def rotated_uniforms(u: Tensor, rotation: Tensor) -> Tensor:
    """Φ(R Φ⁻¹(u)), Φ the distribution function of N(0, 1), applied to each number: as good a code as u, and another.

    u (N, D) in (0, 1), one code in each row; rotation R (D, D), orthogonal. Every row g = Φ⁻¹(u_n) becomes R g.
    Returns (N, D): independent and uniform where the columns of u are. After the proof of theorem 1 of Locatello et
    al. (2019), https://arxiv.org/abs/1811.12359.
    """


# ------------------------------------------------------------------ enough: factors that are not Gaussian


@exercise("Decorrelated is not yet independent", points=2, gradients=False)
def whiten(x: Tensor) -> Tensor:
    """z_n = L⁻¹ (x_n − μ), where L Lᵀ = Σ is the Cholesky factorisation of the covariance: mean 0, covariance I.

    x (N, D), N > D, of mean μ and covariance Σ = (1/N) Σ_n (x_n − μ)(x_n − μ)ᵀ. Returns (N, D). L is lower triangular;
    any rotation of z would be as white. No routine that waits for the host: torch.linalg.cholesky_ex.
    """


@exercise(
    "Away from the Gaussian",
    points=3,
    gradients=False,
    at_scale=lambda n: dict(z=torch.randn(n, 8), unmixing=torch.eye(8)),
    full_size=20_000,
    plain=fastica_step_loop,
    timed_size=1024,
)
def fastica_step(z: Tensor, unmixing: Tensor) -> Tensor:
    """One fixed-point step of FastICA for all sources at once, with g = tanh and g' = 1 − tanh²:

    w_d ← (1/N) Σ_n [g(w_dᵀ z_n) z_n − g'(w_dᵀ z_n) w_d] for each row d, then W ← orthogonalise(W), which is given.

    z (N, D), white; unmixing W (D, D), rows orthonormal: y_n = W z_n are the current guesses of the sources. Returns W,
    (D, D). Hyvärinen and Oja (2000), Independent Component Analysis: Algorithms and Applications.
    """


def _best_of_all(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The best one-to-one matching of few rows and columns, by trying all: for the check, on any device."""
    orders = list(itertools.permutations(range(len(scores))))
    columns = torch.tensor(orders, device=scores.device)  # (D!, D)
    rows = torch.arange(len(scores), device=scores.device)
    best = scores[rows, columns].sum(1).argmax(0, keepdim=True)
    return rows, columns.index_select(0, best)[0]


def _probe_mean_correlation(implementation: Callable, codes: Tensor, factors: Tensor) -> Tensor:
    wanted = codes.shape[1], factors.shape[1]

    def match(scores: Tensor) -> tuple[Tensor, Tensor]:
        if scores.shape != wanted:
            raise ValueError(f"match: expected scores {wanted}, codes by factors, got {tuple(scores.shape)}")
        return _best_of_all(scores)

    return implementation(codes, factors, match)


@exercise(
    "Which code is which source?",
    points=2,
    gradients=False,
    probe=_probe_mean_correlation,
    at_scale=lambda n: dict(codes=torch.randn(n, 5), factors=torch.randn(n, 5)),
)
def mean_correlation(
    codes: Tensor, factors: Tensor, match: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    """MCC = (1/D) Σ_i |corr(code r_i, factor c_i)|, over the one-to-one matching (r, c) for which it is largest.

    codes, factors (N, D). match(scores) gives the matching: scores (D, D), a row for each code and a column for each
    factor, to row and column numbers r, c (D,) that maximise Σ_i scores[r_i, c_i]. A constant code or factor has
    correlation 0 with all. Returns a scalar from 0 to 1, blind to order, sign and scale.
    """


# ------------------------------------------------------------------ enough: something else is observed


def _gaussians(n: int, latents: int = 10) -> dict:
    return {k: torch.randn(n, latents) for k in ("mean", "log_var", "other_mean", "other_log_var")}


@exercise("A prior that is told something", at_scale=_gaussians)
def gaussian_kl_between(mean: Tensor, log_var: Tensor, other_mean: Tensor, other_log_var: Tensor) -> Tensor:
    """KL(N(μ, σ²) || N(m, s²)) = ½ [σ²/s² + (μ − m)²/s² − 1 − log σ² + log s²], in nats, of each latent on its own.

    mean μ, log_var log σ², other_mean m, other_log_var log s², (B, D) each. Returns (B, D): nothing is summed. Finite,
    with finite gradients, for log variances of ±60 if the two are near.
    """


@exercise(
    "The bound, given a segment",
    at_scale=lambda n: dict(
        x=torch.randn(n, 8),
        prediction=torch.randn(n, 8),
        mean=torch.randn(n, 2),
        log_var=torch.randn(n, 2),
        prior_mean=torch.randn(n, 2),
        prior_log_var=torch.randn(n, 2),
        noise_variance=0.1,
    ),
)
def ivae_loss(
    x: Tensor,
    prediction: Tensor,
    mean: Tensor,
    log_var: Tensor,
    prior_mean: Tensor,
    prior_log_var: Tensor,
    noise_variance: float,
) -> Tensor:
    """−E_q[log N(x; f(z), σ² I)] + KL(q(z|x, u) || p(z|u)), in nats per example: minus the bound on log p(x|u).

    x, prediction = f(z) (B, P); mean, log_var of q(z|x, u) and prior_mean, prior_log_var of p(z|u), (B, D);
    noise_variance σ², a number. Returns a scalar: everything is summed over P and D and averaged over B, with the
    constant ½ P log 2πσ². Use your own `gaussian_kl_between`. Khemakhem et al. (2020), https://arxiv.org/abs/1907.04809.
    """


# ------------------------------------------------------------------ enough: pairs


@exercise(
    "Which latents do they share?",
    points=3,
    at_scale=_gaussians,
    memory=8 * MB,
    plain=average_shared_loop,
    timed_size=512,
)
def average_shared(
    mean: Tensor, log_var: Tensor, other_mean: Tensor, other_log_var: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The posteriors of two images, made equal in the latents that the images seem to share.

    Of each pair, δ_d = KL(q(z_d|x) || q(z_d|y)), your `gaussian_kl_between`. Shared are the latents with
    δ_d < ½ (max_d δ_d + min_d δ_d). There both posteriors become the Gaussian with the mean of the two means and the
    mean of the two VARIANCES; elsewhere they stay.

    mean, log_var of q(z|x), other_mean, other_log_var of q(z|y), (B, D) each: row b is pair b, with a threshold of its
    own. Returns all four, in this order. Locatello et al. (2020), https://arxiv.org/abs/2002.02886 (Ada-GVAE).
    """


class EncoderDecoder(Protocol):
    """What a pair's loss needs of a VAE: encode (B, …) to mean and log_var (B, D), decode (B, D) to logits (B, …)."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def decode(self, z: Tensor) -> Tensor: ...


class _LinearMaps:
    """encode by encoder (2D, P), decode by decoder (P, D): matrix products that let gradients through to both."""

    def __init__(self, encoder: Tensor, decoder: Tensor):
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = (x @ self.encoder.mT).chunk(2, dim=1)
        return mean, log_var

    def decode(self, z: Tensor) -> Tensor:
        return z @ self.decoder.mT


def _probe_pair_loss(
    implementation: Callable,
    x: Tensor,
    y: Tensor,
    noise: Tensor,
    beta: float,
    encoder: Tensor,
    decoder: Tensor,
) -> Tensor:
    return implementation(_LinearMaps(encoder, decoder), x, y, noise, beta)


@exercise(
    "The bound of a pair",
    points=2,
    probe=_probe_pair_loss,
    at_scale=lambda n: dict(
        x=torch.rand(n, 64),
        y=torch.rand(n, 64),
        noise=torch.randn(2, n, 10),
        beta=1.0,
        encoder=torch.randn(20, 64) / 8,
        decoder=torch.randn(64, 10),
    ),
    full_size=256,
)
def pair_loss(vae: EncoderDecoder, x: Tensor, y: Tensor, noise: Tensor, beta: float) -> Tensor:
    """L(x) + L(y), in nats per pair, where L is the beta-VAE's loss under the averaged posterior of that image.

    Encode x and y (B, …), average what they share (your `average_shared`), draw z = μ + σ ε of either with its own
    noise ε = noise[0] for x and noise[1] for y, noise (2, B, D), and decode. vae.encode(x) gives mean and log_var
    (B, D), vae.decode(z) the logits (B, …). Returns a scalar. Use `elbo.reparameterise` and `beta_vae.beta_vae_loss`.
    """


# ------------------------------------------------------------------ erased for whom?


@exercise(
    "Erased, for a linear reader",
    points=2,
    gradients=False,
    at_scale=lambda n: dict(x=torch.randn(n, 16), attributes=torch.randn(n, 2)),
)
def erase(x: Tensor, attributes: Tensor) -> Tensor:
    """r(x_n) = x_n − C (Cᵀ Σ⁻¹ C)⁻¹ Cᵀ Σ⁻¹ (x_n − μ): of all linear erasers the one that moves the points least.

    x (N, D) of mean μ and invertible covariance Σ (D, D); attributes (N, K), K ≤ D, no column a linear function of the
    others; C = (1/N) Σ_n (x_n − μ)(a_n − ā)ᵀ (D, K), their covariance. Returns (N, D), in which every feature has
    covariance 0 with every attribute: for groups, equal means. Solve, do not invert, by torch.linalg.solve_ex.
    Belrose et al. (2023), LEACE, https://arxiv.org/abs/2306.03819.
    """
