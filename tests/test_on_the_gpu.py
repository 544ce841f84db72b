"""Lesson 08 against independent ground truths: distributions, autograd, closed forms, and what bytes there are."""

from __future__ import annotations

import json
import math
import time

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from course_lib import metrics
from course_lib.catalogue import find
from course_lib.exercise import kernels
from course_lib.exercise.check import inspect_answer
from course_lib.experiments import on_the_gpu as experiments
from course_lib.grading import wire
from course_lib.grading.judge import draw_test, judge
from course_lib.grading.sandbox import Limits
from course_lib.lessons import on_the_gpu as lesson
from course_lib.models import VAE
from tests.helpers import ROOT

needs_triton = pytest.mark.skipif(not kernels.HAS_TRITON, reason="needs Triton")
pytestmark = pytest.mark.usefixtures("on_solutions")


def posteriors(batch: int, number: int, latents: int, dtype=torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(batch + number)
    z, mean, log_var = (torch.randn(n, latents, generator=g, dtype=dtype) for n in (batch, number, number))
    return z, mean, log_var - 1


def mixture(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log q(z) and log q(z_d) as torch.distributions has them, (B, 1 + D)."""
    weights = Categorical(torch.ones(len(mean), dtype=z.dtype))
    parts = Normal(mean, (0.5 * log_var).exp())
    joint = MixtureSameFamily(weights, Independent(parts, 1)).log_prob(z)
    marginals = [
        MixtureSameFamily(weights, Normal(m, s)).log_prob(z[:, d])
        for d, (m, s) in enumerate(zip(parts.loc.T, parts.scale.T, strict=True))
    ]
    return torch.stack([joint, *marginals], dim=1)


# ------------------------------------------------------------------ kernels


@needs_triton
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (16, 4), (33, 5)])
def test_the_kl_is_the_kl(shape):
    mean, log_var = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    kl, trace = lesson.launch_gaussian_kl(lesson.gaussian_kl_kernel, mean, log_var)
    wanted = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(torch.zeros(()), torch.ones(()))).sum(
        1
    )
    assert torch.allclose(kl, wanted, 1e-5, 1e-5)
    assert trace.moved == kernels.bytes_of(mean, log_var, kl) and trace.programs == -(-shape[0] // 16)


@needs_triton
@pytest.mark.parametrize("shape", [(0, 7), (3, 0), (1, 1), (5, 32), (6, 100)])
def test_log_sum_exp_is_log_sum_exp(shape):
    x = 100 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    out, trace = lesson.launch_log_sum_exp(lesson.log_sum_exp_kernel, x)
    assert torch.allclose(out, x.logsumexp(1), 1e-6, 1e-5)
    assert trace.moved == kernels.bytes_of(x, out)


@needs_triton
@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 17, 3), (8, 16, 4)])
def test_the_aggregate_posterior_is_a_mixture(sizes):
    inputs = posteriors(*sizes)
    out, trace = lesson.launch_log_aggregate_posterior(lesson.log_aggregate_posterior_kernel, *inputs)
    assert torch.allclose(out, mixture(*inputs), 1e-5, 1e-5)
    assert torch.allclose(lesson.streamed(*inputs, block=3), mixture(*inputs), 1e-5, 1e-5)
    assert torch.allclose(experiments.plain_log_aggregate_posterior(*inputs), mixture(*inputs), 1e-5, 1e-5)
    assert trace.moved == lesson.least_bytes(*sizes, rows=4)


@needs_triton
@pytest.mark.parametrize("sizes", [(1, 1, 1), (17, 6, 3)])
def test_gradients_are_autograds_of_the_mixture(sizes):
    inputs = [x.requires_grad_() for x in posteriors(*sizes)]
    weights = torch.randn(sizes[0], 1 + sizes[2], generator=torch.Generator().manual_seed(1))
    wanted = torch.autograd.grad((weights * mixture(*inputs)).sum(), inputs)
    found = torch.autograd.grad((weights * experiments.log_aggregate_posterior(*inputs)).sum(), inputs)
    given = lesson.streamed_backward(weights, lesson.streamed(*inputs), *inputs, block=4)
    for a, b, c in zip(wanted, found, given, strict=True):
        assert torch.allclose(a, b, 1e-4, 1e-5) and torch.allclose(a, c.detach(), 1e-4, 1e-5)


@needs_triton
def test_the_backward_kernel_moves_no_more_than_it_must():
    z, mean, log_var = posteriors(20, 9, 3)
    out = lesson.streamed(z, mean, log_var)
    gradient = torch.ones_like(out)
    kernel = lesson.log_aggregate_posterior_backward_kernel
    trace = lesson.launch_backward(kernel, gradient, out, z, mean, log_var)[1]
    assert trace.moved == lesson.least_bytes_backward(20, 9, 3, block=4)
    assert (trace.writers["z_gradient"] == kernels.ATOMIC).all()


@needs_triton
def test_the_total_correlation_is_the_metrics():
    _, mean, log_var = posteriors(1, 40, 4)
    g = torch.Generator().manual_seed(0)
    wanted = metrics.total_correlation(mean, log_var, g, 400)
    rows = torch.randperm(40, generator=g.manual_seed(0))[torch.arange(400) % 40]
    z = mean[rows] + (0.5 * log_var[rows]).exp() * torch.randn(400, 4, generator=g)
    joint, marginals = metrics._log_aggregate_posterior(z, mean, log_var)
    assert math.isclose((joint - marginals.sum(1)).mean().item(), wanted, rel_tol=1e-4)
    found = experiments.total_correlation(z[:40], mean, log_var)
    assert torch.allclose(found, (joint - marginals.sum(1))[:40].mean(), 1e-5, 1e-5)


@needs_triton
@pytest.mark.parametrize("capability", [75, 80, 90])
def test_every_kernel_compiles_for_every_device_of_the_lesson(capability, monkeypatch):
    monkeypatch.setattr(kernels, "_TARGET", ("cuda", capability, 32))
    seen = []
    monkeypatch.setattr(
        kernels,
        "compile_for_gpu",
        lambda f, a, c=kernels.compile_for_gpu: seen.append(c(f, a, kernels._TARGET)),
    )
    z, mean, log_var = (x.to("meta") for x in posteriors(64, 64, 10))
    lesson.launch_gaussian_kl(lesson.gaussian_kl_kernel, mean, log_var)
    lesson.launch_log_sum_exp(lesson.log_sum_exp_kernel, z)
    out, _ = lesson.launch_log_aggregate_posterior(lesson.log_aggregate_posterior_kernel, z, mean, log_var)
    lesson.launch_backward(lesson.log_aggregate_posterior_backward_kernel, out, out, z, mean, log_var)
    assert len(seen) == 4 and all("tt.func" in text for text in seen)


@needs_triton
def test_the_kernels_compile_to_machine_code(monkeypatch, tmp_path):
    """The whole way, to a cubin for an A100, in the blocks that a GPU gets, which takes no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    made = []

    def build(function, arguments):
        kinds, constants = kernels.signature(function, arguments)
        jitted = kernels.compiled(function)
        source = ASTSource(jitted, {name: kinds[name] for name in jitted.arg_names}, constants)
        made.append(triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["cubin"])

    monkeypatch.setattr(kernels, "compile_for_gpu", build)
    z, mean, log_var = (x.to("meta") for x in posteriors(64, 64, 10))
    lesson.launch_log_sum_exp(lesson.log_sum_exp_kernel, z)
    forward, back = lesson.log_aggregate_posterior_kernel, lesson.log_aggregate_posterior_backward_kernel
    out, _ = lesson.launch_log_aggregate_posterior(forward, z, mean, log_var, sizes="cuda")
    lesson.launch_backward(back, out, out, z, mean, log_var, sizes="cuda")
    assert len(made) == 3 and all(code[:4] == b"\x7fELF" for code in made)


@needs_triton
def test_a_check_of_a_kernel_takes_less_than_two_seconds():
    for name in ("gaussian_kl", "log_sum_exp", "log_aggregate_posterior", "log_aggregate_posterior_backward"):
        ex = find(f"on_the_gpu.{name}_kernel")
        inspect_answer(ex)
        start = time.process_time()
        assert inspect_answer(ex).passed
        assert time.process_time() - start < 2, name


# ------------------------------------------------------------------ a kernel in grading


@needs_triton
def test_a_kernel_that_is_right_on_what_it_was_shown_alone_gets_no_point():
    """Whatever a process says of the decoys, the second run's values on hidden inputs decide; any JSON is a row."""
    ex = find("on_the_gpu.gaussian_kl_kernel")
    test = draw_test(ex, 7)
    shown, hidden = ([wire.encode_all(x) for x in key.outcomes] for key in (test.decoys, test.hidden))
    first = {
        "status": "ran",
        "gradients": [],
        "programs": [{}] * len(shown),
        "wrong": {},
        "peak": 0,
        "notes": [],
    }
    first |= {"cases": shown, "called": []}

    def points(second: object) -> tuple[str, int]:
        asked = []
        row = judge(ex, test, first, "", Limits(), lambda message: asked.append(message) or second)
        assert [message["exercise"] for message in asked] == [ex.id]
        return row.status, row.points

    assert points({"status": "ran", "wrong": {}, "cases": hidden}) == ("passed", ex.points)
    assert points({"status": "ran", "wrong": {}, "cases": shown}) == ("failed", 0)
    assert points({"status": "ran", "wrong": {"runs": {}}, "cases": hidden}) == ("failed", 0)
    assert points({"status": "out of memory"}) == ("failed", 0)
    for strange in (
        None,
        [],
        {},
        {"status": "ran", "wrong": {}, "cases": hidden[:1]},
        {"status": "ran", "wrong": {}, "cases": 3},
    ):
        status, got = points(strange)
        assert status in ("failed", "tampered", "not checked") and got == 0


# ------------------------------------------------------------------ the queue


def filled(work: list[float], cost: float, wait: bool) -> lesson.ToyQueue:
    queue = lesson.ToyQueue(torch.zeros((), dtype=torch.float64), cost)
    for one in work:
        queue.launch(torch.tensor(one, dtype=torch.float64))
        if wait:
            queue.synchronize()
    return queue


@pytest.mark.parametrize(("work", "cost"), [(0.012, 0.005), (0.002, 0.005), (0.005, 0.005)])
def test_the_toy_queue_in_closed_form(work, cost):
    """n pieces: the processor is n launches ahead, or the device waits for each; with waiting the two take turns."""
    n = 10
    ahead, turns = filled([work] * n, cost, False), filled([work] * n, cost, True)
    assert math.isclose(float(ahead.device), cost + (n - 1) * max(work, cost) + work, rel_tol=1e-9)
    assert math.isclose(float(turns.device), n * (work + cost), rel_tol=1e-9)
    assert math.isclose(experiments.busy(turns), work / (work + cost), rel_tol=1e-9)


def test_an_event_that_the_device_has_not_passed_has_no_time():
    queue = filled([], 0.0, False)
    start, end = queue.Event(), queue.Event()
    start.record()
    queue.launch(torch.tensor(3.0, dtype=torch.float64))
    end.record()
    with pytest.raises(RuntimeError, match="synchronise the queue"):
        start.elapsed_time(end)
    assert float(queue.clock()) == 0
    queue.synchronize()
    assert float(start.elapsed_time(end)) == 3 == float(queue.clock())


# ------------------------------------------------------------------ bytes and flops


def meta(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def test_counting_what_pytorch_launches():
    added = experiments.count(torch.add, meta(5, 4), meta(4))
    assert (added.launches, added.moved, added.flops, added.specials) == (1, 4 * (20 + 4 + 20), 2 * 20, 0)
    powers = experiments.count(torch.exp, meta(5, 4))
    assert (powers.launches, powers.moved, powers.specials) == (1, 4 * (20 + 20), 20)
    product = experiments.count(torch.mm, meta(30, 20), meta(20, 10))
    assert (product.launches, product.moved, product.flops) == (1, 4 * (600 + 200 + 300), 2 * 30 * 20 * 10)
    intensity = lesson.arithmetic_intensity(*(torch.tensor([float(n)]) for n in (30, 20, 10)), 4)
    assert math.isclose(intensity.item(), product.flops / product.moved, rel_tol=1e-6)
    views = experiments.count(lambda x: x.T[1:].expand(2, 3, 5).unsqueeze(0), meta(5, 4))
    assert views.launches == views.moved == 0
    expanded = experiments.count(lambda x: x.expand(100, 5) + 1, meta(1, 5))
    assert expanded.moved == 4 * (5 + 500)


def test_the_plain_kl_moves_what_its_table_says():
    plain = experiments.count(
        lambda m, v: 0.5 * (m**2 + v.exp() - v - 1).sum(1), meta(1000, 10), meta(1000, 10)
    )
    assert (plain.launches, plain.moved) == (7, 532_000)


def test_the_roofline_and_what_limits():
    peak, bandwidth, specials = lesson.DEVICES["A100"]
    for work, name, wanted in (
        (experiments.Work(1, 0, 0, int(specials)), "computing", 1.0),
        (experiments.Work(1, 0, int(peak) // 2, int(specials)), "computing", 1.0),  # other units, at once
        (experiments.Work(1, 0, int(peak)), "computing", 1.0),
        (experiments.Work(1, int(bandwidth), 0), "moving", 1.0),
        (experiments.Work(1000, 1, 1), "launching", 1000 * lesson.LAUNCH),
    ):
        assert experiments.limit(work, "A100") == name
        assert math.isclose(experiments.seconds(work, "A100"), wanted, rel_tol=1e-6)
    slow = experiments.seconds(experiments.Work(1000, 1, 1), "A100", lesson.EAGER)
    assert math.isclose(slow, 1000 * lesson.EAGER, rel_tol=1e-6)
    trace = kernels.Trace(
        operations=int(peak)
    )  # additions alone: each takes as long as a multiplication with one
    assert math.isclose(experiments.seconds(trace, "A100"), 2.0, rel_tol=1e-6)


def test_special_units_are_an_eighth_or_a_sixteenth():
    """16 a clock and multiprocessor (40, 108 and 132 of them, at 1.59, 1.41 and 1.98 GHz), where the guide has them."""
    for name, units, clock in (("T4", 40, 1.59e9), ("A100", 108, 1.41e9), ("H100", 132, 1.98e9)):
        assert math.isclose(lesson.DEVICES[name].specials, 16 * units * clock, rel_tol=0.01)


def test_a_step_of_the_vae_is_counted_without_values():
    vae = VAE().to("meta")
    optimiser = torch.optim.Adam(vae.parameters(), foreach=True)
    experiments.vae_step(vae, optimiser, meta(8, 1, 64, 64))
    small, large = (
        experiments.count(lambda x: experiments.vae_step(vae, optimiser, x), meta(n, 1, 64, 64))
        for n in (8, 64)
    )
    assert small.launches == large.launches > 50 and large.flops > 7 * small.flops


@needs_triton
def test_what_the_kernels_cost_at_full_size():
    """Bytes in closed form; an exponential for each density of a pair, and less than another one for each posterior and rescaling."""
    rows, block = lesson.FORWARD["cuda"][0], lesson.BACKWARD["cuda"][1]
    work, back = experiments.kernel_work(4096, 2048, 10), experiments.backward_work(4096, 2048, 10)
    assert work.launches == back.launches == 1
    assert work.moved == lesson.least_bytes(4096, 2048, 10, rows)
    assert back.moved == lesson.least_bytes_backward(4096, 2048, 10, block)
    for found in (work, back):
        assert 1 <= found.specials / (4096 * 2048 * 11) < 2 and 10 < found.flops / (4096 * 2048 * 11) < 60
    assert math.isclose(experiments.kernel_work(8192, 2048, 10).specials, 2 * work.specials, rel_tol=1e-6)


# ------------------------------------------------------------------ numbers from a GPU, pictures


@needs_triton
def test_the_benchmark_is_rehearsed_without_a_gpu(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("TQDM_DISABLE", "1")  # which the benchmark sets
    import gpu

    found = gpu.measure(torch.device("cpu"), sizes=(16,))
    wanted = {
        "sprites, 64×64 (images/s)",
        "VAE, eager (steps/s)",
        "VAE, bf16 autocast, channels last (steps/s)",
        "FactorVAE, eager (steps/s)",
        "kernel, B = N = 16 (ms)",
        "kernel backward, B = N = 16 (ms)",
    }
    assert wanted <= found.keys() and all(value >= 0 for value in found.values())
    estimates = gpu.against_estimates(
        {"VAE, eager (steps/s)": 200, "plain, B = N = 4,096 (ms)": "does not fit"}, "NVIDIA T4"
    )
    assert list(estimates) == ["estimated over measured: VAE, eager"] and not gpu.against_estimates(
        found, "another"
    )
    leaves = [x.detach().requires_grad_() for x in gpu.inputs(12)]
    assert torch.allclose(gpu.streaming(*leaves), mixture(*leaves), 1e-4, 1e-4)
    if not torch.cuda.is_available():
        monkeypatch.setattr("sys.argv", ["gpu.py"])
        gpu.main()
        assert "nothing is measured" in capsys.readouterr().out


def test_numbers_of_a_gpu_are_shown_where_there_are_some(monkeypatch, tmp_path):
    monkeypatch.setattr(experiments, "data_folder", lambda: tmp_path)
    assert "`make gpu`" in experiments.recorded_table() and "gpu.py --write`" in experiments.recorded_table()
    (tmp_path / "gpu").mkdir()
    for name, value in (("A", 1), ("B", 2)):
        card = {"device": f"Device {name}", "numbers": {"rows a second": value}}
        (tmp_path / f"gpu/{name}.json").write_text(json.dumps(card))
    assert experiments.recorded_table().splitlines() == [
        "| | Device A | Device B |",
        "|---|---|---|",
        "| rows a second | 1 | 2 |",
    ]


def test_pictures_say_what_they_show():
    from course_lib.plots import describe

    queue = filled([0.01, 0.02], 0.005, False)
    assert "device, processor" in describe(experiments.queue_figure({"two pieces": queue}))
    rows = torch.arange(6)[:, None].expand(6, 2) // 2
    trace = kernels.Trace(3, readers={"x": rows}, writers={"x": torch.full_like(rows, kernels.NOWHERE)})
    words = describe(experiments.tiles_figure(trace, ["x"]))
    assert "3 programs" in words and "x, read" in words and "0, 1, 2" in words
    works = {"one": experiments.Work(1, 100, 100)}
    assert "one" in describe(experiments.roofline_figure(works, "T4"))
    assert "120" in describe(experiments.times_figure({"T4": {"plain": 0.12, "kernel": 0.001}}, "bounds"))
