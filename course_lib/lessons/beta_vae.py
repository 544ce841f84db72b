"""Lesson 03, the beta-VAE and what hides in its KL: contracts, and the plain loops that are given.

Conventions: natural logarithms (nats); log densities and KLs are summed over pixels and latents; `log_var` is
the logarithm of the variance. M samples z, N posteriors q(z|x_n) = N(mean_n, diag exp(log_var_n)), D latents.
The aggregate posterior is q(z) = (1/N) Σ_n q(z|x_n).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from course_lib.exercise import MB, exercise

LOG_2PI = math.log(2 * math.pi)

# ------------------------------------------------------------------ plain loops, given


def active_dimensions_loop(
    eigenvalues: Tensor, noise_variance: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """Reverse water-filling, one dimension at one β at a time on the host."""
    rate = torch.zeros(len(beta), len(eigenvalues))
    distortion = torch.zeros(len(beta), len(eigenvalues))
    for b in range(len(beta)):
        level = beta[b].item() * noise_variance.item()
        for p in range(len(eigenvalues)):
            eigenvalue = eigenvalues[p].item()
            if eigenvalue > level:
                rate[b, p] = 0.5 * math.log(eigenvalue / level)
                distortion[b, p] = level
            else:
                distortion[b, p] = eigenvalue
    return rate, distortion


def log_normal_number(z: float, mean: float, log_var: float) -> float:
    """log N(z; mean, exp(log_var)) of three numbers."""
    return -0.5 * ((z - mean) ** 2 / math.exp(log_var) + log_var + LOG_2PI)


def pairwise_log_density_loop(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log q(z_m|x_n), one number at a time on the host."""
    result = torch.zeros(len(z), len(mean))
    rows, means, log_vars = z.tolist(), mean.tolist(), log_var.tolist()
    for m in range(len(rows)):
        for n in range(len(means)):
            terms = zip(rows[m], means[n], log_vars[n], strict=True)
            result[m, n] = sum(log_normal_number(*term) for term in terms)
    return result


def log_marginals_loop(z: Tensor, mean: Tensor, log_var: Tensor, block: int) -> Tensor:
    """log q(z_md) of the mixture of N posteriors, one number at a time on the host (`block` changes nothing)."""
    result = torch.zeros_like(z)
    rows, means, log_vars = z.tolist(), mean.tolist(), log_var.tolist()
    for m in range(len(rows)):
        for d in range(len(rows[0])):
            logs = [log_normal_number(rows[m][d], means[n][d], log_vars[n][d]) for n in range(len(means))]
            highest = max(logs)  # what is left to exponentiate is at most 0
            total = sum(math.exp(value - highest) for value in logs)
            result[m, d] = highest + math.log(total / len(means))
    return result


# ------------------------------------------------------------------ exercises


def _posteriors(n: int, latents: int = 10) -> dict:
    """Inputs at size n: n samples and n posteriors."""
    return {name: torch.randn(n, latents) for name in ("z", "mean", "log_var")}


@exercise(
    "One weight on the KL",
    at_scale=lambda n: dict(
        x=torch.rand(n, 1, 32, 32),
        logits=torch.randn(n, 1, 32, 32),
        mean=torch.randn(n, 10),
        log_var=torch.randn(n, 10),
        beta=4.0,
    ),
    full_size=256,
)
def beta_vae_loss(x: Tensor, logits: Tensor, mean: Tensor, log_var: Tensor, beta: float) -> Tensor:
    """L = (1/B) Σ_b [−log p(x_b|z_b) + β KL(q(z|x_b) || N(0, I))], in nats per image, to be minimised.

    x in [0, 1] and logits = decode(z): (B, …) alike; mean, log_var (B, D); beta a number. Returns a scalar; at β = 1
    it is −ELBO. Use your own `elbo.bernoulli_log_likelihood` and `elbo.gaussian_kl`, which are summed over pixels
    and over latents: a mean over either changes β in secret.
    Higgins et al. (2017), https://openreview.net/forum?id=Sy2fzU9gl.
    """


@exercise(
    "A trade-off with an exact answer",
    points=2,
    gradients=False,
    at_scale=lambda n: dict(
        eigenvalues=torch.rand(64) + 0.1, noise_variance=torch.rand(()) + 0.1, beta=torch.rand(n) + 1
    ),
    plain=active_dimensions_loop,
    timed_size=128,
)
def active_dimensions(eigenvalues: Tensor, noise_variance: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Rate and distortion of each dimension at the optimum of a linear beta-VAE: reverse water-filling.

    Data with covariance eigenvalues λ_p, decoder noise σ²: dimension p is active iff λ_p > β σ². If active, its rate
    is ½ log(λ_p / β σ²) nats and its distortion, the mean squared error, β σ²; else 0 nats and λ_p.

    eigenvalues λ (P,), noise_variance σ² a positive scalar tensor, beta (B,). Returns rate (B, P), distortion (B, P).
    """


@exercise(
    "Every sample against every posterior",
    points=3,
    at_scale=_posteriors,
    memory=512 * MB,
    rtol=1e-3,
    atol=1e-3,
    plain=pairwise_log_density_loop,
    timed_size=96,
)
def pairwise_log_density(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log q(z_m|x_n) = −½ Σ_d [(z_md − μ_nd)² / σ²_nd + log σ²_nd + log 2π], in nats, for all pairs.

    z (M, D), mean and log_var (N, D). Returns (M, N): the joint density of all latents, so summed over D. Nothing of
    shape (M, N, D): write the square out, and each part is a matrix product. Right to 0.001 in float32, also where
    all means lie far from 0: subtract their centre from z and mean first, which changes no difference.
    """


@exercise(
    "The aggregate posterior from a minibatch",
    points=2,
    at_scale=lambda n: dict(**_posteriors(n), dataset_size=737280),
    full_size=256,
)
def log_aggregate_posterior(
    z: Tensor, mean: Tensor, log_var: Tensor, dataset_size: int
) -> tuple[Tensor, Tensor]:
    """Minibatch weighted sampling: log q(z_m) ≈ log Σ_j q(z_m|x_j) − log(N M), and the same for each latent alone.

    z, mean, log_var (M, D): a batch of M out of N = dataset_size examples, z_m drawn from q(z|x_m). Returns
    joint log q(z_m) (M,) and marginals log q(z_md) (M, D), in nats: each sums over j and subtracts log(N M) ONCE.
    Finite for posteriors of any width. Chen et al. (2018), https://arxiv.org/abs/1802.04942.
    """


@exercise(
    "Weights that are right on average",
    points=2,
    gradients=False,
    at_scale=lambda n: dict(z=torch.randn(n, 10), dataset_size=737280),
    full_size=2048,
)
def stratified_weights(z: Tensor, dataset_size: int) -> Tensor:
    """Minibatch stratified sampling: log w_ij, such that log q(z_i) ≈ log Σ_j w_ij q(z_i|x_j), unbiased in q.

    A batch of M + 1 = len(z) out of N = dataset_size examples. w_ii = 1/N (the sample's own posterior),
    w_ij = (N − M)/(N M) for one other, here j = i + 1 (and j = 0 for the last row), and 1/M for the rest. Rows sum to 1.

    z (M + 1, D) gives length, dtype and device only. Returns (M + 1, M + 1) logarithms. Needs 3 ≤ M + 1 ≤ N.
    Chen et al. (2018), https://arxiv.org/abs/1802.04942.
    """


@exercise(
    "Three terms that add up to the KL",
    points=2,
    at_scale=lambda n: dict(
        z=torch.randn(n, 10),
        log_conditional=torch.randn(n),
        log_joint=torch.randn(n),
        log_marginals=torch.randn(n, 10),
    ),
)
def kl_decomposition(
    z: Tensor, log_conditional: Tensor, log_joint: Tensor, log_marginals: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mutual information, total correlation and dimension-wise KL, each a scalar in nats, averaged over samples:

    MI = E[log q(z|x) − log q(z)],  TC = E[log q(z) − Σ_d log q(z_d)],  DWKL = E[Σ_d (log q(z_d) − log p(z_d))].

    z (M, D), each z_m drawn from its own q(z|x_m); log_conditional (M,) = log q(z_m|x_m); log_joint (M,) = log q(z_m);
    log_marginals (M, D) = log q(z_md); prior p(z_d) = N(0, 1). The three add up to E[log q(z|x) − log p(z)], the KL.
    """


@exercise(
    "The same marginals in bounded memory",
    points=4,
    at_scale=lambda n: dict(**_posteriors(n), block=256),
    full_size=2048,
    memory=160 * MB,
    plain=log_marginals_loop,
    timed_size=96,
)
def log_marginals_streaming(z: Tensor, mean: Tensor, log_var: Tensor, block: int) -> Tensor:
    """log q(z_md) = log (1/N) Σ_n N(z_md; μ_nd, σ²_nd), in nats, never holding an (M, N, D) tensor.

    z (M, D), mean and log_var (N, D), block: how many posteriors to look at in one go (the last block may be
    smaller). Returns (M, D). Keep a running log-sum over the blocks. The bound counts the backward pass too, for
    which autograd keeps every block: `torch.utils.checkpoint.checkpoint(f, *args, use_reentrant=False,
    preserve_rng_state=False)` computes f(*args), keeps the arguments only, and runs f again when gradients are due.
    That bounds the memory and makes nothing faster. A backward pass of your own, as a `torch.autograd.Function`, can:
    the solution takes less than a fifth of the plain form's time on a CPU (`benchmarks/decomposition.py`).
    """


@exercise(
    "Weigh the total correlation alone",
    points=2,
    at_scale=lambda n: dict(
        x=torch.rand(n, 1, 32, 32),
        logits=torch.randn(n, 1, 32, 32),
        mean=torch.randn(n, 10),
        log_var=torch.randn(n, 10),
        z=torch.randn(n, 10),
        dataset_size=737280,
        beta=6.0,
    ),
    full_size=256,
)
def beta_tcvae_loss(
    x: Tensor, logits: Tensor, mean: Tensor, log_var: Tensor, z: Tensor, dataset_size: int, beta: float
) -> Tensor:
    """L = −ELBO + (β − 1) TC, in nats per image, to be minimised: of the KL's three terms, β weighs TC alone.

    x, logits (B, …), logits = decode(z); mean, log_var, z (B, D), z drawn from q(z|x); dataset_size N. TC =
    E[log q(z) − Σ_d log q(z_d)] by minibatch weighted sampling, your `log_aggregate_posterior`; −ELBO with the KL in
    closed form, your `elbo.elbo`. Returns a scalar. Chen et al. (2018), https://arxiv.org/abs/1802.04942.
    """


@exercise(
    "One latent for each factor",
    points=2,
    gradients=False,
    at_scale=lambda n: dict(mutual_information=torch.rand(10, n), entropies=torch.rand(n) + 1),
)
def mutual_information_gap(mutual_information: Tensor, entropies: Tensor) -> Tensor:
    """MIG = (1/K) Σ_k [I(z_(1); v_k) − I(z_(2); v_k)] / H(v_k): the lead of each factor's best latent over the second.

    mutual_information (D, K), I(z_d; v_k) in nats, D ≥ 2 latents; entropies (K,), H(v_k) > 0. Returns a scalar, 0 to 1.
    Chen et al. (2018), https://arxiv.org/abs/1802.04942.
    """
