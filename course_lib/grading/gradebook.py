"""What comes out: one record for each student, and what is rendered from all of them: gradebook.csv and record.json.

    records/NAME.json   all that is known of a student: files, platform, hand-in, run, problems, rows (see `judge.Row`)
    results/NAME.json   the same in Gradescope's format; feedback/NAME.html, the student's page; junit/NAME.xml, nbval's

A record is written last: where it is, all of a student's files are. Grading some students again, or one more, leaves
the records of the others.
"""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
from pathlib import Path

from course_lib.catalogue import exercises
from course_lib.exercise.panel import Panel
from course_lib.files import replace
from course_lib.grading.submission import Student


class Gradebook:
    """The folder GRADES."""

    def __init__(self, folder: Path, points: dict[str, int]):
        self.folder, self.points, self.run = folder, points, ""
        self.record: dict = {}
        for name in ("records", "results", "feedback", "junit"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def recorded_seed(self) -> int | None:
        """The seed of an earlier run into this folder."""
        return self._read("record.json").get("seed")

    def begin(self, record: dict, passed_over: list[str]) -> None:
        """Write down what grades, before anything is graded."""
        self.run = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        known = self._read("record.json")
        self.record = record | {k: known[k] for k in ("submissions", "not graded") if k in known}
        self.record["passed over"] = passed_over
        self._write("record.json", _json(self.record))

    def digest(self, student: Student) -> str:
        """The digest of what was graded of a student by the same code, settings and seed; "" for nothing."""
        known = self._read(f"records/{student.name}.json")
        return known.get("digest", "") if known.get("run") == self.run else ""

    def add(self, student: Student, graded: dict) -> None:
        """Write one student's files."""
        rows = [row | {"of": self.points[row["exercise"]]} for row in graded["rows"]]
        record = {
            "student": student.shown,
            "files": [str(part.name) for part in student.parts],
            "platform": student.platform,
            "digest": graded["digest"],
            "run": self.run,
            "problems": graded["problems"],
            "rows": rows,
        }
        name = student.name
        self._write(f"junit/{name}.xml", graded["junit"])
        self._write(f"feedback/{name}.html", feedback(record))
        self._write(f"results/{name}.json", _json(gradescope(record)))
        self._write(f"records/{name}.json", _json(record))

    def fail(self, student: Student, reason: str) -> None:
        """Note that a student could not be graded; an earlier grade stays."""
        name = f"records/{student.name}.json"
        known = self._read(name) or {
            "student": student.shown,
            "platform": student.platform,
            "rows": [],
            "problems": [],
        }
        self._write(name, _json(known | {"run": "", "failed": reason}))

    def records(self) -> dict[str, dict]:
        """All students' records, by their files' name."""
        names = sorted(path.stem for path in (self.folder / "records").glob("*.json"))
        return {name: self._read(f"records/{name}.json") for name in names}

    def finish(self) -> None:
        """gradebook.csv from the students' records, and the full record."""
        known = self.records()
        graded = {row["exercise"] for record in known.values() for row in record["rows"]} | set(self.points)
        columns = [ex.id for ex in exercises() if ex.id in graded]
        extra = [
            x for x in ("id", "email", "handed in", "late") if any(x in r["platform"] for r in known.values())
        ]
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["student", *extra, *columns, "total", "of", "remarks"])
        for name, record in known.items():
            who = [_cell(name), *(_cell(str(record["platform"].get(x, ""))) for x in extra)]
            rows = {row["exercise"]: row for row in record["rows"]}
            points = [rows[ex]["points"] if ex in rows else "" for ex in columns]
            sums = (
                [sum(r["points"] for r in rows.values()), sum(r["of"] for r in rows.values())]
                if rows
                else ["", ""]
            )
            table.writerow([*who, *points, *sums, _cell("; ".join(remarks(record)))])
        self._write("gradebook.csv", text.getvalue())
        seen = {name: r["digest"] for name, r in known.items() if "digest" in r}
        failed = {name: r["failed"] for name, r in known.items() if "failed" in r}
        self._write("record.json", _json(self.record | {"submissions": seen, "not graded": failed}))

    def _read(self, name: str) -> dict:
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def _write(self, name: str, text: str) -> None:
        replace(self.folder / name, text)


def remarks(record: dict) -> list[str]:
    """What whoever grades should look at."""
    found = [f"not graded: {record['failed']}"] if "failed" in record else []
    found += record["problems"] + [
        f"{r['exercise']}: {r['status']}" for r in record["rows"] if r["status"] in NOTABLE
    ]
    return found + [
        f"{r['exercise']}: graded without {', '.join(r['served'])}" for r in record["rows"] if r["served"]
    ]


def gradescope(record: dict) -> dict:
    """A record in the format of Gradescope's results.json."""
    tests = [
        {
            "name": row["exercise"],
            "score": row["points"],
            "max_score": row["of"],
            "status": "passed" if row["status"] == "passed" else "failed",
            "output": "\n".join(filter(None, (row["status"], *words(row)))),
        }
        for row in record["rows"]
    ]
    score = sum(row["points"] for row in record["rows"])
    return {"score": score, "output": "\n".join(record["problems"]), "tests": tests}


NOTABLE = ("crashed", "timed out", "out of memory", "tampered", "not checked")


def _json(value: dict) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _cell(text: str) -> str:
    """A spreadsheet must not take a student's words for a formula."""
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) or text[:1].isspace() else text


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
<p><b>{score} of {total} points</b></p>
{body}
</html>
"""


def feedback(record: dict) -> str:
    """A student's page: every exercise with its diagnosis and the student's own line; no input, no expected value."""
    body = [f"<p>⚠ {html.escape(problem)}</p>" for problem in record["problems"]]
    body += [_panel(row)._repr_html_() for row in record["rows"]]
    score, total = (sum(row[x] for row in record["rows"]) for x in ("points", "of"))
    return PAGE.format(name=html.escape(record["student"]), score=score, total=total, body="\n".join(body))


def _panel(row: dict) -> Panel:
    """A row as the notebook would show it."""
    return Panel(
        f"{row['exercise']}: {row['status']}",
        kind={"passed": "passed", "not attempted": "open"}.get(row["status"], "wrong"),
        title=f"{row['status']} · {row['points']} of {row['of']}",
        name=row["exercise"],
        diagnosis=row["diagnosis"],
        message=row["message"],
        details=[("In your code:", row["line"])] if row["line"] else [],
        notes=row["notes"],
    )
