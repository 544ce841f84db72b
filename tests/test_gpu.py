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
from course_lib.lessons import on_the_gpu as lesson
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
    before = [training.vae.decoder.head[0].weight.clone() for training in trainings]
    states = [tmp_path / f"{i}.pt" for i in range(len(recipes))]
    pretraining.train_together(trainings, 40, states)
    for training, start, state in zip(trainings, before, states, strict=True):
        kept = pretraining.Training(training.recipe)  # a state goes on anywhere
        kept.resume(state)
        assert kept.steps == kept.updates == 40
        assert not torch.equal(training.vae.decoder.head[0].weight, start)


@pytest.mark.notebooks
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_notebook_runs_on_cuda(notebook, tmp_path):
    assert not any(run_nbval(notebook, tmp_path, "solutions").values())
