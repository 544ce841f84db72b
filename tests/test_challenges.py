"""Challenges: judges that are right, solutions that win, faults that are three, a board that keeps what was measured."""

from __future__ import annotations

import inspect
import json
import linecache
import re
import statistics
import subprocess
import sys

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from course_lib.catalogue import LESSONS
from course_lib.challenges import Unmet, attempt, tasks
from course_lib.challenges.contest import SEEDS, Challenge, measured
from course_lib.exercise import kernels
from course_lib.exercise.progress import ATTEMPTS, read_record
from course_lib.exercise.solution import source_of
from course_lib.release import copy_course
from solutions.challenges import SOLUTIONS
from tests.helpers import ROOT

TASKS = {task.name: task for task in tasks.all_tasks()}
COSTLY = {"cheap_independence", "tightest_gaussian", "repair_vae"}  # seconds each
needs_triton = pytest.mark.skipif(not kernels.HAS_TRITON, reason="needs Triton")
MARKS = dict.fromkeys(COSTLY, pytest.mark.slow) | {"small_blocks": needs_triton}
QUICK = [pytest.param(name, marks=MARKS.get(name, ())) for name in TASKS]


def test_every_lesson_has_two_and_every_one_its_solution_and_scores():
    lessons = [task.lesson for task in TASKS.values()]
    assert lessons == sorted(lessons) and {lessons.count(x) for x in set(lessons)} == {2}
    assert set(lessons) == {x.number for x in LESSONS}
    assert TASKS.keys() == SOLUTIONS.keys() == measured().keys()
    for scores in measured().values():
        assert [*scores] == ["the baseline", "a solution"]
        assert all(len(values) == len(SEEDS) for values in scores.values())


@pytest.mark.parametrize("name", TASKS)
def test_the_recorded_solution_beats_the_baseline_at_every_seed_by_a_margin(name):
    task, (baseline, solution) = TASKS[name], measured()[name].values()
    worst, best = (min(solution), max(baseline)) if task.highest else (max(solution), min(baseline))
    assert task.better(worst, best)
    ratio = statistics.median(solution) / statistics.median(baseline)
    assert max(ratio, 1 / ratio) > 1.25


@pytest.mark.parametrize("name", QUICK)
def test_the_scores_are_those_of_a_run(name):
    task, recorded = TASKS[name], measured()[name]
    baseline, solution = task(task._baseline, 0), task(SOLUTIONS[name], 0)
    gap = abs(recorded["a solution"][0] - recorded["the baseline"][0])
    assert abs(baseline - recorded["the baseline"][0]) < 0.25 * gap
    assert abs(solution - recorded["a solution"][0]) < 0.25 * gap


# ---------------------------------------------------------------- three faults each, and every one matters

FAULTS = {
    "repair_critic": {
        "both shuffled": (
            "critic(torch.cat([y, z[order]], 1))",
            "critic(torch.cat([y[order], z[order]], 1))",
        ),
        "probabilities": ("F.softplus(-joint)", "F.softplus(-joint.sigmoid())"),
        "no logarithm": ("product.logsumexp(0).squeeze() + math.log(len(z))", "product.exp().mean()"),
    },
    "repair_vae": {
        "encoder not trained": ("[*encoder.parameters(), *decoder.parameters()]", "decoder.parameters()"),
        "variance for deviation": ("(0.5 * log_var).exp()", "log_var.exp()"),
        "mean over pixels": (".sum(1).mean()\n        kl", ".mean()\n        kl"),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), [(n, f) for n, faults in FAULTS.items() for f in faults])
def test_each_of_the_three_faults_costs_on_its_own(name, fault):
    source = source_of(SOLUTIONS[name])
    find, put = FAULTS[name][fault]
    assert source.count(find) == 1
    namespace = dict(SOLUTIONS[name].__globals__)
    exec(source.replace(find, put), namespace)
    broken, right = TASKS[name](namespace[SOLUTIONS[name].__name__], 0), measured()[name]["a solution"]
    assert broken > max(right) + 0.3  # of nats


# ---------------------------------------------------------------- judges


@pytest.mark.parametrize(
    ("name", "function", "words"),
    [
        ("fair_decision", lambda x, a, y, new: torch.zeros(3), r"decisions: expected the shape \(2000,\), got \(3,\)"),
        ("turn_back", lambda z: z / 0, r"codes: expected finite numbers"),
        ("worst_group", lambda x, y, a: lambda new: [0], r"labels: expected a tensor \(4000,\), got list"),
    ],
)  # fmt: skip
def test_what_is_no_attempt_is_explained(name, function, words):
    with pytest.raises(ValueError, match=words):
        TASKS[name](function, 0)


@pytest.mark.parametrize(
    ("name", "function", "words"),
    [
        (
            "fair_decision",
            lambda x, a, y, new: (new[:, 1] > 0).float(),
            "a gap of at most 0.06 was asked for",
        ),
        ("fooled_score", lambda v: v.repeat(1, 4), "at most 10 latents were asked for; this has 12"),
        (
            "few_passes",
            lambda z, m, v: tasks.few_passes._baseline(z, m, v) + 0.01,
            "this is off by 1.0e-02",
        ),
        ("erased_for_mlp", lambda x, a: x, "at most 55 of 100 told rightly were asked for"),
    ],
)
def test_a_condition_is_kept(name, function, words):
    with pytest.raises(Unmet, match=words):
        TASKS[name](function, 0)


def a_plan(find: str = "", put: str = "", **changes):
    """The solution of `small_blocks` with a piece of it, or of its plan, changed."""
    source = source_of(SOLUTIONS["small_blocks"])
    assert find in source
    source = source.replace(find, put) if find else source
    name = f"<plan {hash(source)}>"
    linecache.cache[name] = (
        len(source),
        None,
        source.splitlines(keepends=True),
        name,
    )  # Triton reads a kernel's source
    exec(compile(source, name, "exec"), namespace := dict(SOLUTIONS["small_blocks"].__globals__))

    def plan(B, N):
        kernel, programs, sizes = namespace["eight_rows"](B, N)
        return kernel, changes.get("programs", programs), sizes | changes.get("sizes", {})

    return plan


@needs_triton
@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (a_plan(programs=41), "the softmax of each row was asked for|expected finite numbers"),
        (a_plan("tl.exp(values - top[:, None]) /", "values /"), "the softmax of each row was asked for"),
        (a_plan(sizes={"BLOCK": 512}), "at most 2,048 numbers at a time were asked for; this moves 4,096"),
        (a_plan(programs=20, sizes={"ROWS": 32, "BLOCK": 64}), "at least 40 programs were asked for"),
        (a_plan("(column < N)", "(column <= N)"), "past the end of"),
        (a_plan("tl.zeros([ROWS], tl.float32)", "[0.0] * ROWS"), "compile|refuse|Triton"),
    ],
)
def test_a_plan_that_breaks_a_condition_is_told_so(plan, words):
    with pytest.raises((Unmet, ValueError), match=words):
        TASKS["small_blocks"](plan, 0)


def test_where_triton_is_missing_the_task_says_so(folder, capsys, monkeypatch):
    monkeypatch.setattr(kernels, "HAS_TRITON", False)
    attempt(tasks.small_blocks)(SOLUTIONS["small_blocks"])
    assert "small_blocks: not measured. This part needs Triton" in capsys.readouterr().out
    assert not read_record(ATTEMPTS)


def test_passes_are_counted_as_the_lesson_counts_them():
    """Of an attempt that copies z and does no more: the bytes of z read and of the result written, on a T4."""
    exact = tasks.few_passes._baseline

    def cheap(z, mean, log_var):
        return z.new_ones(len(z), 1 + z.shape[1]) if z.is_meta else exact(z, mean, log_var)

    latents = int(torch.randint(8, 13, (), generator=torch.Generator().manual_seed(0)))
    expected = 1000 * max(5e-6, 4 * 4096 * (1 + latents) / 320e9)
    assert TASKS["few_passes"](cheap, 0) == pytest.approx(expected)


def test_the_least_change_is_that_of_optimal_transport():
    """Two groups with means ±0.7 and spreads 1/2 and 2 along two axes meet at 0 and 5/4: 0.7² + 0.75²."""
    scores = [TASKS["erased_for_mlp"](SOLUTIONS["erased_for_mlp"], seed) for seed in SEEDS]
    assert statistics.mean(scores) == pytest.approx(0.7**2 + 0.75**2, abs=0.05)


def test_an_attempt_that_takes_long_does_not_count():
    def judge(attempt, seed):
        """A task."""
        return attempt()

    def long():
        return sum(range(2_000_000))

    with pytest.raises(Unmet, match="CPU seconds"):
        Challenge(judge, "00", "A task", "sum", True, 1e-4)(long, 0)


def test_the_truths_of_two_judges():
    """An estimate that is the closed form has no error; the circle's total correlation agrees with a Monte Carlo mean."""
    exact = iter([0.0, 0.3, 0.6, 0.8, 0.9, 0.97])
    assert (
        TASKS["shared_information"](lambda x, y: -0.5 * torch.log(1 - torch.tensor(next(exact)) ** 2), 0)
        < 1e-6
    )
    g = torch.Generator().manual_seed(5)
    angle, radius = 6.2831853 * torch.rand(400_000, generator=g), 1 + 0.2 * torch.randn(400_000, generator=g)
    x, y = radius * angle.cos(), radius * angle.sin()
    counts = torch.histogramdd(torch.stack([x, y], 1), [60, 60]).hist / len(x)
    entropies = [torch.special.entr(p).sum() for p in (counts.sum(0), counts.sum(1), counts)]
    histogram = (entropies[0] + entropies[1] - entropies[2]).item()
    assert TASKS["hidden_dependence"](lambda z: histogram, 0) < 0.03


# ---------------------------------------------------------------- the board


def test_a_board_keeps_attempts_in_order_of_their_scores(folder, capsys):
    @attempt(tasks.turn_back)
    def unmix(z):
        """As it came"""
        return z

    attempt(tasks.turn_back)(SOLUTIONS["turn_back"])
    kept = read_record(ATTEMPTS)["turn_back"]["attempts"]
    assert len(kept) == 2 and len(kept[0]["scores"]) == len(SEEDS) and kept[0]["note"] == "As it came"
    assert "def unmix" in kept[0]["source"]
    who = [row[0] for row in tasks.turn_back._rows()]
    assert who.index("your attempt 2") < who.index("the baseline")
    assert "turn_back: 0.8" in capsys.readouterr().out
    html = tasks.turn_back._repr_html_()
    assert "As it came" in html and "principal_axes" in html and "svd" not in html


def test_what_is_not_measured(folder, capsys, monkeypatch):
    @attempt(tasks.turn_back)
    def stub(z):
        raise NotImplementedError

    attempt(tasks.fair_decision)(lambda x, a, y, new: (new[:, 1] > 0).float())
    assert "fair_decision: not on the board: a gap" in capsys.readouterr().out
    monkeypatch.setenv("COURSE_ANSWERS", "solutions")
    attempt(tasks.turn_back)(lambda z: 1 / 0)
    monkeypatch.setenv("COURSE_ANSWERS", str(folder))
    assert not read_record(ATTEMPTS)
    with pytest.raises(TypeError, match="expects a challenge"):
        attempt(print)


# ---------------------------------------------------------------- the notebook


def test_the_notebook_has_a_section_and_a_stub_for_every_challenge():
    cells = nbformat.read(ROOT / "notebooks/challenges.ipynb", as_version=4).cells
    titles = re.findall(
        r"^## (\d\d · .+)$", "\n".join(c.source for c in cells if c.cell_type == "markdown"), re.M
    )
    assert titles == [f"{task.lesson} · {task.title}" for task in TASKS.values()]
    code = [c.source for c in cells if c.cell_type == "code"]
    for task in TASKS.values():
        assert f"tasks.{task.name}" in code
        (stub,) = [s for s in code if s.startswith(f"@attempt(tasks.{task.name})")]
        asked = re.search(r"attempt\((.*?)\)", inspect.getdoc(task.judge))[1]
        given = re.search(r"def \w+\((.*?)\)", stub)[1]
        assert len(asked.split(",")) == len(given.split(",")) and stub.endswith("raise NotImplementedError")


@pytest.mark.notebooks
@pytest.mark.parametrize("setting", ["solutions", "none"])
def test_the_notebook_runs_with_and_without_solutions(setting, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_ANSWERS", "solutions" if setting == "solutions" else str(tmp_path))
    document = nbformat.read(ROOT / "notebooks/challenges.ipynb", as_version=4)
    NotebookClient(document, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = json.dumps([c.get("outputs", []) for c in document.cells])
    assert shown.count("The baseline") >= len(TASKS)
    assert shown.count("not attempted") >= (0 if setting == "solutions" else len(TASKS))


def test_importing_the_challenges_needs_no_solution():
    program = "import sys; from course_lib.challenges import tasks; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not [name for name in done.stdout.split() if name.partition(".")[0] == "solutions"]


def test_an_edition_has_the_solutions_only_where_it_reveals_all(tmp_path):
    copy_course(tmp_path / "none", ())
    copy_course(tmp_path / "two", ("elbo", "beta_vae"))
    copy_course(tmp_path / "all", tuple(x.module for x in LESSONS))
    assert (tmp_path / "all/solutions/challenges.py").exists()
    lines = [x.strip() for x in inspect.getsource(SOLUTIONS["turn_back"]).splitlines() if len(x.strip()) > 32]
    for edition in ("none", "two"):
        assert not (tmp_path / edition / "solutions/challenges.py").exists()
        texts = "\n".join(p.read_text(encoding="utf-8") for p in (tmp_path / edition).rglob("*.py"))
        assert lines and not [x for x in lines if x in texts]
        assert (tmp_path / edition / "data/challenges.json").exists()
