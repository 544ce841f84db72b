"""Lesson 02's solutions against ground truths of their own: closed forms, brute force, Monte Carlo, autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.integrate import quad
from scipy.stats import multivariate_normal
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from course_lib.experiments import elbo as experiments
from course_lib.lessons import elbo
from tests.helpers import generator

pytestmark = pytest.mark.usefixtures("on_solutions")


@pytest.fixture
def g():
    return generator(0)


@st.composite
def batches(draw, count: int, bound: float = 4.0):
    """`count` tensors (B, D) of one shape, with values within the bound."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 6)))
    values = arrays.arrays(np.float64, shape, elements=st.floats(-bound, bound))
    return [torch.from_numpy(draw(values)) for _ in range(count)]


def linear_vae(g, pixels: int = 5, latents: int = 2) -> experiments.LinearVAE:
    weight = torch.randn(pixels, latents, generator=g, dtype=torch.float64)
    bias = torch.randn(pixels, generator=g, dtype=torch.float64)
    return experiments.LinearVAE(weight, bias, torch.tensor(0.4, dtype=torch.float64))


# ------------------------------------------------------------------ reparameterise


def test_samples_have_the_mean_and_variance_asked_for(g):
    mean, log_var = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.7, -1.0]])
    z = elbo.reparameterise(
        *(x.expand(200_000, 2) for x in (mean, log_var)), torch.randn(200_000, 2, generator=g)
    )
    assert torch.allclose(z.mean(0), mean[0], atol=0.02)
    assert torch.allclose(z.var(0), log_var.exp()[0], rtol=0.02)


def test_the_gradient_of_an_expectation_passes_the_sample(g):
    """E[z²] = μ² + σ², so its gradients are 2μ and, to log σ², σ²."""
    mean, log_var = torch.tensor([0.5], requires_grad=True), torch.tensor([-0.4], requires_grad=True)
    noise = torch.randn(400_000, 1, generator=g)
    elbo.reparameterise(mean.expand_as(noise), log_var.expand_as(noise), noise).square().mean().backward()
    assert mean.grad.item() == pytest.approx(1.0, abs=0.01)
    assert log_var.grad.item() == pytest.approx(math.exp(-0.4), abs=0.01)


# ------------------------------------------------------------------ gaussian_kl


@given(batches(2))
def test_kl_equals_torch_distributions(tensors):
    mean, log_var = tensors
    exact = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(torch.zeros_like(mean), 1.0)).sum(1)
    kl = elbo.gaussian_kl(mean, log_var)
    assert kl.shape == mean.shape[:1] and torch.allclose(kl, exact, atol=1e-9)
    assert (kl >= -1e-12).all()


@pytest.mark.parametrize(("mean", "log_var"), [(0.0, 0.0), (1.5, -1.0), (-0.3, 2.0)])
def test_kl_equals_its_integral(mean, log_var):
    deviation = math.exp(0.5 * log_var)

    def integrand(z):
        log_q = -0.5 * ((z - mean) / deviation) ** 2 - math.log(deviation)
        return math.exp(log_q) / math.sqrt(2 * math.pi) * (log_q + 0.5 * z**2)

    exact, _ = quad(integrand, mean - 12 * deviation, mean + 12 * deviation)
    assert elbo.gaussian_kl(torch.tensor([[mean]]), torch.tensor([[log_var]])).item() == pytest.approx(
        exact, abs=1e-6
    )


def test_kl_equals_monte_carlo(g):
    mean, log_var = torch.randn(3, generator=g), torch.randn(3, generator=g)
    q, p = Normal(mean, (0.5 * log_var).exp()), Normal(torch.zeros(3), 1.0)
    z = elbo.reparameterise(
        *(x.expand(200_000, 3) for x in (mean, log_var)), torch.randn(200_000, 3, generator=g)
    )
    estimate = (q.log_prob(z) - p.log_prob(z)).sum(1)
    error = 4 * estimate.std() / math.sqrt(len(z))
    assert abs(elbo.gaussian_kl(mean[None], log_var[None]) - estimate.mean()) < error


def test_kl_is_zero_only_at_the_prior_and_its_gradients_are_right(g):
    assert elbo.gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0, 0]
    inputs = [torch.randn(2, 3, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(elbo.gaussian_kl, inputs)


@given(batches(2))
def test_the_kl_loop_equals_the_solution(tensors):
    expected = elbo.gaussian_kl(*tensors).float()
    assert torch.allclose(elbo.gaussian_kl_loop(*tensors), expected, rtol=1e-4, atol=1e-5)


@given(batches(2))
def test_kl_per_latent_adds_up_to_the_kl(tensors):
    per_latent = experiments.kl_per_latent(*tensors)
    assert per_latent.shape == tensors[0].shape[1:] and (per_latent >= -1e-12).all()
    assert per_latent.sum().item() == pytest.approx(elbo.gaussian_kl(*tensors).mean().item(), abs=1e-9)


# ------------------------------------------------------------------ bernoulli_log_likelihood


@given(batches(2))
def test_likelihood_equals_torch_distributions(tensors):
    x, logits = (tensors[0] > 0).double(), tensors[1]
    exact = Independent(Bernoulli(logits=logits), 1).log_prob(x)
    assert torch.allclose(elbo.bernoulli_log_likelihood(x, logits), exact)
    assert (elbo.bernoulli_log_likelihood(x, logits) <= 0).all()


@given(batches(2, bound=20.0))
def test_likelihood_equals_a_loop_in_plain_python(tensors):
    """Grey pixels, too: x log p + (1 − x) log(1 − p), log(1 − p) by log1p."""
    x, logits = tensors[0].sigmoid(), tensors[1]
    for got, row, scores in zip(
        elbo.bernoulli_log_likelihood(x, logits), x.tolist(), logits.tolist(), strict=True
    ):
        exact = sum(
            -a * math.log1p(math.exp(-s)) - (1 - a) * math.log1p(math.exp(s))
            for a, s in zip(row, scores, strict=True)
        )
        assert got.item() == pytest.approx(exact, rel=1e-9, abs=1e-9)


def test_the_likelihoods_of_all_images_sum_to_one(g):
    """Brute force over the 2⁶ binary images of six pixels."""
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6)
    logits = 2 * torch.randn(6, generator=g)
    assert elbo.bernoulli_log_likelihood(images, logits.expand(64, 6)).exp().sum().item() == pytest.approx(
        1, abs=1e-5
    )


@pytest.mark.parametrize("size", [200.0, 1e4])
def test_likelihood_is_stable(size):
    x, logits = (
        torch.tensor([[1.0, 0.0, 1.0, 0.0]]),
        torch.tensor([[size, -size, -size, size]], requires_grad=True),
    )
    value = elbo.bernoulli_log_likelihood(x, logits)
    value.sum().backward()
    assert value.item() == -2 * size and logits.grad.tolist() == [[0, 0, 1, -1]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 4, 4), (3, 3, 2, 5), (2, 7)])
def test_likelihood_sums_over_everything_but_the_batch(g, shape):
    x, logits = torch.rand(shape, generator=g), torch.randn(shape, generator=g)
    got = elbo.bernoulli_log_likelihood(x, logits)
    assert got.shape == shape[:1]
    assert got[-1].item() == pytest.approx(
        elbo.bernoulli_log_likelihood(x[-1:], logits[-1:]).item(), rel=1e-5
    )


# ------------------------------------------------------------------ the bounds


def test_elbo_is_likelihood_minus_kl(g):
    x, logits = torch.rand(6, 1, 4, 4, generator=g).round(), torch.randn(6, 1, 4, 4, generator=g)
    mean, log_var = torch.randn(6, 3, generator=g), torch.randn(6, 3, generator=g)
    likelihood = Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))
    kl = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(0.0, 1.0)).sum(1)
    bound = elbo.elbo(x, logits, mean, log_var)
    assert bound.shape == () and bound.item() == pytest.approx((likelihood - kl).mean().item(), rel=1e-5)
    twice = elbo.elbo(*(t.repeat(2, *[1] * (t.ndim - 1)) for t in (x, logits, mean, log_var)))
    assert twice.item() == pytest.approx(bound.item(), rel=1e-5)  # a mean over the batch


@given(batches(1))
def test_importance_weighted_bound_equals_numpy(tensors):
    weights = np.exp(tensors[0].numpy())
    exact = np.log(weights.mean(0)).mean()
    assert elbo.importance_weighted_bound(tensors[0]).item() == pytest.approx(exact, abs=1e-9)
    assert elbo.importance_weighted_bound(tensors[0]) >= tensors[0].mean() - 1e-9  # Jensen: L_K ≥ L_1


@given(st.floats(-1e5, 1e5))
def test_importance_weighted_bound_shifts_with_its_weights(shift):
    log_weights = torch.tensor([[0.0, -1.0], [1.0, -3.0]], dtype=torch.float64)
    moved = elbo.importance_weighted_bound(log_weights + shift)
    assert moved.item() == pytest.approx(elbo.importance_weighted_bound(log_weights).item() + shift, abs=1e-8)


# ------------------------------------------------------------------ the linear VAE, whose likelihood is known


def test_linear_likelihood_equals_scipy(g):
    vae = linear_vae(g)
    x = torch.randn(7, 5, generator=g, dtype=torch.float64)
    covariance = (vae.weight @ vae.weight.T + 0.4 * torch.eye(5)).numpy()
    exact = multivariate_normal(vae.bias.numpy(), covariance).logpdf(x.numpy())
    got = elbo.linear_gaussian_log_likelihood(x, vae.weight, vae.bias, vae.noise_variance)
    assert np.allclose(got.numpy(), exact)


def test_linear_likelihood_equals_the_integral_over_z(g):
    """p(x) = ∫ p(x|z) p(z) dz, one latent, by quadrature."""
    vae = linear_vae(g, pixels=3, latents=1)
    x = torch.randn(1, 3, generator=g, dtype=torch.float64)
    weight, centred = vae.weight[:, 0].numpy(), (x - vae.bias)[0].numpy()

    def integrand(z):
        distance = ((centred - weight * z) ** 2).sum() / 0.4
        return math.exp(-0.5 * (distance + z**2)) / (2 * math.pi) ** 2 / 0.4**1.5

    exact = math.log(quad(integrand, -12, 12)[0])
    got = elbo.linear_gaussian_log_likelihood(x, vae.weight, vae.bias, vae.noise_variance)
    assert got.item() == pytest.approx(exact, abs=1e-6)


def test_linear_likelihood_equals_its_loop_and_differentiates(g):
    inputs = [torch.randn(s, generator=g) for s in [(4, 5), (5, 2), (5,)]] + [torch.tensor(0.3)]
    loop = elbo.linear_gaussian_log_likelihood_loop(*inputs)
    assert torch.allclose(elbo.linear_gaussian_log_likelihood(*inputs), loop, rtol=1e-4, atol=1e-4)
    doubles = [x.double().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(elbo.linear_gaussian_log_likelihood, doubles)


def test_the_posterior_is_bayes_rule(g):
    """log p(z|x) = log p(x|z) + log p(z) − log p(x) at any z."""
    vae = linear_vae(g)
    x, z = (torch.randn(3, n, generator=g, dtype=torch.float64) for n in (5, 2))
    mean, covariance = vae.posterior(x)
    joint = experiments.log_normal(x, z @ vae.weight.T + vae.bias, vae.noise_variance.log())
    joint = joint + Normal(torch.zeros_like(z), torch.ones_like(z)).log_prob(z).sum(1)
    evidence = elbo.linear_gaussian_log_likelihood(x, vae.weight, vae.bias, vae.noise_variance)
    for i in range(3):
        exact = multivariate_normal(mean[i].numpy(), covariance.numpy()).logpdf(z[i].numpy())
        assert (joint - evidence)[i].item() == pytest.approx(exact, abs=1e-9)


def test_the_gap_is_the_kl_to_the_true_posterior(g):
    """In closed form by torch.distributions, and as log p(x) − ELBO by Monte Carlo."""
    vae = linear_vae(g)
    x = torch.randn(3, 5, generator=g, dtype=torch.float64)
    mean, log_var = (torch.randn(3, 2, generator=g, dtype=torch.float64) for _ in range(2))
    true_mean, covariance = vae.posterior(x)
    q = torch.distributions.MultivariateNormal(mean, torch.diag_embed(log_var.exp()))
    p = torch.distributions.MultivariateNormal(true_mean, covariance.expand(3, 2, 2))
    gap = vae.exact_gap(x, mean, log_var)
    assert torch.allclose(gap, kl_divergence(q, p)) and (gap > 0).all()

    noise = torch.randn(100_000, 3, 2, generator=g, dtype=torch.float64)
    log_weights = vae.log_weights(x, mean, log_var, noise)
    evidence = elbo.linear_gaussian_log_likelihood(x, vae.weight, vae.bias, vae.noise_variance)
    error = 5 * log_weights.std(0) / math.sqrt(len(noise))
    assert ((log_weights.mean(0) + gap - evidence).abs() < error).all()


def test_bounds_are_in_order_and_tight_at_the_posterior(g):
    """ELBO = L_1 ≤ L_10 ≤ L_100 ≤ log p(x), apart by more than their Monte Carlo errors."""
    vae = linear_vae(g)
    x = torch.randn(4, 5, generator=g, dtype=torch.float64)
    true_mean, covariance = vae.posterior(x)
    mean, log_var = true_mean + 0.3, covariance.diagonal().log().expand(4, 2)
    log_weights = vae.log_weights(
        x, mean, log_var, torch.randn(40_000, 4, 2, generator=g, dtype=torch.float64)
    )
    bounds = []
    for k in (1, 10, 100):
        several = log_weights.unflatten(0, (-1, k)).transpose(0, 1).flatten(1)  # (k, runs · images)
        bounds.append(elbo.importance_weighted_bound(several).item())
    evidence = elbo.linear_gaussian_log_likelihood(x, vae.weight, vae.bias, vae.noise_variance).mean().item()
    assert bounds[0] + 0.02 < bounds[1] < bounds[2] < evidence + 0.005
    assert bounds[0] == pytest.approx(log_weights.mean().item())

    diagonal = experiments.LinearVAE(
        torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double(), vae.bias[:2], vae.noise_variance
    )
    mean, covariance = diagonal.posterior(
        x[:, :2]
    )  # a diagonal posterior: q can be exact, the ELBO is log p(x)
    log_var = covariance.diagonal().log().expand(4, 2)
    assert diagonal.exact_gap(x[:, :2], mean, log_var).abs().max() < 1e-12
    weights = diagonal.log_weights(
        x[:, :2], mean, log_var, torch.randn(3, 4, 2, generator=g, dtype=torch.float64)
    )
    evidence = elbo.linear_gaussian_log_likelihood(
        x[:, :2], diagonal.weight, diagonal.bias, diagonal.noise_variance
    )
    assert torch.allclose(weights, evidence.expand(3, 4))


# ------------------------------------------------------------------ traverse


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 9), st.data())
def test_traverse_decodes_once_what_its_loop_decodes_singly(latents, count, data):
    latent = data.draw(st.integers(0, latents - 1))
    g = generator(count)
    weight, z, values = (torch.randn(s, generator=g) for s in [(latents, 8), (latents,), (count,)])
    before, calls = z.clone(), []

    def decode(codes):
        calls.append(len(codes))
        return F.elu(codes @ weight).unflatten(1, (2, 4))

    images = elbo.traverse(decode, z, latent, values)
    assert calls == [count] and torch.equal(z, before) and images.shape == (count, 2, 4)
    assert torch.allclose(images, elbo.traverse_loop(decode, z, latent, values), atol=1e-6)
    for value, image in zip(values, images, strict=True):  # only the one latent is changed
        code = torch.cat([before[:latent], value[None], before[latent + 1 :]])
        assert torch.allclose(F.elu(code @ weight), image.flatten(), atol=1e-6)
