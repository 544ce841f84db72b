"""Lesson 03 against independent ground truths: float64 loops, enumeration of all batches, quadrature, autograd."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from course_lib import metrics
from course_lib.exercise.device import DeviceWatch
from course_lib.experiments import beta_vae as experiments
from course_lib.experiments.elbo import LinearVAE
from course_lib.lessons import beta_vae as lesson
from solutions import beta_vae as solved
from tests.helpers import generator

pytestmark = pytest.mark.usefixtures("on_solutions")


def posteriors(n, latents, seed=0, log_var=-1.0):
    """n posteriors and one sample of each: z, mean, log_var (n, latents)."""
    g = generator(seed)
    mean = torch.randn(n, latents, generator=g)
    log_var = log_var + 0.5 * torch.randn(n, latents, generator=g)
    return mean + (0.5 * log_var).exp() * torch.randn(n, latents, generator=g), mean, log_var


def normals(mean, log_var):
    return Normal(mean.double(), (0.5 * log_var.double()).exp())


def exact_log_densities(z, mean, log_var):
    """log N(z_md; mean_nd, exp(log_var_nd)) by torch.distributions in float64, (M, N, D)."""
    return normals(mean, log_var).log_prob(z.double()[:, None])


def mixture(mean, log_var):
    """The aggregate posterior of N posteriors, in float64."""
    weights = Categorical(logits=torch.zeros(len(mean), dtype=torch.float64))
    return MixtureSameFamily(weights, Independent(normals(mean, log_var), 1))


# ------------------------------------------------------------------ beta_vae_loss


@pytest.mark.parametrize("beta", [0.0, 1.0, 7.5])
def test_beta_vae_loss_is_that_of_torch_distributions(beta):
    g = generator()
    x, logits = torch.randn(5, 1, 3, 3, generator=g) > 0, torch.randn(5, 1, 3, 3, generator=g)
    _, mean, log_var = posteriors(5, 2)
    log_likelihood = Bernoulli(logits=logits.double()).log_prob(x.double()).sum((1, 2, 3))
    prior = Normal(torch.zeros(2).double(), torch.ones(2).double())
    expected = (beta * kl_divergence(normals(mean, log_var), prior).sum(1) - log_likelihood).mean()
    got = lesson.beta_vae_loss(x.float(), logits, mean, log_var, beta=beta)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------ active_dimensions


@settings(max_examples=40)
@given(st.lists(st.floats(0.01, 20), min_size=1, max_size=6), st.floats(0.01, 2), st.floats(0.1, 50))
def test_water_filling_is_the_best_trade_off(eigenvalues, noise, beta):
    # Any distortion 0 < D_p <= lambda_p is had for 1/2 log(lambda_p / D_p) nats: look for the cheapest.
    eigenvalues = torch.tensor(eigenvalues)
    rate, distortion = lesson.active_dimensions(eigenvalues, torch.tensor(noise), torch.tensor([beta]))
    tried = eigenvalues * torch.logspace(-6, 0, 4000, base=10)[:, None]
    cost = tried / (2 * noise) + beta * 0.5 * (eigenvalues / tried).log()
    found = distortion[0] / (2 * noise) + beta * rate[0]
    lowest = cost.amin(0)
    assert (found <= lowest + 1e-4 * lowest.abs() + 1e-4).all()
    assert (found >= lowest - 1e-4 * lowest.abs() - 1e-3 * beta).all()


def test_a_dimension_collapses_at_its_own_beta():
    eigenvalues, noise = torch.tensor([4.0, 2.0, 1.0, 0.5]), torch.tensor(0.1)
    just_below, just_above = 10 * eigenvalues - 0.01, 10 * eigenvalues + 0.01
    assert (lesson.active_dimensions(eigenvalues, noise, just_below)[0].diagonal() > 0).all()
    assert (lesson.active_dimensions(eigenvalues, noise, just_above)[0].diagonal() == 0).all()


def test_trained_linear_vaes_find_the_exact_optimum():
    eigenvalues, noise = torch.tensor([3.0, 1.5, 0.4]), torch.tensor(0.2)
    beta = torch.tensor([2.0, 4.0, 10.0, 20.0])
    rate, distortion = experiments.train_linear_vaes(eigenvalues, noise, beta, generator(1), steps=1500)
    exact_rate, exact_distortion = lesson.active_dimensions(eigenvalues, noise, beta)
    torch.testing.assert_close(rate, exact_rate, rtol=0, atol=0.01)
    torch.testing.assert_close(distortion, exact_distortion.sum(1), rtol=0.01, atol=0.01)


def test_linear_terms_are_those_of_samples():
    g = generator()
    x, log_var = torch.randn(4, 3, generator=g), 0.3 * torch.randn(1, 1, 3, generator=g)
    encoder, decoder = torch.randn(2, 1, 3, 3, generator=g)
    rate, distortion = experiments.linear_vae_terms(x, encoder, decoder, log_var)
    mean = x @ encoder[0]
    z = mean + (0.5 * log_var[0]).exp() * torch.randn(100_000, 4, 3, generator=g)
    sampled = (x - z @ decoder[0]).square().sum(2).mean()
    assert abs(distortion.item() - sampled.item()) < 0.01 * sampled.item()
    expected = kl_divergence(Normal(mean, (0.5 * log_var[0]).exp()), Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(rate[0], expected)


# ------------------------------------------------------------------ pairwise_log_density


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.integers(0, 10**6))
def test_pairwise_density_is_that_of_torch_distributions(m, n, latents, seed):
    z = posteriors(m, latents, seed)[0]
    _, mean, log_var = posteriors(n, latents, seed + 1)
    got = lesson.pairwise_log_density(z, mean, log_var)
    expected = exact_log_densities(z, mean, log_var).sum(2)
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-3)


def test_pairwise_density_far_from_the_origin():
    z, mean, log_var = posteriors(200, 10, log_var=-4.0)
    expected = exact_log_densities(z + 100, mean + 100, log_var).sum(2)
    got = lesson.pairwise_log_density(z + 100, mean + 100, log_var)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=3e-3)


def test_narrow_posteriors_cost_a_hundredth_of_a_nat_at_most():
    z, mean, log_var = posteriors(500, 10, log_var=-7.0)
    error = (
        lesson.pairwise_log_density(z, mean, log_var).double() - exact_log_densities(z, mean, log_var).sum(2)
    ).diagonal()
    assert error.abs().max() < 0.03 and error.mean().abs() < 1e-3


# ------------------------------------------------------------------ log_aggregate_posterior


def test_minibatch_weighted_sampling_is_its_formula():
    z, mean, log_var = posteriors(12, 3)
    density = exact_log_densities(z, mean, log_var)
    joint, marginals = lesson.log_aggregate_posterior(z, mean, log_var, 500)
    torch.testing.assert_close(
        joint.double(), (density.sum(2).exp().sum(1) / (500 * 12)).log(), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        marginals.double(), (density.exp().sum(1) / (500 * 12)).log(), rtol=1e-5, atol=1e-5
    )


def test_one_latent_has_no_total_correlation():
    joint, marginals = lesson.log_aggregate_posterior(*posteriors(16, 1), 500)
    torch.testing.assert_close(joint, marginals[:, 0])


# ------------------------------------------------------------------ stratified_weights


@pytest.mark.parametrize("batch", [3, 4, 6])
def test_rows_of_the_weights_sum_to_one(batch):
    weights = lesson.stratified_weights(torch.zeros(batch, 2), 6).exp()
    torch.testing.assert_close(weights.sum(1), torch.ones(batch))
    torch.testing.assert_close(weights.diagonal(), torch.full((batch,), 1 / 6))


def mean_over_all_batches(weights_of, batch, size=5):
    """E[q_hat(z_i)] over all ordered batches of `batch` out of `size`, for each i, and the exact q(z_i)."""
    z, mean, log_var = posteriors(size, 2)
    density = exact_log_densities(z, mean, log_var).sum(2).exp()  # (size, size)
    weights = weights_of(torch.zeros(batch, 2), size).double().exp()
    found = [[] for _ in range(size)]
    for rows in itertools.permutations(range(size), batch):
        estimate = (weights * density[list(rows)][:, list(rows)]).sum(1)
        for i, value in zip(rows, estimate, strict=True):
            found[i].append(value)
    return torch.stack([torch.stack(values).mean() for values in found]), density.mean(1)


@pytest.mark.parametrize("batch", [3, 4, 5])
def test_stratified_weights_are_unbiased_over_all_batches(batch):
    found, exact = mean_over_all_batches(solved.stratified_weights, batch)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=0)


def test_weights_down_a_column_are_biased():
    mistakes = {m.name: m.function for m in solved.stratified_weights.mistakes}
    found, exact = mean_over_all_batches(mistakes["walks_down_a_column"], 4)
    assert (found / exact - 1).abs().mean() > 0.1


# ------------------------------------------------------------------ kl_decomposition


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 10**6))
def test_the_three_terms_add_up_whatever_the_estimates(m, latents, seed):
    g = generator(seed)
    z, log_marginals = torch.randn(2, m, latents, generator=g)
    log_conditional, log_joint = torch.randn(2, m, generator=g)
    terms = lesson.kl_decomposition(z, log_conditional, log_joint, log_marginals)
    log_prior = Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(sum(terms), (log_conditional - log_prior).mean(), rtol=1e-4, atol=1e-4)


def test_decomposition_is_that_of_quadrature():
    """Five posteriors of two latents: q(z) on a fine lattice gives each term as an integral."""
    _, mean, log_var = posteriors(5, 2)
    axis = torch.linspace(-9, 9, 1801, dtype=torch.float64)
    each = normals(mean, log_var).log_prob(axis[:, None, None])  # (A, 5, 2)
    marginals = each.exp().mean(1)  # (A, 2)
    joint = (each[:, None, :, 0] + each[None, :, :, 1]).exp().mean(2)  # (A, A)
    cell = (axis[1] - axis[0]) ** 2
    product = marginals[:, None, 0] * marginals[None, :, 1]
    total_correlation = (torch.xlogy(joint, joint) - torch.xlogy(joint, product)).sum() * cell
    prior = Normal(0.0, 1.0).log_prob(axis)[:, None]
    dimension_wise = (marginals * (marginals.log() - prior)).sum() * (axis[1] - axis[0])
    entropies = normals(mean, log_var).entropy().sum(1).mean()
    information = -torch.xlogy(joint, joint).sum() * cell - entropies
    expected = torch.stack([information, total_correlation, dimension_wise])

    draws = 20_000
    wide_mean, wide_log_var = mean.repeat(draws, 1), log_var.repeat(draws, 1)
    z = wide_mean + (0.5 * wide_log_var).exp() * torch.randn(wide_mean.shape, generator=generator(1))
    log_conditional = normals(wide_mean, wide_log_var).log_prob(z.double()).sum(1)
    log_marginals = lesson.log_marginals_streaming(z, mean, log_var, 2)
    log_joint = mixture(mean, log_var).log_prob(z.double())
    found = lesson.kl_decomposition(z, log_conditional.float(), log_joint.float(), log_marginals)
    torch.testing.assert_close(torch.stack(found).double(), expected, rtol=0, atol=0.02)
    assert expected.min() > 0.05  # far enough from 0 for the comparison to mean something


def test_exact_weights_agree_with_the_metric():
    z, mean, log_var = posteriors(1500, 3)
    found = experiments.decompose(z, mean, log_var, -math.log(1500))
    exact = metrics.kl_decomposition_exact(mean, log_var, generator(1), num_samples=6000)
    expected = torch.tensor([exact.mutual_information, exact.total_correlation, exact.dimension_wise_kl])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize(("n", "log_var"), [(1500, -2.0), (40, -6.0)])
def test_exact_terms_by_streaming_marginals_are_those_of_the_metric(n, log_var):
    _, mean, log_var = posteriors(n, 3, log_var=log_var)
    exact = metrics.kl_decomposition_exact(mean, log_var, generator(1), num_samples=200)
    expected = torch.tensor([exact.mutual_information, exact.total_correlation, exact.dimension_wise_kl])
    found = experiments.exact_terms(mean, log_var, generator(1), samples=200)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_decompose_with_constant_weights_is_minibatch_weighted_sampling():
    z, mean, log_var = posteriors(20, 4)
    joint, marginals = lesson.log_aggregate_posterior(z, mean, log_var, 700)
    log_conditional = exact_log_densities(z, mean, log_var).sum(2).diagonal().float()
    expected = lesson.kl_decomposition(z, log_conditional, joint, marginals)
    found = experiments.decompose(z, mean, log_var, -math.log(700 * 20))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_information_is_at_most_log_n():
    z, mean, log_var = posteriors(300, 3, log_var=-12.0)
    information = experiments.decompose(z, mean, log_var, -math.log(300))[0]
    assert math.log(300) - 0.1 < information < math.log(300) + 0.1


def test_discs_lie_at_their_places_and_look_alike_along_both_axes():
    places = torch.tensor([5.0, 7.5, 9.0])
    discs = experiments.Discs(places)
    factors = discs.grid.factors(torch.arange(len(discs)))
    images = discs.images[:, 0]
    pixel = torch.arange(16) + 0.5
    mass = images.sum((1, 2))
    torch.testing.assert_close((images.sum(1) * pixel).sum(1) / mass, places[factors[:, 0]])  # columns are x
    torch.testing.assert_close((images.sum(2) * pixel).sum(1) / mass, places[factors[:, 1]])
    assert torch.equal(images, images.view(3, 3, 16, 16).transpose(0, 1).mT.flatten(0, 1))
    assert (mass - math.pi * 2.4**2).abs().max() < 3
    drawn = discs.sample(50, generator())
    assert drawn.shape == (50, 1, 16, 16)
    assert {x.numpy().tobytes() for x in drawn} == {x.numpy().tobytes() for x in discs.images}


def test_average_over_batches_uses_each_example_once():
    z = torch.arange(10.0)[:, None]
    seen = []

    def estimate(z, mean, log_var):
        assert torch.equal(z, mean) and torch.equal(z, log_var)
        seen.extend(z.flatten().tolist())
        return z.mean()

    average = experiments.average_over_batches(estimate, z, z, z, 5, generator())
    assert sorted(seen) == z.flatten().tolist() and average.item() == 4.5
    with pytest.raises(ValueError, match="expected 1 to 10"):
        experiments.average_over_batches(estimate, z, z, z, 11, generator())


# ------------------------------------------------------------------ log_marginals_streaming


@settings(max_examples=30)
@given(st.integers(1, 7), st.integers(1, 12), st.integers(1, 4), st.integers(1, 13), st.integers(0, 10**6))
def test_streaming_marginals_do_not_depend_on_the_block(m, n, latents, block, seed):
    z = 3 * posteriors(m, latents, seed)[0]
    _, mean, log_var = posteriors(n, latents, seed + 1)
    inputs = [t.clone().requires_grad_() for t in (z, mean, log_var)]
    got = lesson.log_marginals_streaming(*inputs, block)
    exact_inputs = [t.double().requires_grad_() for t in (z, mean, log_var)]
    exact = exact_log_densities(*exact_inputs).logsumexp(1) - math.log(n)
    torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=1e-4)
    weights = torch.rand(got.shape, generator=generator(seed))
    gradients = torch.autograd.grad((weights * got).sum(), inputs)
    expected = torch.autograd.grad((weights * exact).sum(), exact_inputs)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-4)


def peak_bytes(function, size, latents=10):
    with torch.device("meta"):
        z, mean, log_var = torch.randn(3, size, latents, requires_grad=True).unbind()
    with DeviceWatch() as watch:
        torch.autograd.grad(function(z, mean, log_var).sum(), [z, mean, log_var])
    return watch.peak


def test_streaming_marginals_of_narrow_posteriors_far_from_the_origin():
    """The square is written out, so that rounding grows with (z / σ)²: here up to 10⁴."""
    z, mean, log_var = posteriors(500, 10, log_var=-6.0)
    got = lesson.log_marginals_streaming(z + 100, mean + 100, log_var, 64)
    exact = exact_log_densities(z + 100, mean + 100, log_var).logsumexp(1) - math.log(500)
    error = got.double() - exact
    assert error.abs().max() < 0.01 and error.mean().abs() < 1e-4


def test_streaming_marginals_hold_a_tenth_of_the_memory():
    plain = peak_bytes(lambda *inputs: solved.log_densities(*inputs).logsumexp(1), 4096)
    assert plain > 2 * 4 * 4096**2 * 10  # the (M, N, D) tensor, more than twice
    assert 10 * peak_bytes(lambda *inputs: lesson.log_marginals_streaming(*inputs, 256), 4096) < plain


# ------------------------------------------------------------------ beta_tcvae_loss


def tcvae_inputs(size=6, latents=3):
    g = generator(3)
    x = torch.rand(size, 1, 4, 4, generator=g)
    z, mean, log_var = posteriors(size, latents)
    return x, torch.randn(size, 1, 4, 4, generator=g), mean, log_var, z


def test_beta_one_is_the_plain_vae():
    x, logits, mean, log_var, z = tcvae_inputs()
    expected = lesson.beta_vae_loss(x, logits, mean, log_var, 1.0)
    torch.testing.assert_close(lesson.beta_tcvae_loss(x, logits, mean, log_var, z, 500, 1.0), expected)


def test_beta_weighs_the_total_correlation_alone():
    inputs = tcvae_inputs()
    *_, mean, log_var, z = inputs
    density = exact_log_densities(z, mean, log_var)
    log_weight = -math.log(500 * 6)
    joint, marginals = density.sum(2).logsumexp(1) + log_weight, density.logsumexp(1) + log_weight
    slope = lesson.beta_tcvae_loss(*inputs, 500, 5.0) - lesson.beta_tcvae_loss(*inputs, 500, 4.0)
    torch.testing.assert_close(slope.double(), (joint - marginals.sum(1)).mean(), rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------ mutual_information_gap


def gap_in_words(table, entropies):
    """MIG in plain Python."""
    total = 0.0
    for k, entropy in enumerate(entropies):
        first, second = sorted((row[k] for row in table), reverse=True)[:2]
        total += (first - second) / entropy
    return total / len(entropies)


@settings(max_examples=30)
@given(st.integers(2, 8), st.integers(1, 6), st.integers(0, 10**6))
def test_gap_is_that_of_plain_python_and_of_any_order(latents, factors, seed):
    g = generator(seed)
    table, entropies = torch.rand(latents, factors, generator=g), 1 + torch.rand(factors, generator=g)
    got = lesson.mutual_information_gap(table, entropies)
    assert abs(got.item() - gap_in_words(table.tolist(), entropies.tolist())) < 1e-5
    order = torch.randperm(latents, generator=g)
    assert torch.equal(lesson.mutual_information_gap(table[order], entropies), got)


def test_gap_of_perfect_and_of_duplicated_codes():
    factors = torch.cartesian_prod(torch.arange(8), torch.arange(5), torch.arange(4))
    perfect, entropies = experiments.information_matrix(factors.float(), factors)
    torch.testing.assert_close(entropies, torch.tensor([8.0, 5.0, 4.0]).log())
    torch.testing.assert_close(lesson.mutual_information_gap(perfect, entropies), torch.tensor(1.0))
    twice, _ = experiments.information_matrix(torch.cat([factors, factors], 1).float(), factors)
    torch.testing.assert_close(lesson.mutual_information_gap(twice, entropies), torch.tensor(0.0))


def test_gap_of_codes_is_that_of_the_metric():
    g = generator()
    factors = torch.randint(0, 6, (4000, 3), generator=g)
    codes = factors.float() @ torch.randn(3, 5, generator=g) + torch.randn(4000, 5, generator=g)
    codes[:, 4] = 2.0  # a dead latent
    found = lesson.mutual_information_gap(*experiments.information_matrix(codes, factors))
    assert abs(found.item() - metrics.mutual_information_gap(codes, factors)) < 1e-3


# ------------------------------------------------------------------ the rotation


def test_a_rotated_code_has_the_same_elbo_and_no_gap():
    weight = torch.linalg.qr(torch.randn(6, 2, generator=generator())).Q
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]]) / math.sqrt(2)
    z = torch.randn(5000, 2, generator=generator(1))
    x = z @ weight.T + 0.1 * torch.randn(5000, 6, generator=generator(2))
    factors = (torch.special.ndtr(z) * 10).long().clamp(max=9)
    gaps = {}
    for name, matrix in (("straight", weight), ("rotated", weight @ turn)):
        vae = LinearVAE(matrix, torch.zeros(6), torch.tensor(0.01))
        mean, covariance = vae.posterior(x)
        log_var = covariance.diagonal().log().expand_as(mean)
        assert vae.exact_gap(x, mean, log_var).abs().max() < 1e-4  # so the ELBO is log p(x), for both
        gaps[name] = lesson.mutual_information_gap(*experiments.information_matrix(mean, factors)).item()
    assert gaps["straight"] > 0.6 and gaps["rotated"] < 0.05


# ------------------------------------------------------------------ the plain loops that are given


@pytest.mark.parametrize(
    "exercise",
    [lesson.active_dimensions, lesson.pairwise_log_density, lesson.log_marginals_streaming],
    ids=str,
)
def test_plain_loops_agree_with_the_solutions(exercise):
    torch.manual_seed(0)
    inputs = exercise.at_scale(7)
    torch.testing.assert_close(exercise.plain(**inputs), exercise(**inputs), rtol=1e-3, atol=1e-3)


# ------------------------------------------------------------------ evaluation


class PerfectCode:
    """A 'VAE' whose codes are the three factors, told by the image's first pixels; its decoder knows nothing."""

    def encode(self, x):
        mean = 5 * x[:, 0, 0, :3]
        return mean, torch.full_like(mean, -4.0)

    def decode(self, z):
        return torch.zeros(len(z), 1, 2, 4)


def test_evaluation_of_a_perfect_code():
    factors = torch.cartesian_prod(torch.arange(8), torch.arange(6), torch.arange(5))
    images = torch.zeros(len(factors), 1, 2, 4)
    images[:, 0, 0, :3] = factors.float()
    found = experiments.evaluate(PerfectCode(), images, factors, generator())
    assert abs(found["reconstruction"] - 8 * math.log(2)) < 1e-4
    assert abs(found["mutual information"] - math.log(240)) < 0.1  # posteriors do not overlap
    assert abs(found["total correlation"]) < 0.02  # a complete grid: the factors are independent
    assert abs(found["MIG"] - 1) < 0.02  # of samples: few cross into the next bin
