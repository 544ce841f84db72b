"""Grading: a red team's class, honest and hostile; fresh inputs; resuming; a Dask cluster that loses a worker."""

from __future__ import annotations

import contextlib
import csv
import html
import inspect
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from course_lib import cli
from course_lib.catalogue import LESSONS
from course_lib.exercise import answers
from course_lib.exercise.check import inspect_answer
from course_lib.exercise.key import find_key
from course_lib.grading import helpers, sandbox, supervisor, wire
from course_lib.grading.inside import observe
from course_lib.grading.judge import fresh_key, judge
from course_lib.grading.sandbox import Limits
from course_lib.grading.submission import find_submissions, read_submission
from course_lib.grading.supervisor import grade
from tests.helpers import JOBS, red_team
from tests.helpers.cells import EXERCISES, MISTAKES, answer_cell
from tests.helpers.red_team import CASES, MANIFEST, RIGHT, answer, notebook, with_kl

SEED = 20_26
LIMITS = Limits(seconds=5, memory=700 * 1024**2)
needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")


def small(paths: list[Path], out: Path, **more) -> dict[str, str]:
    """Grade the three exercises of the red team."""
    return grade(paths, out, **{"seed": SEED, "limits": LIMITS, "manifest": MANIFEST} | more)


def rows(out: Path, name: str) -> list[str]:
    return list(json.loads((out / f"results/{name}.json").read_text())["extra_data"]["statuses"].values())


# ---------------------------------------------------------------- the red team


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The folder of grades of the whole red team, the class's folder, and what knocked at a port here."""
    folder = tmp_path_factory.mktemp("red_team")
    library = red_team.ROOT / "course_lib/lessons/elbo.py"
    before = library.read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as door, pytest.MonkeyPatch.context() as patch:
        door.settimeout(0)
        patch.setenv("COURSE_TEST_SECRET", "COURSE_TEST_SECRET")
        red_team.build(folder / "class", folder / "grades", door.getsockname()[1])
        failed = small([folder / "class"], folder / "grades", jobs=JOBS)
        assert failed == {}
        with pytest.raises(BlockingIOError):
            door.accept()
    assert library.read_bytes() == before, "a submission changed the library"
    return folder


def test_the_red_team_is_large_enough():
    assert len({case.name for case in CASES}) == len(CASES) >= 40


@needs_bubblewrap
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_red_team(case, graded):
    """The right row for every exercise, and in words why."""
    got = rows(graded / "grades", case.name)
    for ex, status, wanted in zip(MANIFEST, got, case.rows, strict=True):
        assert status in ((wanted,) if isinstance(wanted, str) else wanted), ex.id
    page = html.unescape((graded / f"grades/feedback/{case.name}.html").read_text())
    assert case.says in page


@needs_bubblewrap
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_feedback_shows_no_hidden_number(case, graded):
    """No decimal of a hidden input or an expected value stands in any file that a student gets."""
    for name in (f"feedback/{case.name}.html", f"results/{case.name}.json", f"junit/{case.name}.xml"):
        text = (graded / "grades" / name).read_text()
        text = re.sub(r"In your code:(</span><pre[^>]*>)?[^<]*|time=\S+|timestamp=\S+", "", text)
        assert not re.findall(r"\d[._]\d{3,}", text), name


@needs_bubblewrap
class TestGradebook:
    def test_every_student_has_one_row_that_adds_up(self, graded):
        with open(graded / "grades/gradebook.csv", newline="") as file:
            table = {row["student"]: row for row in csv.DictReader(file)}
        assert sorted(table) == sorted(case.name for case in CASES)
        for case in CASES:
            row, got = table[case.name], rows(graded / "grades", case.name)
            points = [
                ex.points if status == "passed" else 0 for ex, status in zip(MANIFEST, got, strict=True)
            ]
            assert [int(row[ex.id]) for ex in MANIFEST] == points
            assert (int(row["total"]), int(row["of"])) == (sum(points), 5)

    def test_results_are_gradescopes(self, graded):
        results = json.loads((graded / "grades/results/half done.json").read_text())
        assert results["score"] == 2
        assert [(t["name"], t["score"], t["max_score"], t["status"]) for t in results["tests"]] == [
            ("elbo.reparameterise", 0, 1, "failed"),
            ("elbo.gaussian_kl", 2, 2, "passed"),
            ("elbo.traverse", 0, 2, "failed"),
        ]

    def test_junit_counts_every_exercise(self, graded):
        for case in CASES:
            suite = ElementTree.parse(graded / f"grades/junit/{case.name}.xml").getroot()[0]
            cases = {c.get("name"): c.find("failure") is None for c in suite.iter("testcase")}
            got = rows(graded / "grades", case.name)
            assert cases == {ex.id: s == "passed" for ex, s in zip(MANIFEST, got, strict=True)}

    def test_the_record_says_how_to_repeat_it(self, graded):
        found = json.loads((graded / "grades/record.json").read_text())
        assert found["seed"] == SEED and found["limits"]["seconds"] == 5
        assert found["exercises"] == [ex.id for ex in MANIFEST]
        assert set(found["submissions"]) == {case.name for case in CASES}
        assert torch.__version__.startswith(found["versions"]["torch"]) and len(found["code"]) == 64
        assert found["passed over"] == ["students.csv"]

    def test_nothing_of_a_submission_ran_out_of_the_sandbox(self, graded):
        assert not (graded / "class/CANARY").exists()
        assert not [p for p in graded.rglob("*.part")]

    def test_the_same_seed_gives_the_same_grades(self, graded, tmp_path):
        """Another run of three of them, byte by byte."""
        names = ["perfect.ipynb", "half done.ipynb", "mistake 1.ipynb"]
        assert small([graded / "class" / name for name in names], tmp_path) == {}
        for name in names:
            a, b = (
                json.loads((x / f"results/{name[:-6]}.json").read_text())
                for x in (graded / "grades", tmp_path)
            )
            assert (a["tests"], a["score"]) == (b["tests"], b["score"])


# ---------------------------------------------------------------- every exercise of the course


def judged(ex, seed: int = SEED):
    """The row of the answer in the folder, judged as in grading but run here."""
    key = fresh_key(ex, seed)
    cases = json.loads(json.dumps([wire.encode_all(case) for case in key.cases]))
    message = json.loads(json.dumps(observe(ex, [wire.decode_all(case) for case in cases])))
    return judge(ex, key, message, answers.answer_file(ex).read_text(), LIMITS)


@pytest.mark.parametrize("ex", EXERCISES, ids=lambda ex: ex.id)
def test_solutions_pass_on_fresh_inputs(ex, folder, revealed):
    stub = f"@answer({ex.id})\ndef f{re.sub(chr(39), '', str(inspect.signature(ex.function)))}:\n    pass"
    source, names = helpers.solved_cell(stub)
    assert names == [ex.id]
    answers.save_answer(ex, source)
    assert inspect_answer(ex).passed
    for seed in range(3):
        row = judged(ex, seed)
        assert row.passed and row.points == ex.points, row


@pytest.mark.parametrize(("ex", "name"), MISTAKES, ids=lambda x: getattr(x, "id", x))
def test_mistakes_fail_on_fresh_inputs_with_their_sentence(ex, name, folder, revealed):
    answers.save_answer(ex, answer_cell(ex, name))
    row = judged(ex)
    assert (row.status, row.points) == ("failed", 0)
    assert row.diagnosis == find_key(ex).sentences[name], row


@pytest.mark.parametrize("ex", EXERCISES, ids=lambda ex: ex.id)
def test_the_shipped_keys_outputs_are_worth_nothing(ex):
    """A student who knows the key, and returns what it holds, is wrong on fresh inputs; or those are properties."""
    shipped, fresh = find_key(ex), fresh_key(ex, SEED)
    message = {
        "status": "ran",
        "cases": [],
        "gradients": [],
        "wrong": {},
        "peak": 0,
        "notes": [],
        "called": [],
    }
    for outcome in shipped.outcomes:
        plain = {k: v for k, v in outcome.items() if not k.startswith("gradient")}
        message["cases"].append(wire.encode_all(plain))
        message["gradients"].append(wire.encode_all({k: v for k, v in outcome.items() if k not in plain}))
    row = judge(ex, fresh, message, "", LIMITS)
    only_properties = all(v.unique().numel() <= 1 for outcome in fresh.outcomes for v in outcome.values())
    assert row.status == "failed" or (ex.probe and only_properties), row


# ---------------------------------------------------------------- values on the wire


@pytest.mark.parametrize("dtype", wire.DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)], ids=str)
def test_a_tensor_survives_the_wire(dtype, shape):
    x = (10 * torch.randn(shape)).to(dtype)
    got = wire.decode(json.loads(json.dumps(wire.encode(x))))
    assert got.dtype == dtype and got.shape == x.shape and torch.equal(got, x)


def test_infinities_and_views_survive_the_wire():
    x = torch.tensor([[float("nan"), float("inf")], [-float("inf"), -0.0]], requires_grad=True).T[:, ::2]
    assert torch.equal(wire.decode(wire.encode(x)).nan_to_num(7, 8, 9), x.detach().nan_to_num(7, 8, 9))
    assert [wire.decode(wire.encode(v)) for v in (3, 0.1, True, False, None)] == [3, 0.1, True, False, None]


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["dtype", "shape", "data", "kind", "number", "status", "cases", "wrong", "float32", "ran"]
            ),
            inner | st.sampled_from(["float32", "int64", "cpu", "AAAA", "ran", [1], [2**39] * 3, [-1]]),
            max_size=6,
        )
    ),
    max_leaves=20,
)


@given(ANY_JSON)
def test_any_json_from_a_kernel_is_a_row_without_points(message):
    ex = MANIFEST[1]
    row = judge(ex, find_key(ex), message, "", LIMITS)
    assert row.status != "passed" and row.points == 0
    with contextlib.suppress(wire.Unreadable):  # and nothing else is raised
        wire.decode(message)


# ---------------------------------------------------------------- who handed in what


def test_a_class_is_a_folder_or_a_zip_with_one_entry_for_each_student(tmp_path):
    text = notebook(RIGHT["traverse"])
    one = tmp_path / "class"
    (one / "Ada Lovelace_12_assignsubmission_file").mkdir(parents=True)
    (one / "Ada Lovelace_12_assignsubmission_file/02_elbo.ipynb").write_text(text)
    (one / "=bob.ipynb").write_text(text)
    with zipfile.ZipFile(one / "cy.zip", "w") as archive:
        archive.writestr("02_elbo.ipynb", text)
    (one / ".DS_Store").touch()
    (one / "cy.ipynb").write_text(text)
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", one))
    for path in (one, packed):
        found, _ = find_submissions([path])
        assert sorted(found) == ["Ada Lovelace_12_assignsubmission_file", "_bob", "cy"]
        for name, sources in found.items():
            submission = read_submission(name, sources)
            assert len(submission.cells) == (2 if name == "cy" else 1) and not submission.problems
    (tmp_path / "other").mkdir()
    (tmp_path / "other/cy.ipynb").write_text(text)
    alike, _ = find_submissions([one / "cy.ipynb", tmp_path / "other/cy.ipynb"])
    assert list(alike) == ["cy", "cy (2)"], "two students in one"
    alone, _ = find_submissions([one / "Ada Lovelace_12_assignsubmission_file"])
    assert list(alone) == ["Ada Lovelace_12_assignsubmission_file"]


def test_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no"):
        find_submissions([tmp_path / "nobody.ipynb"])


# ---------------------------------------------------------------- interruptions


@pytest.fixture
def trio(tmp_path):
    """Three small submissions, quick to grade, in a folder."""
    folder = tmp_path / "class"
    folder.mkdir()
    (folder / "ada.ipynb").write_text(notebook(RIGHT["gaussian_kl"]))
    (folder / "bob.ipynb").write_text(notebook(answer("gaussian_kl", "return mean")))
    (folder / "cy.ipynb").write_text(notebook())
    return folder


@needs_bubblewrap
@pytest.mark.slow
def test_an_interrupted_run_resumes(trio, tmp_path, monkeypatch):
    out, real, calls = tmp_path / "grades", supervisor.grade_submission, []

    def interrupted(submission, settings):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(submission["name"])
        return real(submission, settings)

    monkeypatch.setattr(supervisor, "grade_submission", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small([trio], out, seed=None)
    assert len(list((out / "results").iterdir())) == 1
    seed = json.loads((out / "record.json").read_text())["seed"]
    monkeypatch.setattr(supervisor, "grade_submission", lambda **task: calls.append(1) or real(**task))
    small([trio], out, seed=None)
    assert json.loads((out / "record.json").read_text())["seed"] == seed
    assert len(calls) == 3, "what was graded was graded again"
    (trio / "cy.ipynb").write_text(notebook(answer("gaussian_kl", "return log_var")))
    small([trio], out, seed=None)
    assert len(calls) == 4 and rows(out, "cy")[1] == "failed"
    small([trio / "cy.ipynb"], out, seed=seed + 1)
    assert len(calls) == 5, "another seed grades anew"


@needs_bubblewrap
def test_a_worker_that_dies_costs_one_exercise(tmp_path, monkeypatch):
    (tmp_path / "ada.ipynb").write_text(notebook(*RIGHT.values()))
    real, lives = supervisor._worker, []

    def dies(job, patience):
        lives.append(job["known"])
        for message in real(job, patience):
            yield message
            if len(lives) == 1 and message.get("start") == "elbo.gaussian_kl":
                return

    monkeypatch.setattr(supervisor, "_worker", dies)
    assert small([tmp_path / "ada.ipynb"], tmp_path / "grades") == {}
    assert rows(tmp_path / "grades", "ada") == ["passed", "crashed", "passed"] and len(lives) == 2


def test_a_grader_that_fails_is_not_the_students_fault(trio, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "_worker", lambda job, patience: iter([{"read": []}, {"log": "no disk"}]))
    failed = small([trio], tmp_path / "grades", unsafe=True)
    assert set(failed) == {"ada", "bob", "cy"} and "no disk" in failed["ada"]
    assert "not graded" in (tmp_path / "grades/gradebook.csv").read_text()
    assert not list((tmp_path / "grades/results").iterdir())


def test_without_bubblewrap_it_refuses(trio, tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    done = CliRunner().invoke(cli.app, ["grade", str(trio), "-o", str(tmp_path / "grades")])
    assert done.exit_code == 1 and "bubblewrap" in done.output and "--unsafe" in done.output
    assert not (tmp_path / "grades").exists()


@pytest.mark.slow
def test_unsafe_grades_without_a_sandbox(trio, tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "bubblewrap", lambda folder: pytest.fail("the sandbox was used"))
    (trio / "loop.ipynb").write_text(
        with_kl(answer("gaussian_kl", "import os\nif os.fork(): os._exit(0)\nwhile 1: pass"))
    )
    assert small([trio], tmp_path / "grades", unsafe=True, jobs=2) == {}
    assert rows(tmp_path / "grades", "ada")[1] == "passed" and rows(tmp_path / "grades", "bob")[1] == "failed"
    assert rows(tmp_path / "grades", "loop") == ["passed", "crashed", "passed"]


@needs_bubblewrap
@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_loses_no_submission(tmp_path):
    from distributed import Client, LocalCluster

    folder, out = tmp_path / "class", tmp_path / "grades"
    folder.mkdir()
    for i in range(5):
        cell = RIGHT["gaussian_kl"] if i % 2 else answer("gaussian_kl", "return mean")
        (folder / f"student {i}.ipynb").write_text(notebook(cell))
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            victim = next(iter(client.run(os.getpid).values()))

        def kill() -> None:
            while not list((out / "results").glob("*.json")):
                time.sleep(0.1)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        assert small([folder], out, scheduler=cluster.scheduler_address) == {}
        killer.join(1)
        assert not killer.is_alive(), "no worker was killed"
    for i in range(5):
        assert rows(out, f"student {i}")[1] == ("passed" if i % 2 else "failed")


# ---------------------------------------------------------------- the whole course, and the helpers


@needs_bubblewrap
def test_a_perfect_submission_of_the_whole_course(tmp_path):
    """Through the command line: stubs, solved by `course solve`, earn every point."""
    mine = tmp_path / "ada"
    mine.mkdir()
    for lesson in LESSONS:
        stubs = [f"@answer({ex.id})\ndef f(…):\n    pass" for ex in EXERCISES if ex.lesson == lesson.module]
        signatures = [str(inspect.signature(ex.function)) for ex in EXERCISES if ex.lesson == lesson.module]
        cells = [s.replace("(…)", x.replace("'", "")) for s, x in zip(stubs, signatures, strict=True)]
        (tmp_path / f"{lesson.notebook}.ipynb").write_text(notebook(*cells))
        command = [
            "solve",
            str(tmp_path / f"{lesson.notebook}.ipynb"),
            "-o",
            str(mine / f"{lesson.notebook}.ipynb"),
        ]
        assert CliRunner().invoke(cli.app, command).exit_code == 0
    done = CliRunner().invoke(
        cli.app, ["grade", str(mine), "-o", str(tmp_path / "grades"), "--seconds", "30"]
    )
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "grades/results/ada.json").read_text())
    assert [t["name"] for t in results["tests"] if t["status"] != "passed"] == []
    assert results["score"] == sum(ex.points for ex in EXERCISES)


def test_course_check_runs_a_students_own_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_ANSWERS", str(tmp_path / "answers"))
    for name, body in (
        ("gaussian_kl", "return mean.sum(1)"),
        ("traverse", "return undefined"),
        ("elbo", "return 1"),
    ):
        answers.save_answer(
            getattr(red_team.elbo, name), answer(name, body).replace("decode, z, latent, values", "*a, **k")
        )
    answers.save_answer(red_team.elbo.reparameterise, RIGHT["reparameterise"])
    monkeypatch.delenv("COURSE_ANSWERS")
    done = CliRunner().invoke(cli.app, ["check", "elbo"])
    assert done.exit_code == 1
    assert "✓ elbo.reparameterise: passed" in done.output
    assert "✗ elbo.gaussian_kl: wrong value" in done.output
    assert "✗ elbo.traverse: raised" in done.output and "In your code: return undefined" in done.output
    assert "○ elbo.importance_weighted_bound: not attempted" in done.output
    assert done.output.count("elbo.") >= 7


def test_solve_keeps_everything_but_the_answers(tmp_path):
    text = notebook(
        "x = 1",
        "@answer(elbo.gaussian_kl)\ndef mine(mean, log_var):\n    # so\n    raise NotImplementedError\ny = 2",
    )
    (tmp_path / "a.ipynb").write_text(text)
    assert helpers.solve(tmp_path / "a.ipynb", tmp_path / "b.ipynb") == ["elbo.gaussian_kl"]
    cells = ["".join(c["source"]) for c in json.loads((tmp_path / "b.ipynb").read_text())["cells"]]
    assert cells[0] == "x = 1"
    assert cells[1].startswith("@answer(elbo.gaussian_kl)\ndef mine(mean, log_var):\n    return 0.5")
    assert cells[1].endswith("\ny = 2") and "NotImplementedError" not in cells[1]
