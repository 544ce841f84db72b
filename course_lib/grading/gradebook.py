"""What comes out: gradebook.csv, results/, feedback/, junit/ and record.json, each file replaced in one step."""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
from pathlib import Path

from course_lib.exercise.panel import Panel
from course_lib.files import replace


class Gradebook:
    """The folder GRADES. A student's results file is written last: where it is, all of theirs are."""

    def __init__(self, folder: Path, points: dict[str, int]):
        self.folder, self.points, self.run = folder, points, ""
        self.record: dict = {}
        for name in ("results", "feedback", "junit"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def recorded_seed(self) -> int | None:
        """The seed of an earlier run into this folder."""
        return self._read("record.json").get("seed")

    def begin(self, record: dict) -> None:
        """Write down what grades, before anything is graded."""
        self.record = record
        self.run = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        self._write("record.json", _json(record))

    def has(self, name: str, digest: str) -> bool:
        """Whether this submission was graded by the same code, settings and seed."""
        known = self._read(f"results/{name}.json").get("extra_data", {})
        return (known.get("run"), known.get("submission")) == (self.run, digest)

    def add(self, graded: dict) -> None:
        """Write one student's files."""
        name = graded["name"]
        self._write(f"junit/{name}.xml", graded["junit"])
        self._write(f"feedback/{name}.html", feedback(graded, self.points))
        self._write(f"results/{name}.json", _json(self._results(graded)))

    def _results(self, graded: dict) -> dict:
        """Gradescope's format; `extra_data` is what `has` and the gradebook read."""
        tests = [
            {
                "name": row["exercise"],
                "score": row["points"],
                "max_score": self.points[row["exercise"]],
                "status": "passed" if row["status"] == "passed" else "failed",
                "output": "\n".join(filter(None, (row["status"], *words(row)))),
            }
            for row in graded["rows"]
        ]
        return {
            "score": sum(row["points"] for row in graded["rows"]),
            "output": "\n".join(graded["problems"]),
            "tests": tests,
            "extra_data": {
                "run": self.run,
                "submission": graded["digest"],
                "statuses": {row["exercise"]: row["status"] for row in graded["rows"]},
            },
        }

    def finish(self, names: list[str], failed: dict[str, str], passed_over: list[str]) -> None:
        """gradebook.csv from the students' files, one at a time, and the full record."""
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["student", *self.points, "total", "of", "remarks"])
        hashes = {}
        for name in sorted(names):
            if name in failed:
                table.writerow([_cell(name), *[""] * len(self.points), "", "", f"not graded: {failed[name]}"])
                continue
            results = self._read(f"results/{name}.json")
            scores = [test["score"] for test in results["tests"]]
            hashes[name] = results["extra_data"]["submission"]
            remarks = [f"{ex}: {s}" for ex, s in results["extra_data"]["statuses"].items() if s in NOTABLE]
            remarks = filter(None, [*results["output"].splitlines(), *remarks])
            table.writerow(
                [_cell(name), *scores, sum(scores), sum(self.points.values()), _cell("; ".join(remarks))]
            )
        self._write("gradebook.csv", text.getvalue())
        seen = {"submissions": hashes, "not graded": failed, "passed over": passed_over}
        self._write("record.json", _json(self.record | seen))

    def _read(self, name: str) -> dict:
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def _write(self, name: str, text: str) -> None:
        replace(self.folder / name, text)


NOTABLE = ("crashed", "timed out", "out of memory", "tampered")


def _json(value: dict) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _cell(text: str) -> str:
    """A spreadsheet must not take a student's words for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def words(row: dict) -> list[str]:
    """What is said about a row, in paragraphs."""
    return _panel(row, 0).lines()[1:]


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


def feedback(graded: dict, points: dict[str, int]) -> str:
    """A student's page: every exercise with its diagnosis and the student's own line; no input, no expected value."""
    body = [f"<p>⚠ {html.escape(problem)}</p>" for problem in graded["problems"]]
    body += [_panel(row, points[row["exercise"]])._repr_html_() for row in graded["rows"]]
    score, total = sum(row["points"] for row in graded["rows"]), sum(points.values())
    return PAGE.format(name=html.escape(graded["name"]), score=score, total=total, body="\n".join(body))


def _panel(row: dict, points: int) -> Panel:
    """A row as the notebook would show it."""
    return Panel(
        f"{row['exercise']}: {row['status']}",
        kind={"passed": "passed", "not attempted": "open"}.get(row["status"], "wrong"),
        title=f"{row['status']} · {row['points']} of {points}",
        name=row["exercise"],
        diagnosis=row["diagnosis"],
        message=row["message"],
        details=[("In your code:", row["line"])] if row["line"] else [],
        notes=row["notes"],
    )
