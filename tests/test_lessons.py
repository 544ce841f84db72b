"""What every lesson promises: solutions pass, stubs are not attempted, each mistake has a diagnosis of its own."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap

import pytest
import torch
from torch import Tensor

from course_lib.catalogue import LESSONS, exercises
from course_lib.cli import stale_keys
from course_lib.exercise import answers
from course_lib.exercise.check import inspect_answer
from course_lib.exercise.compare import agrees
from course_lib.exercise.contract import copy_inputs, is_symmetric, run
from course_lib.exercise.key import find_key, outcome, record, solutions_only
from course_lib.files import data_folder
from course_lib.grading.judge import alike
from tests.helpers.cells import EXERCISES, MISTAKES, SEED, answer_cell, drawn

every_exercise = pytest.mark.parametrize("ex", EXERCISES, ids=lambda ex: ex.id)


def words(report) -> str:
    return f"{report}: {report.message} {report.diagnosis} {report.details} {report.notes}"


@every_exercise
def test_a_solution_passes_its_own_check(ex, on_solutions):
    report = inspect_answer(ex)
    assert report.passed and not report.notes, words(report)


@every_exercise
def test_a_student_who_writes_the_solution_passes(ex, folder, revealed):
    answers.save_answer(ex, answer_cell(ex, ex.name))
    report = inspect_answer(ex)
    assert report.passed and not report.notes, words(report)
    assert report.done == inspect_answer(ex).done and "GPU-ready" in report.done


@every_exercise
def test_a_stub_is_not_attempted(ex, folder, revealed):
    stub = f"@answer({ex.id})\ndef {ex.name}{inspect.signature(ex)}:\n    # …\n    raise NotImplementedError"
    answers.save_answer(ex, stub)
    report = inspect_answer(ex)
    assert report.status == "not attempted" and ex.section in report.message and ex.notebook in report.message


@pytest.mark.parametrize(("ex", "name"), MISTAKES, ids=lambda x: getattr(x, "id", x))
def test_a_named_mistake_fails_and_is_diagnosed_with_its_own_sentence(ex, name, folder, revealed):
    answers.save_answer(ex, answer_cell(ex, name))
    report = inspect_answer(ex)
    assert not report.passed, "the mistake passes"
    assert report.diagnosis == find_key(ex).sentences[name], words(report)


@every_exercise
def test_no_two_mistakes_are_confused(ex):
    """Not even at a relative tolerance of 1 %, or a hundred times the contract's: each differs from the solution and from all others."""
    key = find_key(ex)
    outcomes = {"the solution": key.outcomes, **key.mistakes}
    times = max(100, 0.01 / ex.rtol)
    for a in outcomes:
        for b in outcomes:
            if a < b and key.raises.get(a) == key.raises.get(
                b
            ):  # what two of them raise tells them apart, too
                cases = zip(outcomes[a], outcomes[b], key.noise, strict=True)
                same = [agrees(ex, x, y, True, noise, times) for x, y, noise in cases]
                assert not all(same), f"{a} and {b} give the same"


@every_exercise
def test_the_key_is_not_stale(ex):
    path = data_folder() / "answer_keys" / f"{ex.lesson}.safetensors"
    assert ex.name not in stale_keys(path, {ex.name: ex}, {ex.name: record(ex)}), "run `course keys`"


@every_exercise
def test_a_contract_says_what_it_wants(ex):
    assert len(inspect.getdoc(ex) or "") > 60 and ex.section and ex.points >= 1
    annotations = inspect.signature(ex.function)
    assert all(p.annotation is not p.empty for p in annotations.parameters.values()), "types are missing"
    assert annotations.return_annotation is not annotations.empty
    assert ex.at_scale or not (ex.memory or ex.plain), "a bound at full size needs at_scale"


@every_exercise
def test_what_is_asked_at_scale_does_not_hang_on_rounding(ex):
    """The grader compares a hundredth there: inputs moved by a millionth move no result by a tenth of that."""
    if ex.properties or not ex.at_scale:
        pytest.skip("random, or of one size")
    for seed in (SEED, SEED + 1):
        for case, want in zip((scaled := drawn(ex, seed).scaled).cases, scaled.outcomes, strict=True):
            near = {
                k: moved(v) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in case.items()
            }
            with solutions_only():
                got = outcome(ex, answers.find_solution(ex).function, near)
            assert alike(got, want, 0.1)


def moved(x: Tensor) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return x * (1 + 1e-6 * (noise + noise.mT if is_symmetric(x) else noise))


@every_exercise
def test_an_author_supplies_cases_mistakes_and_hints(ex):
    solution = answers.find_solution(ex)
    assert 2 <= len(solution.hints) <= 3 and all(solution.hints)
    cases = solution.draw_cases()
    assert 2 <= len(cases) <= 8
    if ex.probe is None:  # what a probe shows are properties, which may need more draws
        assert sum(v.numel() for v in cases[0].values() if isinstance(v, torch.Tensor)) <= 60, "not readable"
    assert 3 <= len(solution.mistakes) <= 18
    assert len({m.name for m in solution.mistakes}) == len(solution.mistakes)
    sentences = [sentence for sentence, _ in itertools.groupby(m.sentence for m in solution.mistakes)]
    assert len(set(sentences)) == len(sentences), "a sentence stands for one mistake, and the ways to make it"
    assert all(s.rstrip("”)").endswith((".", "?", "!")) for s in sentences)


NO_BATCH_OF_ONE = {  # not defined there, or no batch at all
    *("stratified_weights", "log_aggregate_posterior", "factor_vae_step"),
    *("demographic_parity_gap", "mmd2", "coral_loss", "correlated_joint", "sample_correlated"),
    *("whiten", "erase"),
}


@every_exercise
def test_the_inputs_bite(ex):
    """A batch of several comes first, a batch of one is among the cases, and none is contiguous in memory."""
    cases = find_key(ex).cases
    tensors = [[v for v in case.values() if isinstance(v, torch.Tensor) and v.ndim] for case in cases]
    assert not tensors[0] or max(len(v) for v in tensors[0]) > 1
    assert ex.name in NO_BATCH_OF_ONE or any(len(v) == 1 for case in tensors for v in case)
    for case in cases:
        for name, v in copy_inputs(case).items():
            if isinstance(v, torch.Tensor):
                assert torch.equal(v, case[name]), "another layout, not other values"
                assert v.ndim < 2 or min(v.shape[-2:]) == 1 or not v.is_contiguous()


@pytest.mark.parametrize("lesson", [x for x in LESSONS if exercises(x)], ids=lambda x: x.module)
def test_a_lesson_gives_at_least_two_plain_loops(lesson):
    assert sum(ex.plain is not None for ex in exercises(lesson)) >= 2


@every_exercise
def test_the_key_holds_nothing_of_a_solutions_source(ex):
    """No line of code of the solution stands in the file. Hints may name functions, and do."""
    content = (
        (data_folder() / "answer_keys" / f"{ex.lesson}.safetensors").read_bytes().decode("utf-8", "ignore")
    )
    source = textwrap.dedent(inspect.getsource(answers.find_solution(ex).function))
    (function,) = ast.parse(source).body
    hints = " ".join(find_key(ex).hints)
    for node in function.body:
        for line in ast.unparse(node).splitlines():
            if len(line.strip()) > 25 and line.strip().removeprefix("return ") not in hints:
                assert line.strip() not in content


@pytest.mark.parametrize("ex", [x for x in EXERCISES if x.plain], ids=lambda x: x.id)
def test_a_plain_loop_gives_the_solutions_values(ex):
    """On the recorded cases: a plain loop takes the same arguments, through the probe where there is one."""
    if "probe" in inspect.signature(ex.plain).parameters:
        pytest.skip("takes other arguments")
    key = find_key(ex)
    for case, want in zip(key.cases, key.outcomes, strict=True):
        for name, got in run(ex, ex.plain, copy_inputs(case)).items():
            if name in want and want[name].dtype != torch.bool:
                assert torch.allclose(got.to(want[name].dtype), want[name], rtol=1e-3, atol=1e-4), name
