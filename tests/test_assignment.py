"""What a teacher does with grades: assignments, rosters, overrides, the report, similar answers, other graders' formats."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from course_lib import cli
from course_lib.catalogue import exercises, find
from course_lib.exercise import answers
from course_lib.grading import assignment as asked
from course_lib.grading import supervisor
from course_lib.grading.assignment import BadFile, Roster, mark, read_assignment, read_sheet, read_time
from course_lib.grading.gradebook import Gradebook
from course_lib.grading.judge import Row
from course_lib.grading.similar import groups, shape
from course_lib.grading.submission import Part, Student
from tests.helpers import until
from tests.helpers.red_team import RIGHT, answer, notebook

KL, TRAVERSE, LOSS = "elbo.gaussian_kl", "elbo.traverse", "beta_vae.beta_vae_loss"
TOML = """
title = "Homework 2"
lessons = ["02", "03"]
exclude = ["elbo.elbo"]
due = 2026-03-01T23:59:00
timezone = "Europe/Berlin"
late = 2
[points]
elbo.gaussian_kl = 5
"""
MEAN = "(0.5 * (mean.square() + log_var.exp() - log_var - 1)).mean(1)"
AVERAGED = "You averaged over the latents."


def course(*arguments: str):
    return CliRunner().invoke(cli.app, ["grade", *map(str, arguments)])


def row(exercise: str, status: str = "passed", **more) -> dict:
    return Row(exercise, status, **more).as_dict()


def record(name: str, *rows: dict, **platform: str) -> dict:
    return {
        "student": name,
        "files": [],
        "platform": platform,
        "digest": name,
        "run": "r",
        "problems": [],
        "rows": list(rows),
    }


@pytest.fixture
def grades(tmp_path):
    """A folder of grades, records by hand: of lesson 02 and 03, by four students."""
    folder = tmp_path / "grades"
    (folder / "records").mkdir(parents=True)
    wrong = dict(
        diagnosis=AVERAGED, mistake="mean_over_latents", code="value", message="3 of 3 cases differ."
    )
    served = row(LOSS, served=[KL], calls=[KL], notes=["Graded with the reference."])
    made = {
        "ada_11": record("ada_11", row(KL), row(TRAVERSE), row(LOSS), export="canvas", id="11"),
        "bob_12": record("bob_12", row(KL, "failed", **wrong), row(TRAVERSE, "timed out"), served, export="canvas", id="12", late="yes"),
        "cy_13": record("cy_13", row(KL, "failed", **wrong), row(TRAVERSE, "failed", message="No."), row(LOSS, "failed", calls=[KL], message="No."), export="canvas", id="13"),
        "=cmd_14": record("=cmd_14", row(KL, "not attempted"), row(TRAVERSE), row(LOSS), export="canvas", id="14"),
    }  # fmt: skip
    for name, content in made.items():
        (folder / f"records/{name}.json").write_text(json.dumps(content))
    (folder / "assignment.toml").write_text(f'title = "HW"\nlessons = ["02", "03"]\n[points]\n"{KL}" = 5\n')
    return folder


def lines(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def line(folder: Path, student: str) -> dict[str, str]:
    return next(x for x in lines(folder / "gradebook.csv") if x["student"].lstrip("'") == student)


# ---------------------------------------------------------------- assignment.toml


def test_an_assignment_says_what_counts():
    found = read_assignment(TOML)
    assert found.points[KL] == 5 and found.points[TRAVERSE] == 2 and "elbo.elbo" not in found.points
    assert {name.partition(".")[0] for name in found.points} == {"elbo", "beta_vae"}
    assert list(found.points) == [ex.id for ex in found.exercises]
    assert found.due == datetime(2026, 3, 1, 22, 59, tzinfo=UTC) and found.late == 2
    assert found.title == "Homework 2" and found.of == sum(found.points.values())


def test_an_empty_assignment_is_the_course():
    assert read_assignment("") == asked.everything()


def test_the_example_is_one():
    assert read_assignment(asked.EXAMPLE).points[KL] == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lessons = [", "not TOML"),
        ('lesson = ["02"]', "'lesson' is unknown"),
        ('lessons = "02"', "not as expected"),
        ('lessons = ["12"]', "Expected a lesson"),
        ('lessons = ["elbo.traverse"]', "expected a whole lesson"),
        ('exclude = ["elbo"]', "expected an exercise"),
        ('exclude = ["elbo.kl"]', "no exercise 'kl'"),
        ('lessons = ["02"]\nexclude = ["beta_vae.beta_vae_loss"]', "in none of the lessons"),
        ('lessons = ["02"]\n[points]\n"beta_vae.beta_vae_loss" = 2', "not in the assignment"),
        ('[points]\n"elbo.traverse" = -1', "0 or more; got -1"),
        ('[points]\n"elbo.traverse" = nan', "0 or more; got nan"),
        ('[points]\n"elbo.traverse" = true', "0 or more; got True"),
        ("due = 2026-03-01T10:00:00", "has no time zone"),
        ("due = 2026-03-01", "not as expected"),
        ("late = 2", "no due date"),
        ('timezone = "Mars"', "unknown"),
        ("lessons = []", "no exercise is left"),
    ],
)
def test_a_bad_assignment_says_what_is_wrong(text, says):
    with pytest.raises(BadFile, match=re.escape(says)):
        read_assignment(text)


def test_a_bad_assignment_changes_nothing(grades, tmp_path):
    before = {p: p.read_bytes() for p in grades.rglob("*") if p.is_file()}
    (tmp_path / "bad.toml").write_text("lessons = [")
    done = course("-o", grades, "--assignment", tmp_path / "bad.toml")
    assert done.exit_code == 1 and "bad.toml is not TOML" in done.output
    assert {p: p.read_bytes() for p in grades.rglob("*") if p.is_file()} == before


def test_a_new_assignment_keeps_the_old_one(grades, tmp_path):
    old = (grades / "assignment.toml").read_text()
    assert course("-o", grades, "--lessons", "03").exit_code == 0
    assert (grades / "assignment.previous.toml").read_text() == old
    assert line(grades, "ada_11")[LOSS] == "1" and KL not in line(grades, "ada_11")
    assert course("-o", grades, "--lessons", "02", "--assignment", tmp_path / "x.toml").exit_code == 1
    assert course("-o", tmp_path / "none").exit_code == 1


def test_sums_by_lesson_and_of_what_is_assigned(grades):
    assert course("-o", grades).exit_code == 0
    found, assignment = line(grades, "ada_11"), read_assignment((grades / "assignment.toml").read_text())
    assert (found["elbo"], found["beta_vae"], found["total"]) == ("7", "1", "8")
    assert found["of"] == str(assignment.of) and "not graded yet" in found["remarks"]
    assert line(grades, "bob_12")["total"] == "1" and line(grades, "cy_13")["total"] == "0"
    page = (grades / "feedback/ada_11.html").read_text()
    assert f"8 of {assignment.of} points" in page and "lesson 02: 7 of" in page and "5 of 5" in page
    assert json.loads((grades / "results/ada_11.json").read_text())["score"] == 8


def test_what_is_graded_anew_must_be_handed_in_and_assigned(grades, tmp_path):
    assert "expected submissions" in course("-o", grades, "--only", KL).output.replace("\n", " ")
    (tmp_path / "ada.ipynb").write_text(notebook())
    done = course(tmp_path / "ada.ipynb", "-o", grades, "--only", "adda.coral_loss", "--unsafe")
    assert done.exit_code == 1 and "--only: adda.coral_loss is not in the assignment" in done.output
    done = course(tmp_path / "ada.ipynb", "-o", grades, "--only", "elbo")
    assert done.exit_code == 2 and "expected an exercise" in done.output.replace("\n", " ")


# ---------------------------------------------------------------- lateness


def graded(**platform: str) -> asked.Mark:
    return mark("ada", record("ada", row(KL), row(TRAVERSE), **platform), read_assignment(TOML))


@pytest.mark.parametrize(
    ("handed_in", "taken_off"),
    [
        ("2026-03-01 23:59:00", 0),
        ("2026-03-01T22:59:00Z", 0),
        ("2026-03-02 00:00:00", 2),
        ("2026-03-01 22:59:01.123456789 Z", 2),
        ("2026-03-02-23-59-00", 2),
        ("2026-03-03 00:00:00", 4),
        ("2026-03-01 18:00:00 -05:00", 2),
        ("2026-03-01 17:59:00 -0500", 0),
        ("Monday, 2 March 2026, 12:30 AM", 2),
        ("2026-04-01 00:00:00", 7),
    ],
)
def test_each_day_that_has_begun_costs(handed_in, taken_off):
    """The total is never below zero; a time without a zone is in the assignment's."""
    found = graded(**{"handed in": handed_in})
    assert found.total == 7 - taken_off and bool(found.late) == bool(taken_off)
    if taken_off:
        assert "late: due 2026-03-01 23:59 CET" in found.late


def test_lateness_without_a_time_is_said_and_not_guessed(grades):
    found = graded(late="yes")
    assert found.total == 7 and "by how much is not known" in found.late
    assert graded().late == ""
    naive = read_assignment('due = 2026-03-01T10:00:00Z\nlate = 1\nlessons = ["02"]')
    assert naive.zone is not None, "a due date's own zone is that of times without one"
    (grades / "assignment.toml").write_text(TOML)
    done = course("-o", grades)
    assert "Without a time of hand-in that is known: 4 submissions." in done.output
    assert "by how much is not known" in line(grades, "bob_12")["remarks"]
    assert "by how much is not known" in (grades / "feedback/bob_12.html").read_text()


def test_summer_time_is_no_hour_of_grace():
    """24 hours before the clocks change is not a day later by the clock."""
    found = read_assignment('due = 2026-03-28T12:00:00\ntimezone = "Europe/Berlin"\nlate = 1')
    day = found.due.astimezone(UTC) + timedelta(days=1)
    assert asked.lateness({"handed in": day.isoformat()}, found)[0] == 1
    assert asked.lateness({"handed in": (day + timedelta(seconds=1)).isoformat()}, found)[0] == 2


def test_what_is_no_time_is_none():
    assert read_time("") is None and read_time("-") is None and read_time("yesterday") is None


# ---------------------------------------------------------------- rosters, and sheets to import


def roster(tmp_path: Path, text: str) -> Roster:
    path = tmp_path / "class.csv"
    path.write_text(text, encoding="utf-8")
    return Roster(*read_sheet(path), path.name)


@pytest.mark.parametrize(
    ("text", "student", "platform", "email"),
    [
        ("id,email\n11,ada@x.org\n12,bob@x.org\n", "lovelaceada_11", {"id": "11"}, "ada@x.org"),
        ("Identifier;Email address\nParticipant 11;ada@x.org\n", "Ada L_11", {"id": "11"}, "ada@x.org"),
        ("\ufeffusername\temail\nada1\tada@x.org\n", "ada1", {"id": "ada1"}, "ada@x.org"),
        ("Name,Email\nAda Lovelace,ada@x.org\n", "ada lovelace", {}, "ada@x.org"),
        ("name,email\nAda,one@x.org\nAda,two@x.org\n", "Ada", {"email": "two@x.org"}, "two@x.org"),
        ("name,email\nAda,one@x.org\nAda,two@x.org\n", "Ada", {}, ""),
        ("ID,Identifier,Email,Login,Username\n11,11,ada@x.org,a,a\n", "a", {}, "ada@x.org"),
        ("Student,ID,SIS Login ID,Section\n    Points Possible,,,\nAda,11,ada1,A\n", "adal_11", {"id": "11"}, ""),
    ],
)  # fmt: skip
def test_a_roster_knows_its_students(tmp_path, text, student, platform, email):
    found = roster(tmp_path, text)
    row = found.find(record(student, **platform))
    assert (found.get(row, "email") if row else "") == email
    assert found.find(record("nobody", id="99")) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("shoe size\n3\n", "expected a column such as id"),
        ("id\n11\n11\n", "2 lines have the id 11"),
        ('id,name\n11,"ada\n', "class.csv, line"),
    ],
)
def test_a_bad_roster_says_what_is_wrong(tmp_path, text, says):
    with pytest.raises(BadFile, match=says):
        roster(tmp_path, text)


def test_a_roster_in_another_encoding_is_told(tmp_path):
    (tmp_path / "x.csv").write_bytes("id,name\n1,Jürgen\n".encode("latin-1"))
    with pytest.raises(BadFile, match="not UTF-8"):
        read_sheet(tmp_path / "x.csv")


CANVAS = """Student,ID,SIS User ID,SIS Login ID,Section,Homework 1 (7)
    Points Possible,,,,,10
"Lovelace, Ada",11,s11,ada1,"Group A",9
"Byron, Bob",12,s12,bob1,"Group B",8
"Absent, Ann",15,s15,ann1,"Group B",8
"""


def test_a_sheet_that_canvas_takes(grades, tmp_path):
    (tmp_path / "canvas_export.csv").write_text(CANVAS)
    done = course("-o", grades, "--roster", tmp_path / "canvas_export.csv")
    assert done.exit_code == 0, done.output
    with open(grades / "canvas.csv", newline="") as file:
        header, worth, *rows = list(csv.reader(file))
    assert header == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "HW"]
    assert worth[0].strip() == "Points Possible" and float(worth[-1]) == float(line(grades, "ada_11")["of"])
    assert ["Lovelace, Ada", "11", "s11", "ada1", "Group A", "8"] in rows and len(rows) == 4
    assert (
        "roster.csv has no line for cy_13" in done.output
        and "Of 3 in roster.csv, 1 handed in nothing" in done.output
    )
    absent = line(grades, "Absent, Ann")
    assert absent["total"] == "" and absent["remarks"] == "nothing handed in" and absent["id"] == "15"


def test_a_sheet_that_moodle_takes(grades, tmp_path):
    text = "Identifier,Full name,Email address,Status,Grade,Maximum Grade,Grade can be changed,Last modified (submission),Last modified (grade),Feedback comments\n"
    text += 'Participant 11,Ada Lovelace,ada@x.org,Submitted,,100,Yes,"Monday, 2 March 2026, 12:30 AM",-,\n'
    (tmp_path / "Grades.csv").write_text(text)
    (tmp_path / "hw.toml").write_text(TOML)
    done = course("-o", grades, "--roster", tmp_path / "Grades.csv", "--assignment", tmp_path / "hw.toml")
    assert done.exit_code == 0, done.output
    (found,) = lines(grades / "moodle.csv")
    assert (found["Identifier"], found["Full name"], found["Email address"]) == (
        "Participant 11",
        "Ada Lovelace",
        "ada@x.org",
    )
    assert found["Grade"] == "6" and found["Last modified (grade)"] == "-"
    assert "lesson 02: 7 of" in found["Feedback comments"] and "1 day late" in found["Feedback comments"]
    assert line(grades, "ada_11")["taken off"] == "2" and line(grades, "ada_11")["email"] == "ada@x.org"


# ---------------------------------------------------------------- overrides.csv


def test_an_override_counts_last_and_is_shown(grades):
    (grades / "overrides.csv").write_text(
        f"student,exercise,points,comment\nbob_12,{KL},3.5,right but for the sign\n11,late,1,agreed\n13,{LOSS},2,\n"
    )
    for _ in range(2):  # it survives
        assert course("-o", grades).exit_code == 0
    assert line(grades, "bob_12")[KL] == "3.5" and line(grades, "bob_12")["total"] == "4.5"
    page = (grades / "feedback/bob_12.html").read_text()
    assert "By decision of whoever grades, this is worth 3.5 of 5 points: right but for the sign" in page
    assert AVERAGED in page, "the diagnosis stays"
    assert (
        line(grades, "ada_11")["total"] == "7"
        and "By decision" in (grades / "feedback/ada_11.html").read_text()
    )
    assert line(grades, "cy_13")["total"] == "2" and "by decision" in line(grades, "cy_13")["remarks"]
    results = json.loads((grades / "results/bob_12.json").read_text())
    assert results["score"] == 4.5 and results["tests"][0]["score"] == 3.5
    assert "3.5" not in (grades / "records/bob_12.json").read_text(), "a record is what was graded"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("student,points\n", "expected the first line student,exercise,points,comment"),
        ("", "got nothing"),
        (f"student,exercise,points,comment\nada_11,{KL},many,\n", "line 2: points: expected a number"),
        (f"student,exercise,points,comment\nada_11,{KL},-1,\n", "0 or more"),
        ("student,exercise,points,comment\nada_11,elbo.kl,1,\n", "no exercise 'kl'"),
        ("student,exercise,points,comment\nada_11,adda.domain_loss,1,\n", "line 2"),
        (f"student,exercise,points,comment\nada_11,{KL},1,\nada_11,{KL},2,\n", "line 3: ada_11 has another"),
    ],
)
def test_bad_overrides_say_which_line(grades, text, says):
    assert course("-o", grades).exit_code == 0
    before = (grades / "gradebook.csv").read_bytes()
    (grades / "overrides.csv").write_text(text)
    done = course("-o", grades)
    assert done.exit_code == 1 and says in done.output.replace("\n", " "), done.output
    assert (grades / "gradebook.csv").read_bytes() == before


def test_an_override_of_nobody_is_told(grades):
    (grades / "overrides.csv").write_text(f"student,exercise,points,comment\nzoe,{KL},1,\n")
    assert "line 2: there is no student 'zoe'" in course("-o", grades).output


# ---------------------------------------------------------------- the class at a glance


def test_the_report_counts_mistakes_by_name(grades):
    assert course("-o", grades).exit_code == 0
    found = {(x["exercise"], x["kind"], x["what"]): x for x in lines(grades / "report.csv")}
    mistake = found[KL, "mistake", "mean_over_latents"]
    assert (mistake["students"], mistake["of"], mistake["sentence"]) == ("2", "4", AVERAGED)
    assert (
        found[KL, "status", "passed"]["students"] == "1"
        and found[TRAVERSE, "status", "timed out"]["students"] == "1"
    )
    assert found[KL, "blocks", LOSS]["students"] == "2", "bob's, which was served, and cy's, which failed"
    assert found[TRAVERSE, "other", ""]["sentence"] == "No."
    page = (grades / "report.html").read_text()
    assert f"<b>2 of 4</b> {AVERAGED}" in page and "<b>1 of 4</b> timed out" in page
    assert "1 of the 3 who tried have solved it" in page and "4 of 4 submissions graded; 1 late" in page
    assert "median 4.5" in page or "median" in page


def test_the_report_names_nobody_and_asks_for_nothing(grades):
    course("-o", grades)
    page = (grades / "report.html").read_text()
    assert not re.search(r"ada|bob|cmd_14|https?:|src=|@import|url\(|<script", page)
    ElementTree.fromstring(
        re.sub(r"<meta[^>]*>|<!doctype html>|tabindex=0", "", page)
        .replace("scope=row", 'scope="row"')
        .replace("scope=col", 'scope="col"')
    )
    for needed in ("prefers-color-scheme: dark", "@media print", ":focus-visible", 'lang="en"'):
        assert needed in page


def test_a_class_of_nobody_has_a_report(tmp_path):
    (tmp_path / "records").mkdir()
    assert course("-o", tmp_path).exit_code == 0
    assert "0 of 0 submissions" in (tmp_path / "report.html").read_text()


def test_a_spreadsheet_sees_no_formula_in_a_name(grades):
    course("-o", grades)
    for name in ("gradebook.csv", "canvas.csv"):
        assert not re.search(r"(?m)^=|,=", (grades / name).read_text()), name


def test_rendering_a_large_class_keeps_nothing_but_lines(tmp_path):
    book = Gradebook(tmp_path, asked.everything())
    for i in range(30):
        rows = [row(name, "failed", message="x" * 20_000) for name in list(book.assignment.points)[:10]]
        graded = {"rows": rows, "digest": str(i), "problems": [], "junit": "<x/>"}
        book.add(Student(f"s{i}", f"s{i}", [Part(Path("a.ipynb"))]), graded)
    import tracemalloc

    tracemalloc.start()
    book.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000, "30 records of 200 kB are 6 MB"


# ---------------------------------------------------------------- answers that are alike

ANSWER = """
import torch

@answer(elbo.gaussian_kl)
def gaussian_kl(mean, log_var):
    '''One number an example.'''
    total = mean.square() + log_var.exp() - log_var - 1  # so
    return 0.5 * total.sum(dim=1)
"""
RENAMED = """
@answer(elbo.gaussian_kl)
def kl(m: Tensor, lv: Tensor) -> Tensor:
    s = m.square() + lv.exp() - lv - 1
    return 0.5 * s.sum(dim=1)
"""


def test_names_comments_and_imports_make_no_shape():
    assert shape(ANSWER) == shape(RENAMED) != ""
    assert shape(ANSWER) != shape(RENAMED.replace("exp", "log"))
    assert shape(ANSWER) != shape(RENAMED.replace("s.sum", "m.sum"))
    assert shape("import torch as t\ndef f(x): return t.exp(x)") == shape(
        "import torch\ndef f(y): return torch.exp(y)"
    )
    assert shape("from torch import exp\ndef f(x): return exp(x)") != shape(
        "from torch import log\ndef f(x): return log(x)"
    )
    assert shape("") == shape("def (") == ""


def test_groups_leave_out_what_everybody_writes():
    long, short = "40-aa", "10-bb"
    rows = [("ada", {"exercise": "x.a", "shape": long, "status": "failed"})]
    rows += [("bob", {"exercise": "x.a", "shape": long, "status": "failed"})]
    rows += [(who, {"exercise": "x.b", "shape": long, "status": "passed"}) for who in ("ada", "bob", "cy")]
    rows += [(who, {"exercise": "x.c", "shape": short, "status": "passed"}) for who in ("ada", "bob")]
    assert groups(rows) == [(("ada", "bob"), [("x.a", "failed")])]


def test_similar_is_a_hint(grades):
    for name in ("ada_11", "bob_12"):
        path = grades / f"records/{name}.json"
        found = json.loads(path.read_text())
        found["rows"][0]["shape"] = shape(ANSWER if name == "ada_11" else RENAMED)
        path.write_text(json.dumps(found))
    done = course("-o", grades, "--similar")
    assert (
        "1 answer alike: ada_11; bob_12 (elbo.gaussian_kl)" in done.output and "proves nothing" in done.output
    )
    assert lines(grades / "similar.csv")[0]["not passed"] == ""
    assert "similar" not in (grades / "report.html").read_text()


# ---------------------------------------------------------------- grading for real


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
def test_one_exercise_is_graded_anew_for_everybody(tmp_path):
    """A growing assignment grades what is missing; `only` touches one row, says who moved, and refuses other files."""
    folder, out = tmp_path / "class", tmp_path / "grades"
    folder.mkdir()
    (folder / "ada.ipynb").write_text(notebook(*RIGHT.values()))
    (folder / "bob.ipynb").write_text(notebook(RIGHT["traverse"], answer("gaussian_kl", f"return {MEAN}")))

    def grade(names: list[str], **more) -> dict:
        chosen = asked.everything([find(name) for name in names])
        return supervisor.grade([folder], out, seed=1, assignment=chosen, **more)

    def stored(name: str) -> dict:
        return json.loads((out / f"records/{name}.json").read_text())

    def rows(name: str) -> dict:
        return {row["exercise"]: row for row in stored(name)["rows"]}

    assert grade([KL]) == {}
    assert rows("ada")[KL]["status"] == "passed" and rows("bob")[KL]["mistake"]
    assert rows("ada")[KL]["shape"] and rows("ada")[KL]["shape"] != rows("bob")[KL]["shape"]
    changed = stored("ada")
    changed["rows"][0] |= {"status": "failed", "message": "the solution was wrong", "notes": ["mark"]}
    (out / "records/ada.json").write_text(json.dumps(changed))
    assert grade([KL, TRAVERSE]) == {}
    assert rows("ada")[KL]["notes"] == ["mark"], "it was graded already"
    assert rows("ada")[TRAVERSE]["status"] == rows("bob")[TRAVERSE]["status"] == "passed"
    changed = stored("ada")
    changed["rows"][1]["notes"] = ["untouched"]
    (out / "records/ada.json").write_text(json.dumps(changed))
    assert grade([KL, TRAVERSE], only=[KL]) == {}
    assert rows("ada")[KL]["status"] == "passed" and rows("ada")[TRAVERSE]["notes"] == ["untouched"]
    (moved,) = lines(out / "regraded.csv")
    assert (moved["student"], moved["before"], moved["after"], moved["points after"]) == (
        "ada",
        "failed",
        "passed",
        "2",
    )
    assert moved["why"] == "the solution was wrong"
    report = ElementTree.parse(out / "junit/ada.xml").getroot()[0]
    assert {c.get("name") for c in report.iter("testcase")} == {KL, TRAVERSE}
    assert set(json.loads((out / "record.json").read_text())["regraded"]) == {KL}
    before = rows("bob")
    (folder / "bob.ipynb").write_text(notebook(*RIGHT.values()))
    (folder / "new.ipynb").write_text(notebook(*RIGHT.values()))
    failed = grade([KL, TRAVERSE], only=[KL])
    assert set(failed) == {"bob", "new"} and "not the files" in failed["bob"] and rows("bob") == before


# ---------------------------------------------------------------- Gradescope and GitHub Classroom

THIEF = """
import os, subprocess, sys
subprocess.Popen(["sleep", "{mark}"], start_new_session=True)
for path in ("source/course/solutions/elbo.py", "source/seed", "submission/hw.ipynb", "results"):
    try:
        (os.listdir if path == "results" else open)("{root}/" + path)
    except OSError:
        continue
    return 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(1)  # it was there to be read
return mean
"""


def test_a_bad_assignment_makes_no_autograder(tmp_path):
    (tmp_path / "bad.toml").write_text("late = 1")
    command = ["gradescope", "-o", str(tmp_path / "x.zip"), "--assignment", str(tmp_path / "bad.toml")]
    done = CliRunner().invoke(cli.app, command)
    assert done.exit_code == 1 and "no due date" in done.output and not (tmp_path / "x.zip").exists()


@pytest.fixture(scope="module")
def container(tmp_path_factory):
    """Gradescope's layout under a folder that anybody may walk through, as /autograder is."""
    top = Path(tempfile.mkdtemp(prefix="autograder-"))
    top.chmod(0o755)
    others = [ex.id for ex in exercises(find("02")) if ex.id not in (KL, TRAVERSE)]
    toml = tmp_path_factory.mktemp("hw") / "hw.toml"
    toml.write_text(f'lessons = ["02"]\nexclude = {others}\ndue = 2026-03-01T12:00:00Z\nlate = 1\n')
    archive = toml.with_name("autograder.zip")
    done = CliRunner().invoke(cli.app, ["gradescope", "-o", str(archive), "--assignment", str(toml)])
    assert done.exit_code == 0, done.output
    with zipfile.ZipFile(archive) as file:
        file.extractall(top / "source")
    shutil.copy(top / "source/run_autograder", top)
    (top / "results").mkdir()
    yield top
    shutil.rmtree(top)


def test_the_autograder_is_whole(container):
    """What it needs, and neither keys nor notebooks; both scripts are shell."""
    names = {
        p.relative_to(container / "source").as_posix()
        for p in (container / "source").rglob("*")
        if p.is_file()
    }
    assert {"setup.sh", "run_autograder", "course/solutions/elbo.py", "course/course_lib/cli.py"} <= names
    assert not [x for x in names if "answer_keys" in x or "notebooks/" in x or "/tests/" in x]
    for name in ("setup.sh", "run_autograder"):
        subprocess.run(["bash", "-n", container / "source" / name], check=True)
    assert "torch" in (container / "source/requirements.txt").read_text()


def test_setup_makes_what_run_needs(container, tmp_path):
    """With stand-ins for apt-get and Python: the steps, in order."""
    stand_in = tmp_path / "bin"
    stand_in.mkdir()
    for name in ("apt-get", "python3"):
        (stand_in / name).write_text(
            f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/log\n'
            '[ "$2" = venv ] && mkdir -p venv/bin && cp "$0" venv/bin/python\nexit 0\n'
        )
        (stand_in / name).chmod(0o755)
    path = f"{stand_in}:{os.environ['PATH']}"
    shutil.copytree(container / "source", tmp_path / "source")
    subprocess.run(
        ["bash", tmp_path / "source/setup.sh"], check=True, env=os.environ | {"PATH": path}, cwd="/"
    )
    said = (tmp_path / "log").read_text()
    assert "bubblewrap" in said and "python3 -m venv venv" in said
    assert "python3 -m pip install --quiet -r requirements.txt" in said


@pytest.mark.slow
@pytest.mark.parametrize("walls", ["bubblewrap", "user"])
def test_gradescope_runs_the_autograder(container, tmp_path, walls):
    """In the documented layout; where a container allows no bubblewrap, a user without rights reads nothing of worth."""
    if (
        shutil.which("bwrap") is None
        if walls == "bubblewrap"
        else os.getuid() != 0 or not shutil.which("setpriv")
    ):
        pytest.skip(f"needs {'bubblewrap' if walls == 'bubblewrap' else 'root and setpriv'}")
    mark = f"{4000 + os.getpid() % 1000}.{len(walls)}"
    shutil.rmtree(container / "submission", ignore_errors=True)
    (container / "submission").mkdir()
    thief = answer("gaussian_kl", THIEF.format(root=container, mark=mark))
    (container / "submission/hw.ipynb").write_text(notebook(RIGHT["traverse"], thief))
    (container / "submission/more.ipynb").write_text(notebook("x = 1"))
    about = {
        "created_at": "2026-03-02T02:00:00.5-08:00",
        "users": [{"name": "Ada", "email": "ada@x.org", "id": 7}],
    }
    (container / "submission_metadata.json").write_text(json.dumps(about))
    path = os.environ["PATH"]
    if walls == "user":
        path = str(tmp_path)
        for name in ("setpriv", "sh", "bash", "dirname", "env", "sleep"):
            (tmp_path / name).symlink_to(shutil.which(name))
    variables = {"PATH": path, "COURSE_PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", container / "run_autograder"], env=variables, cwd="/", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((container / "results/results.json").read_text())
    assert [(t["name"], t["score"], t["max_score"]) for t in found["tests"]] == [(KL, 0, 2), (TRAVERSE, 2, 2)]
    assert found["score"] == 1 and "1 day late" in found["output"] and found["stdout_visibility"] == "hidden"
    assert str(container) not in json.dumps(found)
    running = lambda: [p for p in Path("/proc").glob("[0-9]*/cmdline") if f"sleep\0{mark}" in _text(p)]  # noqa: E731
    assert until(lambda: not running()), "what an answer started outlives it"


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@pytest.mark.slow
def test_classroom_runs_the_students_own_checks(tmp_path, monkeypatch):
    """The workflow's own commands, in a repository with one right answer and one that is wrong."""
    import yaml

    assert CliRunner().invoke(cli.app, ["classroom", str(tmp_path), "--lessons", "00,02"]).exit_code == 0
    (path,) = (tmp_path / ".github/workflows").iterdir()
    workflow = yaml.safe_load(path.read_text())
    steps = workflow["jobs"]["check"]["steps"]
    assert [x.get("uses", "").partition("@")[0] for x in steps[:2]] == [
        "actions/checkout",
        "actions/setup-python",
    ]
    assert workflow[True] == ["push", "workflow_dispatch"] and workflow["permissions"] == {"contents": "read"}
    assert [x["run"] for x in steps[2:]] == [
        "python -m pip install --quiet .",
        "course check 00",
        "course check 02",
    ]
    folder = tmp_path / "notebooks/answers/elbo"
    folder.mkdir(parents=True)
    head = answers.header("elbo")
    (folder / "traverse.py").write_text(head + RIGHT["traverse"])
    (folder / "gaussian_kl.py").write_text(head + answer("gaussian_kl", f"return {MEAN}"))
    command = [sys.executable, "-m", "course_lib", *steps[-1]["run"].split()[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "✓ elbo.traverse: passed" in done.stdout, done.stdout + done.stderr
    assert "✗ elbo.gaussian_kl: wrong value" in done.stdout and "○ elbo.elbo: not attempted" in done.stdout
