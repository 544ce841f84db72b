"""Lesson 07 against sums over cells, integrals, linear programs, searches, and its own exact table."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from typer.testing import CliRunner

from course_lib.cli import app
from course_lib.experiments import correlated_factors as experiments
from course_lib.experiments import elbo as elbo_experiments
from course_lib.files import read_table
from course_lib.lessons import correlated_factors as lesson
from course_lib.lessons.mutual_information import gaussian_total_correlation
from tests.helpers import generator, meanwhile

pytestmark = pytest.mark.usefixtures("on_solutions")


# ------------------------------------------------------------------ correlated data


def test_a_correlated_joint_is_its_formula_cell_by_cell():
    sizes, pair, sigma = (3, 4, 2, 5), (3, 1), 0.3
    weight = {
        c: math.exp(-((c[3] / 4 - c[1] / 3) ** 2) / (2 * sigma**2))
        for c in itertools.product(*map(range, sizes))
    }
    table = lesson.correlated_joint(sizes, pair, torch.tensor(sigma))
    for c, w in weight.items():
        assert table[c].item() == pytest.approx(w / sum(weight.values()), rel=1e-4)
    assert table.shape == sizes and table.sum().item() == pytest.approx(1, abs=1e-5)


def test_the_limits_of_sigma():
    wide = lesson.correlated_joint((4, 5), (0, 1), torch.tensor(1e3))
    assert torch.allclose(wide, torch.full((4, 5), 1 / 20), atol=1e-6)
    narrow = lesson.correlated_joint((4, 4), (0, 1), torch.tensor(0.02))
    assert torch.allclose(narrow, torch.eye(4) / 4, atol=1e-6)


def test_samples_are_as_frequent_as_the_table_says():
    joint = lesson.correlated_joint((3, 6, 4), (0, 2), torch.tensor(0.3))
    factors = lesson.sample_correlated(joint, 200_000, generator())
    counts = np.zeros((3, 6, 4))
    np.add.at(counts, tuple(factors.numpy().T), 1)
    chi2 = ((counts - 200_000 * joint.numpy()) ** 2 / (200_000 * joint.numpy())).sum()
    assert chi2 < 71 + 5 * math.sqrt(2 * 71)  # 71 degrees of freedom: mean 71, variance 142


def test_cells_of_probability_zero_are_never_drawn():
    joint = torch.zeros(2, 500)
    joint[0, 3] = joint[1, 7] = 0.5
    factors = lesson.sample_correlated(joint, 10_000, generator())
    assert {tuple(row) for row in factors.tolist()} == {(0, 3), (1, 7)}


# ------------------------------------------------------------------ conditional information


def test_conditional_information_is_the_weighted_mean_of_the_groups_own():
    table = torch.rand(4, 5, 3, generator=generator()) ** 3
    p = (table / table.sum()).double().numpy()
    wanted = 0.0
    for a in range(3):
        q = p[:, :, a] / p[:, :, a].sum()
        wanted += p[:, :, a].sum() * (q * np.log(q / np.outer(q.sum(1), q.sum(0)))).sum()
    assert lesson.conditional_mutual_information(table).item() == pytest.approx(wanted, abs=1e-5)


def test_the_chain_rule():
    """I(x; (y, a)) = I(x; a) + I(x; y | a), with the left side counted as one table of x and pairs (y, a)."""
    table = torch.rand(6, 3, 4, 2, generator=generator())
    one = table.flatten(-2)[..., None]
    left = lesson.conditional_mutual_information(one)
    right = lesson.conditional_mutual_information(table.sum(-2)[..., None])
    assert torch.allclose(left, right + lesson.conditional_mutual_information(table), atol=1e-5)


def random_covariance(d: int, seed: int) -> torch.Tensor:
    factor = torch.randn(d, d, generator=generator(seed), dtype=torch.float64)
    return (factor @ factor.T + 0.5 * torch.eye(d)).float()


def test_gaussian_conditional_information_is_a_difference_of_total_correlations():
    """I(x; y | a) = I(x; (y, a)) − I(x; a), each from log determinants of blocks of Σ, with no Schur complement."""
    for seed in range(5):
        sigma = random_covariance(6, seed)

        def information(rows: list[int], columns: list[int], sigma=sigma) -> torch.Tensor:
            both = rows + columns
            parts = [gaussian_total_correlation(sigma[k][:, k]) for k in (both, rows, columns)]
            return parts[0] - parts[1] - parts[2]

        wanted = information([0, 1], [2, 3, 4, 5]) - information([0, 1], [3, 4, 5])
        found = lesson.gaussian_conditional_mutual_information(sigma, 2, 1)
        assert found.item() == pytest.approx(wanted.item(), abs=1e-4)


def test_a_common_cause_explains_the_dependence_of_its_effects():
    load = torch.tensor([1.0, -2.0, 0.5])
    sigma = load[:, None] * load + torch.diag(torch.tensor([0.3, 0.2, 0.4]))
    sigma = torch.block_diag(sigma, torch.ones(1, 1))
    sigma[3, :3] = sigma[:3, 3] = load
    assert lesson.gaussian_conditional_mutual_information(sigma, 1, 2).item() == pytest.approx(0, abs=1e-5)


# ------------------------------------------------------------------ shuffling


def test_every_order_inside_a_group_is_equally_likely_and_none_across():
    a = torch.tensor([5, 2, 5, 2, 5, -1])
    z, g, seen = torch.arange(6.0)[:, None], generator(), {}
    for _ in range(6000):
        order = tuple(lesson.shuffle_within_groups(z, a, g)[:, 0].int().tolist())
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 6 * 2  # 3! orders of the fives, 2! of the twos, and -1 stays alone
    assert min(seen.values()) > 400 and max(seen.values()) < 600  # 500 expected, deviation 21


def test_shuffling_keeps_what_the_attribute_tells_and_nothing_else():
    """Gaussian codes that share their attribute and a noise: the noise's correlation goes, the attribute's stays."""
    g = generator()
    a = torch.randint(2, (100_000,), generator=g)
    shared = torch.randn(100_000, generator=g)
    z, w = (2.0 * a + shared + torch.randn(100_000, generator=g) for _ in range(2))
    shuffled = lesson.shuffle_within_groups(z[:, None], a, g)[:, 0]
    for k in (0, 1):
        pair = torch.stack([shuffled[a == k], w[a == k]])
        assert abs(torch.corrcoef(pair)[0, 1].item()) < 0.02
        assert abs(torch.corrcoef(torch.stack([z[a == k], w[a == k]]))[0, 1].item() - 0.5) < 0.02
    # Cov = Cov of the means over the groups: 2² · ¼ = 1, in variances of 3.
    assert torch.corrcoef(torch.stack([shuffled, w]))[0, 1].item() == pytest.approx(1 / 3, abs=0.02)


# ------------------------------------------------------------------ the linear model


def explained(weight: np.ndarray, rho: float, noise: float) -> float:
    signal = np.array([[1, rho], [rho, 1]])
    inputs = signal + noise * np.eye(2)
    return 1 - np.trace(signal - 2 * weight @ signal + weight @ inputs @ weight.T) / 2


def weights(rho: float, noise: float) -> list[np.ndarray]:
    found = lesson.linear_optimum(
        torch.tensor(rho, dtype=torch.float64), torch.tensor(noise, dtype=torch.float64)
    )
    return [w.numpy() for w in found]


# Published for this course: training correlation, noise, and the variance explained at ρ, 0 and −ρ.
TABLE = [
    (0.8, 0.1, "Base", (0.919, 0.876, 0.833)),
    (0.8, 0.1, "MI", (0.698, 0.650, 0.601)),
    (0.8, 0.1, "CMI", (0.909, 0.909, 0.909)),
    (0.95, 0.1, "Base", (0.936, 0.726, 0.516)),
    (0.95, 0.1, "MI", (0.556, 0.259, -0.039)),
    (0.95, 0.1, "CMI", (0.909, 0.909, 0.909)),
    (0.95, 1.0, "Base", (0.646, 0.269, -0.107)),
    (0.95, 1.0, "MI", (0.350, 0.470, 0.589)),
    (0.95, 1.0, "CMI", (0.500, 0.500, 0.500)),
]


@pytest.mark.parametrize(("rho", "noise", "method", "row"), TABLE)
def test_the_exact_table(rho, noise, method, row):
    weight = lesson.linear_optimum(torch.tensor(rho), torch.tensor(noise))[experiments.METHODS.index(method)]
    for test, wanted in zip((rho, 0.0, -rho), row, strict=True):
        found = experiments.variance_explained(weight, torch.tensor(test), torch.tensor(noise)).item()
        assert found == pytest.approx(wanted, abs=1.1e-3)
        assert found == pytest.approx(explained(weight.double().numpy(), test, noise), abs=1e-5)


@pytest.mark.parametrize(("rho", "noise"), [(0.8, 0.1), (0.95, 1.0), (-0.5, 0.4), (0.0, 0.3)])
def test_each_encoder_meets_its_condition_and_no_search_finds_a_better_one(rho, noise):
    signal = np.array([[1, rho], [rho, 1]])
    inputs = signal + noise * np.eye(2)

    def given(k: int) -> np.ndarray:  # the covariance of x once s_k is known
        column = signal[:, k : k + 1]
        return inputs - column @ column.T

    conditions = [
        [],
        [lambda w: w[:2] @ inputs @ w[2:]],
        [lambda w: w[:2] @ given(0) @ w[2:], lambda w: w[:2] @ given(1) @ w[2:]],
    ]
    rng = np.random.default_rng(0)
    for weight, rules in zip(weights(rho, noise), conditions, strict=True):
        assert all(abs(rule(weight.flatten())) < 1e-6 for rule in rules)
        found = [
            minimize(
                lambda w: -explained(w.reshape(2, 2), rho, noise),
                rng.normal(size=4),
                method="SLSQP",
                constraints=[{"type": "eq", "fun": rule} for rule in rules],
            )
            for _ in range(12)
        ]
        best = max(-f.fun for f in found if all(abs(rule(f.x)) < 1e-6 for rule in rules))
        assert explained(weight, rho, noise) == pytest.approx(best, abs=1e-4)


# ------------------------------------------------------------------ what independence costs


def best_agreement(joint: np.ndarray) -> float:
    """The linear program: how much mass a coupling of the truth with independent predictions can put on 'both right'."""
    cells = joint.size
    product = np.outer(joint.sum(1), joint.sum(0)).flatten()
    rows = [np.kron(np.eye(cells)[i], np.ones(cells)) for i in range(cells)]
    columns = [np.kron(np.ones(cells), np.eye(cells)[i]) for i in range(cells)]
    result = linprog(
        -np.eye(cells).flatten(),
        A_eq=np.stack(rows + columns),
        b_eq=np.concatenate([joint.flatten(), product]),
    )
    return -result.fun


def test_the_accuracy_bound_is_what_a_linear_program_reaches():
    for seed in range(4):
        table = torch.rand(3, 3, generator=generator(seed)).double() ** 2
        table /= table.sum()
        assert lesson.accuracy_bound(table).item() == pytest.approx(best_agreement(table.numpy()), abs=1e-6)


@pytest.mark.parametrize("c", [0.0, 0.3, 0.9, 1.0, -0.6])
def test_two_balanced_attributes_lose_half_their_correlation(c):
    assert lesson.accuracy_bound(experiments.binary_joint(c)).item() == pytest.approx(
        1 - abs(c) / 2, abs=1e-6
    )


def test_bad_correlations_and_methods_give_a_clear_error():
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        experiments.binary_joint(1.2)
    with pytest.raises(ValueError, match="one of"):
        experiments.train_heads("mi", experiments.two_digits("test"), 0.9, 0, steps=1)


# ------------------------------------------------------------------ the game


def test_both_sides_of_the_game_move_their_own_player_only():
    critic = experiments.Critic("CMI", generator())
    codes = tuple(torch.randn(64, experiments.HALF, generator=generator(k)).requires_grad_() for k in (1, 2))
    a = torch.randint(2, (64, 2), generator=generator())
    before = [p.clone() for p in critic.network.parameters()]
    critic.train(codes, a)
    assert all(z.grad is None for z in codes)
    assert any((p != q).any() for p, q in zip(critic.network.parameters(), before, strict=True))
    critic.penalty(codes, a).backward()
    assert all(z.grad.abs().sum() > 0 for z in codes)


def test_pairs_ask_both_questions_inside_the_right_groups():
    z1, z2 = torch.zeros(4, 5), torch.ones(4, 5)
    a = torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0]])
    own, rest, group, groups = experiments.pairs("CMI", (z1, z2), a)
    assert torch.equal(own, torch.cat([z1, z2])) and torch.equal(rest, torch.cat([z2, z1]))
    assert group.tolist() == [0, 1, 0, 1, 3, 3, 2, 2] and groups == 4
    own, rest, group, groups = experiments.pairs("MI", (z1, z2), a)
    assert torch.equal(own, z1) and torch.equal(rest, z2) and group.tolist() == [0] * 4 and groups == 1


def test_images_have_the_attributes_that_were_asked_for():
    """The same seed draws the same picture behind other clouds: change one attribute, and its half alone changes."""
    draw = experiments.two_digits("test", threshold=1.0)  # no clouds
    a = torch.randint(2, (50, 2), generator=generator())
    images, other = draw(a, generator(1)), draw(torch.stack([a[:, 0], 1 - a[:, 1]], dim=1), generator(1))
    assert images.shape == (50, 1, 32, 64)
    assert torch.equal(images[..., :32], other[..., :32])
    assert (images[..., 32:] != other[..., 32:]).flatten(1).any(1).all()
    a = torch.tensor([[0, 0], [0, 1]]).repeat(50, 1)
    domains = experiments.digit_and_domain("test", threshold=1.0)(a, generator())
    assert domains.shape == (100, 3, 32, 32)
    assert (domains[0::2, :, 0, 0] == 0).all() and (domains[1::2, :, 0, 0] > 0).float().mean() > 0.9


def test_settings_are_chosen_on_digits_that_are_not_trained_on():
    images = {split: experiments._digits("mnist", split, 1, "cpu")[0] for split in ("train", "valid", "test")}
    seen = {split: {x.numpy().tobytes() for x in part} for split, part in images.items()}
    assert not seen["train"] & seen["valid"] and not (seen["train"] | seen["valid"]) & seen["test"]
    assert len(images["train"]) == pytest.approx(4 * len(images["valid"]), rel=0.1)


def test_group_dro_is_its_formula_step_by_step():
    losses = torch.tensor([1.0, 3.0, 0.5, 2.0], requires_grad=True)
    group = torch.tensor([0, 0, 1, 3])  # nobody of group 2
    dro, q = experiments.GroupDRO(4, rate=0.7), np.full(4, 0.25)
    for _ in range(3):
        mean = np.array([2.0, 0.5, 0.0, 2.0])
        q = q * np.exp(0.7 * mean)
        q /= q.sum()
        assert dro(losses, group).item() == pytest.approx(float(q @ mean), rel=1e-5)
    dro(losses, group).backward()
    assert losses.grad.tolist() == pytest.approx((dro.weights[group] / torch.tensor([2, 2, 1, 1])).tolist())


def losses_seen(method, monkeypatch, correlation=0.9):
    """The loss of a first step, and the attributes that it was drawn with."""
    seen = []

    def draw(a, generator):
        seen.append(a)
        return torch.rand(len(a), 1, 8, 8, generator=generator)

    _, history = experiments.train_heads(method, draw, correlation, seed=1, steps=1, batch=512)
    return history["heads"].item(), seen[-1]


def test_reweighting_makes_all_groups_count_alike(monkeypatch):
    """With logits of 0 for a_1 and fixed ones for a_2 the loss is a known number of each group, reweighted by hand."""
    logits = torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    monkeypatch.setattr(
        experiments.TwoHeads,
        "logits",
        lambda self, codes: logits.expand(len(codes[0]), 2, 2) + 0 * self.heads[0](codes[0])[:, None],
    )
    for method, share in (("Base", [1, 1, 1, 1]), ("reweighting", [0.475, 0.025, 0.025, 0.475])):
        found, a = losses_seen(method, monkeypatch)
        group, of_a2 = 2 * a[:, 0] + a[:, 1], -logits[1].log_softmax(0)
        each = math.log(2) + of_a2[a[:, 1]]
        weight = 1 if method == "Base" else 1 / (4 * torch.tensor(share)[group])
        assert found == pytest.approx((weight * each).mean().item(), rel=1e-5)


def test_the_balanced_oracle_sees_no_correlation(monkeypatch):
    _, a = losses_seen("balanced", monkeypatch)
    _, base = losses_seen("Base", monkeypatch)
    assert (a[:, 0] == a[:, 1]).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert (base[:, 0] == base[:, 1]).float().mean().item() == pytest.approx(0.95, abs=0.05)


def test_group_accuracy_is_that_of_each_group():
    class Oracle(torch.nn.Module):
        """Knows a_1 where a_2 = 0 and always says 1 elsewhere."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, generator):
            return x, x

        def logits(self, codes):
            a = codes[0]
            first = torch.where(a[:, 1] == 0, a[:, 0], 1)
            return torch.nn.functional.one_hot(torch.stack([first, a[:, 1]], dim=1), 2).float()

    found = experiments.group_accuracy(Oracle(), lambda a, generator: a)
    assert found.tolist() == [[1, 0], [1, 1]]


# ------------------------------------------------------------------ without labels


class Known(torch.nn.Module):
    """A VAE of ellipses whose latents are mixtures of their standardised centres: z = (x, y) M, for a matrix M."""

    def __init__(self, mixture: list[list[float]], sigma: float):
        super().__init__()
        self.mixture = torch.nn.Parameter(torch.tensor(mixture))
        sprites = experiments.ellipses()
        joint = lesson.correlated_joint(sprites.grid.sizes, (0, 1), torch.tensor(sigma))
        centres = experiments._centres(
            sprites.images(lesson.sample_correlated(joint, 8000, generator())).float()
        )
        self.mean, self.spread = centres.mean(0), centres.std(0)

    def encode(self, images):
        z = (experiments._centres(images) - self.mean) / self.spread @ self.mixture
        return z, torch.zeros_like(z)

    def decode(self, z):
        """A bright pixel's worth of light, spread over four pixels so that its centre is where z says."""
        place = z @ torch.linalg.inv(self.mixture) * self.spread + self.mean
        pixel = torch.arange(32.0)
        x, y = ((1 - (pixel - p[:, None]).abs()).clamp(min=0) for p in place.unbind(1))
        return torch.logit((y[:, :, None] * x[:, None, :])[:, None])


@pytest.mark.parametrize("sigma", [10.0, 0.2])
@pytest.mark.parametrize(
    "mixture",
    [[[1.0, 0.0], [0.0, 1.0]], [[0.7, 0.7], [0.7, -0.7]], [[1.0, -0.8], [0.0, 1.0]]],
    ids=["x and y", "sum and difference", "x, and y less x"],
)
def test_directions_of_codes_that_are_known_mixtures(mixture, sigma):
    """Correlations could not tell these apart at sigma 0.2, where x and y go together; the regression can."""
    vae = Known(mixture, sigma)
    found = experiments.directions(vae, sigma)
    wanted = torch.tensor(mixture)
    columns = wanted.T / (wanted.T.norm(dim=1, keepdim=True))
    reads = found.reads / found.reads.norm(dim=1, keepdim=True)
    assert torch.allclose((reads * columns).sum(1).abs(), torch.ones(2), atol=0.003)  # the cosine
    rows = torch.linalg.inv(wanted)
    assert torch.allclose(found.moves.abs(), rows.abs(), atol=0.05)
    assert torch.allclose((found.moves * rows).sum(1).abs(), rows.square().sum(1), atol=0.1)
    assert found.fit.min() > 0.97  # pictures are of whole pixels


def test_a_latent_that_is_x_alone_goes_with_y_and_reads_nothing_of_it():
    vae = Known([[1.0, 0.0], [0.0, 1.0]], 0.1)
    sprites = experiments.ellipses()
    joint = lesson.correlated_joint(sprites.grid.sizes, (0, 1), torch.tensor(0.1))
    factors = lesson.sample_correlated(joint, 4000, generator())
    mean, _ = vae.encode(sprites.images(factors))
    assert torch.corrcoef(torch.stack([mean[:, 0], factors[:, 1].float()]))[0, 1] > 0.9
    found = experiments.directions(vae, 0.1)
    assert abs(found.reads[0, 1]) < 0.02 and found.reads[0, 0] > 0.97


def test_a_latent_of_noise_is_not_fitted():
    class Noise(Known):
        def encode(self, images):
            z = torch.randn(len(images), 2, generator=generator())
            return z, torch.zeros_like(z)

    found = experiments.directions(Noise([[1.0, 0.0], [0.0, 1.0]], 10.0), 10.0)
    assert found.fit.max() < 0.01 and found.reads.abs().max() < 0.1
    assert torch.allclose(found.nats, torch.tensor(0.5), atol=0.05)


def test_linear_directions_are_those_of_the_principal_axes():
    """Independent: x and y. Correlated: uncorrelated codes of variance 1 that move (x, y) so that its covariance is theirs."""
    for wide in (True, False):
        sigma = 10.0 if wide else 0.2
        found = experiments.linear_directions(sigma)
        joint = lesson.correlated_joint((32, 8), (0, 1), torch.tensor(sigma)).double().numpy()
        x, y = np.meshgrid(np.arange(32.0), np.arange(8.0), indexing="ij")
        x, y = (
            (v - (joint * v).sum()) / np.sqrt((joint * (v - (joint * v).sum()) ** 2).sum()) for v in (x, y)
        )
        rho = (joint * x * y).sum()
        reads, moves = found.reads.double().numpy(), found.moves.double().numpy()
        correlation = np.array([[1, rho], [rho, 1]])
        assert reads @ correlation @ reads.T == pytest.approx(np.eye(2), abs=1e-4)
        assert moves.T @ moves == pytest.approx(correlation, abs=1e-4)
        if wide:
            assert np.abs(reads) == pytest.approx(np.eye(2), abs=0.01)
        else:
            assert abs(reads[0, 1]) < 0.5 < reads[0, 0]


def test_degrees():
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0], [0.0, 2.0], [1.0, 1.0], [-3.0, 3.0]])
    assert experiments.degrees(rows).tolist() == pytest.approx([0, 0, 90, 90, 45, -45], abs=1e-4)


# ------------------------------------------------------------------ the long comparison


def _pixels(a):
    """A picture of 8×8 whose halves are the attributes."""
    return a.float().repeat_interleave(4, 1)[:, None, None, :].expand(-1, 1, 8, 8)


def test_the_comparison_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "TRAINED", ("Base", "CMI"))
    monkeypatch.setattr(experiments, "TASKS", {"domain": lambda split, device: lambda a, g: _pixels(a)})
    monkeypatch.setattr(experiments, "IN_USE", 0.0)
    monkeypatch.setattr(experiments, "SEED_SETS", (range(1), range(1, 2)))
    arguments = ["pretrain", "--correlated", "--steps", "2", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    rows = read_table(tmp_path / "correlated.csv", experiments.TEXTS)
    assert [(r["method"], r["seed"]) for r in rows] == [("Base", 0), ("Base", 1), ("CMI", 0), ("CMI", 1)]
    places = read_table(tmp_path / "positions.csv", experiments.TEXTS)
    assert {(r["sigma"], r["seed"]) for r in places} == {(10.0, 0), (0.2, 0)}
    texts = [(tmp_path / name).read_text() for name in ("correlated.csv", "positions.csv")]
    for name in ("train_heads", "train_positions"):
        monkeypatch.setattr(experiments, name, None)  # nothing is left to train
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert [(tmp_path / name).read_text() for name in ("correlated.csv", "positions.csv")] == texts


@pytest.mark.parametrize(
    ("compare", "train"), [("compare_positions", "train_positions"), ("compare_long", "train_heads")]
)
def test_two_processes_share_a_table(tmp_path, monkeypatch, compare, train):
    """The other one does everything while the first one's first training runs, which does that run for nothing."""
    monkeypatch.setattr(experiments, "TRAINED", ("Base", "CMI"))
    monkeypatch.setattr(experiments, "TASKS", {"domain": lambda split, device: lambda a, g: _pixels(a)})
    monkeypatch.setattr(experiments, "IN_USE", 0.0)
    monkeypatch.setattr(experiments, "SEED_SETS", (range(1),))

    def work():
        getattr(experiments, compare)(tmp_path, 2)

    calls = meanwhile(monkeypatch, experiments, train, work)
    work()
    (table,) = tmp_path.glob("*.csv")
    rows = read_table(table, experiments.TEXTS)
    assert len(calls) == 3 and len(rows) == {"compare_positions": 8, "compare_long": 2}[compare]


def test_a_training_that_uses_no_latent_is_done_and_has_no_position(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "SEED_SETS", (range(1),))
    monkeypatch.setattr(experiments, "SIGMAS", (10.0,))
    monkeypatch.setattr(experiments, "IN_USE", math.inf)
    experiments.compare_positions(tmp_path, 2)
    monkeypatch.setattr(experiments, "train_positions", None)  # nothing is left to train
    experiments.compare_positions(tmp_path, 2)
    (row,) = read_table(tmp_path / "positions.csv", experiments.TEXTS)
    assert row["latent"] == 0 and experiments.positions(tmp_path / "positions.csv") == []


@pytest.mark.parametrize("compare", ["compare_positions", "compare_long"])
def test_a_training_that_was_cut_short_has_no_row(tmp_path, monkeypatch, compare):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "TASKS", {"domain": lambda split, device: lambda a, g: _pixels(a)})
    for module in (experiments, elbo_experiments):
        monkeypatch.setattr(module, "descend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        getattr(experiments, compare)(tmp_path, 2)
    assert not list(tmp_path.iterdir())


def test_the_recorded_comparison_has_the_same_seeds_for_all():
    rows = experiments.comparison()
    found = {(r["task"], r["method"], r["seed"]) for r in rows}
    seeds = [seed for seeds in experiments.SEED_SETS for seed in seeds]
    assert found == {(*run, seed) for run in experiments.RUNS for seed in seeds}
    assert len(found) == len(rows) and {r["steps"] for r in rows} == {experiments.LONG_STEPS}
    for row in rows:
        assert all(0 <= row[name] <= 1 for name in experiments.TESTS + experiments.GROUPS)


def test_the_recorded_positions_are_sorted_by_what_latents_carry():
    rows = experiments.positions()
    found = [(r["sigma"], r["seed"], r["latent"]) for r in rows]
    assert len(set(found)) == len(found) and {r["steps"] for r in rows} == {experiments.POSITION_STEPS}
    for sigma, seed in {place[:2] for place in found}:
        run = [r for r in rows if (r["sigma"], r["seed"]) == (sigma, seed)]
        carried = [r["nats"] for r in run]
        assert carried == sorted(carried, reverse=True) and min(carried) >= experiments.IN_USE
        assert [r["latent"] for r in run] == [*range(1, len(run) + 1)]


def test_a_measurement_has_the_names_of_the_table():
    class Knows(torch.nn.Module):
        """Its first head always says 1, its second is right."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, generator):
            return x, x

        def logits(self, codes):
            a = codes[0]
            said = torch.stack([torch.ones_like(a[:, 0]), a[:, 1]], dim=1)
            return torch.nn.functional.one_hot(said, 2).float()

    found = experiments.measure(Knows(), lambda a, generator: a, 0.9)
    assert [found[g] for g in experiments.GROUPS] == [0, 0, 1, 1]
    assert all(found[t] == pytest.approx(0.75, abs=0.02) for t in experiments.TESTS[:3])
    assert found["both right at c"] == pytest.approx(0.5, abs=0.03)


def test_a_short_training_repeats():
    a, b = (experiments.train_positions(0.1, seed=3, steps=3) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
