"""The training loop and the VAE's step: histories, interruption, divergence, seeds, and no waiting for the device."""

from __future__ import annotations

import contextlib
import mmap
import sys

import pytest
import torch
from torch import nn

from course_lib import training
from course_lib.datasets.sprites import Sprites
from course_lib.experiments.elbo import forward, train_vae
from course_lib.lessons import elbo
from course_lib.models import VAE
from course_lib.training import (
    check_images,
    descend,
    fit,
    fit_classifier,
    keep_freed_memory,
    pick_device,
    seeded,
)
from tests.helpers import generator

pytestmark = pytest.mark.usefixtures("on_solutions")


# ------------------------------------------------------------------ a step, a seed, a classifier


@pytest.mark.parametrize("kept", [False, True])
def test_a_step_that_reports_its_loss_is_recorded_unless_a_graph_is_kept(kept, monkeypatch):
    """Without CUDA, whose parts are replaced: the graph of a reported loss is the step's own, and no reason to wait."""

    def prepare(self, optimiser, *_):
        self.parameters.update(p for group in optimiser.param_groups for p in group["params"])

    monkeypatch.setattr(training, "waits", lambda: contextlib.nullcontext([]))
    monkeypatch.setattr(training, "_aside", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(training._Recorder, "_prepare", prepare)
    weight, g = torch.zeros(5, requires_grad=True), generator()
    optimiser = torch.optim.Adam([weight], lr=0.1)
    before = weight.square().sum() if kept else None

    def step(i):
        x = torch.randn(8, 5, generator=g)
        loss = (x @ weight - x.sum(1)).square().mean()
        descend(optimiser, loss)
        return {"loss": loss}

    recorder = training._Recorder(step, g, scheduled=False)
    reports = [recorder(i) for i in range(recorder.ORDINARY)]
    assert recorder.recordable != kept and not reports[-1]["loss"].requires_grad
    del before


def test_products_are_coarse_inside_alone():
    before = torch.get_float32_matmul_precision()
    with training.coarse_products():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_a_descent_clears_the_gradients_that_were_there():
    weight = torch.tensor([3.0], requires_grad=True)
    weight.grad = torch.tensor([100.0])
    descend(torch.optim.SGD([weight], lr=0.25), weight.square().sum())
    assert weight.item() == 3 - 0.25 * 6


def test_seeded_repeats_inside_and_changes_nothing_outside():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(4)
        with pytest.raises(ZeroDivisionError), seeded(5):
            torch.rand(2)
            raise ZeroDivisionError
        second = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(3):
        assert torch.equal(torch.rand(8), torch.cat([first, second]))
    with seeded(4):
        assert not torch.equal(torch.rand(4), first)


def test_noise_is_drawn_where_the_generator_is_and_moved():
    x = torch.zeros(3, 2, dtype=torch.float64)
    assert torch.equal(training.normal_like(x, generator(5)), torch.randn(3, 2, generator=generator(5)))
    assert training.normal_like(x.to("meta"), generator()).is_meta


def test_a_fresh_classifier_learns_ends_in_eval_mode_and_leaves_x_alone():
    g = generator()
    x, y = torch.randn(300, 2, 3, generator=g, requires_grad=True), torch.arange(300) % 3
    shifted = x + 2 * torch.eye(3)[y][:, None]
    classifier = fit_classifier(shifted, y, 3, hidden=16, steps=60)
    assert (classifier(shifted).argmax(1) == y).float().mean() > 0.9
    assert not classifier.training and x.grad is None
    same = fit_classifier(shifted, y, 3, hidden=16, steps=60)
    other = fit_classifier(shifted, y, 3, hidden=16, steps=60, seed=1)
    assert torch.equal(classifier(shifted), same(shifted)) and not torch.equal(same(shifted), other(shifted))


# ------------------------------------------------------------------ fit


def test_the_history_is_what_the_steps_reported():
    history = fit(lambda i: {"loss": torch.tensor(i / 7), "count": torch.tensor(2 * i)}, 5)
    assert list(history) == ["loss", "count"]
    assert torch.equal(history["loss"], torch.arange(5) / 7)
    assert (
        torch.equal(history["count"], torch.tensor([0.0, 2, 4, 6, 8]))
        and history["count"].dtype == torch.float32
    )


def test_the_history_keeps_no_graph():
    weight = torch.ones((), requires_grad=True)
    assert not fit(lambda i: {"loss": weight * i}, 3)["loss"].requires_grad


@pytest.mark.parametrize("stop", [0, 1, 4])
def test_an_interrupt_keeps_what_was_trained(stop):
    weight = torch.zeros(())

    def step(i):
        if i == stop:
            raise KeyboardInterrupt
        weight.add_(1)
        return {"weight": weight}

    history = fit(step, 10)
    assert weight == stop
    assert [values.tolist() for values in history.values()] == ([list(range(1, stop + 1))] if stop else [])


def test_whole_trainings_end_all_where_they_are_interrupted():
    def step(i):
        raise KeyboardInterrupt

    @training.whole_trainings()
    def decorated():
        return fit(step, 3)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            decorated()
    assert fit(step, 3) == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("refresh", [0.0, 1e9])  # a look after every step, or only at the end
def test_divergence_is_reported_with_its_first_step(monkeypatch, value, refresh):
    monkeypatch.setattr(training, "REFRESH", refresh)
    calls = []

    def step(i):
        calls.append(i)
        return {"fine": torch.tensor(1.0), "loss": torch.tensor(value if i >= 3 else 1.0)}

    with pytest.raises(FloatingPointError, match=f"loss is {value} at step 3: the training has diverged"):
        fit(step, 6)
    assert len(calls) == (4 if refresh == 0 else 6)


def test_other_errors_are_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        fit(lambda i: {"loss": torch.tensor(1 / (2 - i))}, 5)


@pytest.mark.parametrize(("refresh", "steps_before_reading"), [(1e9, 50), (0.0, 1)])
def test_no_value_is_read_between_two_looks(monkeypatch, refresh, steps_before_reading):
    """The values of `meta` tensors cannot be read: training reaches its first look, and fails there."""
    monkeypatch.setattr(training, "REFRESH", refresh)
    calls = []

    def step(i):
        calls.append(i)
        return {"loss": torch.empty((), device="meta")}

    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        fit(step, 50)
    assert len(calls) == steps_before_reading


@pytest.mark.parametrize(
    ("step", "steps", "error", "words"),
    [
        (lambda i: {"a": torch.ones(())}, 0, ValueError, "steps: expected a positive integer, got 0"),
        (lambda i: {"a": torch.ones(())}, 3.0, ValueError, "steps: expected a positive integer, got 3.0"),
        (lambda i: torch.ones(()), 3, TypeError, "step: expected a dict of scalar tensors, got tensor"),
        (lambda i: {}, 3, TypeError, "step: expected a dict of scalar tensors, got {}"),
        (lambda i: {"a": 1.0}, 3, ValueError, "step: 'a': expected a scalar tensor, got float"),
        (lambda i: {"a": torch.ones(2)}, 3, ValueError, r"got shape \(2,\); take the mean over the batch"),
        (lambda i: {"ab"[i]: torch.ones(())}, 2, ValueError, r"expected the names \['a'\] at every step, got \['b'\]"),
    ],
)  # fmt: skip
def test_wrong_steps_are_refused_in_words(step, steps, error, words):
    with pytest.raises(error, match=words):
        fit(step, steps)


# ------------------------------------------------------------------ train_vae


def train(steps: int = 4, seed: int = 0, **options) -> tuple[VAE, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    vae = VAE(4, 32)
    sample = options.pop("sample", Sprites(32).sample)
    return vae, train_vae(
        vae, sample, steps, batch=options.pop("batch", 16), generator=generator(seed), **options
    )


def state(vae: VAE) -> torch.Tensor:
    return nn.utils.parameters_to_vector(vae.parameters()).detach()


def test_a_seed_decides_everything():
    (first, losses), (second, again), (other, _) = train(), train(), train(seed=1)
    assert torch.equal(state(first), state(second)) and torch.equal(losses["loss"], again["loss"])
    assert not torch.equal(state(first), state(other))


def test_it_does_not_touch_the_global_generator():
    vae = VAE(4, 32)
    before = torch.get_rng_state()
    train_vae(vae, Sprites(32).sample, 2, batch=4, generator=generator())
    assert torch.equal(before, torch.get_rng_state())


def test_it_learns():
    losses = train(steps=60)[1]["loss"]
    assert losses[-10:].mean() < 0.3 * losses[0]


def test_the_first_steps_are_those_of_a_plain_loop():
    vae, history = train(steps=3, lr=2e-3)
    torch.manual_seed(0)
    plain, g, sprites = VAE(4, 32), generator(), Sprites(32)
    optimiser = torch.optim.Adam(plain.parameters(), lr=2e-3)
    for i in range(3):
        x, _ = sprites.sample(16, g)
        mean, log_var = plain.encode(x)
        z = mean + (log_var / 2).exp() * torch.randn(16, 4, generator=g)
        p = plain.decode(z).sigmoid()
        likelihood = (x * p.log() + (1 - x) * (1 - p).log()).sum((1, 2, 3))
        kl = 0.5 * (mean**2 + log_var.exp() - log_var - 1).sum(1)
        loss = -(likelihood - kl).mean()
        assert loss.item() == pytest.approx(history["loss"][i].item(), rel=1e-4)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (state(vae) - state(plain)).abs().max() < 1e-4


def test_a_loss_of_ones_own_gets_the_code_that_was_decoded():
    seen = []

    def loss(x, logits, mean, log_var, z):
        seen.append((x, logits, z))
        return -elbo.elbo(x, logits, mean, log_var) + 3 * z.square().mean()

    _, history = train(steps=1, loss=loss)
    (x, logits, z), plain = seen[0], train(steps=1)[1]
    assert x.shape == logits.shape == (16, 1, 32, 32) and z.shape == (16, 4)
    torch.testing.assert_close(history["loss"], plain["loss"] + 3 * z.detach().square().mean())


def test_forward_decodes_the_sample_that_it_returns():
    vae, x = VAE(4, 32), torch.rand(6, 1, 32, 32)
    same, logits, mean, log_var, z = forward(vae, x, generator(3))
    noise = torch.randn(6, 4, generator=generator(3))
    assert same is x and torch.equal(logits, vae.decode(z))
    torch.testing.assert_close(z, vae.encode(x)[0] + vae.encode(x)[1].exp().sqrt() * noise)
    assert torch.equal(mean, vae.encode(x)[0]) and torch.equal(log_var, vae.encode(x)[1])


def test_a_sample_may_be_images_alone():
    vae, history = train(sample=lambda n, g: Sprites(32).sample(n, g)[0])
    wanted, same = train()
    assert torch.equal(state(vae), state(wanted)) and torch.equal(history["loss"], same["loss"])


def test_an_interrupt_keeps_the_trained_model():
    sprites, calls = Sprites(32), []

    def sample(n, g):
        calls.append(n)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return sprites.sample(n, g)

    vae, history = train(steps=100, sample=sample)
    assert len(history["loss"]) == 3 and torch.equal(state(vae), state(train(steps=3)[0]))


def test_a_training_step_waits_for_no_value(monkeypatch):
    """Whole steps on `meta`, all but the check of the first images, which says that it waits."""
    monkeypatch.setattr("course_lib.experiments.elbo.check_images", lambda x, shape: None)
    monkeypatch.setattr(training, "REFRESH", float("inf"))  # no look at the loss, however slow the machine
    # Adam's fused update is one kernel on a GPU, and has none for `meta`.
    monkeypatch.setattr(torch.optim, "Adam", lambda p, lr, fused: torch.optim.SGD(p, lr))
    vae, steps = VAE(4, 32).to("meta"), []
    sprites = Sprites(32, device="meta")

    def sample(n, g):
        steps.append(n)
        return sprites.sample(n, g)

    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):  # the end reads the history
        train_vae(vae, sample, 5, batch=8, generator=generator())
    assert len(steps) == 5


def images(low: float = 0.0, high: float = 1.0):
    return lambda n, g: low + (high - low) * torch.rand(n, 1, 32, 32, generator=g)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"steps": 0}, ValueError, "steps: expected a positive integer"),
        ({"batch": 0}, ValueError, "batch: expected a positive integer, got 0"),
        ({"lr": 0}, ValueError, "lr: expected a positive learning rate, got 0"),
        ({"lr": float("nan")}, ValueError, "lr: expected a positive learning rate, got nan"),
        ({"sample": images(0, 255)}, ValueError, r"images: expected values in \[0, 1\], got 0"),
        ({"sample": images(0, float("nan"))}, ValueError, r"got nan to nan"),
        ({"sample": lambda n, g: torch.rand(n, 1, 64, 64)}, ValueError, r"expects \(B, 1, 32, 32\), got"),
        ({"sample": lambda n, g: torch.zeros(n, 1, 32, 32).byte()}, TypeError, "got torch.uint8; divide 8-bit"),
        ({"sample": lambda n, g: None}, TypeError, "images: expected a floating torch.Tensor, got NoneType"),
        ({"sample": images(0, 0), "lr": 1e30}, FloatingPointError, "loss is .* at step [1-3]"),
        ({"loss": lambda x, logits, mean, log_var, z: mean}, ValueError, r"loss: .* got shape \(16, 4\); take the mean"),
        ({"loss": lambda x, logits, mean, log_var, z: 1.0}, ValueError, "loss: expected a scalar tensor, got float"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected(options, error, words):
    with pytest.raises(error, match=words):
        train(**options)


def test_a_seed_in_place_of_the_generator_is_refused():
    with pytest.raises(TypeError, match=r"generator: expected torch.Generator\(\), got int"):
        train_vae(VAE(4, 32), Sprites(32).sample, 1, batch=2, generator=0)


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="got \\(0, 1, 32, 32\\)"):
        check_images(torch.rand(0, 1, 32, 32), (1, 32, 32))


# ------------------------------------------------------------------ the machine


def test_the_device_can_be_used():
    assert torch.ones(2, device=pick_device()).sum() == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts Linux's page faults")
def test_freed_memory_is_used_again():
    """Writing to a buffer just freed brings no new page from the kernel; writing to a fresh one does."""
    import resource

    if not keep_freed_memory():
        pytest.skip("not glibc")

    def faults(act) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        act()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    size = 64 << 20

    def fresh():
        with mmap.mmap(-1, size) as memory:
            memory.write(bytes(1) * size)

    bytes(1) * size  # fresh() needs a source of this size as well
    torch.ones(size, dtype=torch.uint8)
    kept = [faults(lambda: torch.ones(size, dtype=torch.uint8)) for _ in range(3)]
    assert 8 * min(kept) < faults(fresh)
