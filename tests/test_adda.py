"""Lesson 05 against independent ground truths: closed forms, float64 loops, autograd, Monte Carlo, a game that can be won."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib.exercise.contract import run
from course_lib.exercise.findings import Wrong
from course_lib.experiments import adda as experiments
from course_lib.lessons import adda as lesson
from solutions import adda as solved
from tests.helpers import ROOT, generator, meanwhile

pytestmark = pytest.mark.usefixtures("on_solutions")


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


# ------------------------------------------------------------------ copy_encoder


def test_a_copy_is_bitwise_equal_independent_and_in_eval_mode():
    torch.manual_seed(0)
    source = experiments.make_encoder().train()
    source(torch.rand(8, 3, 32, 32))  # running statistics that are not the initial ones
    source.requires_grad_(False)
    before = copy.deepcopy(source.state_dict())
    target = solved.copy_encoder(source)
    assert not any(m.training for m in target.modules()) and all(m.training for m in source.modules())
    assert all(p.requires_grad for p in target.parameters())
    assert not any(p.requires_grad for p in source.parameters())
    for (name, a), (other, b) in zip(source.state_dict().items(), target.state_dict().items(), strict=True):
        assert name == other and torch.equal(a, b) and a.data_ptr() != b.data_ptr()
    optimiser = torch.optim.SGD(target.parameters(), lr=1.0)
    target.train()(torch.rand(8, 3, 32, 32)).square().sum().backward()
    optimiser.step()
    assert all(torch.equal(a, before[name]) for name, a in source.state_dict().items())


# ------------------------------------------------------------------ losses of the game


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_the_critics_loss_is_the_cross_entropy_of_each_domain(b, c, seed):
    source, target, weight = randn(b, 3, seed=seed), randn(c, 3, seed=seed + 1), randn(3, seed=seed + 2)
    loss = solved.domain_critic_loss(lambda f: f @ weight, source, target)
    probability = [1 / (1 + math.exp(-(row @ weight).item())) for row in (*source, *target)]
    by_hand = (
        -sum(math.log(p) for p in probability[:b]) / b - sum(math.log(1 - p) for p in probability[b:]) / c
    )
    assert loss.item() == pytest.approx(by_hand / 2)


def test_a_critic_that_cannot_tell_pays_log_two_and_the_best_one_less_by_the_jensen_shannon_divergence():
    """Source N(1, 1), target N(−1, 1): the best logit is 2f. Loss = log 2 − JS, integrated numerically."""
    blind = solved.domain_critic_loss(lambda f: 0 * f[:, 0], randn(4, 1), randn(5, 1))
    assert blind.item() == pytest.approx(math.log(2))
    n = 400_000
    found = solved.domain_critic_loss(lambda f: 2 * f[:, 0], 1 + randn(n, 1, seed=1), randn(n, 1, seed=2) - 1)
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    p, q = (torch.exp(-0.5 * (grid - m) ** 2) / math.sqrt(2 * math.pi) for m in (1, -1))
    js = 0.5 * torch.trapezoid(p * torch.log(2 * p / (p + q)) + q * torch.log(2 * q / (p + q)), grid)
    assert found.item() == pytest.approx(math.log(2) - js.item(), abs=3e-3)


def test_the_critics_loss_does_not_reach_the_features():
    source, target = randn(3, 2).requires_grad_(), randn(3, 2, seed=1).requires_grad_()
    weight = randn(2).requires_grad_()
    solved.domain_critic_loss(lambda f: f @ weight, source, target).backward()
    assert source.grad is None and target.grad is None and weight.grad.abs().sum() > 0


def test_inverted_labels_pull_hardest_where_the_critic_is_surest():
    logits = torch.tensor([-30.0, -3.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(solved.inverted_label_loss(logits), logits)
    assert torch.allclose(gradient, -(1 - logits.detach().sigmoid()) / 4)
    minimax = -F.softplus(logits).mean()  # mean log(1 − σ)
    (other,) = torch.autograd.grad(minimax, logits)
    assert gradient[0].abs() > 0.24 and other[0].abs() < 1e-12


# ------------------------------------------------------------------ adda_step


def networks(seed=0):
    torch.manual_seed(seed)
    source = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    return source, solved.copy_encoder(source), nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))


def test_a_step_is_the_one_written_out_with_autograd():
    source, target, critic = networks()
    a, b = torch.randn(5, 3), torch.randn(7, 3) + 1
    want_critic, want_target = copy.deepcopy(critic), copy.deepcopy(target)
    loss = 0.5 * (
        -torch.log(torch.sigmoid(want_critic(source(a)))).mean()
        - torch.log(1 - torch.sigmoid(want_critic(want_target(b)))).mean()
    )
    with torch.no_grad():
        for p, g in zip(
            want_critic.parameters(), torch.autograd.grad(loss, want_critic.parameters()), strict=True
        ):
            p -= 0.3 * g
    encoder_loss = -torch.log(torch.sigmoid(want_critic(want_target(b)))).mean()
    with torch.no_grad():
        gradients = torch.autograd.grad(encoder_loss, want_target.parameters())
        for p, g in zip(want_target.parameters(), gradients, strict=True):
            p -= 0.2 * g

    optimisers = torch.optim.SGD(target.parameters(), 0.2), torch.optim.SGD(critic.parameters(), 0.3)
    report = solved.adda_step(lesson.Players(source, target, critic, *optimisers), a, b)
    assert report["critic loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert report["encoder loss"].item() == pytest.approx(encoder_loss.item(), rel=1e-5)
    for module, want in ((critic, want_critic), (target, want_target)):
        for p, q in zip(module.parameters(), want.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-6)


def test_the_source_encoder_is_untouched_by_many_steps():
    source, target, critic = networks()
    before = copy.deepcopy(source.state_dict())
    optimisers = torch.optim.Adam(target.parameters()), torch.optim.Adam(critic.parameters())
    players = lesson.Players(source, target, critic, *optimisers)
    for _ in range(5):
        solved.adda_step(players, torch.randn(8, 3), torch.randn(8, 3))
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())
    assert all(p.grad is None for p in source.parameters())
    assert not target.training and not source.training


def test_the_probe_tells_a_dict_from_anything_else():
    with pytest.raises(Wrong) as wrong:
        run(lesson.adda_step, lambda *a: torch.zeros(()), lesson.adda_step.at_scale(4))
    assert wrong.value.finding.sentence.startswith(
        'Expected a dict with the entries "critic loss", "encoder loss"'
    )


def test_the_game_can_be_won_where_a_shift_is_all_that_differs():
    """Source N(0, I), target N((2, 0), I): an encoder that adds a constant learns to take it away."""

    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.by = nn.Parameter(torch.zeros(2))

        def forward(self, x):
            return x + self.by

    torch.manual_seed(0)
    source = Shift().requires_grad_(False)
    target = solved.copy_encoder(source)
    critic = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0))
    optimisers = [torch.optim.Adam(m.parameters(), lr=0.02, betas=(0.5, 0.99)) for m in (target, critic)]
    players = lesson.Players(source, target, critic, *optimisers)
    g, offset = generator(1), torch.tensor([2.0, 0.0])
    for _ in range(600):
        a, b = torch.randn(2, 128, 2, generator=g)
        solved.adda_step(players, a, b + offset)
    assert (target.by + offset).norm() < 0.35


# ------------------------------------------------------------------ gradient_reverse


@settings(max_examples=20)
@given(st.floats(0, 5), st.integers(0, 10**6))
def test_reversal_is_the_identity_forward_and_minus_weight_backward(weight, seed):
    x = randn(4, 3, seed=seed).requires_grad_()
    y = solved.gradient_reverse(x, weight)
    assert torch.equal(x, y) and y is not x
    upstream = randn(4, 3, seed=seed + 1)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    assert torch.allclose(gradient, -weight * upstream)


def test_one_backward_pass_is_two_players():
    """Behind a reversal the critic gets its gradient, the encoder minus its own times the weight."""
    encoder, critic = randn(2, 3).requires_grad_(), randn(2, seed=1).requires_grad_()
    x = randn(5, 3, seed=2)

    def loss(features):
        return F.softplus(features @ critic).mean()

    plain = torch.autograd.grad(loss(x @ encoder.T), (encoder, critic))
    turned = torch.autograd.grad(loss(solved.gradient_reverse(x @ encoder.T, 0.3)), (encoder, critic))
    assert torch.allclose(turned[0], -0.3 * plain[0]) and torch.allclose(turned[1], plain[1])


# ------------------------------------------------------------------ coral_loss


@settings(max_examples=20)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 5), st.integers(0, 10**6))
def test_coral_is_the_float64_loop(b, c, d, seed):
    source, target = 2 + 3 * randn(b, d, seed=seed), randn(c, d, seed=seed + 1)
    want = lesson.coral_loss_loop(source, target).item()
    assert solved.coral_loss(source, target).item() == pytest.approx(want, rel=1e-5, abs=1e-9)


def test_coral_of_two_gaussians_is_known_in_closed_form():
    """Covariances diag(4, 1) and the identity: ‖diag(3, 0)‖² / (4 · 2²) = 9/16; shifting a domain changes nothing."""
    source = randn(200_000, 2) * torch.tensor([2.0, 1.0], dtype=torch.float64)
    target = randn(200_000, 2, seed=1)
    assert solved.coral_loss(source, target).item() == pytest.approx(9 / 16, rel=0.02)
    assert solved.coral_loss(source + 7, target).item() == pytest.approx(
        solved.coral_loss(source, target).item(), rel=1e-6
    )


def test_the_gradient_of_coral_is_right():
    source, target = randn(5, 3).requires_grad_(), randn(6, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(solved.coral_loss, (source, target))


# ------------------------------------------------------------------ proxy_a_distance


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(1, 20), st.floats(-2, 2), st.integers(0, 10**6))
def test_the_a_distance_is_the_count_by_hand(b, c, shift, seed):
    source, target = randn(b, seed=seed) + shift, randn(c, seed=seed + 1)
    want = lesson.proxy_a_distance_loop(source, target).item()
    assert solved.proxy_a_distance(source, target).item() == pytest.approx(want, abs=1e-6)


def test_the_a_distance_of_two_gaussians_is_known_in_closed_form():
    """N(±m, 1), boundary at 0: ε = Φ(−m), so 2 (1 − 2ε) = 2 erf(m / √2)."""
    for m in (0.0, 0.5, 1.5):
        source, target = m + randn(200_000), randn(200_000, seed=1) - m
        want = 2 * math.erf(m / math.sqrt(2))
        assert solved.proxy_a_distance(source, target).item() == pytest.approx(want, abs=0.01)


def test_the_measured_a_distance_is_0_for_one_domain_and_2_for_two_that_do_not_overlap():
    features = torch.randn(600, experiments.FEATURES, generator=generator())
    other = torch.randn(400, experiments.FEATURES, generator=generator(1))
    assert experiments.a_distance(features, other, steps=60) < 0.4
    assert experiments.a_distance(features, other + 3, steps=60) > 1.9


def test_the_measured_a_distance_has_room_between_its_ends():
    """Means 2m apart in one of 8 features: the best classifier's distance is 2 erf(m / √2)."""
    features, other = (
        torch.randn(4000, 8, generator=generator()),
        torch.randn(2500, 8, generator=generator(1)),
    )
    for m in (0.5, 1.0):
        found = experiments.a_distance(features, other + torch.tensor([2 * m, *7 * [0.0]]), steps=200)
        assert found == pytest.approx(2 * math.erf(m / math.sqrt(2)), abs=0.15)


def test_information_is_that_of_the_table_of_images_and_digits():
    """Sure and even over k digits: log k; the same prediction for all: 0; in between, counted as a joint table."""
    keep = nn.Identity()
    for k in (1, 2, 10):
        sure = 50 * F.one_hot(torch.arange(40) % k, 10).float()
        assert experiments.information(keep, keep, sure).item() == pytest.approx(math.log(k), abs=1e-5)
    logits = randn(30, 10)
    joint = logits.softmax(1) / 30  # p(image, digit)
    product = joint.sum(0) * joint.sum(1, keepdim=True)
    want = (joint * (joint / product).log()).sum()
    assert experiments.information(keep, keep, logits).item() == pytest.approx(want.item(), rel=1e-5)


# ------------------------------------------------------------------ what is built on them


@pytest.fixture(scope="module")
def pair():
    return experiments.load_pair("mnist", "optdigits", n=256)


def test_a_pair_is_what_its_domains_give(pair):
    assert pair.name == "mnist → optdigits" and pair.x.shape == (256, 3, 32, 32)
    assert len(pair.target_x) == len(pair.target_y) == 1297 and len(pair.test_x) == len(pair.test_y) == 500
    assert len(pair.source_test_x) == len(pair.source_test_y) == 2000


def test_no_digit_is_in_both_domains_of_a_pair():
    """mnist_m is |background − digit|: of mnist's own digit, and of no other, its pixels outside the ink say the background."""
    same = experiments.load_pair("mnist", "mnist", n=100)
    assert (torch.cdist(same.x.flatten(1), same.target_x.flatten(1)).min() > 1).item()
    blended = experiments.load_pair("mnist", "mnist_m", n=100)
    assert torch.equal(blended.target_y, same.target_y) and torch.equal(blended.y, same.y)
    with pytest.raises(ValueError, match="n: expected 1 to 5000, half of the bundled mnist, got 5001"):
        experiments.load_pair("mnist", "mnist_m", n=5001)


def test_synth_alone_is_synth_without_neighbours():
    both = (
        experiments.load_pair("synth", "mnist", n=200),
        experiments.load_pair("synth alone", "mnist", n=200),
    )
    assert torch.equal(both[0].y, both[1].y) and torch.equal(both[0].target_x, both[1].target_x)
    equal = (both[0].x == both[1].x).flatten(1).all(1).float().mean()
    assert (
        0.25 <= equal < 0.5
    )  # a quarter is drawn without neighbours, and some neighbours lie outside the frame


def test_the_range_of_pixels_does_not_matter(pair):
    encoder = experiments.take_statistics(experiments.make_encoder(), pair.x)
    assert torch.allclose(encoder(pair.x[:9]), encoder(255 * pair.x[:9]), atol=1e-2)


def test_statistics_are_those_of_the_images_that_are_given(pair):
    encoder = experiments.take_statistics(experiments.make_encoder(), pair.x)
    features = experiments.encode(experiments.take_statistics(encoder, pair.target_x), pair.target_x)
    assert not any(m.training for m in encoder.modules())
    assert features.mean(0).abs().max() < 1e-3 and (features.std(0) - 1).abs().max() < 1e-2
    assert experiments.encode(encoder, pair.x).mean(0).abs().max() > 0.05


def test_no_method_of_adaptation_can_see_a_target_label(pair, monkeypatch):
    """Shuffling all of them changes the ceiling and the report, and not one weight."""
    adapted = []
    for labels in (pair.target_y, pair.target_y.flip(0)):
        changed = experiments.Pair(**{**vars(pair), "target_y": labels, "test_y": labels[:500]})
        encoder, _, _ = experiments.pretrain(changed.x, changed.y, 0, steps=2)
        encoder, _ = experiments.adapt(encoder, changed.x, changed.target_x, 0, steps=2)
        joint, _ = experiments.train_jointly("CORAL", changed, 0, steps=2)
        adapted.append(torch.cat([p.flatten() for p in (*encoder.parameters(), *joint.parameters())]))
    assert torch.equal(*adapted)


def test_pretraining_learns_and_repeats_and_ends_in_eval_mode(pair):
    encoder, classifier, history = experiments.pretrain(pair.x, pair.y, 0, steps=60)
    assert history["cross-entropy"][-10:].mean() < 0.5 * history["cross-entropy"][:5].mean()
    assert not any(m.training for m in encoder.modules())
    assert experiments.accuracy(encoder, classifier, pair.x, pair.y) > 0.8
    again, _, _ = experiments.pretrain(pair.x, pair.y, 0, steps=60)
    assert all(torch.equal(p, q) for p, q in zip(encoder.parameters(), again.parameters(), strict=True))


def test_adaptation_leaves_the_source_encoder_and_running_statistics(pair):
    encoder, _, _ = experiments.pretrain(pair.x, pair.y, 0, steps=3)
    before = copy.deepcopy(encoder.state_dict())
    target, history = experiments.adapt(encoder, pair.x, pair.target_x, 0, steps=3)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert set(history) == {"critic loss", "encoder loss"} and len(history["critic loss"]) == 3
    for (name, p), q in zip(encoder.named_parameters(), target.parameters(), strict=True):
        assert not torch.equal(p, q), name
    fresh = experiments.take_statistics(copy.deepcopy(encoder), pair.target_x)
    assert torch.equal(
        fresh[2].running_mean, target[2].running_mean
    )  # the target's, and not moved by the game
    assert not torch.equal(encoder[2].running_mean, target[2].running_mean)


@pytest.mark.parametrize("method", ["CORAL", "reversal"])
def test_joint_training_learns_the_source(pair, method):
    encoder, classifier = experiments.train_jointly(method, pair, 0, steps=60)
    assert (
        experiments.accuracy(experiments.take_statistics(encoder, pair.x), classifier, pair.x, pair.y) > 0.7
    )


def test_an_unknown_method_is_named(pair):
    with pytest.raises(ValueError, match="method: expected one of CORAL, reversal, got 'MMD'"):
        experiments.train_jointly("MMD", pair, 0)


def test_every_method_has_the_same_number_of_updates_of_an_encoder(pair, monkeypatch):
    taken = []
    monkeypatch.setattr(
        experiments, "fit", lambda step, steps, label, **_: taken.append((label.split(",")[0], steps)) or {}
    )
    few = {
        name: value[:40] if isinstance(value, torch.Tensor) else value for name, value in vars(pair).items()
    }
    found = experiments.compare(experiments.Pair(**few), 0, steps=(2, 3))
    assert list(found) == list(experiments.METHODS)
    assert taken == [
        ("pre-training", 5),
        ("CORAL", 5),
        ("reversal", 5),
        ("pre-training", 2),
        ("ADDA", 3),
        ("pre-training", 5),
    ]
    assert found["AdaBN"]["source accuracy"] == found["source only"]["source accuracy"]


def test_the_settings_in_use_are_those_that_the_trials_choose_and_no_target_label_has_a_say():
    rows = experiments.read_comparison()
    assert experiments.choose(rows) == experiments.CHOSEN
    blind = [row | {"target accuracy": 0.0} for row in rows]
    assert experiments.choose(blind) == experiments.CHOSEN
    for row in rows:
        if row["seed"] != experiments.TRIAL_SEED and row["method"] in experiments.CHOSEN:
            assert row["setting"] == experiments.CHOSEN[row["method"]]
        assert row["steps"] == experiments.PRETRAINING + experiments.GAME


def test_the_table_has_all_that_the_lesson_shows():
    rows = experiments.read_comparison()
    for domains in experiments.PAIRS:
        assert all(
            experiments.accuracies(rows, " → ".join(domains), method) for method in experiments.METHODS
        )
    for domains in experiments.STREET:
        assert all(
            experiments.accuracies(rows, " → ".join(domains), m) for m in ("source only", "AdaBN", "ADDA")
        )
    trials = [(r["method"], r["setting"]) for r in rows if r["seed"] == experiments.TRIAL_SEED]
    assert trials == [(m, x) for m, tried in experiments.SETTINGS.items() for x in tried]


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """benchmarks/adaptation.py with a table of its own, two runs of no steps, and numbers that are made up."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for name, value in (("COURSE_ANSWERS", "solutions"), ("TQDM_DISABLE", "1")):  # as it does itself
        monkeypatch.setenv(name, value)
    import adaptation

    monkeypatch.setattr(adaptation, "TABLE", tmp_path / "adaptation.csv")
    runs = [(experiments.PAIRS[0], "source only", 0, None), (experiments.PAIRS[0], "target-trained", 0, None)]
    monkeypatch.setattr(adaptation, "runs", lambda: runs)
    monkeypatch.setattr(experiments, "choose", lambda rows: {})
    monkeypatch.setattr(experiments, "load_pair", lambda *names, device: None)
    monkeypatch.setattr(
        experiments, "compare", lambda p, s, methods, settings: {m: {"information": 0.5} for m in methods}
    )
    return adaptation


def test_two_processes_share_a_table(benchmark, monkeypatch):
    """The other one does everything while the first one's first training runs, which does that run for nothing."""
    calls = meanwhile(monkeypatch, experiments, "compare", benchmark.write)
    benchmark.write()
    found = [row["method"] for row in experiments.read_comparison(benchmark.TABLE)]
    assert len(calls) == 3 and found == ["source only", "AdaBN", "target-trained"]


def test_a_run_that_was_cut_short_has_no_row(benchmark, monkeypatch):
    def step(i):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "compare", lambda *args: {"source only": experiments.fit(step, 2)})
    with pytest.raises(KeyboardInterrupt):
        benchmark.write()
    assert experiments.read_comparison(benchmark.TABLE) == []


def test_a_skewed_target_has_the_kept_digits_only(pair):
    kept = experiments.skewed(pair.target_x, pair.target_y, 3)
    assert len(kept) == (pair.target_y < 3).sum() and torch.equal(
        kept[0], pair.target_x[pair.target_y < 3][0]
    )


def test_the_plane_is_that_of_the_largest_variance():
    features = torch.randn(500, 5, generator=generator()) * torch.tensor([1.0, 9.0, 0.5, 4.0, 0.1]) + 3
    points = experiments.plane(features)(features)
    assert points.shape == (500, 2) and points.mean(0).abs().max() < 1e-4
    correlation = torch.corrcoef(torch.cat([points.T, features[:, [1, 3]].T]))[:2, 2:].abs()
    assert correlation.diagonal().min() > 0.99
