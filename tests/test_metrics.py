"""The scores against slow loops written from their definitions, hand-made tables, and codes whose score is known."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import entropy as scipy_entropy
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score
from sklearn.svm import LinearSVC

from course_lib import metrics
from course_lib.datasets.grid import FactorGrid
from course_lib.datasets.sprites import Sprites
from course_lib.lessons import factor_vae
from course_lib.metrics import (
    GroupSampler,
    Symmetry,
    beta_vae_score,
    dci,
    factor_vae_score,
    kl_decomposition_exact,
    mig_sup,
    mutual_information_gap,
    sap_score,
    total_correlation,
)
from tests.helpers import generator

FROM_SAMPLES = (mutual_information_gap, mig_sup, sap_score, dci)


def grid_factors(*sizes: int) -> torch.Tensor:
    grid = FactorGrid(tuple("abcdef"[: len(sizes)]), sizes)
    return grid.factors(torch.arange(len(grid)))


def mixed(n: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Six noisy latents, the last of them dead, of factors with 2, 5 and 23 values, not all combinations of them."""
    g = generator(seed)
    factors = torch.stack([torch.randint(size, (n,), generator=g) for size in (2, 5, 23)], dim=1)
    weight = torch.tensor([[3.0, 0, 0, 1, 0, 0], [0, 1, 0, 1, 0.2, 0], [0, 0, 0.1, 0.05, 0.1, 0]])
    codes = factors.float() @ weight + 0.3 * torch.randn(n, 6, generator=g)
    codes[:, 5] = 0.1
    return codes.to(dtype), factors


# ------------------------------------------------------------------ slow loops from the definitions


def digitise(column: np.ndarray, bins: int = 20) -> np.ndarray:
    return np.digitize(column, np.histogram(column, bins)[1][:-1])


def information_loop(codes, factors):
    latents, columns = codes.numpy().T, factors.numpy().T
    table = np.array([[mutual_info_score(v, digitise(z)) for v in columns] for z in latents])
    return table, np.array([mutual_info_score(v, v) for v in columns])


def mig_loop(codes, factors):
    table, h = information_loop(codes, factors)
    best = np.sort(table, axis=0)
    return np.mean((best[-1] - best[-2]) / h)


def mig_sup_loop(codes, factors):
    table, h = information_loop(codes, factors)
    gaps = [
        np.diff(np.sort(row / h)[-2:])[0]
        for row, z in zip(table, codes.numpy().T, strict=True)
        if np.ptp(z) > 0
    ]
    return np.mean(gaps)


def sap_loop(codes, factors, test_codes, test_factors):
    table = np.zeros((codes.shape[1], factors.shape[1]))
    for j in range(codes.shape[1]):
        for k in range(factors.shape[1]):
            model = LinearSVC(C=0.01, class_weight="balanced", dual=False, tol=1e-8, max_iter=10_000)
            model.fit(codes[:, [j]].numpy(), factors[:, k].numpy())
            table[j, k] = model.score(test_codes[:, [j]].numpy(), test_factors[:, k].numpy())
    best = np.sort(table, axis=0)
    return np.mean(best[-1] - best[-2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "score, loop",
    [
        (mutual_information_gap, mig_loop),
        (mig_sup, mig_sup_loop),
    ],
)
def test_equals_the_loop_over_the_definition(score, loop, dtype):
    codes, factors = mixed(1500, dtype)
    expected = loop(codes, factors)
    assert 0.1 < expected < 0.99
    assert score(codes, factors) == pytest.approx(expected, abs=1e-12)


def test_sap_equals_the_loop_over_linear_svc():
    train, test = mixed(1500), mixed(800, seed=1)
    assert sap_score(*train, *test) == pytest.approx(sap_loop(*train, *test), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_svm_equals_linear_svc(classes):
    g = generator(classes)
    x = torch.randn(4, 600, generator=g, dtype=torch.float64) * torch.tensor([[0.01], [1.0], [5.0], [50.0]])
    x[3] += 20
    y = (
        ((x[1] + 0.5 * torch.randn(600, generator=g)) * 2 + classes / 2).long().clamp(0, classes - 1)
    )  # unbalanced
    theta = metrics._linear_svm(x, y, classes)
    for latent, found in zip(x, theta, strict=True):
        model = LinearSVC(C=0.01, class_weight="balanced", dual=False, tol=1e-12, max_iter=100_000)
        model.fit(latent[:, None].numpy(), y.numpy())
        expected = np.stack([model.coef_[:, 0], model.intercept_], 1)
        np.testing.assert_allclose(found.numpy()[-len(expected) :], expected, atol=2e-5)
        if classes == 2:
            np.testing.assert_allclose(found.numpy()[0], -expected[0], atol=2e-5)


# No number so small that a thirtieth of it underflows: numpy.linspace then rounds in another order.
NUMBERS = st.floats(-1e3, 1e3, width=32).map(lambda x: x if abs(x) > 1e-30 else 0.0)


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(2, 60), st.just(2)), elements=NUMBERS),
    st.integers(1, 30),
)
@settings(max_examples=60)
def test_bins_are_those_of_numpy_to_the_last_bit(values, bins):
    found = metrics._discretise(torch.from_numpy(values), bins)
    for column, ours in zip(values.T, found.T, strict=True):
        edges = np.linspace(*_range(column), bins + 1, dtype=np.float32)[:-1, 0]
        np.testing.assert_array_equal(ours.numpy() + 1, np.digitize(column, edges))


def _range(column):
    low, high = column.min(keepdims=True), column.max(keepdims=True)  # of numbers NumPy 1 computes in float64
    return (low - np.float32(0.5), high + np.float32(0.5)) if low == high else (low, high)


# ------------------------------------------------------------------ codes whose score is known


def test_identity_code_scores_one():
    factors = grid_factors(3, 4, 5, 6)
    codes = factors.float()
    assert mutual_information_gap(codes, factors) == pytest.approx(1, abs=1e-12)
    assert mig_sup(codes, factors) == pytest.approx(1, abs=1e-12)
    result = dci(codes, factors, codes, factors, method="extra_trees")
    assert result.informativeness_test == 1 and result.disentanglement > 0.99 and result.completeness > 0.99
    sampler = GroupSampler(factors)
    votes = factor_vae_score(lambda rows: codes[rows], sampler, generator(), num_train=300, num_eval=200)
    assert votes == metrics.FactorVAEScore(1.0, 1.0, 4)
    assert (
        beta_vae_score(lambda r: codes[r], sampler, generator(), num_train=300, num_eval=200).eval_accuracy
        == 1
    )


def test_a_dead_latent_beside_an_identity_code():
    factors = grid_factors(3, 4, 5)
    codes = torch.cat([factors.float(), torch.full((60, 1), 0.1)], dim=1)
    assert mutual_information_gap(codes, factors) == pytest.approx(1, abs=1e-12)
    assert mig_sup(codes, factors) == pytest.approx(1, abs=1e-12)
    votes = factor_vae_score(
        lambda rows: codes[rows], GroupSampler(factors), generator(), num_train=200, num_eval=100, threshold=0
    )
    assert votes == metrics.FactorVAEScore(1.0, 1.0, 3)


def test_dead_codes_score_zero():
    factors, codes = grid_factors(3, 4), torch.full((12, 2), 0.3)
    for score in (mutual_information_gap, mig_sup):
        assert score(codes, factors) == 0
    assert sap_score(codes, factors) == 0
    votes = factor_vae_score(lambda r: codes[r], GroupSampler(factors), generator(), num_train=9, num_eval=9)
    assert votes == metrics.FactorVAEScore(0.0, 0.0, 0)


def test_a_duplicated_code_has_no_gap():
    factors = grid_factors(3, 4, 5)
    codes = factors.float().repeat(1, 2)
    assert mutual_information_gap(codes, factors) == pytest.approx(0, abs=1e-12)
    assert sap_score(codes, factors, codes, factors) == 0
    assert mig_sup(codes, factors) == pytest.approx(1, abs=1e-12)  # each latent tells of one factor only


def test_rotation_by_45_degrees_destroys_mig_sap_and_dci():
    factors = grid_factors(16, 16)
    z = factors.float() - 7.5
    rotated = torch.stack((z[:, 0] + z[:, 1], z[:, 0] - z[:, 1]), dim=1) / math.sqrt(2)
    assert mutual_information_gap(rotated, factors) < 0.02
    assert sap_score(rotated, factors, rotated, factors) < 0.02
    assert dci(rotated, factors, rotated, factors, method="extra_trees").disentanglement < 0.02


@given(st.permutations(range(6)), st.lists(st.integers(-8, 8), min_size=6, max_size=6))
@settings(max_examples=20)
def test_order_and_scale_of_the_latents_do_not_matter(order, exponents):
    codes, factors = mixed(300)
    changed = (codes * 2.0 ** torch.tensor(exponents))[:, list(order)]
    for score in (mutual_information_gap, mig_sup):
        assert score(changed, factors) == pytest.approx(score(codes, factors), abs=1e-12)


@given(st.integers(0, 1000))
@settings(max_examples=15)
def test_labels_of_the_factors_do_not_matter(seed):
    codes, factors = mixed(300)
    g = generator(seed)
    renamed = torch.stack(
        [(7 * torch.randperm(23, generator=g) - 50)[column] for column in factors.T], dim=1
    )  # with gaps, negative, in another order
    for score in (mutual_information_gap, mig_sup):
        assert score(codes, renamed) == pytest.approx(score(codes, factors), abs=1e-12)


def test_sap_by_hand():
    factors = torch.arange(200)[:, None] % 2
    codes = torch.cat([factors.float(), torch.ones(200, 1)], dim=1)  # accuracies 1 and ½
    assert sap_score(codes, factors, codes, factors) == 0.5


# ------------------------------------------------------------------ DCI


def test_dci_is_gradient_boosting_as_in_the_literature():
    (codes, factors), (test_codes, test_factors) = mixed(150), mixed(90, seed=1)
    result = dci(codes, factors[:, :2], test_codes, test_factors[:, :2], generator=generator(3))
    importance, train, test = [], [], []
    for k in range(2):
        model = GradientBoostingClassifier(random_state=metrics._seed(generator(3))).fit(
            codes.numpy(), factors[:, k].numpy()
        )
        importance.append(model.feature_importances_)
        train.append(model.score(codes.numpy(), factors[:, k].numpy()))
        test.append(model.score(test_codes.numpy(), test_factors[:, k].numpy()))
    r = np.array(importance).T  # (D, K)
    np.testing.assert_allclose(result.importance.numpy(), r, atol=1e-12)
    disentanglement = np.sum((1 - scipy_entropy(r.T + 1e-11, base=2)) * r.sum(1) / r.sum())
    completeness = np.sum((1 - scipy_entropy(r + 1e-11, base=6)) * r.sum(0) / r.sum())
    assert result.method == "gradient_boosting"
    assert result.disentanglement == pytest.approx(disentanglement, abs=1e-9)
    assert result.completeness == pytest.approx(completeness, abs=1e-9)
    assert result.informativeness_train == pytest.approx(np.mean(train))
    assert result.informativeness_test == pytest.approx(np.mean(test))


def test_dci_weighs_latents_and_factors_by_hand():
    importance = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5], [0, 0, 0]], dtype=torch.float64)
    assert metrics._concentration(importance) == pytest.approx(0.5 + 0.5 * (1 - math.log(2) / math.log(3)))
    assert metrics._concentration(importance.T) == pytest.approx(1)  # each factor has one latent


def test_held_out_rows_come_from_the_generator():
    codes, factors = mixed(400)
    first = sap_score(codes, factors, generator=generator(1))
    assert first == sap_score(codes, factors, generator=generator(1))
    assert len({sap_score(codes, factors, generator=generator(seed)) for seed in range(4)}) > 1
    assert sap_score(codes, factors) == sap_score(codes, factors, generator=generator(0))
    (train, _), (test, _) = metrics._train_test(codes, factors, None, None, generator(1))
    assert (len(train), len(test)) == (266, 134)
    assert torch.equal(torch.cat([train, test])[:, 0].sort().values, codes[:, 0].sort().values)


# ------------------------------------------------------------------ scores from a sampler


class Recorder:
    """Passes a sampler's rows on, and keeps them with what was held fixed."""

    def __init__(self, sampler):
        self.sampler, self.varying, self.calls = sampler, sampler.varying, []

    def __call__(self, fixed, n, generator):
        rows = self.sampler(fixed, n, generator)
        self.calls += zip(fixed.tolist(), rows.view(-1, n), strict=True)
        return rows


def test_factor_vae_score_equals_the_loop_on_the_same_draws():
    codes, factors = mixed(2000)
    recorder = Recorder(GroupSampler(factors))
    result = factor_vae_score(
        lambda rows: codes[rows], recorder, generator(), batch_size=3, num_train=300, num_eval=150
    )
    z, calls = codes.double().numpy(), recorder.calls
    variance = np.var([z[rows[0]] for _, rows in calls[:10_000]], axis=0, ddof=1)
    votes = [
        (k, int(np.argmin(np.var(z[rows], axis=0, ddof=1)[:5] / variance[:5]))) for k, rows in calls[10_000:]
    ]  # latent 5 is dead
    table = Counter(votes[:300])
    guess = {j: max(range(3), key=lambda k, j=j: table[k, j]) for j in range(5)}
    assert len(votes) == 450 and result.active_latents == 5
    assert result.train_accuracy == pytest.approx(np.mean([guess[j] == k for k, j in votes[:300]]))
    assert result.eval_accuracy == pytest.approx(np.mean([guess[j] == k for k, j in votes[300:]]))
    assert 0.5 < result.eval_accuracy < 1


def test_beta_vae_score_equals_the_loop_on_the_same_draws():
    codes, factors = mixed(2000)
    recorder = Recorder(GroupSampler(factors))
    result = beta_vae_score(
        lambda r: codes[r], recorder, generator(), batch_size=4, num_train=300, num_eval=150
    )
    z, points, labels = codes.numpy(), [], []
    for start in range(0, len(recorder.calls), 4):
        pairs = recorder.calls[start : start + 4]
        assert len({k for k, _ in pairs}) == 1
        labels.append(pairs[0][0])
        points.append(np.mean([np.abs(z[rows[0]] - z[rows[1]]) for _, rows in pairs], axis=0))
    model = LogisticRegression().fit(points[:300], labels[:300])
    assert len(points) == 450
    assert result.train_accuracy == pytest.approx(model.score(points[:300], labels[:300]), abs=1e-9)
    assert result.eval_accuracy == pytest.approx(model.score(points[300:], labels[300:]), abs=1e-9)
    assert 0.4 < result.eval_accuracy < 1


def test_collapsed_latents_do_not_vote():
    factors = grid_factors(4, 4)
    g = generator()
    noise = torch.randn(16, 1, generator=g)
    codes = torch.cat([factors.float(), 0.2 * noise / noise.std()], dim=1)  # its variance is .04
    options = dict(num_train=100, num_eval=100)
    assert factor_vae_score(lambda r: codes[r], GroupSampler(factors), g, **options).active_latents == 2
    assert (
        factor_vae_score(
            lambda r: codes[r], GroupSampler(factors), g, threshold=0.03, **options
        ).active_latents
        == 3
    )


def test_lesson_04_and_the_metric_share_one_definition(monkeypatch):
    """On the same votes the exercise's share of right votes is the metric's training accuracy."""
    monkeypatch.setenv("COURSE_ANSWERS", "solutions")
    codes, factors = mixed(2000)
    codes[:, 4] *= 0.2 / codes[:, 4].std()  # collapsed, but for a threshold on the standard deviation
    recorder = Recorder(GroupSampler(factors))
    result = factor_vae_score(
        lambda rows: codes[rows], recorder, generator(), batch_size=4, num_train=300, num_eval=150
    )
    variance = codes[torch.cat([rows for _, rows in recorder.calls[:10_000]])].var(0)
    held, rows = zip(*recorder.calls[10_000:10_300], strict=True)
    score = factor_vae.factor_vae_score(codes[torch.stack(rows)], torch.tensor(held), variance, 3)
    assert score.item() == pytest.approx(result.train_accuracy) and result.active_latents == 4


def test_groups_share_one_factor_and_nothing_else():
    factors = grid_factors(3, 4, 5)
    g = generator()
    keep = torch.rand(60, generator=g) < 0.7  # an incomplete grid
    table = factors[keep]
    fixed = torch.arange(3).repeat_interleave(2000)
    rows = GroupSampler(table)(fixed, 8, g)
    drawn = table[rows].view(6000, 8, 3)
    alike = (drawn == drawn[:, :1]).all(1)  # (6000, 3)
    for k in range(3):
        part = alike[fixed == k]
        assert part[:, k].all() and part[:, (k + 1) % 3].double().mean() < 0.05
    counts = rows.bincount(minlength=len(table)).double()  # uniform over the rows that are there
    expected = 48_000 / len(table)
    assert (counts - expected).abs().max() < 0.35 * expected and counts.min() > 0


def test_group_values_follow_their_marginal():
    factors = torch.tensor([[0, 0]] * 6 + [[1, 1]] * 2 + [[2, 0]] * 2)
    rows = GroupSampler(factors)(torch.zeros(20_000, dtype=torch.int64), 2, generator())
    share = factors[rows.view(-1, 2)[:, 0], 0].bincount() / 20_000
    assert share.tolist() == pytest.approx([0.6, 0.2, 0.2], abs=0.015)


def test_images_and_draws_are_reproducible_and_encoded_in_bounded_batches():
    sprites = Sprites(size=8)
    table = sprites.grid.factors(torch.arange(len(sprites)))[::1001]
    seen = []

    def represent(images):
        seen.append(len(images))
        return images.flatten(1)[:, ::7].cumsum(1) + torch.linspace(0, 1, len(images))[:, None]

    sampler = GroupSampler(table, lambda rows: sprites.images(table[rows]))
    options = dict(num_train=100, num_eval=50, num_variance_estimate=5000)
    first = factor_vae_score(represent, sampler, generator(5), **options)
    assert first == factor_vae_score(represent, sampler, generator(5), **options)
    assert sum(seen) == 2 * (5000 + 150 * 64) and max(seen) <= 4096


# ------------------------------------------------------------------ incomplete grids and orientation


def test_a_factor_with_one_value_is_left_out_and_said():
    codes, factors = mixed(300)
    more = torch.cat([torch.full((300, 1), 7), factors], dim=1)
    for score in (mutual_information_gap, mig_sup, sap_score):
        with pytest.warns(UserWarning, match=r"factors \[0\] hold a single value"):
            found = score(codes, more)
        assert found == score(codes, factors)
    with pytest.warns(UserWarning, match="single value"):
        assert GroupSampler(more).varying == (1, 2, 3)
    with pytest.raises(ValueError, match="expected a factor that varies"):
        mutual_information_gap(codes, torch.zeros(300, 2, dtype=torch.int64))


@pytest.mark.parametrize("fold, classes", [(1, 39), (2, 20), (4, 10)])
def test_symmetry_merges_with_the_nearest_orientation(fold, classes):
    merged = Symmetry().nearest(fold)
    turn = Fraction(39, fold)

    def distance(i, j):
        off = (i - j) % turn
        return min(off, turn - off)

    assert sorted(set(merged)) == list(range(classes))
    assert all(merged[i] == i for i in range(classes)) and merged[39] == merged[0] == 0
    for i, j in enumerate(merged):
        assert distance(i, j) <= Fraction(1, 2)
        assert all(distance(i, j) <= distance(i, other) for other in range(classes))


def test_symmetry_merges_images_that_look_alike():
    sprites = Sprites(size=64)
    factors = torch.tensor([[s, 5, i, 16, 16] for s in range(3) for i in range(40)])
    merged = Symmetry()(factors)
    assert torch.equal(merged[:, [0, 1, 3, 4]], factors[:, [0, 1, 3, 4]])
    image, like = sprites.images(factors).bool(), sprites.images(merged).bool()
    overlap = (image & like).sum((1, 2, 3)) / (image | like).sum((1, 2, 3))
    assert overlap.min() > 0.85
    unlike = merged.clone()
    unlike[:, 2] = (unlike[:, 2] + 4) % 40
    other = sprites.images(unlike).bool()
    assert (((image & other).sum((1, 2, 3)) / (image | other).sum((1, 2, 3))).mean()) < overlap.min()


def test_a_code_of_the_visible_angle_scores_higher_modulo_symmetry():
    factors = grid_factors(3, 1, 40, 4)[:, [0, 2, 3]]
    symmetry = Symmetry(shape=0, orientation=1)
    visible = symmetry(factors)[:, 1].float()
    codes = torch.stack((factors[:, 0].float(), visible, factors[:, 2].float()), dim=1)
    gain = mutual_information_gap(codes, symmetry(factors)) - mutual_information_gap(codes, factors)
    assert gain > 0.03
    sampler = GroupSampler(symmetry(factors))
    rows = sampler(torch.ones(500, dtype=torch.int64), 6, generator()).view(500, 6)
    assert (visible[rows] == visible[rows[:, :1]]).all()
    assert not (factors[rows, 1] == factors[rows[:, :1], 1]).all()
    ellipse = Symmetry(shape=None, orientation=0, folds=(2,))
    assert ellipse(torch.arange(40)[:, None])[:, 0].tolist() == ellipse.nearest(2)


def test_symmetry_rejects_what_is_not_on_its_grid():
    with pytest.raises(ValueError, match="expected orientation from 0 to 39"):
        Symmetry()(torch.tensor([[0, 0, 40]]))
    with pytest.raises(ValueError, match="expected shape from 0 to 2"):
        Symmetry()(torch.tensor([[3, 0, 1]]))


# ------------------------------------------------------------------ total correlation


def mixture_log_density(z, mean, log_var):
    """log q(z), and log q(z_j), as torch.distributions computes them in float64."""
    d = torch.distributions
    normal = d.Normal(mean.double(), (0.5 * log_var.double()).exp())
    weights = d.Categorical(torch.ones(len(mean), dtype=torch.float64))
    joint = d.MixtureSameFamily(weights, d.Independent(normal, 1)).log_prob(z.double())
    marginal = [
        d.MixtureSameFamily(weights, d.Normal(normal.loc[:, j], normal.scale[:, j])).log_prob(
            z[:, j].double()
        )
        for j in range(z.shape[1])
    ]
    return joint, torch.stack(marginal, dim=1)


@pytest.mark.parametrize("block", [1024, 1 << 18])
@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_aggregate_posterior_is_the_mixture(block, spread, monkeypatch):
    monkeypatch.setattr(metrics, "CPU_BLOCK", block)
    g = generator()
    mean, log_var = 2 * torch.randn(301, 4, generator=g), spread * torch.randn(301, 4, generator=g) - 3
    z = mean[:70] + (0.5 * log_var[:70]).exp() * torch.randn(70, 4, generator=g)
    found = metrics._log_aggregate_posterior(z, mean, log_var)
    for ours, exact in zip(found, mixture_log_density(z, mean, log_var), strict=True):
        torch.testing.assert_close(ours.double(), exact, atol=2e-3, rtol=1e-4)


def test_bounded_memory():
    peak = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            peak.append(out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    mean = torch.randn(20_000, 2, generator=generator())
    with Watch():
        total_correlation(mean, torch.zeros_like(mean), generator(), num_samples=1000)
    assert max(peak) <= metrics.CPU_BLOCK < 20_000 * 1000 / 50


def test_total_correlation_of_a_factorised_grid_is_zero():
    mean = torch.cartesian_prod(torch.linspace(-2, 2, 9), torch.linspace(-1, 1, 7), torch.linspace(-3, 3, 5))
    log_var = torch.tensor([-2.0, -4.0, 0.5]).expand_as(mean)
    parts = kl_decomposition_exact(mean, log_var, generator(), num_samples=500)
    assert parts.total_correlation == pytest.approx(0, abs=1e-5)
    assert parts.total_correlation == total_correlation(mean, log_var, generator(), num_samples=500)


def test_total_correlation_of_two_separate_points():
    mean = torch.tensor([[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]])
    parts = kl_decomposition_exact(mean, torch.full((2, 3), -8.0), generator(), num_samples=400)
    assert parts.total_correlation == pytest.approx(math.log(2), abs=1e-4)
    assert parts.mutual_information == pytest.approx(math.log(2), abs=1e-4)


def test_total_correlation_of_a_correlated_gaussian():
    correlation = torch.tensor([[1.0, 0.7, 0.2], [0.7, 1.0, -0.1], [0.2, -0.1, 1.0]], dtype=torch.float64)
    root = torch.linalg.cholesky(correlation - 0.04 * torch.eye(3))
    quantile = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(24.0) + 0.5) / 24).double()
    quantile = quantile / quantile.square().mean().sqrt()
    mean = (
        torch.cartesian_prod(quantile, quantile, quantile) @ root.T
    )  # smoothed by σ = 0.2: N(0, correlation)
    found = total_correlation(
        mean.float(), torch.full((24**3, 3), math.log(0.04)), generator(), num_samples=4000
    )
    assert found == pytest.approx(-0.5 * torch.logdet(correlation).item(), abs=0.03)


def test_the_three_parts_sum_to_the_kl():
    g = generator()
    mean, log_var = (
        torch.randn(500, 3, generator=g, dtype=torch.float64),
        torch.randn(500, 3, generator=g).double(),
    )
    parts = kl_decomposition_exact(mean, log_var, g, num_samples=20_000)
    kl = 0.5 * (mean**2 + log_var.exp() - log_var - 1).sum(1).mean().item()
    total = parts.mutual_information + parts.total_correlation + parts.dimension_wise_kl
    assert total == pytest.approx(kl, abs=0.04)
    assert 0 < parts.mutual_information < math.log(500)
    assert parts == kl_decomposition_exact(mean, log_var, _rewound(g), num_samples=20_000)


def _rewound(g: torch.Generator) -> torch.Generator:
    g = g.manual_seed(0)
    torch.randn(500, 3, generator=g, dtype=torch.float64), torch.randn(500, 3, generator=g)
    return g


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize("score", FROM_SAMPLES)
@pytest.mark.parametrize(
    "codes, factors, error, message",
    [
        ([[0.0, 1.0]], torch.zeros(1, 2).long(), TypeError, "codes: expected a torch.Tensor, got list"),
        (torch.zeros(4, 2).long(), torch.zeros(4, 2).long(), TypeError, "codes: expected float32 or float64"),
        (torch.zeros(4, 2), torch.zeros(4, 2), TypeError, "factors: expected torch.int64"),
        (torch.zeros(4, 2, 2), torch.zeros(4, 2).long(), ValueError, r"codes: expected shape \(N, D\)"),
        (torch.zeros(1, 2), torch.zeros(1, 2).long(), ValueError, "with N at least 2"),
        (torch.zeros(4, 2), torch.zeros(4).long(), ValueError, r"factors: expected shape \(N, K\)"),
        (torch.zeros(4, 2), torch.zeros(5, 2).long(), ValueError, "as many rows"),
        (torch.full((4, 2), math.nan), torch.zeros(4, 2).long(), ValueError, r"latents \[0, 1\] hold NaN"),
    ],
)
def test_bad_input_is_explained(score, codes, factors, error, message):
    with pytest.raises(error, match=message):
        score(codes, factors)


def test_too_few_latents_or_factors_are_explained():
    codes, factors = mixed(50)
    for score in (mutual_information_gap, sap_score, dci):
        with pytest.raises(ValueError, match="at least 2 latents"):
            score(codes[:, :1], factors)
    for score in (mig_sup, dci):
        with pytest.raises(ValueError, match="2 factors that vary, got 6 and 1"):
            score(codes, factors[:, :1])


def test_other_errors():
    codes, factors = mixed(50)
    with pytest.raises(ValueError, match='expected "gradient_boosting" or "extra_trees"'):
        dci(codes, factors, method="lasso")
    with pytest.raises(ValueError, match="both test_codes and test_factors"):
        sap_score(codes, factors, codes)
    with pytest.raises(ValueError, match="bins: expected a positive integer"):
        mutual_information_gap(codes, factors, bins=0)
    with pytest.raises(ValueError, match="codes, one each, got 2000"):
        factor_vae_score(lambda rows: codes.repeat(40, 1), GroupSampler(factors), generator())
    with pytest.raises(ValueError, match="mean and log_var of one shape"):
        total_correlation(codes, codes[:-1], generator())
    with pytest.raises(ValueError, match="num_samples: expected an integer of at least 2"):
        total_correlation(codes, codes, generator(), num_samples=0)
    with pytest.raises(TypeError, match=r"generator: expected a .*Generator, got int"):
        total_correlation(codes, codes, 0)
    with pytest.raises(ValueError, match="batch_size: expected an integer of at least 2"):
        factor_vae_score(lambda rows: codes[rows], GroupSampler(factors), generator(), batch_size=1)
    with pytest.raises(ValueError, match="expected two factors that vary"):
        beta_vae_score(lambda rows: codes[rows], GroupSampler(factors[:, :1]), generator())


def test_gradients_are_not_needed_and_not_kept():
    codes, factors = mixed(60)
    codes.requires_grad_()
    for score in FROM_SAMPLES[:-1]:
        score(codes, factors)
    dci(codes, factors, codes, factors, method="extra_trees")


# ------------------------------------------------------------------ log Σ exp


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_log_sum_exp_is_that_of_torch(scale):
    x = (scale * torch.randn(5, 40, 3, generator=generator())).requires_grad_()
    got, expected = metrics.log_sum_exp(x, 1), x.double().logsumexp(1)
    torch.testing.assert_close(got.double(), expected)
    weights = torch.randn(5, 3, generator=generator(1))
    (gradient,) = torch.autograd.grad((weights * got).sum(), x, retain_graph=True)
    (wanted,) = torch.autograd.grad((weights * expected).sum(), x)
    torch.testing.assert_close(gradient, wanted)
