"""Grading: a red team's class, honest and hostile; fresh inputs; programs; shapes of a class; interruptions."""

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
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from course_lib import cli
from course_lib.catalogue import find
from course_lib.exercise import answers
from course_lib.exercise.check import inspect_answer
from course_lib.exercise.kernels import HAS_TRITON
from course_lib.grading import helpers, inside, sandbox, supervisor, wire, worker
from course_lib.grading.assignment import everything
from course_lib.grading.judge import ANSWERED, judge, refer
from course_lib.grading.sandbox import Limits
from course_lib.grading.submission import CODE, RAW, plan, read, table
from course_lib.grading.supervisor import grade
from tests.helpers import red_team, until
from tests.helpers.cells import EXERCISES, MISTAKES, SEED, answer_cell, drawn
from tests.helpers.corpus import LOST_IN_GRADING, read_cells
from tests.helpers.red_team import CASES, MANIFEST, RIGHT, answer, notebook, with_kl

LIMITS = Limits(seconds=10, memory=700 * 1024**2)
needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")


def small(paths: list[Path], out: Path, **more) -> dict[str, str]:
    """Grade the three exercises of the red team."""
    return grade(paths, out, **{"seed": SEED, "limits": LIMITS, "assignment": everything(MANIFEST)} | more)


def rows(out: Path, name: str) -> list[str]:
    return [row["status"] for row in record(out, name)["rows"]]


def record(out: Path, name: str) -> dict:
    return json.loads((out / f"records/{name}.json").read_text())


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
        failed = small(
            [folder / "class"], folder / "grades", jobs=2
        )  # while one waits for its limit, the next
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
        assert found["seed"] == SEED and found["limits"]["seconds"] == LIMITS.seconds
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


@pytest.fixture
def answer_folder(folder, revealed):
    """An empty folder of answers; what an answer calls is answered by the solutions."""


def as_json(value):
    return json.loads(json.dumps(value))


def replay(message: dict) -> dict:
    run = inside.check if "exercise" in message else inside.replay_all  # a kernel runs once more
    return as_json(run(as_json(message)))


def watched(ex, test, served=()) -> dict:
    """What a check in the sandbox would send of the answer in the folder."""
    cases = [wire.encode_all(case) for case in test.decoys.cases + test.scaled_decoys]
    return as_json(inside.check(as_json({"exercise": ex.id, "cases": cases, "references": list(served)})))


def judged(ex, seed: int = SEED):
    """The row of the answer in the folder, judged as in grading but run here."""
    test = drawn(ex, seed)
    return judge(ex, test, watched(ex, test), answers.answer_file(ex).read_text(), LIMITS, replay)


@pytest.mark.parametrize("ex", EXERCISES, ids=lambda ex: ex.id)
def test_solutions_pass_on_fresh_inputs(ex, answer_folder):
    stub = f"@answer({ex.id})\ndef f{re.sub(chr(39), '', str(inspect.signature(ex.function)))}:\n    pass"
    source, names = helpers.solved_cell(stub)
    assert names == [ex.id]
    answers.save_answer(ex, source)
    assert inspect_answer(ex).passed
    for seed in (SEED, SEED + 1):
        row = judged(ex, seed)
        assert row.passed and row.points == ex.points, row


@pytest.mark.slow  # all of them together
@pytest.mark.parametrize(("ex", "name"), MISTAKES, ids=lambda x: getattr(x, "id", x))
def test_mistakes_fail_on_fresh_inputs_with_their_sentence(ex, name, answer_folder):
    answers.save_answer(ex, answer_cell(ex, name))
    row = judged(ex)
    assert (row.status, row.points) == ("failed", 0)
    mistakes = answers.find_solution(ex).mistakes
    named = {m.name: m for m in mistakes}
    assert row.diagnosis == named[name].sentence, row
    assert row.mistake == next(m.name for m in mistakes if m.sentence == named[name].sentence), row


@pytest.mark.slow  # all of them together
@pytest.mark.parametrize("cell", read_cells("right_answers"), ids=lambda cell: cell.id)
def test_what_passes_in_the_notebook_passes_in_the_grader(cell, answer_folder):
    """All of these pass in the notebook: test_right_answers.py."""
    answers.save_answer(cell.ex, cell.text)
    for seed in (SEED, SEED + 1):
        row = judged(cell.ex, seed)
        assert row.passed == (cell.id not in LOST_IN_GRADING), row


VIEWS = {  # each gives x back, as another view of it
    "strided": "torch.stack([x, x], -1)[..., 0]",
    "conjugated": "torch.complex(x, torch.zeros_like(x)).conj().real",
    "negated": "torch.complex(torch.zeros_like(x), -x).conj().imag",
    "expanded": "x[None].expand(3, *x.shape)[1]",
    "transposed": "x.movedim(0, -1).contiguous().movedim(-1, 0) if x.ndim else x",
    "one of many": "torch.cat([x.reshape(-1), x.reshape(-1)])[::2].repeat(2)[: x.numel()].new_zeros(x.shape) + x",
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["gaussian_kl", "reparameterise", "elbo"])
def test_views_are_values(name, view, answer_folder):
    """A right answer keeps its point whatever view of its result it returns, one of a single element too."""
    ex = find(f"elbo.{name}")
    stub = f"@answer({ex.id})\ndef f{re.sub(chr(39), '', str(inspect.signature(ex.function)))}:\n    pass"
    source = helpers.solved_cell(stub)[0].replace("    return ", "    x = ")
    answers.save_answer(ex, f"{source}\n    return {VIEWS[view]}\n")
    row = judged(ex)
    assert row.passed, row


@pytest.mark.parametrize("ex", EXERCISES, ids=lambda ex: ex.id)
def test_constants_are_worth_nothing(ex):
    """A process that knows all that it is shown, and says it again as a program without a formula, gets no point."""
    test = drawn(ex, SEED)
    shown = test.decoys.outcomes + [{**x} for x in drawn(ex, SEED + 1).scaled.outcomes]
    message = {
        "status": "ran",
        "cases": [],
        "gradients": [],
        "programs": [],
        "wrong": {},
        "peak": 0,
        "notes": [],
    }
    for values in shown:
        plain = {k: v for k, v in values.items() if not k.startswith("gradient")}
        rest = {k: v for k, v in values.items() if k not in plain}
        message["cases"].append(wire.encode_all(plain))
        message["gradients"].append(wire.encode_all(rest))
        message["programs"].append({"values": constant(plain), "gradients": constant(rest)})
    row = judge(ex, test, message | {"called": []}, "", LIMITS, replay)
    assert row.status in ("failed", "tampered") and row.points == 0, row


def constant(values: dict) -> dict:
    steps = [["const", [wire.encode(v)], {}, 1] for v in values.values()]
    return {"steps": steps, "seeds": [], "results": {k: {"t": i} for i, k in enumerate(values)}}


@pytest.mark.parametrize(
    ("name", "earlier"),
    [
        ("elbo.elbo", ["elbo.gaussian_kl", "elbo.bernoulli_log_likelihood"]),
        ("beta_vae.beta_tcvae_loss", ["elbo.elbo", "beta_vae.log_aggregate_posterior"]),
        ("factor_vae.factor_vae_step", ["elbo.reparameterise", "factor_vae.factor_vae_loss"]),
        ("ufdn.ufdn_step", ["elbo.reparameterise", "ufdn.ufdn_vae_loss", "ufdn.confusion_loss"]),
        ("correlated_factors.conditional_critic_loss", ["mutual_information.critic_loss"]),
    ],
)
def test_an_answer_is_graded_without_those_that_it_calls(name, earlier, folder, monkeypatch):
    """With the reference in the place of missing answers, which shows no value of it while the answer runs."""
    ex, shown, kind = find(name), [], b"c"
    served = [*earlier, "factor_vae.discriminator_loss", "factor_vae.total_correlation_from_logits"]
    test = drawn(ex, SEED)

    def asked(message: dict):
        shown.append((message["step"], reply := as_json(refer(kind, as_json(message), served))))
        return reply

    monkeypatch.setattr(inside, "ask", asked)
    answers.save_answer(ex, answer_cell(ex, ex.name))
    found = watched(ex, test, served)
    assert {step for step, _ in shown} == {"shapes"} and "data" not in json.dumps(shown)
    kind = b"p"
    row = judge(ex, test, found, answers.answer_file(ex).read_text(), LIMITS, replay, served)
    assert row.passed and set(earlier) <= set(row.served), row
    wrong = {**found, "programs": [{k: constant({}) for k in x} for x in found["programs"]]}
    assert not judge(ex, test, wrong, "", LIMITS, replay, served).passed


def test_the_watch_finds_every_process(monkeypatch):
    """By the kernel's lists of children as by a walk through /proc, on which it falls back."""
    box = sandbox.Sandbox({}, LIMITS, unsafe=True)
    box.process = subprocess.Popen(
        ["sh", "-c", "sleep 60 & (sleep 60 & wait) & echo; wait"], stdout=subprocess.PIPE
    )
    try:
        box.process.stdout.readline()
        assert until(lambda: len(box._processes()) == 4)
        found = box._processes()
        monkeypatch.setattr(sandbox, "LISTED", False)
        assert sorted(found) == sorted(box._processes()) and len(found) == 4
    finally:
        found = box._processes()
        for process in found:
            os.kill(process, signal.SIGKILL)
        box.process.wait()


STARTED = """
import sys, torch
from course_lib.grading import inside
inside.take_loops_away()
inside.without_compiler()
inside.warm_up()
inside.without_compiler()
case = {k: inside.encode(torch.rand(4, 3)) for k in ("mean", "log_var")}
found = inside.check({"exercise": "elbo.gaussian_kl", "cases": [case], "references": []})
assert found["status"] == "ran" and not found["wrong"], found
print("torch._dynamo" in sys.modules)
"""


def test_a_check_needs_no_compiler():
    """Its import was a second of every start."""
    variables = os.environ | {"COURSE_ANSWERS": "solutions"}
    done = subprocess.run([sys.executable, "-c", STARTED], env=variables, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stdout + done.stderr


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
def test_any_json_from_a_process_is_a_row_without_points(message):
    ex = MANIFEST[1]
    row = judge(ex, KL_TEST, message, "", LIMITS, replay)
    assert row.status != "passed" and row.points == 0
    with contextlib.suppress(wire.Unreadable):  # and nothing else is raised
        wire.decode(message)


KL_TEST = drawn(MANIFEST[1], SEED)


@given(ANY_JSON, st.sampled_from(["steps", "seeds", "results"]))
def test_any_json_as_a_program_is_a_row_without_points(part, where):
    good = constant({"result": torch.zeros(3)})
    program = {"values": good | {where: part}, "gradients": good}
    cases = [wire.encode_all(x) for x in KL_TEST.decoys.outcomes]
    message = {"status": "ran", "wrong": {}, "peak": 0, "notes": [], "called": [], "cases": cases}
    count = len(KL_TEST.decoys.cases) + len(KL_TEST.scaled.cases)
    message |= {"gradients": [], "programs": [program] * count}
    assert judge(MANIFEST[1], KL_TEST, message, "", LIMITS, replay).points == 0


def test_a_tensor_without_memory_is_a_wrong_shape():
    """10^15 elements that are one: no tampering."""
    huge = torch.zeros(1).expand(10**15)
    got = wire.decode(json.loads(json.dumps(wire.encode(huge))))
    assert got.shape == huge.shape


# ---------------------------------------------------------------- who handed in what

NB = notebook(RIGHT["traverse"])
OLD, LATE = notebook("@answer(elbo.traverse)\ndef old(): return 1"), notebook(RIGHT["gaussian_kl"])
CELL = RIGHT["traverse"]
DOWNLOAD = {
    "elbo/traverse.py": CELL,
    "progress.json": "{}",
    "challenges.json": "{}",
}  # what download_answers() gives
SHAPES = {  # a class as it comes: its files, and who is in it with how many answers that count
    "renamed notebooks": ({"ada.ipynb": NB, "bob.ipynb": NB}, {"ada": 1, "bob": 1}),
    "one is not renamed": (
        {"ada.ipynb": NB, "bob.ipynb": NB, "02_elbo.ipynb": NB},
        {"ada": 1, "bob": 1, "02_elbo": 1},
    ),
    "folders": ({"ada/02_elbo.ipynb": NB, "bob/x/02_elbo.ipynb": NB}, {"ada": 1, "bob": 1}),
    "zips in a folder": ({"ada.zip": {"02_elbo.ipynb": NB}, "bob.zip": DOWNLOAD}, {"ada": 1, "bob": 1}),
    "a zip in a student's folder": (
        {"ada/w.zip": {"02_elbo.ipynb": NB}, "bob/b.ipynb": NB},
        {"ada": 1, "bob": 1},
    ),
    "a zip in a zip": (
        {"ada.zip": {"x/inner.zip": {"02_elbo.ipynb": NB}}, "b.ipynb": NB},
        {"ada": 1, "b": 1},
    ),
    "one student's folder": ({"02_elbo.ipynb": NB, "03_beta_vae.ipynb": NB}, {"class": 2}),
    "one student's folder in a folder": ({"mine/02_elbo.ipynb": NB, "mine/data/x.csv": ""}, {"class": 1}),
    "one student's answers": ({"answers/elbo/traverse.py": CELL, "02_elbo.ipynb": NB}, {"class": 2}),
    "what download_answers gives": (DOWNLOAD, {"class": 1}),
    "under a top folder": (
        {"hw2/ada.ipynb": NB, "hw2/bob.ipynb": NB, "__MACOSX/hw2/._ada.ipynb": "x"},
        {"ada": 1, "bob": 1},
    ),
    "Canvas": (
        {
            "lovelaceada_101_9001_02_elbo.ipynb": NB,
            "lovelaceada_101_9002_03_beta_vae.ipynb": LATE,
            "byronbob_LATE_102_9003_02_elbo-1.ipynb": NB,
            "byronbob_LATE_102_9000_02_elbo.ipynb": OLD,
            "byronbob_103_9004_work.zip": {"02_elbo.ipynb": NB},
            "textcarl_104_text.html": "",
            "textcarl_104_9005_notes.txt": "",
        },
        {"lovelaceada_101": 2, "byronbob_102": 1, "byronbob_103": 1, "textcarl_104": 0},
    ),
    "Moodle, folders": (
        {
            "Ada Lovelace_11_assignsubmission_file/02_elbo.ipynb": NB,
            "Ada Lovelace_11_assignsubmission_onlinetext/onlinetext.html": "",
            "Ada Lovelace_12_assignsubmission_file_/w.zip": {"02_elbo.ipynb": NB},
            "Bob B_13_assignsubmission_onlinetext/onlinetext.html": "",
        },
        {"Ada Lovelace_11": 1, "Ada Lovelace_12": 1, "Bob B_13": 0},
    ),
    "Moodle, flat": (
        {
            "Ada Lovelace_11_assignsubmission_file_02_elbo.ipynb": NB,
            "Ada Lovelace_11_assignsubmission_file_03_beta_vae.ipynb": LATE,
            "Ada Lovelace_11_assignsubmission_onlinetext_onlinetext.html": "",
            "Bob B_13_assignsubmission_file_02_elbo.ipynb": NB,
        },
        {"Ada Lovelace_11": 2, "Bob B_13": 1},
    ),
    "Moodle, one student": (
        {"Ada Lovelace_11_assignsubmission_file/02_elbo.ipynb": NB},
        {"Ada Lovelace_11": 1},
    ),
    "Blackboard": (
        {
            "HW 2_ada1_attempt_2026-01-02-10-00-00_02_elbo.ipynb": OLD,
            "HW 2_ada1_attempt_2026-01-03-10-00-00_02_elbo.ipynb": NB,
            "HW 2_ada1_attempt_2026-01-03-10-00-00.txt": "",
            "HW 2_bob2_attempt_2026-01-02-10-00-00_w.zip": {"02_elbo.ipynb": NB},
        },
        {"ada1": 1, "bob2": 1},
    ),
    "Gradescope": (
        {
            "assignment_7_export/submission_1/02_elbo.ipynb": NB,
            "assignment_7_export/submission_2/02_elbo.ipynb": NB,
            "assignment_7_export/submission_metadata.yml": "submission_1:\n  :submitters:\n  - :name: Ada\n    :sid: '77'\n"
            "    :email: ada@x.org\n  :created_at: 2026-01-01 10:00:00\nsubmission_2:\n  :submitters:\n  - :name: Bob\n",
        },
        {"Ada": 1, "Bob": 1},
    ),
    "GitHub Classroom": (
        {
            "hw-submissions/hw-ada/notebooks/02_elbo.ipynb": NB,
            "hw-submissions/hw-ada/.git/config": "",
            "hw-submissions/hw-ada/README.md": "",
            "hw-submissions/hw-bob/answers/elbo/traverse.py": CELL,
        },
        {"hw-ada": 1, "hw-bob": 1},
    ),
    "names that look alike": (
        {
            "Jo/02_elbo.ipynb": NB,
            "jo/02_elbo.ipynb": NB,
            "M" + chr(0xDCFC) + "/02_elbo.ipynb": NB,
            "M" + chr(0xDCF6) + "/02_elbo.ipynb": NB,
        },
        {},
    ),
}


def build(folder: Path, files: dict) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed_as_zip(content))


def packed_as_zip(content: dict | str) -> bytes:
    if isinstance(content, str):
        return content.encode()
    return red_team.zipped(**{name: packed_as_zip(x) for name, x in content.items()})


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_shapes_of_a_class(shape, packed, tmp_path):
    files, wanted = SHAPES[shape]
    if packed and "alike" in shape:
        pytest.skip("a zip's names are text")
    folder = tmp_path / "class"
    build(folder, files)
    path = Path(shutil.make_archive(str(folder), "zip", folder)) if packed else folder
    found, _ = plan([path])
    counts = {re.sub("~[0-9a-f]{6}$", "~?", name): len(read(x).cells) for name, x in found.items()}
    if "alike" in shape:
        assert sorted(counts.values()) == [1, 1, 1] and len(found) == 4
        return
    assert counts == wanted
    for student in found.values():
        assert student.shown in table(found, [])
        submission = read(student)
        assert not any("old" in text for _, text, _ in submission.cells), "an older attempt counts"


def test_the_export_says_who_and_when(tmp_path):
    build(tmp_path, SHAPES["Gradescope"][0])
    found, _ = plan([tmp_path])
    assert found["Ada"].platform == {
        "export": "gradescope", "submission": "1", "id": "77", "email": "ada@x.org", "name": "Ada", "handed in": "2026-01-01 10:00:00",
    }  # fmt: skip
    build(tmp_path / "canvas", SHAPES["Canvas"][0])
    found, _ = plan([tmp_path / "canvas"])
    assert found["byronbob_102"].platform == {"export": "canvas", "id": "102", "late": "yes"}


def test_listing_grades_nothing(tmp_path):
    build(tmp_path / "class", {"ada.ipynb": NB, "bob.zip": "no zip", "x.csv": ""})
    done = CliRunner().invoke(cli.app, ["grade", str(tmp_path / "class"), "--list"])
    assert done.exit_code == 0 and "2 submissions" in done.output
    assert "ada.ipynb" in done.output and "bob.zip" in done.output and "passed over: x.csv" in done.output


def test_the_newest_notebook_counts(tmp_path):
    build(tmp_path / "ada", {"02_elbo.ipynb": OLD, "02_elbo (1).ipynb": NB})
    os.utime(tmp_path / "ada/02_elbo.ipynb", (1e9, 1e9))
    (student,) = plan([tmp_path / "ada"])[0].values()
    submission = read(student)
    assert [text for _, text, _ in submission.cells] == [CELL]
    assert "is newer and counts" in submission.problems[0]


def test_a_raw_cell_never_overrides_a_code_cell():
    cells = [("a", RIGHT["traverse"], CODE), ("a", answer("traverse", "return 1"), RAW)]
    cells.sort(key=lambda cell: cell[2])
    found = worker.Answers(cells, ["elbo.traverse"], lambda i: True)
    assert "return 1" not in found.texts["elbo.traverse"] and not found.notes


BROKEN = {
    "deflate": lambda data: data[:60] + b"\xff" * 40 + data[100:],
    "cut": lambda data: data[: len(data) // 2],
    "no zip": lambda data: b"PK\3\4",
}


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("damage", BROKEN)
def test_a_damaged_zip_is_a_remark(damage, how, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", how) as archive:
        archive.writestr("02_elbo.ipynb", NB * 20)
    (tmp_path / "x.zip").write_bytes(BROKEN[damage]((tmp_path / "x.zip").read_bytes()))
    (student,) = plan([tmp_path / "x.zip"])[0].values()
    submission = read(student)
    assert not submission.cells and "cannot be" in submission.problems[0]


def test_what_is_deep_is_not_followed(tmp_path):
    folder = tmp_path / "ada"
    folder.mkdir()
    (folder / "02_elbo.ipynb").write_text(NB)
    here = os.getcwd()
    os.chdir(folder)
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(here)
    (student,) = (plan([folder, folder / "02_elbo.ipynb"])[0]["ada"],)
    assert len(read(student).cells) == 1
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.mark.parametrize(
    "source",
    [
        "%x\n" * 600 + CELL,
        "\n" * 90_000 + CELL,
        "x = " + "-" * 60_000 + "1\n" + CELL,
        "'\ud800'\n" + CELL,
        "!" * 90_000 + CELL,
    ],
    ids=["600 magics", "newlines", "minus", "surrogate", "shell"],
)
def test_a_strange_cell_costs_no_more_than_itself(source):
    cells = [("a", source, CODE), ("b", RIGHT["gaussian_kl"], CODE)]
    found = worker.Answers(cells, ["elbo.traverse", "elbo.gaussian_kl"], lambda i: True)
    assert "elbo.gaussian_kl" in found.texts
    assert "elbo.traverse" in found.texts.keys() | found.rows.keys() or found.problems


def test_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no"):
        plan([tmp_path / "nobody.ipynb"])


@pytest.mark.parametrize("text", ["=1+1", "\t=1+1", "  @x", "\r=2", "\n-1", "+a"])
def test_a_spreadsheet_sees_no_formula(text):
    from course_lib.grading.gradebook import _cell

    assert _cell(text).startswith("'")


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


@pytest.mark.slow
@needs_bubblewrap
def test_a_run_resumes_and_a_late_student_adds_a_row(trio, tmp_path, monkeypatch):
    out, real, calls = tmp_path / "grades", supervisor.Gradebook.add, []
    monkeypatch.setattr(
        supervisor.Gradebook, "add", lambda book, x, y: calls.append(x.name) or real(book, x, y)
    )
    assert small([trio / "ada.ipynb"], out, seed=None) == {} and calls == ["ada"]
    seed = json.loads((out / "record.json").read_text())["seed"]
    assert small([trio], out, seed=None) == {} and sorted(calls) == ["ada", "bob", "cy"], "graded again"
    assert json.loads((out / "record.json").read_text())["seed"] == seed
    (trio / "cy.ipynb").write_text(notebook(answer("gaussian_kl", "return log_var")))
    assert small([trio / "cy.ipynb"], out, seed=None) == {}
    assert calls[3:] == ["cy"] and rows(out, "cy")[1] == "failed"
    with open(out / "gradebook.csv", newline="") as file:
        assert [row["student"] for row in csv.DictReader(file)] == ["ada", "bob", "cy"]
    assert set(json.loads((out / "record.json").read_text())["submissions"]) == {"ada", "bob", "cy"}
    small([trio / "cy.ipynb"], out, seed=seed + 1)
    assert calls[4:] == ["cy"], "another seed grades anew"


@pytest.mark.slow
@needs_bubblewrap
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_end_by_signal_leaves_nothing(number, tmp_path):
    folder, out, temporary = tmp_path / "class", tmp_path / "grades", tmp_path / ("t" * 150)
    folder.mkdir()
    temporary.mkdir()
    (folder / "ada.ipynb").write_text(notebook())
    (folder / "bob.ipynb").write_text(notebook(answer("gaussian_kl", "while True: pass")))
    command = [sys.executable, "-m", "course_lib", "grade", str(folder), "-o", str(out)]
    others = [
        ex.id for ex in EXERCISES if ex.lesson == "elbo" and ex.name != "gaussian_kl"
    ]  # drawing takes seconds
    (tmp_path / "one.toml").write_text(f'lessons = ["02"]\nexclude = {json.dumps(others)}\n')
    command += ["--assignment", str(tmp_path / "one.toml"), "--seconds", "200"]
    mark = f"COURSE_TEST_MARK={tmp_path}"
    variables = os.environ | {"COURSE_TEST_MARK": str(tmp_path), "TMPDIR": str(temporary)}
    run = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = lambda: [p for p in descendants(run.pid) if p != run.pid]  # noqa: E731
    assert until((out / "records/ada.json").exists, 240), mark
    assert until(lambda: any(b"grading.inside" in cmdline(p) for p in children())), mark
    alive = children()
    run.send_signal(number)
    run.wait(60)
    assert until(lambda: not [p for p in alive if cmdline(p)]), "a process outlives the run"
    assert until(lambda: not list(temporary.iterdir())), "something stays behind"
    assert (out / "record.json").exists() and not list(out.rglob("*.part"))


def descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(path.parent.name))
    return found


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
@needs_bubblewrap
def test_a_worker_that_dies_costs_one_exercise(tmp_path, monkeypatch):
    (tmp_path / "ada.ipynb").write_text(notebook(*RIGHT.values()))
    real, lives = worker.GradedCell._run_once, tmp_path / "lives"

    def dies(cell, ex, served):
        if ex.name == "gaussian_kl":
            lives.open("a").write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return real(cell, ex, served)

    monkeypatch.setattr(worker.GradedCell, "_run_once", dies)
    assert small([tmp_path / "ada.ipynb"], tmp_path / "grades") == {}
    assert rows(tmp_path / "grades", "ada") == ["passed", "crashed", "passed"] and lives.read_text() == "x"


@pytest.mark.slow
def test_a_grader_that_fails_is_not_the_students_fault(trio, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError("no disk")

    monkeypatch.setattr(worker, "judge", fails)
    failed = small([trio], tmp_path / "grades", unsafe=True)
    assert set(failed) == {"ada", "bob"} and "no disk" in failed["ada"]
    assert "not graded" in (tmp_path / "grades/gradebook.csv").read_text()
    assert [p.stem for p in (tmp_path / "grades/results").iterdir()] == ["cy"]


@pytest.mark.slow
def test_what_goes_wrong_in_reading_is_the_students_remark(trio, tmp_path, monkeypatch):
    real, errors = worker.read, {"bob": RecursionError, "cy": MemoryError, "dan": ZeroDivisionError}
    (trio / "dan.ipynb").write_text(notebook())

    def fails(student):
        if student.name in errors:
            raise errors[student.name]("so")
        return real(student)

    monkeypatch.setattr(worker, "read", fails)
    assert small([trio], tmp_path / "grades", unsafe=True) == {}
    for name, error in errors.items():
        assert rows(tmp_path / "grades", name) == ["not attempted"] * 3
        assert error.__name__ in (tmp_path / f"grades/feedback/{name}.html").read_text()
    assert rows(tmp_path / "grades", "ada")[1] == "passed"


def test_without_bubblewrap_it_refuses(trio, tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    done = CliRunner().invoke(cli.app, ["grade", str(trio), "-o", str(tmp_path / "grades")])
    assert done.exit_code == 1 and "bubblewrap" in done.output and "--unsafe" in done.output
    assert not (tmp_path / "grades").exists()


@needs_bubblewrap
def test_a_sandbox_in_which_the_course_is_missing_is_told_of_and_is_nobodys_fault(monkeypatch):
    monkeypatch.setattr(sandbox, "hidden", lambda: [sandbox.PACKAGE])
    with pytest.raises(sandbox.NoSandbox, match=r"walls\.py"):
        sandbox.require_sandbox()
    with pytest.raises(sandbox.NoSandbox, match=r"does not start: .*course_lib"):
        sandbox.Sandbox({}, LIMITS, unsafe=False).start()


@pytest.mark.slow
def test_unsafe_grades_without_a_sandbox(trio, tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "bubblewrap", lambda *_: pytest.fail("the sandbox was used"))
    (trio / "loop.ipynb").write_text(
        with_kl(answer("gaussian_kl", "import os\nif os.fork(): os._exit(0)\nwhile 1: pass"))
    )
    assert small([trio], tmp_path / "grades", unsafe=True, jobs=2) == {}
    assert rows(tmp_path / "grades", "ada")[1] == "passed" and rows(tmp_path / "grades", "bob")[1] == "failed"
    assert rows(tmp_path / "grades", "loop") == ["passed", "crashed", "passed"]


@pytest.mark.slow
@needs_bubblewrap
def test_one_lesson_handed_in_alone_keeps_its_points(tmp_path):
    """beta_vae's loss without lesson 02, assigned or not: the reference stands in, and the row says so."""
    ex = find("beta_vae.beta_vae_loss")
    (tmp_path / "ada.ipynb").write_text(notebook(answer_cell(ex, ex.name)))
    manifest = [find("elbo.bernoulli_log_likelihood"), find("elbo.gaussian_kl"), ex]
    for asked in (manifest, manifest[2:]):
        grades = tmp_path / f"grades of {len(asked)}"
        assert small([tmp_path / "ada.ipynb"], grades, assignment=everything(asked)) == {}
        row = record(grades, "ada")["rows"][-1]
        assert row["status"] == "passed" and set(row["served"]) == {ex.id for ex in manifest[:2]}
        assert "reference" in row["notes"][0]
        assert "graded without elbo" in (grades / "gradebook.csv").read_text()


THIEF = """
@answer(on_the_gpu.gaussian_kl_kernel)
def gaussian_kl_kernel(mean, log_var, kl, B, D, mean_row, mean_column, log_var_row, log_var_column, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    import json, os, sys
    from course_lib.exercise import kernels
    from course_lib.grading import wire
    kernels.compile_for_gpu = lambda *a, **k: ""  # which would refuse all this
    frame = sys._getframe()
    while "arguments" not in frame.f_locals:
        frame = frame.f_back
    tensors = frame.f_locals["arguments"]
    question = {"step": "refer", "exercise": "elbo.gaussian_kl", "arguments": {"names": ["mean", "log_var"], "numbers": {}}}
    question["tensors"] = [wire.encode(tensors[name]) for name in ("mean", "log_var")]
    os.write(4, json.dumps({"ask": question}).encode() + b"\\n")
    tensors["kl"].copy_(wire.decode(json.loads(wire.read_frame(3)[1])[0]))
"""


@pytest.mark.slow
@needs_bubblewrap
@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
@pytest.mark.parametrize("told", [False, True], ids=["as it is", "were it told"])
def test_a_kernel_cannot_ask_the_reference_for_its_values(told, tmp_path, monkeypatch):
    """Its check has hidden inputs. With answers to its question it would pass, so that the attempt is a real one."""
    if told:
        monkeypatch.setitem(ANSWERED, b"c", {"shapes", "refer"})
    (tmp_path / "eve.ipynb").write_text(notebook(THIEF))
    asked = [find("on_the_gpu.gaussian_kl_kernel")]
    assert small([tmp_path / "eve.ipynb"], tmp_path / "grades", assignment=everything(asked)) == {}
    assert (rows(tmp_path / "grades", "eve") == ["passed"]) == told


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
def test_a_kernel_that_no_gpu_would_take_is_told_so(answer_folder):
    ex = find("on_the_gpu.gaussian_kl_kernel")
    source = answer_cell(ex, ex.name).replace("    row = ", "    import math\n    row = ", 1)
    answers.save_answer(ex, source)
    row = judged(ex)
    assert row.code == "not compiled" and row.status == "failed", row


# ---------------------------------------------------------------- the helpers


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
