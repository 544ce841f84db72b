"""Lesson 09 against independent ground truths: torch.distributions, scikit-learn, scipy, enumeration, autograd."""

import itertools
import math
from statistics import median

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, kl_divergence
from typer.testing import CliRunner

from course_lib import checkpoints, metrics
from course_lib.cli import app
from course_lib.datasets.grid import FactorGrid
from course_lib.experiments import what_it_takes as experiments
from course_lib.experiments.why_disentangle import purge
from course_lib.lessons import beta_vae
from course_lib.lessons import what_it_takes as lesson
from solutions import what_it_takes as solved
from tests.helpers import generator, meanwhile

pytestmark = pytest.mark.usefixtures("on_solutions")


def rotation(n, seed=0):
    return torch.linalg.qr(torch.randn(n, n, generator=generator(seed))).Q


# ------------------------------------------------------------------ impossible in general


def test_rotated_uniforms_are_uniform_and_independent():
    """Of 100 cells of the unit square, each gets its hundredth, within five standard deviations."""
    n = 200_000
    u = torch.rand(n, 2, generator=generator()).clamp(1e-6, 1 - 1e-6)
    c, s = math.cos(0.7), math.sin(0.7)
    v = solved.rotated_uniforms(u, torch.tensor([[c, -s], [s, c]]))
    cell = ((v * 10).long().clamp(max=9) * torch.tensor([10, 1])).sum(1)
    assert (cell.bincount(minlength=100) / n - 0.01).abs().max() < 5 * math.sqrt(0.01 / n)
    assert torch.corrcoef(torch.cat([u, v], 1).T)[0, 2] < 0.9  # and it is another code


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(0, 1000))
def test_rotating_back_gives_the_code_back(latents, seed):
    u = 0.01 + 0.98 * torch.rand(7, latents, generator=generator(seed), dtype=torch.double)
    r = rotation(latents, seed).double()
    there = solved.rotated_uniforms(u, r)
    assert torch.allclose(solved.rotated_uniforms(there, r.T), u, atol=1e-5)
    assert torch.allclose(solved.rotated_uniforms(u, torch.eye(latents).double()), u)


# ------------------------------------------------------------------ independent components


def test_whitening_is_the_inverse_of_scipys_cholesky_factor():
    from scipy.linalg import cholesky, solve_triangular

    x = torch.randn(50, 4, generator=generator()) @ torch.randn(4, 4, generator=generator(1)) + 3
    z = solved.whiten(x)
    assert torch.allclose(z.mean(0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(z.T @ z / 50, torch.eye(4), atol=1e-4)
    lower = cholesky(np.cov(x.T.numpy(), bias=True), lower=True)
    expected = solve_triangular(lower, (x - x.mean(0)).T.numpy(), lower=True).T
    assert np.allclose(z.numpy(), expected, atol=1e-3)


def test_orthogonalise_is_the_polar_factor():
    weight = torch.randn(5, 5, generator=generator(), dtype=torch.double)
    u, _, v = torch.linalg.svd(weight)
    assert torch.allclose(lesson.orthogonalise(weight), u @ v, atol=1e-9)


def test_a_step_is_scikit_learns():
    from sklearn.decomposition import FastICA

    z = solved.whiten(experiments.draw_sources("Laplace", 500, 3, generator()) @ rotation(3).T)
    start = rotation(3, 1)
    model = FastICA(whiten=False, fun="logcosh", max_iter=1, w_init=start.numpy(), tol=1e-12)
    with pytest.warns(UserWarning):
        model.fit(z.numpy())  # one step, which does not converge
    assert np.allclose(model.components_, solved.fastica_step(z, start).numpy(), atol=1e-4)


@pytest.mark.parametrize(("kind", "least"), [("Laplace", 0.99), ("uniform", 0.99)])
def test_fastica_finds_non_gaussian_sources_as_scikit_learn_does(kind, least):
    from sklearn.decomposition import FastICA

    sources = experiments.draw_sources(kind, 5000, 4, generator())
    x = sources @ torch.randn(4, 4, generator=generator(1)).T
    found, _ = experiments.fastica(x, generator(2))
    theirs = FastICA(whiten="unit-variance", random_state=0, max_iter=500).fit_transform(x.numpy())
    theirs = torch.from_numpy(theirs).float()
    assert experiments.mcc(found, sources) > least
    assert experiments.mcc(found, theirs) > 0.999


def test_no_code_of_gaussian_sources_is_better_than_another():
    """Any rotation of a whitened Gaussian mixture is as Gaussian: two starts end at different codes."""
    sources = experiments.draw_sources("Gaussian", 5000, 3, generator())
    x = sources @ torch.randn(3, 3, generator=generator(1)).T
    found = [experiments.fastica(x, generator(seed))[0] for seed in range(4)]
    kurtosis = torch.stack([(y**4).mean(0) for y in found])
    assert (kurtosis - 3).abs().max() < 0.4
    assert min(experiments.mcc(y, sources) for y in found) < 0.97


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(0, 10**4))
def test_the_best_matching_is_scipys_and_the_best_of_all(latents, seed):
    g = generator(seed)
    codes, factors = torch.randn(12, latents, generator=g), torch.randn(12, latents, generator=g)
    corr = np.corrcoef(codes.T.numpy(), factors.T.numpy())[:latents, latents:]
    orders = itertools.permutations(range(latents))
    best = max(np.mean([abs(corr[i, j]) for i, j in enumerate(order)]) for order in orders)
    for match in (experiments.best_matching, lesson._best_of_all):
        assert solved.mean_correlation(codes, factors, match).item() == pytest.approx(best, abs=1e-5)


def test_order_sign_and_scale_do_not_matter_to_the_mean_correlation():
    v = torch.randn(40, 3, generator=generator())
    codes = v[:, [1, 2, 0]] * torch.tensor([-3.0, 0.01, 5.0]) + 7
    assert experiments.mcc(codes, v) == pytest.approx(1, abs=1e-5)


# ------------------------------------------------------------------ Gaussians, and a prior that is told the segment


def normal(mean, log_var):
    return Normal(mean, (0.5 * log_var).exp())


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 1000))
def test_the_kl_of_two_gaussians_is_torchs(batch, latents, seed):
    q = [torch.randn(batch, latents, generator=generator(seed + i)) for i in range(4)]
    expected = kl_divergence(normal(*q[:2]), normal(*q[2:]))
    assert torch.allclose(solved.gaussian_kl_between(*q), expected, atol=1e-4, rtol=1e-4)


def test_the_kl_is_finite_for_log_variances_of_60():
    q = [torch.full((1, 2), v).requires_grad_() for v in (1e-14, -60.0, 0.0, -60.5)]
    kl = solved.gaussian_kl_between(*q)
    assert kl.isfinite().all() and all(g.isfinite().all() for g in torch.autograd.grad(kl.sum(), q))


def test_the_bound_is_log_p_at_the_true_posterior():
    """One latent, x = w z + noise: with q the exact posterior the loss is −log p(x|u), in expectation over q."""
    w, noise, prior = torch.tensor([1.5, -0.5, 0.8]), 0.3, (0.4, 0.7)
    x = torch.randn(1, 3, generator=generator())
    variance = 1 / (w @ w / noise + 1 / prior[1])
    mean = variance * (x[0] @ w / noise + prior[0] / prior[1])
    eps = torch.randn(200_000, 1, generator=generator(1))
    z = mean + variance.sqrt() * eps
    q = mean.expand(len(z), 1), variance.log().expand(len(z), 1)
    p = torch.full((len(z), 1), prior[0]), torch.full((len(z), 1), math.log(prior[1]))
    loss = solved.ivae_loss(x.expand(len(z), 3), z * w, *q, *p, noise)
    covariance = prior[1] * torch.outer(w, w) + noise * torch.eye(3)
    exact = torch.distributions.MultivariateNormal(prior[0] * w, covariance).log_prob(x)
    assert loss.item() == pytest.approx(-exact.item(), abs=0.02)


def test_a_segments_variances_are_where_the_data_come_from():
    data = experiments.draw_segments(4000, generator(), segments=3, latents=2)
    for segment in range(3):
        found = data.sources[data.segment == segment].var(0)
        assert torch.allclose(found, data.variances[segment], rtol=0.2)
    again = data.mix(data.sources)
    assert torch.equal(again, data.x) and data.x.shape == (4000, 2 * 2)


# ------------------------------------------------------------------ pairs


def test_averaging_is_the_loops_and_leaves_what_differs():
    q = [torch.randn(20, 5, generator=generator(i)) for i in range(4)]
    got, loop = solved.average_shared(*q), lesson.average_shared_loop(*q)
    for a, b in zip(got, loop, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    kl = kl_divergence(normal(*q[:2]), normal(*q[2:]))
    middle = (kl.max(1).values + kl.min(1).values) / 2
    shared = kl < middle[:, None]
    assert torch.equal(got[0] == got[2], shared) and torch.equal(got[1] == got[3], shared)
    assert torch.equal(got[0][~shared], q[0][~shared]) and torch.equal(got[3][~shared], q[3][~shared])
    variance = (q[1].exp() + q[3].exp()) / 2
    assert torch.allclose(got[1].exp()[shared], variance[shared])
    assert shared.any(1).all() and (~shared).any(1).all()  # something is shared, and something is not


def test_a_pairs_loss_is_two_bounds_under_the_averaged_posteriors():
    g = generator()
    x, y = torch.rand(6, 5, generator=g), torch.rand(6, 5, generator=g)
    maps = lesson._LinearMaps(torch.randn(6, 5, generator=g), torch.randn(5, 3, generator=g))
    noise = torch.randn(2, 6, 3, generator=g)
    q = solved.average_shared(*maps.encode(x), *maps.encode(y))
    expected = 0.0
    for image, eps, mean, log_var in ((x, noise[0], *q[:2]), (y, noise[1], *q[2:])):
        posterior = Independent(normal(mean, log_var), 1)
        z = mean + (0.5 * log_var).exp() * eps
        likelihood = -torch.nn.functional.binary_cross_entropy_with_logits(
            maps.decode(z), image, reduction="none"
        ).sum(1)
        kl = kl_divergence(posterior, Independent(Normal(torch.zeros(6, 3), 1.0), 1))
        expected += (3 * kl - likelihood).mean().item()
    assert solved.pair_loss(maps, x, y, noise, 3.0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("changes", [1, 2, 3])
def test_pairs_differ_in_as_many_factors_as_they_say(changes):
    grid = FactorGrid(("a", "b", "c"), (2, 5, 3))
    first, second = experiments.draw_pairs(grid, 3000, generator(), changes)
    differ = first != second
    assert (differ.sum(1) == changes).all()
    grid.check(second)
    share = differ.float().mean(0)  # every factor has its turn
    assert (share - changes / 3).abs().max() < 0.05
    shift = ((second - first) % 5)[:, 1][differ[:, 1]]
    assert (shift.bincount(minlength=5)[1:] / len(shift) - 0.25).abs().max() < 0.05


def test_a_pair_of_equal_images_costs_as_much_as_one_image_twice():
    maps = lesson._LinearMaps(
        torch.randn(4, 3, generator=generator()), torch.randn(3, 2, generator=generator(1))
    )
    x, noise = (
        torch.rand(5, 3, generator=generator(2)),
        torch.randn(1, 5, 2, generator=generator(3)).expand(2, 5, 2),
    )
    mean, log_var = maps.encode(x)
    logits = maps.decode(mean + (0.5 * log_var).exp() * noise[0])
    once = beta_vae.beta_vae_loss(x, logits, mean, log_var, beta=1.0)
    assert solved.pair_loss(maps, x, x, noise, 1.0).item() == pytest.approx(2 * once.item(), rel=1e-5)


# ------------------------------------------------------------------ erased for whom?


@settings(max_examples=20)
@given(st.integers(2, 6), st.integers(1, 2), st.integers(0, 1000))
def test_after_erasing_nothing_linear_is_left(features, attributes, seed):
    g = generator(seed)
    a = torch.randn(80, attributes, generator=g)
    x = torch.randn(80, features, generator=g) + a @ torch.randn(attributes, features, generator=g)
    erased = solved.erase(x, a)
    assert ((erased - erased.mean(0)).T @ (a - a.mean(0)) / 80).abs().max() < 1e-4
    assert torch.allclose(erased.mean(0), x.mean(0), atol=1e-4)


def test_for_two_groups_it_is_the_purge_of_lesson_00():
    a = torch.randint(2, (400,), generator=generator())
    x = torch.randn(400, 5, generator=generator(1)) + a[:, None] * torch.tensor([1.0, 0.5, 0.0, -1.0, 0.0])
    assert torch.allclose(solved.erase(x, a[:, None].float()), purge(x, a), atol=1e-4)


def test_no_other_linear_eraser_moves_the_points_less():
    """Against the minimum found by the projection of the identity on all maps with A C = 0, in the metric of Σ."""
    a = torch.randn(100, 1, generator=generator(), dtype=torch.double)
    x = torch.randn(100, 4, generator=generator(1), dtype=torch.double) @ torch.diag(
        torch.tensor([1.0, 3.0, 0.3, 1.0], dtype=torch.double)
    )
    x = x + a * torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.double)
    moved = (solved.erase(x, a) - x).square().sum(1).mean()
    centred = x - x.mean(0)
    cross = centred.T @ (a - a.mean()) / 100
    g = generator(2)
    for _ in range(50):
        other = torch.eye(4, dtype=torch.double) + torch.randn(4, 4, generator=g, dtype=torch.double)
        other = other - other @ cross @ cross.T / (cross.T @ cross)  # other @ cross = 0
        assert (centred @ other.T - centred).square().sum(1).mean() > moved


# ------------------------------------------------------------------ the experiments


def test_labels_place_their_factors_in_the_first_latents():
    grid = FactorGrid(("a", "b"), (3, 5))
    factors = grid.factors(torch.arange(15))
    right = 1.7 * (2 * factors / torch.tensor([2, 4]) - 1)
    mean = torch.cat([right, torch.randn(15, 1, generator=generator())], 1)
    assert experiments.label_loss(mean, factors, grid.sizes).item() == pytest.approx(0, abs=1e-6)
    assert experiments.label_loss(mean + 1, factors, grid.sizes).item() == pytest.approx(2, abs=1e-5)
    assert experiments.label_fit(mean[:, [2, 1, 0]], factors) == pytest.approx(1, abs=1e-5)
    assert experiments.label_fit(mean[:, [2, 2, 0]], factors) < 0.8


def test_a_method_trains_on_what_the_answers_say_and_a_run_cut_short_has_no_row(monkeypatch, tmp_path):
    data = experiments.SmallImages("ellipses")
    before = experiments.train_method("Ada-GVAE", data, 0, 1)
    vae = experiments.train_method("Ada-GVAE", data, 0, 60)
    g = generator(5)
    first, second = experiments.draw_pairs(data.grid, 128, g)
    noise = torch.randn(2, 128, 6, generator=g)

    def loss(model):
        return lesson.pair_loss(model, data.images(first), data.images(second), noise, 1.0).item()

    assert loss(vae) < 0.8 * loss(before)
    with pytest.raises(ValueError, match=r"expected one of beta-VAE, .* got 'beta_vae'"):
        experiments.train_method("beta_vae", data, 0, 1, weight=4.0)

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "descend", lambda *args: interrupted())
    with pytest.raises(KeyboardInterrupt):
        experiments.compare_long(tmp_path, tmp_path, 5)
    assert not list(tmp_path.iterdir())


def test_labels_in_the_loss_place_the_factors():
    data = experiments.SmallImages("ellipses")
    labels = experiments.draw_labels(data, 0.01, generator())
    assert len(labels.rows) == 61 == len(set(labels.rows.tolist()))
    assert torch.equal(data.images(labels.factors), labels.images)
    vae = experiments.train_method("beta-TCVAE", data, 0, 150, labels=labels)
    mean, _ = vae.encode(labels.images)
    assert experiments.label_loss(mean, labels.factors, data.grid.sizes) < 1.0  # 3 where all means are 0


def test_group_information_against_known_integrals():
    from scipy.integrate import quad

    same = torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [1.0]])
    apart = torch.tensor([[-20.0], [20.0]]), torch.tensor([[1.0], [1.0]])
    assert experiments.group_information(*same) == pytest.approx(0, abs=1e-9)
    assert experiments.group_information(*apart) == pytest.approx(math.log(2), abs=1e-9)
    p = [torch.distributions.Normal(0.0, s) for s in (0.5, 2.0)]

    def integrand(x):
        a, b = (q.log_prob(torch.tensor(x, dtype=torch.double)).exp().item() for q in p)
        return sum(0.5 * v * math.log(v / (0.5 * (a + b))) for v in (a, b) if v > 0)

    exact = quad(integrand, -20, 20, points=[0], limit=200)[0]
    spread = experiments.group_information(
        *(x[:, 1:] for x in (experiments.GROUP_MEANS, experiments.GROUP_DEVIATIONS))
    )
    assert spread == pytest.approx(exact, abs=1e-5)


def test_an_erased_group_is_gone_for_a_linear_reader_and_not_for_another():
    x, a = experiments.draw_groups(8000, generator())
    exact = experiments.group_information(experiments.GROUP_MEANS, experiments.GROUP_DEVIATIONS)
    z = experiments.erase_groups(x, a)
    assert experiments.read(x, a) > 0.15 and abs(experiments.read(z, a)) < 0.01
    left = experiments.read(z, a, hidden=64)
    assert 0.15 < left < experiments.read(x, a, hidden=64) < exact + 0.02


def test_the_trained_purges_leave_an_mlp_less_than_the_eraser_does():
    x, a = experiments.draw_groups(4000, generator())
    for tool in experiments.PURGE_WEIGHTS:
        z = experiments.train_purge(tool, x, a, steps=200)
        assert experiments.read(z, a, hidden=64) < 0.2


# ------------------------------------------------------------------ what is in data


def test_the_long_comparison_is_complete_and_the_checkpoint_is_its_own():
    rows = experiments.read_comparison()
    runs = [(r["data"], r["method"], r["weight"], r["labels"], r["seed"]) for r in rows]
    assert runs == [(*run, seed) for run in experiments.RUNS for seed in experiments.SEEDS]
    assert all(r["steps"] == experiments.LONG_STEPS[r["data"]] for r in rows)
    scenes = experiments.SmallImages("scenes")
    for name, (run, chosen) in experiments.KEPT.items():
        kept = checkpoints.load(name)
        of_seeds = [rows[runs.index((*run, 0, seed))] for seed in experiments.SEEDS]
        assert of_seeds[chosen]["DCI"] == median(row["DCI"] for row in of_seeds)
        assert kept.card["metrics"] == {k: of_seeds[chosen][k] for k in kept.card["metrics"]}
        found = metrics.mutual_information_gap(experiments.encode(kept.network, scenes), scenes.factors)
        assert found == pytest.approx(kept.card["metrics"]["MIG"], abs=0.01)  # half precision moves some bins


@pytest.fixture
def two_runs(monkeypatch):
    kept, seed = experiments.KEPT["ada_gvae"]
    runs = [(*kept, 0.0), ("ellipses", "beta-TCVAE", 6.0, 0.001)]
    monkeypatch.setattr(experiments, "RUNS", runs)
    monkeypatch.setattr(experiments, "SEEDS", (seed,))
    monkeypatch.setattr(
        experiments, "score", lambda codes, factors: dict.fromkeys(("MIG", "DCI", "FactorVAE score"), 0.5)
    )


def test_two_processes_share_a_table(two_runs, tmp_path, monkeypatch):
    """The other one does everything while the first one's first training runs, which does that run for nothing."""

    def work():
        experiments.compare_long(tmp_path, tmp_path, 2)

    calls = meanwhile(monkeypatch, experiments, "train_method", work)
    work()
    assert len(calls) == 3 and len(experiments.read_comparison(tmp_path / "pairs.csv")) == 2


def test_a_checkpoint_that_is_missing_is_made_again(two_runs, tmp_path, monkeypatch):
    assert set(experiments.KEPT) == set(checkpoints.PAIRS)
    experiments.compare_long(tmp_path, tmp_path, 2)
    for path in tmp_path.glob("ada_gvae.*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="course pretrain --pairs"):
        checkpoints.load("ada_gvae", folder=tmp_path)
    calls = meanwhile(monkeypatch, experiments, "train_method", lambda: None)
    experiments.compare_long(tmp_path, tmp_path, 2)
    assert checkpoints.load("ada_gvae", folder=tmp_path).card["steps"] == 2
    assert len(calls) == 1 and len(experiments.read_comparison(tmp_path / "pairs.csv")) == 2


def test_the_comparison_goes_on_where_it_stopped(two_runs, tmp_path, monkeypatch):
    done = CliRunner().invoke(app, ["pretrain", "--pairs", "--steps", "2", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "pairs.csv").read_text()
    assert len(text.splitlines()) == 3 and checkpoints.load("ada_gvae", folder=tmp_path).card["steps"] == 2
    monkeypatch.setattr(experiments, "train_method", None)  # nothing is left to train
    assert (
        CliRunner().invoke(app, ["pretrain", "--pairs", "--steps", "2", "--out", str(tmp_path)]).exit_code
        == 0
    )
    assert (tmp_path / "pairs.csv").read_text() == text
