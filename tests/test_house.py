"""How the library is built: one catalogue, one look-up, findings as data."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import string
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import course_lib
from course_lib import cli
from course_lib.catalogue import LESSONS, exercises, find
from course_lib.exercise.findings import KINDS, Finding
from course_lib.lessons import elbo
from course_lib.release import revealed

PACKAGE = Path(course_lib.__file__).parent


@pytest.mark.parametrize("name", ["02", "02_elbo", "elbo"])
def test_a_lesson_is_found_by_number_notebook_and_module_everywhere_alike(name, tmp_path, monkeypatch):
    assert find(name).module == "elbo" and find(f"{name}.gaussian_kl") is elbo.gaussian_kl
    assert revealed(f"00,{name},02") == ("why_disentangle", "elbo")
    monkeypatch.setenv("COURSE_ANSWERS", str(tmp_path))
    asked = []
    monkeypatch.setattr("course_lib.grading.helpers.self_check", lambda chosen, _: asked.extend(chosen) or [])
    assert CliRunner().invoke(cli.app, ["check", name]).exit_code == 0 and asked == exercises(find("elbo"))
    asked.clear()
    assert CliRunner().invoke(cli.app, ["check", f"{name}.gaussian_kl"]).exit_code == 0
    assert asked == [elbo.gaussian_kl]
    assert CliRunner().invoke(cli.app, ["keys", name, "--check"]).exit_code == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vae", r"02, 02_elbo or elbo.*got 'vae'"),
        ("", "got ''"),
        ("2", "got '2'"),
        ("elbo.kl", "02_elbo has no exercise 'kl': it has reparameterise, gaussian_kl"),
        ("elbo.", "02_elbo has no exercise ''"),
        ("elbo.torch", "has no exercise"),
    ],
)
def test_what_is_not_found_is_explained(name, words):
    with pytest.raises(LookupError, match=words):
        find(name)
    with pytest.raises(ValueError, match="reveal: expected none, all, or some of 00,01"):
        revealed(f"01,{name}")
    if name:
        assert CliRunner().invoke(cli.app, ["check", name]).exit_code == 2


def test_every_exercise_is_found_by_its_id():
    found = exercises()
    assert len({ex.id for ex in found}) == len(found) == sum(len(exercises(x)) for x in LESSONS)
    assert all(find(ex.id) is ex for ex in found)
    with pytest.raises(ValueError, match="whole lessons"):
        revealed("elbo.gaussian_kl")
    assert CliRunner().invoke(cli.app, ["keys", "elbo.gaussian_kl"]).exit_code == 2


def test_the_package_is_the_command():
    done = subprocess.run([sys.executable, "-m", "course_lib", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "Usage: course " in done.stdout and "grade" in done.stdout


# ---------------------------------------------------------------- findings: codes and fields, sentences at the edge


def made_codes() -> set[str]:
    """Every code that the library writes down: in Wrong(…), Finding(…), .fail(…), .remark(…) and in tables."""
    sources = [p for folder in ("exercise", "grading") for p in (PACKAGE / folder).glob("*.py")]
    sources.append(PACKAGE / "notebook.py")
    found = set()
    for source in sources:
        if source.name != "findings.py":
            nodes = ast.walk(ast.parse(source.read_text(encoding="utf-8")))
            found |= {x.value for x in nodes if isinstance(x, ast.Constant) and x.value in KINDS}
    return found


def test_every_code_of_a_finding_is_made_somewhere():
    assert made_codes() == set(KINDS)


def test_findings_travel_as_json():
    shape = Finding("axis of length 1", {"entry": "", "expected": [2], "got": [2, 1]})
    value = Finding("value", {"step": "value", "cases": [1, 3], "entry": "loss", "error": 0.25, "index": [1]})
    value = dataclasses.replace(value, mistake="mean", diagnosis="You averaged.")
    assert shape.status == "wrong shape" and shape.public == shape.sentence
    assert value.sentence == (
        "1 of 3 cases differ. The largest error here is 0.25 (loss), at [1]. A case that differs:"
    )
    assert value.public == "1 of 3 cases differ." and value.status == "wrong value"
    for finding in (shape, value):
        assert Finding.from_data(json.loads(json.dumps(finding.as_data()))) == finding


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {"code": "shape"},
        {"code": "no such code", "fields": {}, "mistake": "", "diagnosis": ""},
        {"code": [], "fields": {}, "mistake": "", "diagnosis": ""},
        {"code": "shape", "fields": {}, "mistake": "", "diagnosis": ""},
        {"code": "memory", "fields": {"size": "x", "peak": 1, "bound": 1}, "mistake": "", "diagnosis": ""},
    ],
)
def test_what_is_no_finding_is_refused(data):
    with pytest.raises(ValueError, match="Not a finding"):
        Finding.from_data(data)


def test_nothing_in_a_public_sentence_comes_from_a_case_or_an_exception():
    for code, kind in KINDS.items():
        names = {name for _, name, _, _ in string.Formatter().parse(kind.public or kind.sentence) if name}
        assert not names & {"text", "index"}, code
        assert "error:" not in (kind.public or kind.sentence), code


# ---------------------------------------------------------------- imports point one way

LAYERS = [  # each imports from those above it, and within its own; grading, release, book and cli stand beside the lessons
    {"catalogue", "cores", "files"},
    {"exercise"},
    {"checkpoints", "datasets", "metrics", "models", "plots", "training", "widgets"},
    {"lessons"},
    {"experiments"},
    {"challenges"},
    {"notebook", "grading", "release", "book", "cli", "__main__", "course_lib"},
]
ABOVE = {part: number for number, parts in enumerate(LAYERS) for part in parts}


def modules() -> dict[str, Path]:
    """The modules of the library by name, without "course_lib."; the package itself is "course_lib"."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").strip(".")
        found[name or "course_lib"] = path
    return found


def imports(path: Path, known: set[str]) -> set[str]:
    """The library's modules that a file imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {n if n.removeprefix("course_lib.") in known else node.module for n in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    found = {name.removeprefix("course_lib.") for name in found if name.partition(".")[0] == "course_lib"}
    assert found <= known, f"{path} imports {found - known}"
    return found


IMPORTS = {name: imports(path, set(modules())) for name, path in modules().items()}


@pytest.mark.parametrize("name", IMPORTS)
def test_imports_point_one_way(name):
    part = ABOVE[name.partition(".")[0]]
    up = {other for other in IMPORTS[name] if ABOVE[other.partition(".")[0]] > part and other != "course_lib"}
    assert not up, f"{name} imports {up}"


def test_no_modules_import_each_other_in_a_circle():
    assert (
        "exercise.compare" in IMPORTS["exercise.check"] and "widgets" in IMPORTS["notebook"]
    )  # of a function
    left = dict(IMPORTS)
    while free := {name for name, wanted in left.items() if not wanted & left.keys() - {name}}:
        left = {name: wanted for name, wanted in left.items() if name not in free}
    assert not left, f"in or above a circle: {left}"


def test_only_the_resolver_looks_for_solutions_in_a_lesson():
    """Nothing that a student runs imports them; instructors' commands (grading) do."""
    for name, path in modules().items():
        source = path.read_text(encoding="utf-8")
        if not name.startswith(("grading", "release", "cli", "exercise.answers")):
            assert not re.search(r"^\s*(from|import) solutions|import_module\(.?.solutions", source, re.M), (
                name
            )


def test_every_progress_bar_has_a_name():
    """A call of `fit` says what it trains; only `fit` itself has a name for the nameless."""
    calls = [
        (file.name, node.lineno, node)
        for file in (PACKAGE / "experiments").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("fit", "fit_classifier")
    ]
    assert len(calls) > 15
    nameless = [
        call[:2]
        for call in calls
        if not any(k.arg == "label" for k in call[2].keywords) and len(call[2].args) < 3
    ]
    assert not nameless
