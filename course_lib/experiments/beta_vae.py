"""Experiments of lesson 03: the KL's terms with any weights, linear beta-VAEs, and what a VAE is worth."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from course_lib import metrics
from course_lib.datasets.grid import FactorGrid
from course_lib.exercise.device import DeviceWatch
from course_lib.experiments.elbo import forward
from course_lib.lessons import elbo
from course_lib.lessons import mutual_information as information
from course_lib.lessons.beta_vae import (
    LOG_2PI,
    kl_decomposition,
    log_marginals_streaming,
    mutual_information_gap,
    pairwise_log_density,
)
from course_lib.models import VAE
from course_lib.training import descend, fit, normal_like

# ------------------------------------------------------------------ built on the exercises: the decomposition


def decompose(z: Tensor, mean: Tensor, log_var: Tensor, log_weights: Tensor | float) -> Tensor:
    """The three terms of the KL, (3,) in nats, with log q(z_i) = log Σ_j w_ij q(z_i|x_j) for any weights w.

    z, mean, log_var (M, D), z_m drawn from q(z|x_m). log_weights: log w, (M, M) or one number. −log M gives the
    exact terms of these M posteriors, −log(N M) minibatch weighted sampling, `stratified_weights` its stratified kin.
    """
    log_density = pairwise_log_density(z, mean, log_var)  # (M, M)
    log_joint = metrics.log_sum_exp(log_density + log_weights, 1)
    latents = zip(z.split(1, 1), mean.split(1, 1), log_var.split(1, 1), strict=True)
    marginals = [metrics.log_sum_exp(pairwise_log_density(*latent) + log_weights, 1) for latent in latents]
    return torch.stack(kl_decomposition(z, log_density.diagonal(), log_joint, torch.stack(marginals, dim=1)))


@torch.no_grad()
def exact_terms(mean: Tensor, log_var: Tensor, generator: torch.Generator, samples: int = 2048) -> Tensor:
    """The three terms of the KL, (3,) in nats, under q(z) = (1/N) Σ_n q(z|x_n), by your log_marginals_streaming.

    mean, log_var (N, D), the posteriors of ALL N points of the set or grid. Each density sums over all of them; the
    mean over z is over `samples` draws, whose images are drawn without replacement for as long as there are any.
    Holds (samples, N) numbers; `metrics.kl_decomposition_exact` does the same from the same draws for any N.
    """
    order = torch.randperm(len(mean), generator=generator, device=generator.device)
    rows = order[torch.arange(samples, device=order.device) % len(mean)].to(mean.device)
    own_mean, own_log_var = mean[rows], log_var[rows]
    noise = normal_like(own_mean, generator)
    z = elbo.reparameterise(own_mean, own_log_var, noise)
    log_conditional = -0.5 * (noise.square() + own_log_var + LOG_2PI).sum(1)
    log_joint = metrics.log_sum_exp(pairwise_log_density(z, mean, log_var), 1) - math.log(len(mean))
    block = 16 if z.device.type == "cpu" else 1024  # small enough for the cache, or large enough for a GPU
    log_marginals = log_marginals_streaming(z, mean, log_var, block)
    return torch.stack(kl_decomposition(z, log_conditional, log_joint, log_marginals))


def average_over_batches(
    estimate: Callable[[Tensor, Tensor, Tensor], Tensor],
    z: Tensor,
    mean: Tensor,
    log_var: Tensor,
    batch: int,
    generator: torch.Generator,
) -> Tensor:
    """The mean of estimate(z, mean, log_var) over a random partition of the set (N, D) into whole batches."""
    if not 1 <= batch <= len(z):
        raise ValueError(f"batch: expected 1 to {len(z)}, the size of the set, got {batch}")
    order = torch.randperm(len(z), generator=generator, device=generator.device).to(z.device)
    rows = order[: len(z) // batch * batch].view(-1, batch)
    return torch.stack([estimate(z[r], mean[r], log_var[r]) for r in rows]).mean(0)


def marginal_costs(
    blocks: list[int], size: int, latents: int, generator: torch.Generator
) -> dict[int, tuple[float, int]]:
    """Seconds, and bytes held at once, of log q(z_d) and its gradients, `size` samples against as many posteriors.

    By your log_marginals_streaming with each of these blocks; under 0, by a broadcast and a logsumexp. Seconds: the
    faster of two runs. Bytes are those of tensors, counted on tensors without memory.
    """
    mean, log_var, z = torch.randn(3, size, latents, generator=generator, device=generator.device)
    log_var = log_var - 2

    def run(block: int, *leaves: Tensor) -> Tensor:
        z, mean, log_var = (x.detach().requires_grad_() for x in leaves)
        if block:
            log_marginals = log_marginals_streaming(z, mean, log_var, block)
        else:
            squares = (z[:, None] - mean).square() * (-log_var).exp()
            log_marginals = (-0.5 * (squares + log_var + LOG_2PI)).logsumexp(1) - math.log(size)
        log_marginals.sum().backward()
        return z.grad

    found = {}
    for block in [0, *blocks]:
        times = []
        for _ in range(2):
            start = time.perf_counter()
            run(block, z, mean, log_var).sum().item()  # waits for the device
            times.append(time.perf_counter() - start)
        empty = [x.to("meta") for x in (z, mean, log_var)]
        with DeviceWatch() as watch:
            run(block, *empty)
        found[block] = min(times), watch.peak
    return found


def information_matrix(codes: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """I(z_d; v_k) (D, K) and H(v_k) (K,), in nats, from codes (N, D) in 20 equal-width bins and int64 factors (N, K).

    Built on your functions of lesson 01. The estimate is biased up by about 19 (L − 1) / 2N for a factor of L
    values: use thousands of points.
    """
    bins = metrics.BINS
    low, high = codes.aminmax(dim=0)
    width = (high - low).clamp(min=torch.finfo(codes.dtype).tiny) / bins  # a dead latent falls into one bin
    binned = ((codes - low) / width).long().clamp(max=bins - 1)
    columns, entropies = [], []
    for v in factors.T:
        values = int(v.max()) + 1
        tables = [information.contingency_table(b, v, bins, values) for b in binned.T]
        columns.append(information.discrete_mutual_information(torch.stack(tables)))
        entropies.append(information.entropy(tables[0].sum(0) / len(v)))
    return torch.stack(columns, dim=1), torch.stack(entropies)


# ------------------------------------------------------------------ built on the exercises: the linear beta-VAE


def linear_vae_terms(x: Tensor, encoder: Tensor, decoder: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """Rate of each latent (B, P), in nats, and distortion (B,) of B linear VAEs at once, without sampling.

    x (N, P); encoder V, decoder W (B, P, P); log_var (B, 1, P). q(z|x) = N(V x, diag s²), and the mean squared error
    E‖x − W z‖² is ‖x − W V x‖² + Σ_d s_d² ‖W_d‖².
    """
    mean = x @ encoder  # (B, N, P)
    kl = elbo.gaussian_kl(mean.reshape(-1, 1), log_var.expand_as(mean).reshape(-1, 1))
    spread = (log_var[:, 0].exp() * decoder.square().sum(2)).sum(1)  # (B,)
    error = (x - mean @ decoder).square().sum(2).mean(1)
    return kl.view(mean.shape).mean(1), error + spread


def _points(n: int, eigenvalues: Tensor, generator: torch.Generator) -> Tensor:
    """n points (n, P) of mean 0 whose covariance is diag(eigenvalues), to rounding."""
    draw = torch.randn(n, len(eigenvalues), generator=generator, device=generator.device).to(
        eigenvalues.device
    )
    return torch.linalg.qr(draw - draw.mean(0)).Q * (n * eigenvalues).sqrt()


def train_linear_vaes(
    eigenvalues: Tensor, noise_variance: Tensor, beta: Tensor, generator: torch.Generator, steps: int = 1500
) -> tuple[Tensor, Tensor]:
    """Rates (B, P), largest first, and total distortion (B,) of linear beta-VAEs trained by Adam, one for each beta.

    Loss: distortion / 2σ² + β rate over 256 points whose covariance is exactly diag(eigenvalues); eigenvalues (P,),
    noise_variance σ² a scalar tensor, beta (B,).
    """
    x, (b, p) = _points(256, eigenvalues, generator), (len(beta), len(eigenvalues))
    start = 0.1 * torch.randn(2, b, p, p, generator=generator, device=generator.device).to(x.device)
    weights = [*start.unbind(), torch.zeros(b, 1, p, device=x.device)]  # encoder, decoder, log variance
    weights = [w.clone().requires_grad_() for w in weights]
    optimiser = torch.optim.Adam(weights, lr=0.03)

    def step(i: int) -> dict[str, Tensor]:
        rate, distortion = linear_vae_terms(x, *weights)
        loss = (distortion / (2 * noise_variance) + beta * rate.sum(1)).sum()
        descend(optimiser, loss)
        return {"loss": loss}

    fit(step, steps, label=f"{b} linear VAEs", draws=generator)
    rate, distortion = linear_vae_terms(x, *(w.detach() for w in weights))
    return rate.sort(dim=1, descending=True).values, distortion


# ------------------------------------------------------------------ built on the exercises: sprites


class Discs:
    """A disc of 16×16 pixels at each pair of `places` (n,), in pixels from the left and the top: a complete grid of x and y."""

    def __init__(self, places: Tensor, radius: float = 2.4):
        self.grid = FactorGrid(("x", "y"), (len(places), len(places)))
        x, y = places[self.grid.factors(torch.arange(len(self.grid), device=places.device)).T]
        pixel = torch.arange(16, device=places.device) + 0.5
        squares = (pixel - x[:, None, None]).square() + (pixel[:, None] - y[:, None, None]).square()
        self.images = (squares < radius**2).float()[:, None]  # (n², 1, 16, 16)

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n images (n, 1, 16, 16), uniform over the grid."""
        rows = torch.randint(len(self), (n,), generator=generator, device=generator.device)
        return self.images[rows.to(self.images.device)]


EVALUATION = (  # what `evaluate` calls: needs(*EVALUATION) before a training that it follows
    elbo.bernoulli_log_likelihood,
    pairwise_log_density,
    log_marginals_streaming,
    kl_decomposition,
    information.contingency_table,
    information.discrete_mutual_information,
    information.entropy,
    mutual_information_gap,
)


CODES = 10_000  # at least so many are counted for MIG, where the images are fewer


@torch.no_grad()
def evaluate(vae: VAE, images: Tensor, factors: Tensor, generator: torch.Generator) -> dict[str, float]:
    """Reconstruction loss, exact mutual information and total correlation in nats, and MIG, of a trained VAE.

    images (N, C, S, S), factors (N, K) int64: the complete set or grid, every image once. q(z) sums over all N
    posteriors, so the two terms are exact up to the 2048 samples of z, and owe nothing to any minibatch. MIG counts
    samples of z, several of each image where these are few: a table of few points knows too much (`information_matrix`).
    """
    x, logits, mean, log_var, _ = forward(vae, images, generator)
    terms = exact_terms(mean, log_var, generator).tolist()
    knows = informations(mean, log_var, factors, generator)
    return {
        "reconstruction": -elbo.bernoulli_log_likelihood(x, logits).mean().item(),
        "mutual information": terms[0],
        "total correlation": terms[1],
        "MIG": mutual_information_gap(*knows).item(),
    }


@torch.no_grad()
def informations(
    mean: Tensor, log_var: Tensor, factors: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`information_matrix` of at least CODES samples of z, equally many of each posterior (N, D), and factors (N, K)."""
    draws = math.ceil(CODES / len(mean))
    mean, log_var = mean.repeat(draws, 1), log_var.repeat(draws, 1)
    z = elbo.reparameterise(mean, log_var, normal_like(mean, generator))
    return information_matrix(z, factors.repeat(draws, 1))
