"""The files around the library agree with one another, and the wheel holds what a student needs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(
        re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    )
    commands = set(re.findall(r"^make ([a-z]+)", readme, flags=re.MULTILINE))
    commands |= set(re.findall(r"`make ([a-z]+)", readme))
    assert {"lab", "test"} <= commands <= targets


def test_readme_pictures_and_links_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    paths = [p for p in re.findall(r"\]\(([^)#]+)\)", readme) if "://" not in p]
    missing = [p for p in paths if not (ROOT / p).exists()]
    assert paths and not missing
    pictures = [p for p in paths if p.endswith(".png")]
    assert pictures and all((ROOT / p).stat().st_size < 150_000 for p in pictures)


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
