"""How the library is built: one catalogue, one way to look things up."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from course_lib import cli
from course_lib.catalogue import LESSONS, exercises, find
from course_lib.lessons import elbo
from course_lib.release import revealed


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
