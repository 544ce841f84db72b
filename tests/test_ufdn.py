"""Lesson 06 against independent ground truths: closed forms, plain loops, autograd, and what a game must leave alone."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import training
from course_lib.exercise.contract import run
from course_lib.exercise.findings import Wrong
from course_lib.experiments import ufdn as experiments
from course_lib.experiments.pretraining import pretrain_ufdn
from course_lib.files import data_folder
from course_lib.lessons import ufdn as lesson
from course_lib.training import seeded
from solutions import ufdn as solved
from tests.helpers import generator, meanwhile

pytestmark = pytest.mark.usefixtures("on_solutions")


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


# ------------------------------------------------------------------ attach_domain_code


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_the_code_stands_at_every_pixel(b, c, k, height, width):
    x, code = randn(b, c, height, width), randn(b, k, seed=1)
    found = solved.attach_domain_code(x, code)
    assert found.shape == (b, c + k, height, width)
    for i in range(b):
        for j in range(height):
            for w in range(width):
                assert torch.equal(found[i, :, j, w], torch.cat([x[i, :, j, w], code[i]]))
    vector = solved.attach_domain_code(x[..., 0, 0], code)
    assert torch.equal(vector, found[..., 0, 0]) and torch.equal(
        vector, lesson.attach_domain_code_loop(x[..., 0, 0], code)
    )


def test_a_convolution_of_the_attached_map_adds_a_bias_that_the_code_chooses():
    """Away from the border the code's share of a convolution is one number per output channel, w · code."""
    x, code, weight = randn(2, 3, 5, 5), randn(2, 4, seed=1), randn(6, 7, 3, 3, seed=2)
    found = F.conv2d(solved.attach_domain_code(x, code), weight)
    bias = torch.einsum("okij,bk->bo", weight[:, 3:], code)
    assert torch.allclose(found, F.conv2d(x, weight[:, :3]) + bias[:, :, None, None])


# ------------------------------------------------------------------ ufdn_vae_loss


def test_the_vae_loss_is_the_sum_over_everything_divided_by_the_batch():
    x, x_hat = randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1)
    mean, log_var = randn(3, 5, seed=2), randn(3, 5, seed=3)
    want = sum((a - b) ** 2 for a, b in zip(x.flatten().tolist(), x_hat.flatten().tolist(), strict=True))
    for m, v in zip(mean.flatten().tolist(), log_var.flatten().tolist(), strict=True):
        want += 0.7 * 0.5 * (m * m + math.exp(v) - v - 1)
    assert solved.ufdn_vae_loss(x, x_hat, mean, log_var, 0.7).item() == pytest.approx(want / 3)


def test_the_kl_part_is_that_of_torch():
    mean, log_var, x = randn(4, 3), randn(4, 3, seed=1), randn(4, 2)
    q = torch.distributions.Normal(mean, (log_var / 2).exp())
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    assert solved.ufdn_vae_loss(x, x, mean, log_var, 2.0).item() == pytest.approx(2 * kl.item(), rel=1e-5)


# ------------------------------------------------------------------ confusion_loss


@settings(max_examples=40)
@given(st.integers(2, 7), st.integers(1, 6), st.floats(0, 20), st.integers(0, 10**6))
def test_confusion_is_at_least_log_k_and_reaches_it_where_the_critic_is_uniform(k, b, scale, seed):
    logits = scale * randn(b, k, seed=seed)
    loss = solved.confusion_loss(logits).item()
    assert loss >= math.log(k) - 1e-9
    assert solved.confusion_loss(randn(b, 1, seed=seed).expand(b, k)).item() == pytest.approx(math.log(k))
    if (logits.softmax(1) - 1 / k).abs().max() > 0.05:
        assert loss > math.log(k) + 1e-4


@settings(max_examples=20)
@given(st.integers(2, 5), st.integers(0, 10**6))
def test_confusion_is_log_k_plus_the_kl_from_uniform_and_the_mean_over_all_labels(k, seed):
    logits = 3 * randn(6, k, seed=seed)
    log_p = logits.softmax(1).log()
    kl = ((1 / k) * (math.log(1 / k) - log_p)).sum(1).mean()
    found = solved.confusion_loss(logits)
    assert found.item() == pytest.approx(math.log(k) + kl.item())
    each = [F.cross_entropy(logits, torch.full((6,), label)).item() for label in range(k)]
    assert found.item() == pytest.approx(sum(each) / k)
    assert found.item() == pytest.approx(lesson.confusion_loss_loop(logits).item())


def test_the_gradient_of_confusion_pulls_every_probability_towards_one_over_k():
    logits = randn(5, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(solved.confusion_loss(logits), logits)
    assert torch.allclose(gradient, (logits.detach().softmax(1) - 1 / 3) / 5)


# ------------------------------------------------------------------ ufdn_step


class Tiny(nn.Module):
    def __init__(self, pixels=4, d=2, k=3):
        super().__init__()
        self.enc, self.dec = nn.Linear(pixels, 2 * d), nn.Linear(d + k, pixels)

    def encode(self, x):
        mean, log_var = self.enc(x).chunk(2, 1)
        return mean, log_var

    def decode(self, z, code):
        return self.dec(torch.cat([z, code], 1))


def game(seed=0):
    torch.manual_seed(seed)
    model, critic = Tiny(), nn.Linear(2, 3)
    optimisers = torch.optim.SGD(model.parameters(), 0.05), torch.optim.SGD(critic.parameters(), 0.1)
    batch = torch.randn(6, 4), torch.eye(3).repeat(2, 1), torch.randn(6, 2)
    return model, critic, optimisers, batch


def test_a_step_is_the_one_written_out_with_autograd():
    model, critic, optimisers, (x, code, noise) = game()
    want_model, want_critic = copy.deepcopy(model), copy.deepcopy(critic)
    mean, log_var = want_model.encode(x)
    z = mean + (log_var / 2).exp() * noise
    critic_loss = -(want_critic(z.detach()).log_softmax(1) * code).sum(1).mean()
    gradients = torch.autograd.grad(critic_loss, want_critic.parameters())
    with torch.no_grad():
        for p, gradient in zip(want_critic.parameters(), gradients, strict=True):
            p -= 0.1 * gradient
    vae = ((x - want_model.decode(z, code)) ** 2).sum() / 6
    vae = vae + 0.3 * 0.5 * (mean**2 + log_var.exp() - log_var - 1).sum() / 6
    confusion = -want_critic(z).log_softmax(1).mean()
    total = vae + 2.0 * confusion + z.square().mean()
    gradients = torch.autograd.grad(total, want_model.parameters())
    with torch.no_grad():
        for p, gradient in zip(want_model.parameters(), gradients, strict=True):
            p -= 0.05 * gradient

    def task(z):
        return z.square().mean()

    report = solved.ufdn_step(lesson.Players(model, critic, *optimisers), x, code, noise, task, 0.3, 2.0)
    wanted = {"critic loss": critic_loss, "VAE loss": vae, "confusion": confusion}
    assert {k: report[k].item() for k in wanted} == pytest.approx({k: v.item() for k, v in wanted.items()})
    for module, want in ((model, want_model), (critic, want_critic)):
        for p, q in zip(module.parameters(), want.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-6)


def test_what_the_models_turn_leaves_in_the_critic_does_not_reach_the_critics_weights():
    """A huge confusion weight, and a model that does not move: the critic learns as it would alone."""
    model, critic, (_, critic_optimiser), (x, code, noise) = game()
    alone, z = copy.deepcopy(critic), None
    with torch.no_grad():
        mean, log_var = model.encode(x)
        z = mean + (log_var / 2).exp() * noise
    optimiser = torch.optim.SGD(alone.parameters(), 0.1)
    still = torch.optim.SGD(model.parameters(), 0.0)
    players = lesson.Players(model, critic, still, critic_optimiser)
    for _ in range(4):
        solved.ufdn_step(players, x, code, noise, lambda z: z.sum() * 0, 0.3, 1e4)
        optimiser.zero_grad()
        F.cross_entropy(alone(z), code).backward()
        optimiser.step()
    assert torch.allclose(critic.weight, alone.weight, atol=1e-5)


def test_one_gradient_in_each_step_reaches_the_model():
    """That of its own turn: the critic's stops at z."""
    model, critic, optimisers, (x, code, noise) = game()
    reached = []
    for p in model.parameters():
        p.register_hook(reached.append)
    players = lesson.Players(model, critic, *optimisers)
    for _ in range(3):
        solved.ufdn_step(players, x, code, noise, lambda z: z.sum(), 0.3, 2.0)
    assert len(reached) == 3 * len(list(model.parameters()))


def test_the_game_can_be_won_where_one_latent_holds_the_domain():
    """z has the domain in its first pixel and content in its second: confusion empties the first, the task keeps the other."""

    class Linear(Tiny):
        def encode(self, x):
            mean = self.enc(x)[:, :2]
            return mean, torch.full_like(mean, -2.0)

    torch.manual_seed(0)
    model, critic = Linear(pixels=2), nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 3))
    optimisers = [
        torch.optim.Adam(m.parameters(), lr, betas=(0.5, 0.99)) for m, lr in ((model, 2e-3), (critic, 1e-2))
    ]
    players = lesson.Players(model, critic, *optimisers)
    g = generator(1)
    code = torch.eye(3).repeat_interleave(32, 0)

    def batch():
        content = torch.randn(96, generator=g)
        return torch.stack([3 * code.argmax(1) - 3.0, content], 1), content

    def told(z):
        """The share of the variance of z that lies between domains."""
        means = z.unflatten(0, (3, 32)).mean(1)
        return (means.var(0, correction=0).sum() / z.var(0, correction=0).sum()).item()

    x, _ = batch()
    before = told(model.encode(x)[0].detach())
    for _ in range(600):
        x, content = batch()
        noise = torch.randn(96, 2, generator=g)
        task = lambda z, content=content: 10 * (z[:, 0] - content).square().mean()  # noqa: E731
        solved.ufdn_step(players, x, code, noise, task, 0.01, 20.0)
    x, content = batch()
    z = model.encode(x)[0].detach()
    assert told(z) < 0.1 < before
    assert torch.corrcoef(torch.stack([z[:, 0], content]))[0, 1] > 0.9


def test_the_probe_tells_a_dict_from_anything_else():
    with pytest.raises(Wrong) as wrong:
        run(lesson.ufdn_step, lambda *a: torch.zeros(()), lesson.ufdn_step.at_scale(4))
    assert wrong.value.finding.sentence.startswith(
        'Expected a dict with the entries "critic loss", "VAE loss"'
    )


# ------------------------------------------------------------------ translate and interpolate_domains


def test_translating_with_identities_gives_every_pair_of_image_and_code():
    """encode = the flat image, decode = latent and code side by side: nothing but bookkeeping is left."""
    x = randn(3, 1, 1, 2).float()
    found = solved.translate(
        lambda x: (x.flatten(1), torch.zeros_like(x.flatten(1))),
        lambda z, code: torch.cat([z, code], 1),
        x,
        4,
    )
    assert found.shape == (3, 4, 6)
    for b in range(3):
        for k in range(4):
            want = torch.cat([x[b].flatten(), torch.eye(4)[k]])
            assert torch.equal(found[b, k], want)


def test_both_ends_of_an_interpolation_are_exact_and_the_way_is_straight_in_the_code():
    z = randn(3, 2).float()
    start, end = torch.tensor([0.1, 0.2, 0.7]), torch.tensor([0.7, 0.3, 0.0])
    alphas = torch.linspace(0, 1, 7)

    def decode(z, code):
        return torch.cat([z, code], 1)

    found = solved.interpolate_domains(decode, z, start, end, alphas)
    assert torch.equal(found[:, 0], decode(z, start.expand(3, -1)))
    assert torch.equal(found[:, -1], decode(z, end.expand(3, -1)))
    steps = found[:, 1:, 2:] - found[:, :-1, 2:]
    assert torch.allclose(steps, (end - start).expand_as(steps) / 6, atol=1e-6)
    assert torch.equal(found[:, :, :2], z[:, None].expand(-1, 7, -1))


# ------------------------------------------------------------------ gradient_penalty


@settings(max_examples=20)
@given(st.integers(1, 5), st.floats(0.1, 4), st.integers(0, 10**6))
def test_the_penalty_of_a_linear_critic_is_its_slope_wherever_it_is_measured(b, norm, seed):
    weight = randn(6, seed=seed)
    weight = (norm * weight / weight.norm()).requires_grad_()
    real, fake, mix = randn(b, 2, 3, seed=seed), randn(b, 2, 3, seed=seed + 1), torch.rand(b).double()
    penalty = solved.gradient_penalty(lambda x: x.flatten(1) @ weight, real, fake, mix)
    assert penalty.item() == pytest.approx((norm - 1) ** 2, abs=1e-9)
    (gradient,) = torch.autograd.grad(penalty, weight)
    assert torch.allclose(gradient, 2 * (norm - 1) * weight.detach() / norm)


def test_the_penalty_of_a_quadratic_critic_is_known_in_closed_form():
    """critic(x) = ½ a ‖x‖² has slope a ‖x‖: mean (a ‖x̃‖ − 1)², with derivative mean 2 (a ‖x̃‖ − 1) ‖x̃‖ in a."""
    a = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    real, fake, mix = randn(4, 3), randn(4, 3, seed=1), torch.rand(4, generator=generator()).double()
    penalty = solved.gradient_penalty(lambda x: 0.5 * a * x.square().sum(1), real, fake, mix)
    norms = (mix[:, None] * real + (1 - mix[:, None]) * fake).norm(dim=1)
    assert penalty.item() == pytest.approx((0.8 * norms - 1).square().mean().item())
    (gradient,) = torch.autograd.grad(penalty, a)
    assert gradient.item() == pytest.approx((2 * (0.8 * norms - 1) * norms).mean().item())


def test_the_penalty_reaches_neither_real_nor_fake():
    weight = randn(3).requires_grad_()
    real, fake = randn(4, 3).requires_grad_(), randn(4, 3, seed=1).requires_grad_()
    solved.gradient_penalty(lambda x: (x @ weight).tanh(), real, fake, torch.rand(4).double()).backward()
    assert real.grad is None and fake.grad is None and weight.grad.abs().sum() > 0


# ------------------------------------------------------------------ what is built on them


@pytest.fixture(scope="module")
def domains():
    return experiments.load_domains(n=200)


def test_the_domains_have_one_size_and_mnist_m_shows_other_digits_than_mnist(domains):
    assert [x.shape for x, _ in domains] == [(200, 3, 16, 16)] * 3
    assert all(x.min() >= 0 and x.max() <= 1 and y.shape == (200,) for x, y in domains)
    assert not torch.equal(domains[0][1], domains[1][1])


def test_more_looks_of_mnist_m_are_the_same_digits_on_other_backgrounds():
    ((x, y),) = experiments.load_domains(("mnist_m",), n=50, size=32, looks=3)
    ((first, digit),) = experiments.load_domains(("mnist_m",), n=50, size=32)
    assert x.shape == (150, 3, 32, 32) and torch.equal(x[:50], first) and torch.equal(y, digit.repeat(3))
    assert not torch.equal(x[:50], x[50:100]) and not torch.equal(x[50:100], x[100:])


def test_a_distortion_of_no_strength_changes_nothing_and_a_plain_image_stays_plain():
    x = torch.rand(4, 3, 16, 16, generator=generator())
    assert torch.allclose(experiments.distort(x, 0.0, generator()), x, atol=1e-5)
    plain = torch.rand(5, 3, 1, 1, generator=generator()).expand(-1, -1, 16, 16)
    assert torch.allclose(experiments.distort(plain, 1.0, generator()), plain, atol=1e-5)
    found = experiments.distort(x, 1.0, generator())
    assert torch.equal(found, experiments.distort(x, 1.0, generator())) and not torch.allclose(
        found, x, atol=0.1
    )


def test_a_distortion_moves_a_point_by_no_more_than_it_says():
    """A spot a quarter of the width off the middle; its distance there, over e^.3, and so on."""
    spot = torch.zeros(200, 3, 32, 32)
    spot[:, :, 15:17, 23:25] = 1.0  # 8 pixels to the right
    found = experiments.distort(spot, 1.0, generator())[:, 0]
    pixel = torch.arange(32) - 15.5
    mass = found.sum((1, 2))
    across = (found.sum(1) * pixel).sum(1) / mass
    down = (found.sum(2) * pixel).sum(1) / mass
    assert (mass > 1).all() and across.std() > 1 and down.std() > 1
    assert (
        across.min() > 8 * math.exp(-0.3) * math.cos(math.pi / 12) - 6
        and across.max() < 8 * math.exp(0.3) + 6
    )
    assert down.abs().max() < 10


def test_translations_into_labelled_domains_are_read(monkeypatch):
    monkeypatch.setattr(experiments, "BATCH", 2)
    shown, digit = torch.rand(6, 3, 4, 4, generator=generator()), torch.arange(6)
    trust = torch.tensor([1.0, 1, 1, 1, 0.5, 0])
    readers = [lambda x, k=k: (k + 1) * x.flatten(1)[:, :10] for k in range(2)]

    def loss(start, end):
        rows = slice(2 * start, 2 * start + 2)
        each = F.cross_entropy(readers[end](shown[rows]), digit[rows], reduction="none")
        return (trust[rows] * each).mean()

    for shift, pairs in ((1, ((0, 1), (2, 0))), (2, ((1, 0), (2, 1)))):
        want = sum(loss(*pair) for pair in pairs)
        assert torch.allclose(experiments.reading_loss(readers, shown, digit, trust, shift), want)
        known = experiments.reading_loss(readers, shown, digit[:4], trust[:4], shift)
        assert torch.allclose(known, loss(*pairs[0]))


def test_images_without_labels_are_numbered(domains):
    drawn, votes = experiments.numbered(domains, 1)
    assert drawn[0] is domains[0] and torch.equal(votes, torch.full_like(votes, 0.1))
    assert torch.equal(torch.cat([y for _, y in drawn[1:]]), torch.arange(len(votes)))
    assert all(a is b for (a, _), (b, _) in zip(drawn, domains, strict=True))
    assert len(experiments.numbered(domains, 3)[1]) == 0


def test_a_guess_is_trusted_where_many_votes_are_sure():
    logits = 20 * torch.eye(10)[[3, 7]]
    votes, rows = torch.full((9000, 10), 0.1), torch.tensor([4, 9])
    for visits in range(1, 30):
        digit, sure = experiments.guess(logits, votes, rows)
        once = 1 - 0.9 * (1 - experiments.NEW) ** visits  # a vote's share for its digit
        assert digit.tolist() == [3, 7] and votes[4, 3].item() == pytest.approx(once, abs=1e-5)
        assert sure.tolist() == [visits >= 15] * 2
    assert torch.equal(votes[5], torch.full((10,), 0.1))  # nobody voted
    digit, sure = experiments.guess(logits.flip(0), votes, rows)  # a new mind, once
    assert digit.tolist() == [3, 7] and sure.tolist() == [1, 1]
    assert experiments.guess(logits, torch.full((9000, 10), 0.1), rows)[1].tolist() == [0, 0]


def test_no_digit_is_guessed_too_often():
    logits = torch.tensor([[0.0] * 3 + [5.0] + [0.0] * 3 + [4.9] + [0.0] * 2])
    even, often = torch.full((50, 10), 0.1), torch.full((50, 10), 0.05)
    often[:, 3] = 0.55
    for votes in (even, often):
        votes[0] = 0.1
    assert experiments.guess(logits, even, torch.tensor([0]))[0] == 3
    assert experiments.guess(logits, often, torch.tensor([0]))[0] == 7


def test_a_batch_has_the_domains_one_after_the_other(domains):
    marked = [(torch.full_like(x, i / 4), y) for i, (x, y) in enumerate(domains)]
    x, y = experiments.draw(marked, generator())
    assert x.shape == (3 * experiments.BATCH, 3, 16, 16) and y.shape == (3 * experiments.BATCH,)
    assert torch.equal(x[:, 0, 0, 0], torch.tensor([0, 0.25, 0.5]).repeat_interleave(experiments.BATCH))


def weights(trained):
    return torch.cat([p.flatten() for p in trained.model.parameters()])


def every_guess_counts(monkeypatch):
    """And readers are hardly trained."""
    for name, value in (("SURE", 0.0), ("READER_STEPS", 4)):
        monkeypatch.setattr(experiments, name, value)


SHORT = experiments.Recipe(steps=4, width=4, own_from=0.0, read_from=0.0)
EVERYTHING = dataclasses.replace(SHORT, distort=1.0, own=100.0, read=100.0, keep=100.0, image=2.0)


@pytest.mark.parametrize("recipe", [SHORT, EVERYTHING], ids=["game", "everything"])
def test_no_label_is_used_but_those_of_the_labelled_domains(domains, recipe, monkeypatch):
    """Shuffling those of the last domain changes not one weight; shuffling those of any other does."""
    every_guess_counts(monkeypatch)
    found = weights(experiments.train(domains, 0, recipe))
    for i in range(len(domains)):
        changed = [(x, y.flip(0)) if i == j else (x, y) for j, (x, y) in enumerate(domains)]
        same = torch.equal(weights(experiments.train(changed, 0, recipe)), found)
        assert same == (i >= recipe.labelled)


def test_each_part_of_a_recipe_changes_the_training(domains, monkeypatch):
    every_guess_counts(monkeypatch)
    changes = [
        {"kl": 0.1},
        {"confusion": 0.0},
        {"distort": 1.0},
        {"read": 100.0},
        {"read": 100.0, "read_from": 0.6},
        {"own": 100.0},
        {"own": 100.0, "own_from": 0.6},
        {"lr": 1e-3},
        {"keep": 100.0},
        {"image": 2.0},
        {"target": "inverted"},
        {"labelled": 1},
    ]
    recipes = [SHORT, *(dataclasses.replace(SHORT, **change) for change in changes)]
    found = [weights(experiments.train(domains, 0, recipe)) for recipe in recipes]
    for a, b in itertools.combinations(found, 2):
        assert not torch.equal(a, b)


def test_for_two_domains_the_inverted_target_is_the_other_domain(domains, monkeypatch):
    """With a critic that is sure and right the loss is its loss on swapped labels: the total that the model descends."""
    seen = []

    def step(players, x, code, noise, task_loss, kl, confusion):
        z = torch.zeros(len(x), experiments.LATENTS)
        logits = 5 * code
        monkeypatch.setattr(players.critic, "forward", lambda z: logits)
        seen.append((task_loss(z).item(), confusion, F.cross_entropy(logits, code.flip(1)).item()))
        players.model_optimiser.step()
        return {"VAE loss": torch.zeros(())}

    monkeypatch.setattr(experiments, "ufdn_step", step)
    base = experiments.Recipe(steps=1, width=4, labelled=1)
    for target in ("uniform", "inverted"):
        experiments.train(domains[:2], 0, dataclasses.replace(base, target=target))
    (task, weight, _), (total, none, swapped) = seen
    assert weight == base.confusion and none == 0.0
    assert total - task == pytest.approx(base.confusion * swapped, rel=1e-4)


def test_training_learns_and_reports(domains):
    trained = experiments.train(domains, 0, experiments.Recipe(steps=60))
    assert set(trained.history) == set(lesson.STEP_REPORT)
    assert trained.history["VAE loss"][-10:].mean() < 0.6 * trained.history["VAE loss"][:3].mean()
    assert not any(m.training for m in trained.model.modules())
    assert len(experiments.target_accuracies(trained, domains)) == 3


def test_the_supervised_model_has_the_same_encoder_and_learns(domains):
    recipe = experiments.Recipe(steps=60)
    trained = experiments.train_supervised(domains, 0, recipe)
    other = experiments.UFDN(3, recipe.width)
    assert [p.shape for p in trained.model.encoder.parameters()] == [
        p.shape for p in other.encoder.parameters()
    ]
    assert min(experiments.target_accuracies(trained, domains)) > 0.6  # images that it was trained on


def test_the_image_critic_learns_to_tell_real_images_and_domains():
    """Real images are bright on the left or on the right, by domain; fake ones are grey."""
    g = generator()
    code = torch.eye(2).repeat_interleave(16, 0)
    with seeded(0):
        critic = experiments.ImageCritic(2)
    optimiser = torch.optim.Adam(critic.parameters(), 2e-3)

    def batch():
        side = (torch.arange(16) < 8).float().expand(16, 3, 16, 16)
        real = torch.cat([side, 1 - side]) * torch.rand(32, 1, 1, 1, generator=g)
        return real, torch.full_like(real, 0.5) * torch.rand(32, 1, 1, 1, generator=g)

    for _ in range(60):
        real, fake = batch()
        experiments.update_image_critic(critic, optimiser, real, fake, code, g)
    real, fake = batch()
    assert critic(real).mean() > critic(fake).mean() + 0.5
    assert (critic.domain(critic.body(real)).argmax(1) == code.argmax(1)).float().mean() > 0.9


def test_digits_are_kept_where_decoding_gives_the_image_back():
    """A model that paints the code into the corner: a reader of the rest reads all; one of the corner reads the domain."""

    class Identity(nn.Module):
        def encode(self, x):
            return x.flatten(1), torch.zeros(len(x), 768)

        def decode(self, z, code):
            return torch.cat([code, z[:, code.shape[1] :]], dim=1).unflatten(1, (3, 16, 16))

    digit = torch.arange(10).repeat(2)
    x = F.one_hot(digit, 768).float().roll(100, 1).unflatten(1, (3, 16, 16))
    readers = [lambda x: x.flatten(1)[:, 100:110], lambda x: x.flatten(1)[:, :10]]
    found = experiments.kept_digits(Identity(), [(x, digit)] * 2, readers)
    assert torch.allclose(found, torch.tensor([[1.0, 0.1], [1.0, 0.1]]))


def test_a_probe_finds_a_domain_that_is_there_and_none_that_is_not():
    """A model whose latent is the mean brightness: three levels are told apart, three draws of one are not."""

    class Brightness(nn.Module):
        def encode(self, x):
            mean = x.mean((1, 2, 3))[:, None].expand(-1, experiments.LATENTS)
            return mean, torch.full_like(mean, -20.0)

    g = generator()
    same = [(torch.rand(300, 3, 16, 16, generator=g), torch.zeros(300)) for _ in range(3)]
    other = [(x * scale, y) for (x, y), scale in zip(same, (0.2, 0.6, 1.0), strict=True)]
    assert experiments.domain_probe(Brightness(), other) > 0.95
    assert abs(experiments.domain_probe(Brightness(), same) - 1 / 3) < 0.1


def test_the_measured_slope_of_a_linear_critic_is_its_norm():
    weight = randn(768).float()
    images = torch.rand(2, 5, 3, 16, 16, generator=generator())
    found = experiments.slope(lambda x: x.flatten(1) @ weight, *images, torch.rand(5))
    assert found.item() == pytest.approx(weight.norm().item(), rel=1e-5)


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("code_at", ["maps", "z"])
def test_the_networks_and_their_sizes(code_at, size):
    x = torch.rand(2, 3, size, size)
    model = experiments.UFDN(4, code_at=code_at, size=size).eval()
    mean, log_var = model.encode(x)
    assert mean.shape == log_var.shape == (2, experiments.LATENTS)
    images = model.decode(mean, torch.eye(4)[:2])
    assert images.shape == x.shape and images.min() >= 0 and images.max() <= 1
    assert not torch.equal(images, model.decode(mean, torch.eye(4)[2:]))  # the code changes something
    for make in (experiments.make_reader, experiments.make_training_reader):
        assert make(size)(x).shape == (2, experiments.CLASSES)
    critic = experiments.ImageCritic(4, size)
    assert critic(x).shape == (2,) and critic.domain(critic.body(x)).shape == (2, 4)


@pytest.mark.parametrize("wrong", [{"target": "unifrom"}, {"code_at": "map"}])
def test_a_recipe_is_checked(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected one of"):
        experiments.Recipe(**wrong)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match=r"expected one of source only, .* got 'ufdn'"):
        experiments.train_method("ufdn", [], 0, experiments.LIVE)


# ------------------------------------------------------------------ the checkpoint


def test_the_checkpoint_is_worth_what_its_card_says():
    """The accuracies exactly, but for rounding on other machines; the probe is trained afresh, on fewer images."""
    trained, readers, card = experiments.load()
    assert card["method"] == "UFDN" and card["steps"] == experiments.LARGE.steps
    settings = dataclasses.asdict(experiments.LARGE) | {"seed": experiments.SEED}
    assert card["settings"].items() >= {k: v for k, v in settings.items() if k != "steps"}.items()
    assert not any(p.requires_grad for p in trained.model.parameters())
    tests = experiments.load_domains(split="test", n=2000, size=experiments.LARGE.size)
    found = experiments.target_accuracies(trained, tests)
    for name, value in zip(experiments.DOMAINS, found, strict=True):
        assert value == pytest.approx(card["metrics"][f"accuracy on {name}"], abs=0.005)
    for name, reader, test in zip(experiments.DOMAINS, readers, tests, strict=True):
        assert experiments.accuracy(reader, *test) > 0.9, (
            name
        )  # on real images: else it could judge no translation
    kept = experiments.kept_digits(trained.model, tests, readers)
    for i, start in enumerate(experiments.DOMAINS):
        for k, end in enumerate(experiments.DOMAINS):
            assert kept[i, k] == pytest.approx(card["metrics"][f"kept, {start} to {end}"], abs=0.005)
    probe = experiments.domain_probe(
        trained.model, experiments.load_domains(n=2000, size=experiments.LARGE.size)
    )
    assert probe == pytest.approx(card["metrics"]["domain probe on z (chance 0.333)"], abs=0.05)
    assert (data_folder() / "checkpoints/ufdn.safetensors").stat().st_size < 3.5e6


def small(monkeypatch):
    for name, value in (("HIDDEN", 8), ("IMAGES", 100), ("READER_STEPS", 2)):
        monkeypatch.setattr(experiments, name, value)
    monkeypatch.setattr(experiments, "LARGE", dataclasses.replace(experiments.LARGE, width=4, looks=1))


def test_a_checkpoint_is_written_and_read_again(tmp_path, monkeypatch):
    small(monkeypatch)
    pretrain_ufdn(tmp_path, steps=2)
    trained, readers, card = experiments.load(folder=tmp_path)
    assert card["steps"] == 2 and trained.model.encoder[0].out_channels == 4 and len(readers) == 3
    with pytest.raises(FileNotFoundError, match="course pretrain ufdn"):
        experiments.load(folder=tmp_path / "nowhere")


def test_no_checkpoint_has_a_reader_that_was_cut_short(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    small(monkeypatch)
    monkeypatch.setattr(experiments, "descend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain_ufdn(tmp_path, steps=2)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ the table


def untrained_readers(monkeypatch):
    readers = [experiments.make_reader(experiments.LARGE.size).eval() for _ in range(3)]
    monkeypatch.setattr(experiments, "load", lambda device: (None, readers, {}))


def test_two_processes_share_a_table(tmp_path, monkeypatch):
    """The other one does everything while the first one's first training runs, which does that run for nothing."""
    small(monkeypatch)
    untrained_readers(monkeypatch)
    monkeypatch.setattr(experiments, "RUNS", (("two", "source only"), ("three", "source only")))

    def work():
        experiments.write_table(tmp_path / "ufdn.csv", (0,), steps=2)

    calls = meanwhile(monkeypatch, experiments, "train", work)
    work()
    assert len(calls) == 3 and len(experiments.read_table(tmp_path / "ufdn.csv")) == 2


def test_a_run_whose_probe_was_cut_short_has_no_row(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    small(monkeypatch)
    untrained_readers(monkeypatch)
    monkeypatch.setattr(training, "descend", interrupted)  # of `fit_classifier`
    with pytest.raises(KeyboardInterrupt):
        experiments.write_table(tmp_path / "ufdn.csv", (0,), steps=2)
    assert not list(tmp_path.iterdir())


def test_a_table_is_written_run_by_run_and_goes_on(tmp_path, monkeypatch):
    small(monkeypatch)
    untrained_readers(monkeypatch)
    runs = (("two", "both"), ("three", "digits kept, image critic"), ("generalisation", "supervised"))
    monkeypatch.setattr(experiments, "RUNS", runs)
    trained, train = [], experiments.train
    monkeypatch.setattr(experiments, "train", lambda *a, **k: trained.append(a[2]) or train(*a, **k))
    table = tmp_path / "ufdn.csv"
    experiments.write_table(table, (0,), steps=2)
    rows = experiments.read_table(table)
    assert [(row["domains"], row["method"]) for row in rows] == [*runs]
    assert [recipe.labelled for recipe in trained] == [1, 2]
    assert (trained[0].target, trained[0].code_at, trained[1].image) == ("inverted", "z", 2.0)
    assert all(0 <= row["domain probe"] <= 1 and 0 <= row["accuracy on optdigits"] <= 1 for row in rows)
    assert rows[0]["least kept"] == min(rows[0]["kept to"], rows[0]["kept from"])  # there are two ways
    assert rows[1]["least kept"] <= min(rows[1]["kept to"], rows[1]["kept from"]) and "kept to" not in rows[2]
    before = table.read_text()
    experiments.write_table(table, (0,), steps=2)
    assert table.read_text() == before and len(trained) == 2


def test_a_group_has_its_first_seeds_alone(tmp_path, monkeypatch):
    small(monkeypatch)
    runs = (("two", "source only"), ("three", "source only"))
    monkeypatch.setattr(experiments, "RUNS", runs)
    two = dataclasses.replace(experiments.GROUPS["two"], seeds=1)
    monkeypatch.setattr(experiments, "GROUPS", experiments.GROUPS | {"two": two})
    untrained_readers(monkeypatch)
    experiments.write_table(tmp_path / "ufdn.csv", range(2), steps=1)
    rows = experiments.read_table(tmp_path / "ufdn.csv")
    assert [(row["domains"], row["seed"]) for row in rows] == [("two", 0), ("three", 0), ("three", 1)]


def test_the_shipped_table_has_every_run():
    groups = experiments.GROUPS
    found = {
        (row["domains"], row["method"], row["seed"])
        for row in experiments.read_table()
        if row["steps"] == groups[row["domains"]].recipe.steps
    }
    assert found == {
        (name, method, i) for name, method in experiments.RUNS for i in range(groups[name].seeds)
    }


def test_codes_are_sampled_with_noise_from_a_generator_on_another_device():
    model = experiments.UFDN(2, 8).to("meta").eval()
    z = experiments.encode(model, torch.rand(3, 3, 16, 16, device="meta"), generator())
    assert z.is_meta and z.shape == (3, experiments.LATENTS)
