"""What is asked of a class: exercises and points, a due date, a roster, and what a human has decided (overrides).

All of it is applied to the students' records when something is rendered from them, and nothing of it is written into
them: whoever changes a date, a number of points or an override grades nobody again. The folder GRADES holds

    assignment.toml    title, lessons, exclude, points, due, timezone, late
    roster.csv         names, ids, e-mail addresses: any of a platform's own sheets
    overrides.csv      student, exercise, points, comment
"""

from __future__ import annotations

import csv
import io
import math
import re
import tomllib
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from course_lib.catalogue import LESSONS, Lesson, exercises, find
from course_lib.exercise.contract import Exercise
from course_lib.files import replace

EXAMPLE = """\
title = "Homework 2"
lessons = ["02", "03"]
exclude = ["elbo.traverse"]
due = 2026-12-01T23:59:00
timezone = "Europe/Berlin"
late = 2  # points that each day after it costs, a day that has begun too

[points]
"elbo.gaussian_kl" = 3
"""
LATE = "late"  # in the column `exercise` of overrides.csv: how many points lateness costs


class BadFile(ValueError):
    """A file of the teacher's that cannot be used: which, where, what was expected, what came."""


# ---------------------------------------------------------------- assignment.toml


@dataclass(frozen=True)
class Assignment:
    """`points` are by exercise, in the order of the course. `due` has its zone; `zone` is that of times that have none."""

    points: dict[str, float]
    title: str = "Points"
    due: datetime | None = None
    zone: tzinfo | None = None
    late: float = 0.0  # points a day

    @property
    def of(self) -> float:
        return sum(self.points.values())

    @property
    def exercises(self) -> list[Exercise]:
        return [find(name) for name in self.points]


def everything(chosen: list[Exercise] | None = None) -> Assignment:
    """Some exercises, or all of the course, at their own points and without a date."""
    return Assignment({ex.id: ex.points for ex in chosen or exercises()})


def lessons_only(names: str) -> str:
    """The assignment.toml that `--lessons 02,03` stands for."""
    listed = ", ".join(f'"{_lesson(name.strip(), "--lessons").number}"' for name in names.split(","))
    return f"lessons = [{listed}]\n"


def read_assignment(text: str, where: str = "assignment.toml") -> Assignment:
    """An assignment from its file's text; BadFile says what is wrong with it."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadFile(f"{where} is not TOML: {error}. An example:\n\n{EXAMPLE}") from None
    kinds = {"title": str, "lessons": list, "exclude": list, "points": dict, "due": datetime}
    kinds |= {"timezone": str, "late": (int, float)}
    for name, value in data.items():
        if name not in kinds:
            raise BadFile(f"{where}: {name!r} is unknown. Expected some of {', '.join(kinds)}.")
        if not isinstance(value, kinds[name]) or isinstance(value, bool):
            raise BadFile(f"{where}: {name} = {value!r} is not as expected. An example:\n\n{EXAMPLE}")
    chosen = [ex for name in data.get("lessons", []) for ex in exercises(_lesson(name, where))]
    points = {ex.id: ex.points for ex in exercises() if ex in chosen or "lessons" not in data}
    for name in data.get("exclude", []):
        if points.pop(_exercise(name, where), None) is None:
            raise BadFile(f"{where}: {name} is excluded, and is in none of the lessons.")
    for name, value in _flat(data.get("points", {})).items():
        if _exercise(name, where) not in points:
            raise BadFile(f"{where}: {name} has points, and is not in the assignment.")
        points[_exercise(name, where)] = _number(value, f"{where}: the points of {name}")
    if not points:
        raise BadFile(f"{where}: no exercise is left to grade.")
    zone, due = _zone(data.get("timezone"), where), data.get("due")
    if due is not None and due.tzinfo is None:
        if zone is None:
            raise BadFile(
                f'{where}: due = {due} has no time zone. Add timezone = "Europe/Berlin", or write {due.isoformat()}+01:00.'
            )
        due = due.replace(tzinfo=zone)
    late = _number(data.get("late", 0), f"{where}: late")
    if late and due is None:
        raise BadFile(f"{where}: late = {late:g}, and there is no due date.")
    return Assignment(points, data.get("title", Assignment.title), due, zone or (due and due.tzinfo), late)


def _flat(points: dict) -> dict:
    """TOML reads elbo.traverse = 2 as a table in a table."""
    flat = {}
    for name, value in points.items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _lesson(name: object, where: str) -> Lesson:
    try:
        found = find(str(name))
    except LookupError as error:
        raise BadFile(f"{where}: {error}") from None
    if not isinstance(found, Lesson):
        raise BadFile(f"{where}: expected a whole lesson, such as 02; got {name!r}.")
    return found


def _exercise(name: object, where: str) -> str:
    """The id of an exercise."""
    try:
        found = find(str(name))
    except LookupError as error:
        raise BadFile(f"{where}: {error}") from None
    if isinstance(found, Lesson):
        raise BadFile(f"{where}: expected an exercise, such as elbo.gaussian_kl; got the lesson {name!r}.")
    return found.id


def _number(value: object, name: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < 1e6:
        raise BadFile(f"{name}: expected a number of points, 0 or more; got {value!r}.")
    return int(number) if number == int(number) else number


def _zone(name: str | None, where: str) -> tzinfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError):
        raise BadFile(
            f"{where}: timezone = {name!r} is unknown. Expected one such as Europe/Berlin."
        ) from None


# ---------------------------------------------------------------- sheets


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadFile(f"{path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise BadFile(f"{path.name} is not UTF-8 text. Save it again as UTF-8 (“CSV UTF-8”).") from None


def read_sheet(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header of a CSV file and its rows, each with its line's number; commas, semicolons or tabs between them."""
    text = _read_text(path)
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    try:
        header, rows = [name.strip() for name in next(reader, [])], []
        for cells in reader:
            if any(cell.strip() for cell in cells):
                padded = [cell.strip() for cell in cells] + [""] * len(header)
                rows.append((reader.line_num, dict(zip(header, padded, strict=False))))
    except csv.Error as error:
        raise BadFile(f"{path.name}, line {reader.line_num}: {error}.") from None
    return header, rows


# ---------------------------------------------------------------- roster.csv

ROSTER = {  # what a column of a roster may be called, in small letters
    "id": ("id", "identifier", "student id", "user id", "sid"),
    "email": ("email", "e-mail", "email address", "e-mail address"),
    "login": ("login", "username", "user name", "sis login id", "sis user id", "github username"),
    "name": ("name", "student", "full name", "student name"),
    "handed in": ("handed in", "last modified (submission)", "submission time"),
}
PARTICIPANT = "Participant "  # Moodle's word before an id


class Roster:
    """Who is in the class. `kind` is "canvas" or "moodle" where its header is that platform's."""

    def __init__(self, header: list[str], rows: list[tuple[int, dict[str, str]]], where: str):
        self.rows, self._of = [row for _, row in rows if not _is_no_student(row)], {}
        self.columns = {
            attribute: [column for column in header if column.lower() in names]
            for attribute, names in ROSTER.items()
        }
        if not any(self.columns[attribute] for attribute in ("id", "email", "login", "name")):
            raise BadFile(
                f"{where}: expected a column such as id, email, login or name in its first line; got {', '.join(header)}."
            )
        self.kind = "canvas" if "Student" in header else "moodle" if "Identifier" in header else ""
        for attribute in ("id", "email", "login", "name"):
            for column in self.columns[attribute]:
                for row in self.rows:
                    found = self._of.setdefault((attribute, self._key(row[column])), [])
                    found += [row] if row[column] and not any(x is row for x in found) else []
        for (attribute, key), found in self._of.items():
            if attribute == "id" and len(found) > 1:
                raise BadFile(f"{where}: {len(found)} lines have the {attribute} {key}.")

    @staticmethod
    def _key(text: str) -> str:
        return text.strip().removeprefix(PARTICIPANT).casefold()

    def find(self, record: dict) -> dict[str, str] | None:
        """A submission's line: by id, else by e-mail, else by login or name, if one line alone has it."""
        platform = record["platform"]
        own = [platform.get("id", ""), platform.get("name", ""), record["student"], platform.get("email", "")]
        own += [record["student"].rpartition("_")[0]] if platform.get("id") else []
        for attribute in ("id", "email", "login", "name"):
            for text in own:
                found = self._of.get((attribute, self._key(text)), [])
                if len(found) == 1:
                    return found[0]
        return None

    def get(self, row: dict[str, str], attribute: str) -> str:
        return next((row[column] for column in self.columns[attribute] if row[column]), "")


def _is_no_student(row: dict[str, str]) -> bool:
    """Canvas's second line, which says how much an assignment is worth."""
    return row.get("Student", "").startswith("Points Possible")


# ---------------------------------------------------------------- overrides.csv

COLUMNS = ["student", "exercise", "points", "comment"]


@dataclass
class Override:
    """A human's decision, which counts more than a record."""

    line: int
    student: str
    exercise: str
    points: float
    comment: str
    used: bool = False


def read_overrides(path: Path, assignment: Assignment) -> list[Override]:
    """The lines of overrides.csv; BadFile says which cannot be used."""
    header, rows = read_sheet(path)
    if [name.lower() for name in header] != COLUMNS:
        raise BadFile(
            f"{path.name}: expected the first line {','.join(COLUMNS)}; got {','.join(header) or 'nothing'}."
        )
    found = []
    for line, cells in rows:
        student, exercise, points, comment = list(cells.values())[:4]
        where = f"{path.name}, line {line}"
        exercise = exercise if exercise == LATE else _exercise(exercise, where)
        if exercise != LATE and exercise not in assignment.points:
            raise BadFile(f"{where}: {exercise} is not in the assignment.")
        if any((x.student, x.exercise) == (student, exercise) for x in found):
            raise BadFile(f"{where}: {student} has another line for {exercise}.")
        points = _number(points.replace(",", "."), f"{where}: points")
        found.append(Override(line, student, exercise, points, comment))
    return found


def given(assignment: Path | None, lessons: str) -> str:
    """The text of what `--assignment` or `--lessons` asks for; "", which is the whole course, without either."""
    if assignment and lessons:
        raise BadFile("Expected --lessons or --assignment, not both.")
    text = _read_text(assignment) if assignment else lessons_only(lessons) if lessons else ""
    read_assignment(text, assignment.name if assignment else "--lessons")
    return text


def install(folder: Path, assignment: Path | None, lessons: str, roster: Path | None) -> None:
    """Put what is given into the folder GRADES, where every later run finds it; nothing that is not as expected.

    Another assignment.toml or roster.csv that is there already is kept as *.previous.*.
    """
    if assignment or lessons:
        _put(folder / "assignment.toml", given(assignment, lessons))
    if roster:
        Roster(*read_sheet(roster), roster.name)
        _put(folder / "roster.csv", _read_text(roster))


def _put(path: Path, text: str) -> None:
    if path.exists() and (old := _read_text(path)) != text:
        replace(path.with_suffix(f".previous{path.suffix}"), old)
    replace(path, text)


# ---------------------------------------------------------------- applied to a record


@dataclass
class Mark:
    """One student's grade: a record, as the assignment, the roster and the overrides have it.

    rows        those of the assignment that are graded, with `points`, `of`, and a note where a human decided
    lessons     by number: points, and of how many
    taken_off   for lateness; `late` says why, or why not, in words
    fields      id, email, handed in, late: from the export, else from the roster; name: the roster's
    """

    record: dict
    rows: list[dict]
    lessons: dict[str, list[float]]
    taken_off: float
    late: str
    of: float
    fields: dict[str, str]
    line: dict[str, str] | None  # of the roster
    missing: list[str] = field(default_factory=list)  # exercises that were never graded

    @property
    def total(self) -> float:
        return max(0, round(sum(points for points, _ in self.lessons.values()) - self.taken_off, 6))


def mark(
    name: str,
    record: dict,
    assignment: Assignment,
    roster: Roster | None = None,
    overrides: list[Override] = (),
) -> Mark:
    """Apply all that was decided to the record in records/NAME.json."""
    line = roster.find(record) if roster else None
    fields = {k: v for k in ROSTER if line and (v := roster.get(line, k)) and k != "login"}
    fields |= {k: v for k, v in record["platform"].items() if k in ("id", "email", "handed in", "late")}
    own = {name, record["student"], fields.get("id", ""), fields.get("email", "")}
    own |= {roster.get(line, k) for k in ("id", "email", "login", "name")} if line else set()
    mine = {x.exercise: x for x in overrides if x.student in own - {""}}
    for override in mine.values():
        override.used = True
    known = {row["exercise"]: row for row in record["rows"]}
    rows, lessons = [], {}
    for exercise, of in assignment.points.items():
        module = exercise.partition(".")[0]
        sums = lessons.setdefault(next(x.number for x in LESSONS if x.module == module), [0, 0])
        sums[1] += of
        if (row := _decided(known.get(exercise), exercise, of, mine.get(exercise))) is not None:
            rows.append(row)
            sums[0] += row["points"]
    days, late = lateness(fields, assignment)
    taken_off = assignment.late * days
    if LATE in mine:
        taken_off = mine[LATE].points
        late = f"By decision, lateness costs {counted(taken_off, 'point')}. {mine[LATE].comment}".strip()
    elif taken_off:
        late = f"{late} It costs {counted(taken_off, 'point')} ({assignment.late:g} a day)."
    missing = [exercise for exercise in assignment.points if exercise not in known]
    return Mark(record, rows, lessons, taken_off, late, assignment.of, fields, line, missing if rows else [])


def _decided(row: dict | None, exercise: str, points: float, override: Override | None) -> dict | None:
    """A row at the assignment's points; with what a human decided, which stands without a row, too."""
    if row is None and override is None:
        return None
    row = row or {"exercise": exercise, "status": "not graded", "message": "", "diagnosis": "", "line": ""}
    row = {"notes": [], "served": [], "calls": [], "mistake": "", "shape": "", **row, "of": points}
    row["points"] = points if row["status"] == "passed" else 0
    if override:
        comment = f": {override.comment}" if override.comment else "."
        said = (
            f"By decision of whoever grades, this is worth {override.points:g} of {points:g} points{comment}"
        )
        row |= {"points": override.points, "notes": [*row["notes"], said], "decided": True}
    return row


def lateness(fields: dict[str, str], assignment: Assignment) -> tuple[int, str]:
    """By how many days, one that has begun counts, a submission is late, and what is known of that, in words."""
    marked, text = fields.get("late"), fields.get("handed in", "")
    when = read_time(text)
    if when is not None and when.tzinfo is None:
        when = when.replace(tzinfo=assignment.zone) if assignment.zone else None
        if when is None and assignment.due:
            return 0, f"Handed in at {text}, in an unknown time zone: nothing is taken off."
    if assignment.due is None or (when is None and not marked):
        return 0, ""
    if when is None:
        return 0, "Marked as late, and by how much is not known: nothing is taken off."
    days = max(0, math.ceil((when - assignment.due) / timedelta(days=1)))
    local = when.astimezone(assignment.due.tzinfo)
    said = f"Handed in {local:%Y-%m-%d %H:%M %Z}, {counted(days, 'day')} late: due {assignment.due:%Y-%m-%d %H:%M %Z}."
    return days, said if days else ""


def counted(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def read_time(text: str) -> datetime | None:
    """A time as platforms write it, with a zone where it names one: ISO, Blackboard's dashes, Moodle's words."""
    text = re.sub(r"(\.\d{6})\d+", r"\1", text.strip())  # nanoseconds
    text = re.sub(r" (UTC|Z|[+-]\d\d:?\d\d)$", lambda m: "+00:00" if m[1] in ("UTC", "Z") else m[1], text)
    for form in (None, "%Y-%m-%d-%H-%M-%S", "%A, %d %B %Y, %I:%M %p", "%A, %d %B %Y, %H:%M"):
        try:
            return datetime.strptime(text, form) if form else datetime.fromisoformat(text)
        except ValueError:
            continue
    return None
