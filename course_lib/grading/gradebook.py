"""What comes out: one record for each student, and what is rendered from all of them.

    records/NAME.json   all that is known of a student: files, platform, hand-in, run, problems, rows (see `judge.Row`)
    junit/NAME.xml      nbval's report
    results/NAME.json   the grade in Gradescope's format; feedback/NAME.html, the student's page
    gradebook.csv       the class; canvas.csv and moodle.csv, as these platforms import grades
    report.html         the class at a glance; report.csv the same; similar.csv and regraded.csv on request

Grading writes records, and rendering never changes one: `assignment.py` says what it adds. Grading some students again,
or one more, leaves the records of the others.
"""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from course_lib.catalogue import find
from course_lib.exercise.panel import Panel
from course_lib.files import replace
from course_lib.grading import assignment as asked
from course_lib.grading.assignment import Assignment, Mark, Roster
from course_lib.grading.report import Report
from course_lib.grading.similar import groups
from course_lib.grading.submission import Student

REGRADED = ["when", "student", "exercise", "before", "after", "points before", "points after", "why"]


class Gradebook:
    """The folder GRADES, and what is asked of the class: the folder's own files, unless an assignment is given."""

    def __init__(self, folder: Path, assignment: Assignment | None = None):
        self.folder, self.run, self.record = folder, "", {}
        self.only: Sequence[str] = ()
        self.moved: list[list[str]] = []  # lines of regraded.csv
        text = self._text("assignment.toml")
        self.assignment = assignment or (asked.read_assignment(text) if text else asked.everything())
        roster, overrides = folder / "roster.csv", folder / "overrides.csv"
        self.roster = Roster(*asked.read_sheet(roster), roster.name) if roster.exists() else None
        self.overrides = asked.read_overrides(overrides, self.assignment) if overrides.exists() else []

    # ------------------------------------------------------------ grading

    def recorded_seed(self) -> int | None:
        """The seed of an earlier run into this folder."""
        return self._read("record.json").get("seed")

    def begin(self, record: dict, passed_over: list[str], only: Sequence[str] = ()) -> None:
        """Write down what grades, before anything is graded. Of a record, some exercises `only` may be graded anew."""
        self.run, self.only = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest(), only
        if not (self.folder / "overrides.csv").exists():
            self._write("overrides.csv", ",".join(asked.COLUMNS) + "\n")
        known = self._read("record.json")
        if only:
            again = {name: {"code": record["code"], "versions": record["versions"]} for name in only}
            self.record = known | {"regraded": known.get("regraded", {}) | again}
        else:
            self.record = record | {k: known[k] for k in ("submissions", "not graded") if k in known}
            self.record["passed over"] = passed_over
        self.record["exercises"] = list(self.assignment.points)
        self._write("record.json", _json(self.record))

    def known(self, student: Student) -> dict:
        """For a job: the rows of a student that stand, graded by the same code, settings and seed, and of which files."""
        record = self._read(f"records/{student.name}.json")
        if not self.only and record.get("run") != self.run:
            return {}
        rows = {row["exercise"]: row for row in record.get("rows", []) if row["exercise"] not in self.only}
        done = not self.only and rows.keys() >= self.assignment.points.keys()
        return {"digest": record.get("digest", ""), "known": rows, "skip": done, "only": bool(self.only)}

    def add(self, student: Student, graded: dict) -> None:
        """Write one student's record and report."""
        name = student.name
        before = self._read(f"records/{name}.json")
        record = {
            "student": student.shown,
            "files": [str(part.name) for part in student.parts],
            "platform": student.platform,
            "digest": graded["digest"],
            "run": before.get("run", "") if self.only else self.run,
            "problems": graded["problems"],
            "rows": graded["rows"],
        }
        self._note_moves(name, before, record)
        self._write(f"junit/{name}.xml", graded["junit"])
        self._render(name, asked.mark(name, record, self.assignment, self.roster, self.overrides))
        self._write(f"records/{name}.json", _json(record))

    def _note_moves(self, name: str, before: dict, record: dict) -> None:
        old = {row["exercise"]: row for row in before.get("rows", [])}
        for row in record["rows"]:
            if (was := old.get(row["exercise"])) and row["exercise"] in self.only:
                if (was["status"], was["mistake"]) != (row["status"], row["mistake"]):
                    when = datetime.now(UTC).isoformat(timespec="seconds")
                    why = row["diagnosis"] or row["message"] or was["diagnosis"] or was["message"]
                    points = [
                        self.assignment.points[row["exercise"]] * (x["status"] == "passed")
                        for x in (was, row)
                    ]
                    self.moved.append(
                        [when, name, row["exercise"], was["status"], row["status"], *points, why]
                    )

    def fail(self, student: Student, reason: str) -> None:
        """Note that a student could not be graded; an earlier grade stays."""
        name = f"records/{student.name}.json"
        known = self._read(name) or {
            "student": student.shown,
            "platform": student.platform,
            "rows": [],
            "problems": [],
        }
        run = known.get("run", "") if self.only else ""
        self._write(name, _json(known | {"run": run, "failed": reason}))

    # ------------------------------------------------------------ rendering

    def marks(self) -> Iterator[tuple[str, Mark]]:
        """Every student's grade, one after the other, by the name of their files."""
        for name in self._names():
            record = self._read(f"records/{name}.json")
            yield name, asked.mark(name, record, self.assignment, self.roster, self.overrides)

    def _names(self) -> list[str]:
        return sorted(path.stem for path in (self.folder / "records").glob("*.json"))

    def finish(self) -> list[str]:
        """Render the class from its records; sentences about what whoever grades should look at."""
        sheet, report, said = Sheet(self.assignment, self.roster), Report(self.assignment), []
        seen, failed, timeless = {}, {}, 0
        for name, mark in self.marks():
            self._render(name, mark)
            sheet.add(name, mark)
            report.add(mark)
            seen |= {name: mark.record["digest"]} if "digest" in mark.record else {}
            failed |= {name: mark.record["failed"]} if "failed" in mark.record else {}
            timeless += asked.read_time(mark.fields.get("handed in", "")) is None
        self._write("gradebook.csv", sheet.gradebook())
        for platform in ("canvas", "moodle"):
            if text := sheet.platform(platform):
                self._write(f"{platform}.csv", text)
        self._write("report.csv", report.as_csv())
        self._write("report.html", report.as_html())
        if self.moved:
            old = self._text("regraded.csv")
            lines = self.moved if old else [REGRADED, *self.moved]
            self._write("regraded.csv", old + _csv(lines))
        record = self.record or self._read("record.json")
        self._write("record.json", _json(record | {"submissions": seen, "not graded": failed}))
        if self.assignment.due and timeless:
            said.append(
                f"Without a time of hand-in that is known: {asked.counted(timeless, 'submission')}. Whether late, and by how "
                "much, is not judged. A roster may have a column “handed in”."
            )
        said += [
            f"overrides.csv, line {x.line}: there is no student {x.student!r} in records/, so it is not applied."
            for x in self.overrides
            if not x.used
        ]
        return said + sheet.said()

    def _render(self, name: str, mark: Mark) -> None:
        if not mark.rows:
            return
        self._write(f"feedback/{name}.html", feedback(mark))
        self._write(f"results/{name}.json", _json(gradescope(mark)))

    def similar(self) -> list[str]:
        """Write similar.csv; its groups in words."""
        rows = ((name, row) for name in self._names() for row in self._read(f"records/{name}.json")["rows"])
        found = groups(rows)
        table = [["students", "answers alike", "exercises", "not passed"]]
        for students, shared in found:
            wrong = [exercise for exercise, status in shared if status != "passed"]
            names = ", ".join(exercise for exercise, _ in shared)
            table.append(["; ".join(map(_cell, students)), len(shared), names, ", ".join(wrong)])
        self._write("similar.csv", _csv(table))
        return [
            f"{asked.counted(n, 'answer')} alike: {students} ({names})" for students, n, names, _ in table[1:]
        ]

    def _text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(encoding="utf-8-sig") if path.exists() else ""

    def _read(self, name: str) -> dict:
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def _write(self, name: str, text: str) -> None:
        replace(self.folder / name, text)


class Sheet:
    """The class as a table, line by line."""

    def __init__(self, assignment: Assignment, roster: Roster | None):
        self.assignment, self.roster = assignment, roster
        self.lines: list[tuple[list, dict, list]] = []  # name, fields, the rest
        self.imports: dict[str, list[list]] = {"canvas": [], "moodle": []}
        self.lines_of: dict[int, list[str]] = {}  # the submissions of a line of the roster
        self.stranger: list[str] = []  # submissions that are in no line

    def add(self, name: str, mark: Mark) -> None:
        points = {row["exercise"]: row["points"] for row in mark.rows}
        cells = [_number(points.get(exercise, "")) for exercise in self.assignment.points]
        sums = [_number(got) if mark.rows else "" for got, _ in mark.lessons.values()]
        total = [_number(mark.taken_off) if mark.taken_off else "", _number(mark.total), _number(mark.of)]
        rest = [*cells, *(sums if len(sums) > 1 else []), *(total if mark.rows else ["", "", ""])]
        self.lines.append((name, mark.fields, [*rest, _cell("; ".join(remarks(mark)))]))
        if mark.line is not None:
            self.lines_of.setdefault(self.roster.rows.index(mark.line), []).append(name)
        elif self.roster:
            self.stranger.append(name)
        for platform, lines in self.imports.items():
            if mark.rows and platform in (
                mark.record["platform"].get("export"),
                self.roster and mark.line is not None and self.roster.kind,
            ):
                lines.append(self._import(platform, mark))

    def _import(self, platform: str, mark: Mark) -> list:
        line = mark.line if mark.line and self.roster.kind == platform else {}
        shown, fields = mark.record["student"].rpartition("_")[0] or mark.record["student"], mark.fields
        if platform == "canvas":
            known = {"Student": shown, "ID": fields.get("id", "")}
            cells = [_cell((known | line).get(column, "")) for column in CANVAS]
            return [*cells, _number(mark.total)]
        known = {"Identifier": asked.PARTICIPANT + fields.get("id", ""), "Full name": shown}
        known |= {"Email address": fields.get("email", "")}
        cells = {column: _cell((known | line).get(column, "")) for column in MOODLE}
        sums = "; ".join(
            f"lesson {x}: {_number(got)} of {_number(of)}" for x, (got, of) in mark.lessons.items()
        )
        cells["Feedback comments"] = _cell(f"{sums}. {mark.late}".strip())
        return list((cells | {"Grade": _number(mark.total), "Maximum Grade": _number(mark.of)}).values())

    def gradebook(self) -> str:
        """gradebook.csv; who is in the roster and handed in nothing has a line without points."""
        extra = [
            x
            for x in ("name", "id", "email", "handed in", "late")
            if any(x in fields for _, fields, _ in self.lines)
        ]
        lessons = list(dict.fromkeys(find(name).lesson for name in self.assignment.points))
        sums = lessons if len(lessons) > 1 else []
        head = ["student", *extra, *self.assignment.points, *sums, "taken off", "total", "of", "remarks"]
        body = [
            [_cell(name), *(_cell(str(fields.get(x, ""))) for x in extra), *rest]
            for name, fields, rest in self.lines
        ]
        for line in self._absent():
            fields = {x: self.roster.get(line, x) for x in extra if x in asked.ROSTER}
            name = next((v for x in ("name", "login", "email", "id") if (v := self.roster.get(line, x))), "")
            row = [_cell(name), *(_cell(fields.get(x, "")) for x in extra)]
            body.append([*row, *[""] * (len(head) - len(row) - 1), "nothing handed in"])
        return _csv([head, *body])

    def _absent(self) -> list[dict]:
        rows = self.roster.rows if self.roster else []
        return [row for i, row in enumerate(rows) if i not in self.lines_of]

    def platform(self, platform: str) -> str:
        """canvas.csv or moodle.csv, "" where nobody comes from there."""
        if not self.imports[platform]:
            return ""
        if platform == "moodle":
            return _csv([MOODLE, *self.imports[platform]])
        worth = ["    Points Possible", *[""] * (len(CANVAS) - 1), _number(self.assignment.of)]
        return _csv([[*CANVAS, self.assignment.title], worth, *self.imports[platform]])

    def said(self) -> list[str]:
        found = [f"roster.csv has no line for {name}." for name in self.stranger]
        for names in self.lines_of.values():
            if len(names) > 1:
                found.append(f"One line of roster.csv has several submissions: {', '.join(names)}.")
        if absent := len(self._absent()):
            found.append(f"Of {len(self.roster.rows)} in roster.csv, {absent} handed in nothing.")
        return found


CANVAS = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
MOODLE = [
    "Identifier",
    "Full name",
    "Email address",
    "Grade",
    "Maximum Grade",
    "Last modified (grade)",
    "Feedback comments",
]


def remarks(mark: Mark) -> list[str]:
    """What whoever grades should look at."""
    record = mark.record
    found = [f"not graded: {record['failed']}"] if "failed" in record else []
    found += record["problems"] + [mark.late] * bool(mark.late)
    found += [f"{r['exercise']}: {r['status']}" for r in mark.rows if r["status"] in NOTABLE]
    found += [f"{r['exercise']}: graded without {', '.join(r['served'])}" for r in mark.rows if r["served"]]
    found += [f"{r['exercise']}: by decision" for r in mark.rows if r.get("decided")]
    return found + [f"{x}: not graded yet, grade again" for x in mark.missing]


def gradescope(mark: Mark) -> dict:
    """A grade in the format of Gradescope's results.json."""
    tests = [
        {
            "name": row["exercise"],
            "score": row["points"],
            "max_score": row["of"],
            "status": "passed" if row["status"] == "passed" else "failed",
            "output": "\n".join(filter(None, (row["status"], *words(row)))),
        }
        for row in mark.rows
    ]
    said = [*mark.record["problems"], *([mark.late] if mark.late else [])]
    return {"score": mark.total, "output": "\n".join(said), "tests": tests}


NOTABLE = ("crashed", "timed out", "out of memory", "tampered", "not checked")


def _json(value: dict) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _csv(rows: list[list]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _number(value: float | str) -> str:
    """Points as one writes them: 2, 1.5."""
    return value if isinstance(value, str) else f"{value:.6g}" if value else "0"


def _cell(text: str) -> str:
    """A spreadsheet must not take a student's words for a formula."""
    formula = text.lstrip().startswith(("=", "+", "-", "@")) and text.strip() != "-"
    return f"'{text}" if formula or text[:1].isspace() else text


def words(row: dict) -> list[str]:
    """What is said about a row, in paragraphs."""
    return _panel(row).lines()[1:]


# ---------------------------------------------------------------- feedback

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{name}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 52em; margin: 2em auto; padding: 0 1em }}
</style>
<h1>{name}</h1>
<p><b>{score} of {of} points</b>{lessons}</p>
{body}
</html>
"""


def feedback(mark: Mark) -> str:
    """A student's page: every exercise with its diagnosis and the student's own line; no input, no expected value."""
    said = [*mark.record["problems"], *([mark.late] if mark.late else [])]
    body = [f"<p>⚠ {html.escape(text)}</p>" for text in said] + [
        _panel(row)._repr_html_() for row in mark.rows
    ]
    sums = [f"lesson {x}: {_number(got)} of {_number(of)}" for x, (got, of) in mark.lessons.items()]
    return PAGE.format(
        name=html.escape(mark.fields.get("name") or mark.record["student"]),
        score=_number(mark.total),
        of=_number(mark.of),
        lessons=f" ({', '.join(sums)})" if len(sums) > 1 else "",
        body="\n".join(body),
    )


def _panel(row: dict) -> Panel:
    """A row as the notebook would show it."""
    return Panel(
        f"{row['exercise']}: {row['status']}",
        kind={"passed": "passed", "not attempted": "open"}.get(row["status"], "wrong"),
        title=f"{row['status']} · {_number(row['points'])} of {_number(row['of'])}",
        name=row["exercise"],
        diagnosis=row["diagnosis"],
        message=row["message"],
        details=[("In your code:", row["line"])] if row["line"] else [],
        notes=row["notes"],
    )
