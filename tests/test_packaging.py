"""The files around the library agree with one another, and the wheel holds what a student needs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest

from course_lib.catalogue import LESSONS
from course_lib.release import copy_course
from tests.helpers import ROOT, run_in

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_environment_agrees_with_pyproject():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    entries = re.findall(r"^\s*- (.+)$", text, flags=re.MULTILINE)
    assert re.search(r"^name: disentanglement$", text, flags=re.MULTILINE)
    assert f"python{PROJECT['requires-python']}" in entries
    assert "-e ." in entries  # every other requirement comes from pyproject, so the two cannot disagree
    assert set(entries) == {"conda-forge", f"python{PROJECT['requires-python']}", "pip", "pip:", "-e ."}


def test_licence_names_both_parts():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "MIT License" in text and "CC BY 4.0" in text
    assert PROJECT["license"] == "MIT AND CC-BY-4.0"


def test_readme_commands_exist():
    readme = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md"))
    targets = set(
        re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    )
    commands = set(re.findall(r"^make ([a-z]+)", readme, flags=re.MULTILINE))
    commands |= set(re.findall(r"`make ([a-z]+)", readme))
    assert {"lab", "test", "book"} <= commands <= targets


def test_readme_pictures_and_links_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    paths = [p for p in re.findall(r"\]\(([^)#]+)\)", readme) if "://" not in p]
    missing = [p for p in paths if not (ROOT / p).exists()]
    assert paths and not missing
    pictures = [p for p in paths if p.endswith(".png")]
    assert pictures and all((ROOT / p).stat().st_size < 150_000 for p in pictures)


def headings(lesson: str) -> set[str]:
    """The titles of a notebook's sections, by the two digits of its name."""
    (file,) = (ROOT / "notebooks").glob(f"{lesson}_*.ipynb")
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return set(re.findall(r"^## (.+)$", text, flags=re.MULTILINE))


def test_every_slide_leads_to_a_section_that_exists():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.search(r"\| Slide \| Section \|\n\|.*\n((?:\|.*\n)+)", readme)[1]
    places = [place for row in table.splitlines() for place in row.split("|")[2].split(";")]
    assert len(table.splitlines()) > 15
    for place in places:
        lesson, *sections = re.split(r",?\s*\*(?:, \*)?", place.strip().rstrip("*"))
        assert set(filter(None, sections)) <= headings(lesson), place


def test_every_paper_is_among_the_references():
    def papers(*paths):
        text = "".join(path.read_text(encoding="utf-8") for path in paths)
        return set(re.findall(r"arxiv.org/abs/(\d+\.\d+)", text))

    used = papers(
        *ROOT.glob("course_lib/**/*.py"), *ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("solutions/*.py")
    )
    assert used and used <= papers(ROOT / "references.bib")


def test_every_lesson_is_in_the_readme():
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert rows == [(x.notebook, str(x.minutes)) for x in LESSONS]


def test_the_recipe_for_an_exercise_works(tmp_path):
    """The contract, solution and cells of CONTRIBUTING.md, put where it says: key, stub, right and wrong answers."""
    tree = tmp_path / "course"
    copy_course(tree, tuple(x.module for x in LESSONS))
    recipe = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## How to add an exercise")[2]
    blocks = re.findall(r"```python\n(.+?)```", recipe.partition("\n## ")[0], flags=re.DOTALL)
    contract, solution, stub, check = blocks
    for folder, text in (("course_lib/lessons", contract), ("solutions", solution)):
        with open(tree / folder / "mutual_information.py", "a") as file:
            file.write(f"\n\n{text}")
    right = re.search(r"def conditional_entropy\(joint\):\n(.+)", solution)[1]
    find, replacement = re.search(r'other_marginal=\("(.+)", "(.+)"\)', solution).groups()
    wrong = right.replace(find, replacement)
    start = f"""
from torch import Tensor
from course_lib import answer, check
from course_lib.cli import app
from course_lib.exercise.answers import save_answer
from course_lib.lessons import mutual_information
app(["keys", "mutual_information"], standalone_mode=False)
stub = {stub!r}
"""
    script = start + check
    for body in (right, wrong):
        script += f"save_answer(mutual_information.conditional_entropy, stub.replace('    raise NotImplementedError', {body!r}))\n{check}"
    verdicts = re.findall(r"conditional_entropy: ([a-z ]+[a-z])", run_in(tree, script, tmp_path))
    assert verdicts == ["not attempted", "passed", "wrong value"]


def test_old_python_is_refused_in_words(tmp_path):
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # what the version test of an older Python exits with
    old.chmod(0o755)
    command = ["make", "lab", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode != 0
    assert "needs Python 3.11 or later" in found.stdout + found.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file).namelist()


def test_wheel_holds_library_and_keys(wheel):
    lessons = [p.stem for p in (ROOT / "course_lib" / "lessons").glob("[a-z]*.py")]
    assert lessons
    for lesson in lessons:
        assert f"course_lib/lessons/{lesson}.py" in wheel
        assert f"course_lib/data/answer_keys/{lesson}.safetensors" in wheel


def test_wheel_holds_no_solutions(wheel):
    assert not [name for name in wheel if name.startswith(("solutions", "tests")) or name.endswith(".pyc")]
