"""Lesson 04 against independent ground truths: closed forms, brute-force enumeration, autograd, Monte Carlo."""

import itertools
import math
from collections import Counter

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib.exercise.findings import Wrong
from course_lib.experiments import factor_vae as experiments
from course_lib.lessons import factor_vae as lesson
from course_lib.models import VAE
from solutions import factor_vae as solved
from tests.helpers import generator

pytestmark = pytest.mark.usefixtures("on_solutions")


def equicorrelated(rho, latents):
    return (1 - rho) * torch.eye(latents) + rho


def correlated_codes(correlation):
    root = torch.linalg.cholesky(correlation)
    return lambda n, g: torch.randn(n, len(root), generator=g) @ root.T


# ------------------------------------------------------------------ permute_dims


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 10**6))
def test_every_latent_keeps_its_values(batch, latents, seed):
    z = torch.randn(batch, latents, generator=generator(seed))
    shuffled = solved.permute_dims(z, generator(seed + 1))
    for before, after in zip(z.T.tolist(), shuffled.T.tolist(), strict=True):
        assert Counter(before) == Counter(after)


def test_all_pairs_of_permutations_are_equally_likely():
    z = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    g, draws = generator(), 7200
    seen = Counter(tuple(solved.permute_dims(z, g).flatten().tolist()) for _ in range(draws))
    expected = {
        tuple(float(v) for pair in zip(a, b, strict=True) for v in pair)
        for a, b in itertools.product(itertools.permutations(range(3)), repeat=2)
    }
    assert seen.keys() == expected
    chi_square = sum((n - draws / 36) ** 2 / (draws / 36) for n in seen.values())
    assert chi_square < 35 + 4 * math.sqrt(2 * 35)  # 35 degrees of freedom, four standard deviations


def test_shuffling_takes_the_dependence_away():
    x = torch.randn(20_000, 1, generator=generator())
    shuffled = solved.permute_dims(x.expand(-1, 3).contiguous(), generator(1))
    off_diagonal = torch.corrcoef(shuffled.T) - torch.eye(3)
    assert off_diagonal.abs().max() < 4 / math.sqrt(20_000)


def test_permute_dims_and_its_loop_draw_from_the_generator_alone():
    z = torch.arange(30.0).view(10, 3)
    for permute in (solved.permute_dims, lesson.permute_dims_loop):
        torch.manual_seed(0)
        first = permute(z, generator(5))
        torch.manual_seed(1)
        assert torch.equal(first, permute(z, generator(5)))
        assert torch.equal(first.sort(0).values, z)


# ------------------------------------------------------------------ density ratio and total correlation


def test_the_optimal_logit_is_the_log_density_ratio():
    correlation = torch.tensor([[1.0, 0.6, -0.2], [0.6, 1.0, 0.1], [-0.2, 0.1, 1.0]])
    z = torch.randn(50, 3, generator=generator())
    joint = torch.distributions.MultivariateNormal(torch.zeros(3), correlation).log_prob(z)
    product = torch.distributions.Normal(0, 1).log_prob(z).sum(1)
    assert torch.allclose(experiments.optimal_logit(z, correlation), joint - product, atol=1e-5)


def test_its_mean_is_the_total_correlation():
    correlation = equicorrelated(0.5, 4)
    z = correlated_codes(correlation)(200_000, generator())
    logits = experiments.optimal_logit(z, correlation)
    exact = -0.5 * math.log(0.5**3 * 2.5)  # det of an equicorrelated matrix: (1 − ρ)^(D−1) (1 + (D − 1) ρ)
    estimate = solved.total_correlation_from_logits(logits).item()
    assert abs(estimate - exact) < 4 * logits.std().item() / math.sqrt(len(logits))


def test_a_discriminator_learns_a_known_ratio():
    correlation = equicorrelated(0.8, 2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        discriminator = experiments.make_discriminator(2, width=64, layers=2)
    sample = correlated_codes(correlation)
    history = experiments.train_discriminator(
        discriminator, sample, 500, batch=512, generator=generator(), lr=3e-3
    )
    exact = 0.5108  # −½ log(1 − 0.8²)
    assert history["total correlation"][0].abs() < 0.2
    assert abs(history["total correlation"][-100:].mean() - exact) < 0.06
    z = sample(2000, generator(1))
    logits = torch.stack([discriminator(z).detach(), experiments.optimal_logit(z, correlation)])
    assert torch.corrcoef(logits)[0, 1] > 0.95


# ------------------------------------------------------------------ the losses


def test_discriminator_loss_is_log_2_where_it_cannot_tell():
    assert solved.discriminator_loss(torch.zeros(5), torch.zeros(7)).item() == pytest.approx(math.log(2))


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000), st.sampled_from([1.0, 30.0, 200.0]))
def test_discriminator_loss_is_a_balanced_cross_entropy(n, m, seed, scale):
    logits = scale * torch.randn(n + m, generator=generator(seed), dtype=torch.double)
    labels = torch.cat([torch.ones(n), torch.zeros(m)]).double()
    weights = torch.tensor([0.5 / n] * n + [0.5 / m] * m, dtype=torch.double)
    expected = F.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")
    assert solved.discriminator_loss(logits[:n], logits[n:]).item() == pytest.approx(
        expected.item(), abs=1e-6
    )


def test_discriminator_loss_is_least_at_the_log_density_ratio():
    """On a finite set of codes, with q(z) and Π q(z_j) known: the gradient vanishes at log q(z) / Π q(z_j)."""
    joint = torch.tensor([[3, 1], [1, 5]])  # q(z), in tenths
    product = joint.sum(1, keepdim=True) * joint.sum(0)  # in hundredths
    logit = (10 * joint / product).log().flatten().requires_grad_()
    loss = solved.discriminator_loss(
        logit.repeat_interleave(joint.flatten()), logit.repeat_interleave(product.flatten())
    )
    (gradient,) = torch.autograd.grad(loss, logit)
    assert gradient.abs().max() < 1e-7


def test_factor_vae_loss_against_distributions():
    g = generator()
    x, logits = (torch.rand(5, 1, 4, 4, generator=g) < 0.5).float(), torch.randn(5, 1, 4, 4, generator=g)
    mean, log_var, z_logits = (torch.randn(5, 3, generator=g) for _ in range(3))
    z_logits = z_logits[:, 0]
    likelihood = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))
    posterior = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0, 1)).sum(1)
    odds = (z_logits.sigmoid() / (1 - z_logits.sigmoid())).log()
    expected = (-likelihood + kl + 7.0 * odds).mean()
    found = solved.factor_vae_loss(x, logits, mean, log_var, z_logits, 7.0)
    assert torch.allclose(found, expected, atol=1e-4)


# ------------------------------------------------------------------ the step


def players(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VAE(4, 32), experiments.make_discriminator(4, width=16, layers=2)


def take_steps(step, vae, discriminator, steps=1, lr=0.01):
    """The report of the last of `steps` steps of plain gradient descent."""
    g = generator(3)
    optimisers = [torch.optim.SGD(m.parameters(), lr=lr) for m in (vae, discriminator)]
    both = lesson.Players(vae, discriminator, *optimisers)
    for _ in range(steps):
        x, noise = torch.rand(6, 1, 32, 32, generator=g), torch.randn(6, 4, generator=g)
        report = step(both, x, noise, 5.0, lambda z: z.flip(0))
    return report


def test_no_gradient_crosses_over():
    """In each step every parameter gets one gradient, that of its own player's loss."""
    reached = []
    vae, discriminator = players()
    parameters = [*vae.parameters(), *discriminator.parameters()]
    for p in parameters:
        p.register_hook(reached.append)
    take_steps(solved.factor_vae_step, vae, discriminator, steps=2)
    assert len(reached) == 2 * len(parameters)


def test_a_step_is_two_gradient_steps_in_turn():
    """Against autograd.grad, by hand."""
    vae, discriminator = players()
    report = take_steps(solved.factor_vae_step, vae, discriminator)
    expected_vae, expected_discriminator = players()
    g = generator(3)
    x, noise = torch.rand(6, 1, 32, 32, generator=g), torch.randn(6, 4, generator=g)
    mean, log_var = expected_vae.encode(x)
    z = mean + (log_var / 2).exp() * noise
    kl = (mean**2 + log_var.exp() - log_var - 1).sum() / 2
    cross_entropy = F.binary_cross_entropy_with_logits(expected_vae.decode(z), x, reduction="sum")
    total_correlation = expected_discriminator(z).mean()
    loss = (cross_entropy + kl) / 6 + 5 * total_correlation
    joint = expected_discriminator(z[:3].detach())
    permuted = expected_discriminator(z[3:].detach().flip(0))
    critic_loss = ((1 + (-joint).exp()).log().mean() + (1 + permuted.exp()).log().mean()) / 2
    for model, value in ((expected_vae, loss), (expected_discriminator, critic_loss)):
        gradients = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.data -= 0.01 * gradient
    found = [*vae.parameters(), *discriminator.parameters()]
    expected = [*expected_vae.parameters(), *expected_discriminator.parameters()]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))
    assert set(report) == set(lesson.STEP_REPORT)
    assert report["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert report["total correlation"].item() == pytest.approx(total_correlation.item(), abs=1e-5)
    assert report["discriminator loss"].item() == pytest.approx(critic_loss.item(), rel=1e-5)
    assert not any(value.requires_grad for value in report.values())


@pytest.mark.parametrize(
    ("name", "words"), [("not_detached", "a second time"), ("not_detached_but_retained", "inplace operation")]
)
def test_codes_that_are_not_detached_break_a_deep_encoder(name, words):
    """With the graph retained, the backward pass meets weights that were stepped in the meantime."""
    mistake = next(m for m in solved.factor_vae_step.mistakes if m.name == name)
    with pytest.raises(RuntimeError, match=words):
        take_steps(mistake.function, *players())


def test_the_check_speaks_of_a_step_that_returns_nothing():
    case = solved.factor_vae_step.draw_cases()[0]
    with pytest.raises(Wrong) as wrong:
        lesson.factor_vae_step.probe(lambda *args: None, **case)
    assert wrong.value.finding.sentence == (
        'Expected a dict with the entries "loss", "total correlation", "discriminator loss"; your step returned None.'
    )


class Copies(nn.Module):
    """Both latents copy one bit, z = ±w + noise, and the decoder reads their sum: two copies drown the noise."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 0.7]))
        self.decoder = nn.Module()
        self.decoder.latents = 2

    def encode(self, x):
        mean = (2 * x - 1) * self.weight
        return mean, torch.full_like(mean, -1.0)

    def decode(self, z):
        return 4 * z.sum(1, keepdim=True)


def test_gamma_keeps_latents_from_copying_each_other():
    weights = {}
    for gamma in (0.0, 10.0):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            discriminator = experiments.make_discriminator(2, width=16, layers=2)
        model = Copies()
        history = experiments.train_factor_vae(
            experiments.make_players(model, discriminator, lr=5e-3, discriminator_lr=1e-2),
            lambda n, g: ((torch.rand(n, 1, generator=g) < 0.5).float(),),
            300,
            batch=128,
            generator=generator(),
            gamma=gamma,
        )
        assert {len(values) for values in history.values()} == {300}
        weights[gamma] = model.weight.abs().tolist()
    assert min(weights[0.0]) > 0.4  # without the penalty both carry the bit
    assert weights[10.0][0] > 0.4 and weights[10.0][1] < 0.2  # with it, one of them


# ------------------------------------------------------------------ FactorVAE score

FACTORS = torch.cartesian_prod(torch.arange(3), torch.arange(5), torch.arange(4))


def identity_code():
    return FACTORS.float()


def score_of(codes, seed=0, votes=300, size=16):
    groups, factors = experiments.draw_votes(codes, FACTORS, votes, size, generator(seed))
    return solved.factor_vae_score(groups, factors, codes.var(0), 3).item()


def test_a_vote_holds_one_factor_still():
    groups, factors = experiments.draw_votes(identity_code(), FACTORS, 300, 16, generator())
    still = groups.var(1) == 0  # (V, K)
    assert still.gather(1, factors[:, None]).all()
    assert still.float().sum(1).mean() < 1.05  # two factors stay by chance in next to no vote
    counts = torch.bincount(factors, minlength=3)
    assert (counts - 100).abs().max() < 4 * math.sqrt(300 * 2 / 9)


def test_the_identity_scores_1_and_scale_and_order_do_not_matter():
    code = identity_code()
    assert score_of(code) == 1
    assert score_of(code[:, [2, 0, 1]] * torch.tensor([100.0, -0.5, 3.0]) + 7) == 1


def test_a_dead_latent_changes_nothing_and_none_alive_scores_0():
    code = identity_code()
    assert score_of(torch.cat([code, torch.full((len(code), 2), 0.3)], 1)) == 1
    assert score_of(0.01 * code) == 0


def test_a_mixed_code_scores_less():
    rotated = identity_code() @ torch.linalg.qr(torch.randn(3, 3, generator=generator(1))).Q
    assert score_of(rotated) < 0.9


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(2, 6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 10**6))
def test_the_score_against_counting_by_hand(votes, size, latents, n_factors, seed):
    g = generator(seed)
    codes = torch.randn(votes, size, latents, generator=g)
    factors = torch.randint(n_factors, (votes,), generator=g)
    spread = 0.1 * torch.rand(latents, generator=g)  # about half of the latents are dead
    table = Counter()
    for group, factor in zip(codes.double(), factors.tolist(), strict=True):
        variance = [sum((v - sum(c) / size) ** 2 for v in c) / size for c in group.T.tolist()]
        alive = [j for j in range(latents) if spread[j] >= 0.05]
        if alive:
            table[min(alive, key=lambda j: variance[j] / spread[j].item()), factor] += 1
    right = sum(max(table[j, k] for k in range(n_factors)) for j in range(latents))
    expected = right / votes
    for function in (solved.factor_vae_score, lesson.factor_vae_score_loop):
        assert function(codes, factors, spread, n_factors).item() == pytest.approx(expected)


# ------------------------------------------------------------------ bad input


def train_a_little(**options):
    vae, discriminator = players()
    experiments.train_factor_vae(
        experiments.make_players(vae, discriminator),
        lambda n, g: (torch.rand(n, 1, 32, 32, generator=g),),
        1,
        generator=generator(),
        gamma=1.0,
        **options,
    )
    return [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (vae, discriminator)]


def test_further_discriminator_steps_leave_the_vae_alone():
    """After one step of the VAE its weights are the same, however many steps the discriminator takes after it."""
    vae, discriminator = train_a_little(batch=4, discriminator_steps=1)
    same_vae, other_discriminator = train_a_little(batch=4, discriminator_steps=3)
    assert torch.equal(vae, same_vae)
    assert not torch.equal(discriminator, other_discriminator)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: experiments.draw_votes(torch.zeros(5, 2), FACTORS, 3, 4, generator()), "60 points"),
        (lambda: experiments.draw_votes(identity_code(), FACTORS, 3, 1, generator()), "at least two"),
        (lambda: experiments.make_discriminator(0), "latents=0"),
        (lambda: train_a_little(batch=5), "even batch"),
        (lambda: train_a_little(batch=4, discriminator_steps=0), "discriminator_steps=0"),
        (lambda: experiments.optimal_logit(torch.zeros(4, 3), torch.eye(2)), r"\(3, 3\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_discriminator_gives_one_logit_for_each_code():
    discriminator = experiments.make_discriminator(3, width=8, layers=2)
    assert discriminator(torch.zeros(1, 3)).shape == (1,)
    assert discriminator(torch.zeros(5, 3)).shape == (5,)


# ------------------------------------------------------------------ the sweep


def sweep_rows() -> list[dict]:
    return [
        {
            "method": method,
            "weight": weight,
            "seed": seed,
            "machine": "any",
            "reconstruction (nats)": 10.0 + weight,
        }
        | {"FactorVAE score": 0.1 * weight + 0.01 * seed**2, "MIG": 0.2}
        for method, weight in (("VAE", 1.0), ("FactorVAE", 2.0), ("FactorVAE", 4.0))
        for seed in (0, 1, 2)
    ]


def test_medians_of_a_sweep_are_those_of_each_weight():
    found = experiments.sweep_medians(sweep_rows())
    assert [(m["method"], m["weight"], m["runs"]) for m in found] == [
        ("VAE", 1, 3),
        ("FactorVAE", 2, 3),
        ("FactorVAE", 4, 3),
    ]
    assert [m["FactorVAE score"] for m in found] == pytest.approx([0.11, 0.21, 0.41])
    assert "seed" not in found[0] and "machine" not in found[0]


def test_the_figure_of_a_sweep_shows_every_run_and_joins_the_medians():
    figure = experiments.sweep_figure(sweep_rows())
    for ax in figure.axes:
        dots = [len(collection.get_offsets()) for collection in ax.collections]
        joined = {line.get_label(): list(line.get_xdata()) for line in ax.lines}
        assert dots == [3, 6] and joined["FactorVAE"] == [12, 14]
        assert {text.get_text() for text in ax.texts} >= {"2", "4"}
    plt.close(figure)
    said = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "published, FactorVAE" in said and "published, beta-VAE" in said
