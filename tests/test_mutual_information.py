"""Lesson 01's solutions against independent ground truths."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, mutual_info_score
from torch.distributions import Categorical, MultivariateNormal, kl_divergence

from course_lib.experiments import mutual_information as experiments
from course_lib.lessons import mutual_information as lesson
from solutions import mutual_information as solved
from tests.helpers import generator

pytestmark = pytest.mark.usefixtures("on_solutions")


def softmax(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed)).softmax(-1)


# ------------------------------------------------------------------ tables


def test_entropy_is_that_of_torch_distributions():
    p = softmax(5, 7)
    torch.testing.assert_close(solved.entropy(p), Categorical(p).entropy())
    torch.testing.assert_close(solved.entropy(torch.full((8,), 1 / 8)).item(), math.log(8))
    assert solved.entropy(torch.tensor([0.0, 1.0])) == 0


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=60))
def test_tables_and_information_are_those_of_scikit_learn(pairs):
    a, b = torch.tensor(pairs).unbind(1)
    table = solved.contingency_table(a, b, 5, 3)
    counts = Counter(pairs)
    assert table.tolist() == [[counts[i, j] for j in range(3)] for i in range(5)]
    information = solved.discrete_mutual_information(table).item()
    assert information == pytest.approx(mutual_info_score(a, b), abs=1e-5)
    smaller = min(solved.entropy(table.sum(axis) / len(a)).item() for axis in (0, 1))
    assert -1e-5 <= information <= smaller + 1e-5


def test_information_of_known_tables():
    product = softmax(4)[:, None] * softmax(6, seed=1)
    assert abs(solved.discrete_mutual_information(product)) < 1e-6
    assert solved.discrete_mutual_information(torch.eye(5)).item() == pytest.approx(math.log(5))
    batch = torch.stack([product, softmax(24, seed=2).view(4, 6)])
    one_by_one = torch.stack([solved.discrete_mutual_information(t) for t in batch])
    torch.testing.assert_close(solved.discrete_mutual_information(batch), one_by_one)


def test_the_plain_loops_agree():
    a, b = torch.randint(3, (2, 50), generator=generator())
    assert torch.equal(lesson.contingency_table_loop(a, b, 4, 3), solved.contingency_table(a, b, 4, 3))
    x, y = torch.randn(7, 3, generator=generator(1)), torch.randn(5, 3, generator=generator(2)) + 1
    torch.testing.assert_close(lesson.mmd2_loop(x, y, 1.3), solved.mmd2(x, y, 1.3), atol=1e-6, rtol=1e-5)


# ------------------------------------------------------------------ Gaussians


@pytest.mark.parametrize(("rho", "nats"), [(0.0, 0.0), (0.5, 0.1438), (0.8, 0.5108), (0.9, 0.8304)])
def test_total_correlation_of_two_variables(rho, nats):
    covariance = torch.tensor([[4.0, 2 * rho], [2 * rho, 1.0]])
    assert solved.gaussian_total_correlation(covariance).item() == pytest.approx(nats, abs=5e-5)


def test_total_correlation_is_the_divergence_from_the_product_of_marginals():
    root = torch.randn(6, 6, generator=generator(), dtype=torch.float64)
    covariance = root @ root.T + torch.eye(6)
    joint, product = (
        MultivariateNormal(torch.zeros(6).double(), c) for c in (covariance, covariance.diag().diag())
    )
    torch.testing.assert_close(solved.gaussian_total_correlation(covariance), kl_divergence(joint, product))


def test_total_correlation_is_a_sum_of_informations():
    root = torch.randn(3, 3, generator=generator(3), dtype=torch.float64)
    c = root @ root.T + torch.eye(3)
    log_det = [torch.logdet(c[:k, :k]) for k in (1, 2, 3)]
    first_two = 0.5 * (c[0, 0].log() + c[1, 1].log() - log_det[1])
    third_with_both = 0.5 * (c[2, 2].log() + log_det[1] - log_det[2])
    torch.testing.assert_close(solved.gaussian_total_correlation(c), first_two + third_with_both)


def test_gaussian_pairs_have_the_correlation_asked_for():
    x, y = experiments.gaussian_pairs(0.7, 200_000, generator())
    assert np.corrcoef(x.flatten(), y.flatten())[0, 1] == pytest.approx(0.7, abs=0.01)
    with pytest.raises(ValueError, match="inside"):
        experiments.gaussian_pairs(1.0, 10, generator())


# ------------------------------------------------------------------ critics


def test_every_order_is_equally_likely():
    g, rows = generator(), torch.arange(3.0)[:, None]
    counts = Counter(tuple(solved.shuffle_across_batch(rows, g).flatten().tolist()) for _ in range(6000))
    assert set(counts) == set(itertools.permutations([0.0, 1.0, 2.0]))
    assert all(abs(n - 1000) < 150 for n in counts.values())  # 5 standard deviations


def test_critic_losses_are_cross_entropies():
    joint, shuffled = 3 * torch.randn(2, 40, generator=generator(), dtype=torch.float64)
    both, ones = torch.cat([joint, shuffled]), torch.cat([torch.ones(40), torch.zeros(40)]).double()
    critic = F.binary_cross_entropy_with_logits(both, ones)
    torch.testing.assert_close(solved.critic_loss(joint, shuffled), critic)
    encoder = F.binary_cross_entropy_with_logits(both, 1 - ones)
    torch.testing.assert_close(solved.independence_loss(joint, shuffled), encoder)
    nothing = torch.zeros(5)
    assert solved.critic_loss(nothing, nothing).item() == pytest.approx(math.log(2))


def test_the_optimal_critic_measures_the_information_of_a_table():
    """Exactly: every cell of a table as often as it occurs, in p(a, b) and in p(a) p(b)."""
    counts = torch.tensor([[6, 2, 1], [1, 3, 7]])
    n = int(counts.sum())
    p = counts.double() / n
    logit = (p / (p.sum(1, keepdim=True) * p.sum(0))).log()
    joint = logit.flatten().repeat_interleave(counts.flatten())  # n pairs
    products = (counts.sum(1, keepdim=True) * counts.sum(0)).flatten()
    shuffled = logit.flatten().repeat_interleave(products)  # n² pairs
    ratio, bound = solved.mutual_information_from_logits(joint, shuffled)
    exact = solved.discrete_mutual_information(counts).double()
    torch.testing.assert_close(ratio, exact, atol=1e-6, rtol=0)
    torch.testing.assert_close(bound, exact, atol=1e-6, rtol=0)
    for seed in range(20):  # any other critic: the bound is below
        other = logit + torch.randn(2, 3, generator=generator(seed), dtype=torch.float64)
        values = (other.flatten().repeat_interleave(c) for c in (counts.flatten(), products))
        assert solved.mutual_information_from_logits(*values)[1] < exact


def test_a_trained_critic_finds_the_information_of_a_gaussian():
    torch.manual_seed(0)
    critic, history = experiments.train_critic(
        lambda n, g: experiments.gaussian_pairs(0.8, n, g), generator(), steps=300
    )
    with torch.no_grad():
        logits = experiments.critic_logits(
            critic, *experiments.gaussian_pairs(0.8, 50_000, generator(1)), generator(2)
        )
    assert solved.mutual_information_from_logits(*logits)[1].item() == pytest.approx(0.5108, abs=0.06)
    assert history["bound"].shape == (300,)


# ------------------------------------------------------------------ MMD and leakage


def test_mmd_of_two_gaussians_is_its_closed_form_on_average():
    """For N(0, 1) and N(m, 1): MMD² = 2 h / √(h² + 2) · (1 − exp(−m² / 2(h² + 2)))."""
    m, h = 1.0, 1.5
    exact = 2 * h / math.sqrt(h**2 + 2) * (1 - math.exp(-(m**2) / (2 * (h**2 + 2))))
    g = generator()
    values = [
        solved.mmd2(torch.randn(50, 1, generator=g), torch.randn(40, 1, generator=g) + m, h)
        for _ in range(600)
    ]
    same = [
        solved.mmd2(torch.randn(50, 1, generator=g), torch.randn(40, 1, generator=g), h) for _ in range(600)
    ]
    for found, wanted in ((torch.stack(values), exact), (torch.stack(same), 0.0)):
        assert found.mean().item() == pytest.approx(wanted, abs=5 * found.std().item() / math.sqrt(600))


def test_leakage_is_entropy_less_log_loss():
    a = torch.randint(4, (200,), generator=generator())
    logits = torch.randn(200, 4, generator=generator(1))
    frequencies = torch.bincount(a, minlength=4) / 200
    exact = Categorical(frequencies).entropy().item() - log_loss(a, logits.double().softmax(1))
    assert solved.leakage(a, logits).item() == pytest.approx(exact, abs=1e-5)
    sure = 50.0 * F.one_hot(a, 4)
    assert solved.leakage(a, sure).item() == pytest.approx(
        Categorical(frequencies).entropy().item(), abs=1e-5
    )


# ------------------------------------------------------------------ two subspaces


def test_attributes_are_the_quarters_in_which_the_ellipse_stands():
    x, factors = experiments.ellipses().sample(300, generator())
    column, row = experiments.attributes(factors).unbind(1)
    pixel = torch.arange(32.0) + 0.5
    across = (x.sum((1, 2)) * pixel).sum(1) / x.sum((1, 2, 3))  # the centre of mass, in pixels
    down = (x.sum((1, 3)) * pixel).sum(1) / x.sum((1, 2, 3))
    for centre, quarter in ((across, column), (down, row)):
        position = ((centre - 8) / 16).clamp(0, 1) * 31 / 8  # centres stand between 8 and 24
        assert ((position - quarter - 0.5).abs() < 0.7).all()


@pytest.mark.parametrize("method", list(experiments.PENALTIES))
def test_training_is_repeatable_and_learns(method):
    runs = [experiments.train_subspaces(method, seed=1, steps=40, batch=64) for _ in range(2)]
    assert torch.equal(runs[0][1]["heads"], runs[1][1]["heads"])
    heads = runs[0][1]["heads"]
    assert heads[-5:].mean() < heads[:5].mean() - 0.3
    accuracy, nats = experiments.probe_subspaces(runs[0][0], n=256)
    assert accuracy.shape == nats.shape == (2, 2)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="expected one of"):
        experiments.train_subspaces("HSIC", seed=0)
