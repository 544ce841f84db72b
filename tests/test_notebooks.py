"""Whole notebooks under nbval: with the solutions they pass, without answers they fail at the checks only."""

from __future__ import annotations

import ast
import json
import re

import pytest

from course_lib.catalogue import LESSONS, exercises
from course_lib.exercise.answers import find_answers
from tests.helpers import ROOT
from tests.helpers.cells import MARK, code_cells
from tests.helpers.nbval import NOTEBOOKS, run_nbval

START = ROOT / "notebooks/start.ipynb"
INSTALL = """# Installs the course on Colab. Anywhere else it does nothing.
import sys

WHEEL = ""
if "google.colab" in sys.modules:
    assert WHEEL, "This edition has no address for Colab: course release --url ADDRESS fills it in."
    %pip install --quiet {WHEEL}"""


TRAIN = {  # what trains for more than a moment, as notebooks call it
    *("train_vae", "fit_classifier"),
    *(
        f"experiments.{name}"
        for name in [
            "train",
            "train_classifier",
            "train_reader",
            "train_decision",
            "train_critic",
            "train_subspaces",
            "train_linear_vaes",
            "train_discriminator",
            "train_factor_vae",
            "pretrain",
            "adapt",
            "compare",
            "train_image_critic",
            "train_heads",
            "train_positions",
            "train_ivae",
            "train_method",
            "train_purge",
            "probe_subspaces",
            "domain_probe",
            "digit_probe",
        ]
    ),
}


def called(node: ast.AST) -> set[str]:
    """The names of the functions that a piece of code calls."""
    return {ast.unparse(x.func) for x in ast.walk(node) if isinstance(x, ast.Call)}


def python(source: str) -> str:
    """A cell without its magics, which `ast` cannot read."""
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
class TestCommitted:
    def test_is_small(self, notebook):
        assert notebook.stat().st_size < 500_000

    def test_has_outputs_and_no_errors(self, notebook):
        outputs = [o for c in code_cells(notebook) for o in c["outputs"]]
        assert outputs
        assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]

    def test_every_picture_has_a_text_for_those_who_cannot_see_it(self, notebook):
        found = []
        for output in (o for c in code_cells(notebook) for o in c["outputs"]):
            markup = "".join(output.get("data", {}).get("text/html", ""))
            found += [m.group(1) or "" for m in re.finditer(r'<img(?: alt="([^"]*)")?', markup)]
            if "image/png" in output.get("data", {}):
                found.append(output["metadata"].get("image/png", {}).get("alt", ""))
        assert len(found) >= 4
        assert all(len(text) > 10 for text in found), found

    def test_every_exercise_has_a_stub_and_a_check(self, notebook):
        (lesson,) = [x for x in LESSONS if x.notebook == notebook.stem]
        cells = [c["source"] for c in code_cells(notebook)]
        found = [item for source in cells for item in find_answers(python(source))]
        wanted = [ex.id for ex in exercises(lesson)]
        assert [name for name, _ in found] == wanted
        assert not [name for name, text in found if text is not None], "an answer was left in the notebook"
        checks = [ast.unparse(ast.parse(s).body[0]) for s in cells if s.startswith(MARK)]
        assert checks == [f"check({name})" for name in wanted]

    def test_its_first_cell_installs_the_course_on_colab(self, notebook):
        sources = [cell["source"] for cell in code_cells(notebook)]
        assert sources[0] == INSTALL and sources.count(INSTALL) == 1

    def test_its_predictions_are_asked_before_the_result_and_compared_below(self, notebook):
        """Three to five questions a lesson; what `compare` is given comes from the run, and some words say why."""
        asked, compared = {}, []
        for i, cell in enumerate(code_cells(notebook)):
            for node in ast.parse(python(cell["source"])).body:
                call = getattr(node, "value", None)
                if not isinstance(call, ast.Call):
                    continue
                if isinstance(node, ast.Assign) and ast.unparse(call.func) == "predict":
                    asked[ast.unparse(node.targets[0])] = i, ast.literal_eval(call.args[0])
                elif isinstance(call.func, ast.Attribute) and call.func.attr == "compare":
                    name, (result, why) = ast.unparse(call.func.value), call.args
                    compared.append(name)
                    assert asked[name][0] < i - 1, f"{name}: no cell between the question and its answer"
                    assert not isinstance(result, ast.Constant) and why, name
        assert 3 <= len(asked) <= 5 and sorted(compared) == sorted(asked)
        assert all(question.endswith(("?", ".")) for _, question in asked.values())

    def test_cells_that_train_say_what(self, notebook):
        """Whatever a cell calls that ends in `fit`, in the experiments or by way of a function of the notebook."""
        cells, trains = [ast.parse(python(c["source"])) for c in code_cells(notebook)], set(TRAIN)
        for node in (node for cell in cells for node in cell.body):
            if isinstance(node, ast.FunctionDef) and called(node) & trains:
                trains.add(node.name)
        for cell, code in zip(code_cells(notebook), cells, strict=True):
            does = [node for node in code.body if not isinstance(node, ast.FunctionDef)]
            if any(called(node) & trains for node in does):
                assert re.match(r"# Trains .+\.\n", cell["source"]), cell["source"]

    def test_every_check_passed(self, notebook):
        for cell in code_cells(notebook):
            if cell["source"].startswith(MARK):
                assert ": passed" in "".join(cell["outputs"][0]["data"]["text/plain"]), cell["source"]


@pytest.mark.notebooks
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_passes_with_solutions(notebook, tmp_path):
    found = run_nbval(notebook, tmp_path, "solutions")
    assert len(found) == len(code_cells(notebook))
    assert not [cell for cell, failed in found.items() if failed]


@pytest.mark.notebooks
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_fails_exactly_at_the_checks_without_answers(notebook, tmp_path):
    found = run_nbval(notebook, tmp_path, str(tmp_path / "answers"))
    checks = {i for i, c in enumerate(code_cells(notebook)) if c["source"].startswith(MARK)}
    assert {cell for cell, failed in found.items() if failed} == checks


def test_no_two_predictions_are_worded_alike():
    """A prediction is kept under its question."""
    found = [
        ast.literal_eval(node.args[0])
        for notebook in NOTEBOOKS
        for cell in code_cells(notebook)
        for node in ast.walk(ast.parse(python(cell["source"])))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "predict"
    ]
    assert len(found) == len(set(found)) >= 3 * len(NOTEBOOKS)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_prediction_is_compared_at_the_end_of_a_cell(notebook):
    """Where it stands before other lines, nothing shows the result."""
    for source in (cell["source"] for cell in code_cells(notebook)):
        if "%pip" not in source:
            *before, _ = ast.parse(source).body
            calls = [x.value for x in before if isinstance(x, ast.Expr) and isinstance(x.value, ast.Call)]
            assert "compare" not in [getattr(call.func, "attr", "") for call in calls], source


def test_there_is_one_notebook_for_each_lesson():
    assert [p.stem for p in NOTEBOOKS] == [x.notebook for x in LESSONS]


def test_the_start_page_leads_to_every_lesson(tmp_path):
    text = "\n".join("".join(c["source"]) for c in json.loads(START.read_text(encoding="utf-8"))["cells"])
    for x in LESSONS:
        row = next(line for line in text.splitlines() if f"({x.notebook}.ipynb)" in line)
        assert row.startswith(f"| [{x.notebook[:2]} ") and row.endswith(f"| {x.minutes} |")
    assert len(re.findall(r"\(\d\d_\w+\.ipynb\)", text)) == len(LESSONS)
    assert code_cells(START)[0]["source"] == INSTALL
    assert not any(run_nbval(START, tmp_path, str(tmp_path / "answers")).values())
