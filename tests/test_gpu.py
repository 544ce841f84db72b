"""The course on CUDA: `make gpu`. Every check has a CUDA branch, on which any hidden synchronisation is an error."""

from __future__ import annotations

import pytest
import torch

from course_lib import metrics
from course_lib.catalogue import find
from course_lib.datasets.shapes3d import Shapes3D
from course_lib.datasets.sprites import Sprites
from course_lib.exercise import answers
from course_lib.exercise.check import inspect_answer
from course_lib.exercise.key import find_key
from course_lib.experiments import on_the_gpu as experiments
from course_lib.experiments import pretraining
from course_lib.experiments.elbo import forward
from course_lib.lessons import beta_vae
from course_lib.lessons import on_the_gpu as lesson
from course_lib.models import VAE
from course_lib.training import descend, fit, seeded
from tests.helpers import generator
from tests.helpers.cells import EXERCISES, MISTAKES, answer_cell
from tests.helpers.corpus import read_cells, words
from tests.helpers.nbval import NOTEBOOKS, run_nbval

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


# ------------------------------------------------------------------ answers


@pytest.mark.parametrize("ex", EXERCISES, ids=lambda ex: ex.id)
def test_every_solution_passes_on_cuda(ex, on_solutions):
    report = inspect_answer(ex)
    assert report.passed and not report.notes, words(report)


THROUGH_THE_HOST = (
    "adda.copy_encoder: pickled and unpickled"  # right, and on CUDA a wait, of which it is told
)


@pytest.mark.parametrize(
    "cell", [c for c in read_cells("right_answers") if c.id != THROUGH_THE_HOST], ids=lambda cell: cell.id
)
def test_every_right_answer_passes_on_cuda(cell, folder, revealed):
    answers.save_answer(cell.ex, cell.text)
    report = inspect_answer(cell.ex)
    assert report.passed and not report.notes, words(report)


@pytest.mark.parametrize(("ex", "name"), MISTAKES, ids=lambda x: getattr(x, "id", x))
def test_every_named_mistake_is_told_on_cuda(ex, name, folder, revealed):
    answers.save_answer(ex, answer_cell(ex, name))
    report = inspect_answer(ex)
    assert not report.passed and report.diagnosis == find_key(ex).sentences[name], words(report)


ONLY_ON_CUDA = {  # right on the CPU and on shapes alone
    "On the GPU your answer gives other values": "    return kl * (1 + int(mean.is_cuda))",
    "makes the processor wait": "    if mean.is_cuda:\n        kl = kl + 0 * kl.sum().item()\n    return kl",
    "returned one on the CPU": "    return kl.to('cpu', non_blocking=True) if mean.is_cuda else kl",
}


@pytest.mark.parametrize("said", ONLY_ON_CUDA)
def test_what_only_fails_on_cuda(said, folder):
    head = "@answer(elbo.gaussian_kl)\ndef gaussian_kl(mean, log_var):\n"
    kl = "    kl = 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(1)\n"
    answers.save_answer(find("elbo.gaussian_kl"), head + kl + ONLY_ON_CUDA[said])
    report = inspect_answer(find("elbo.gaussian_kl"))
    assert not report.passed and said in words(report)


# ------------------------------------------------------------------ kernels


@pytest.mark.parametrize(("batch", "number", "latents"), [(1, 1, 1), (33, 70, 10), (500, 1000, 7)])
def test_the_kernels_give_the_streamed_values_and_gradients(batch, number, latents, on_solutions):
    z, mean, log_var = (
        torch.randn(n, latents, generator=generator(device=CUDA), device=CUDA).requires_grad_()
        for n in (batch, number, number)
    )
    weights = torch.randn(batch, 1 + latents, generator=generator(device=CUDA), device=CUDA)
    out = experiments.log_aggregate_posterior(z, mean, log_var)
    found = torch.autograd.grad((weights * out).sum(), (z, mean, log_var))
    plain = experiments.plain_log_aggregate_posterior(z, mean, log_var)
    wanted = torch.autograd.grad((weights * plain).sum(), (z, mean, log_var))
    for a, b in zip((out, *found), (plain, *wanted), strict=True):
        assert torch.allclose(a, b, 1e-4, 1e-4 * b.abs().max().item())


def test_nothing_of_the_size_of_all_pairs_is_ever_held(on_solutions):
    size = 16_384  # all pairs of them: 1 GB
    inputs = [
        torch.randn(size, 10, generator=generator(device=CUDA), device=CUDA).requires_grad_()
        for _ in range(3)
    ]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(experiments.log_aggregate_posterior(*inputs).sum(), inputs)
    assert torch.cuda.max_memory_allocated() - before < 32 * 1024**2


def test_a_product_of_matrices_is_timed(on_solutions):
    a = torch.randn(2048, 2048, device=CUDA)
    once = lesson.time_call(lambda: a @ a, lesson.CudaQueue(), 5, 20)
    ten = lesson.time_call(lambda: [a @ a for _ in range(10)], lesson.CudaQueue(), 5, 20)
    assert 5 < float(ten / once) < 15


# ------------------------------------------------------------------ the library


@pytest.mark.parametrize("data", [Sprites, Shapes3D])
def test_renderers_draw_the_same_images(data):
    here, there = data(64), data(64, device=CUDA)
    factors = here.grid.sample(200, generator())
    images, other = here.images(factors), there.images(factors.to(CUDA)).cpu()
    assert (images - other).abs().mean() < 1e-3 and ((images - other).abs() > 0.1).float().mean() < 1e-3


def test_metrics_are_the_cpus():
    sprites = Sprites(32, only={"shape": 1, "orientation": 0})
    factors = sprites.grid.factors(torch.arange(len(sprites)))
    codes = factors.float() @ torch.randn(factors.shape[1], 6, generator=generator())
    for measure in (metrics.mutual_information_gap, metrics.mig_sup):
        assert abs(measure(codes, factors) - measure(codes.to(CUDA), factors.to(CUDA))) < 1e-4
    log_var = torch.full_like(codes, -2.0)
    here = metrics.kl_decomposition_exact(codes, log_var, generator())
    there = metrics.kl_decomposition_exact(codes.to(CUDA), log_var.to(CUDA), generator())
    for name in ("mutual_information", "total_correlation"):
        assert abs(getattr(here, name) - getattr(there, name)) < 1e-3


def test_trainings_side_by_side_as_cuda_graphs(tmp_path, on_solutions):
    recipes = [
        pretraining.Recipe(method, 4.0, batch=16, width=64, layers=2, warm_up=10)
        for method in ("VAE", "beta-TCVAE", "FactorVAE")
    ]
    data = Sprites(32, only={"orientation": 0}, device=CUDA).keep()
    trainings = [pretraining.Training(recipe, CUDA, data) for recipe in recipes]
    before = [training.vae.decoder.head[0].weight.detach().clone() for training in trainings]
    states = [tmp_path / f"{i}.pt" for i in range(len(recipes))]
    pretraining.train_together(trainings, 40, states)
    for training, start, state in zip(trainings, before, states, strict=True):
        kept = pretraining.Training(training.recipe)  # a state goes on anywhere
        kept.resume(state)
        assert kept.steps == kept.updates == 40
        assert not torch.equal(training.vae.decoder.head[0].weight, start)


# ------------------------------------------------------------------ steps recorded as CUDA graphs


def a_training(steps: int, draws: bool = True, waits: bool = False, scheduled: bool = False):
    """A small regression by `fit`: its losses, and whether the last step was a replay."""
    g = generator(device=CUDA)
    weight = torch.zeros(5, device=CUDA, requires_grad=True)
    optimiser = torch.optim.Adam([weight], lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: 0.5**i) if scheduled else None
    calls = []

    def step(i: int) -> dict[str, torch.Tensor]:
        calls.append(i)
        x = torch.randn(8, 5, generator=g, device=CUDA)
        loss = (x @ weight - x.sum(1)).square().mean()
        if waits:
            loss = loss * float(loss.detach() > -1)
        descend(optimiser, loss)
        return {"loss": loss}

    history = fit(step, steps, draws=g if draws else None, schedule=schedule)
    return history["loss"], weight.detach(), len(calls) < steps


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_recorded_training_is_the_ordinary_one(scheduled):
    losses, weight, replayed = a_training(40, scheduled=scheduled)
    ordinary, other, again = a_training(40, draws=False, scheduled=scheduled)
    assert replayed and not again
    assert torch.allclose(losses, ordinary, 1e-3, 1e-4) and torch.allclose(weight, other, 1e-3, 1e-4)


def test_a_step_that_waits_is_not_recorded():
    losses, _, replayed = a_training(20, waits=True)
    assert not replayed and torch.allclose(losses, a_training(20, draws=False)[0], 1e-3, 1e-4)


def test_a_step_that_draws_from_another_generator_is_not_recorded():
    other = generator(seed=1, device=CUDA)
    calls = []

    def step(i: int) -> dict[str, torch.Tensor]:
        calls.append(i)
        return {"loss": torch.rand(3, generator=other, device=CUDA).sum()}

    losses = fit(step, 12, draws=generator(device=CUDA))["loss"]
    assert len(calls) >= 12 and losses.unique().numel() == 12
    assert torch.rand(3, generator=other, device=CUDA).isfinite().all()


def test_what_is_kept_in_a_graph_is_not_recorded():
    g = generator(device=CUDA)
    layer = torch.nn.Linear(3, 1).to(CUDA)
    kept = layer(torch.ones(1, 3, device=CUDA))
    optimiser, calls = torch.optim.SGD(layer.parameters(), lr=0.1), []

    def step(i: int) -> dict[str, torch.Tensor]:
        calls.append(i)
        loss = layer(torch.randn(8, 3, generator=g, device=CUDA)).square().mean()
        descend(optimiser, loss)
        return {"loss": loss}

    assert fit(step, 12, draws=g)["loss"].isfinite().all() and len(calls) == 12
    del kept
    calls.clear()
    fit(step, 12, draws=g)
    assert len(calls) < 12


def test_a_vae_is_recorded_and_can_be_trained_on(on_solutions):
    sprites = Sprites(32, only={"orientation": 0}, device=CUDA)
    found = []
    for draws in (True, False):
        with seeded(0):
            vae = VAE(size=32).to(CUDA)
        g = generator(device=CUDA)
        optimiser = torch.optim.Adam(vae.parameters())

        def step(i: int, vae=vae, g=g, optimiser=optimiser) -> dict[str, torch.Tensor]:
            loss = beta_vae.beta_vae_loss(*forward(vae, sprites.sample(16, g)[0], g)[:4], beta=2.0)
            descend(optimiser, loss)
            return {"loss": loss}

        first = fit(step, 20, draws=g if draws else None)["loss"]
        found.append(torch.cat([first, fit(step, 10)["loss"]]))
    assert torch.allclose(*found, 2e-2, 1e-2)


@pytest.mark.notebooks
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_notebook_runs_on_cuda(notebook, tmp_path):
    assert not any(run_nbval(notebook, tmp_path, "solutions").values())
