"""A student's record on this machine: checks, hints, what is passed, predictions, challenges. Never sent anywhere."""

from __future__ import annotations

import contextlib
import html
import json
import math

from course_lib.catalogue import LESSONS, exercises
from course_lib.exercise import answers
from course_lib.exercise.contract import Exercise
from course_lib.exercise.key import find_key
from course_lib.exercise.panel import LOOKS, Panel, message, shown
from course_lib.files import replace

PROGRESS, PREDICTIONS = "progress.json", "predictions.json"  # in the folder of the answers
ATTEMPTS = "challenges.json"  # there, too


def as_record(text: str) -> dict[str, dict]:
    """The entries of a record, by name; a ValueError where the text is none."""
    record = json.loads(text)
    if not isinstance(record, dict) or not all(isinstance(entry, dict) for entry in record.values()):
        raise ValueError("expected a JSON object of objects")
    return record


def read_record(name: str) -> dict[str, dict]:
    """The entries of PROGRESS, PREDICTIONS or ATTEMPTS; a damaged file is kept aside, and the record starts anew."""
    file = answers.answers_folder() / name
    with contextlib.suppress(OSError):
        try:
            return as_record(file.read_text(encoding="utf-8"))
        except ValueError:
            file.replace(file.with_suffix(".damaged.json"))
    return {}


def write_record(record: dict[str, dict], name: str) -> None:
    """Replace PROGRESS, PREDICTIONS or ATTEMPTS. An OSError where it cannot be saved."""
    replace(answers.answers_folder() / name, json.dumps(record, indent=1, ensure_ascii=False))


def _update(ex: Exercise, **changes) -> None:
    record = read_record(PROGRESS)
    record[ex.id] = {"checks": 0, "hints": 0, "status": "not attempted"} | record.get(ex.id, {}) | changes
    write_record(record, PROGRESS)


def status(name: str) -> str:
    """What the last check of an exercise, by its id, found; "not attempted" if there was none."""
    return read_record(PROGRESS).get(name, {}).get("status", "not attempted")


def note_check(ex: Exercise, found: str) -> None:
    """Count a check of an attempted answer and keep its result. An OSError where it cannot be saved."""
    before = read_record(PROGRESS).get(ex.id, {}).get("checks", 0)
    if found == "not attempted" and not before:
        return
    _update(ex, checks=before + (found != "not attempted"), status=found)


def merge(names: set[str], record: dict[str, dict]) -> None:
    """Take over the entries of these exercises from another record of progress."""
    write_record(read_record(PROGRESS) | {k: v for k, v in record.items() if k in names}, PROGRESS)


def attempts(record: dict[str, dict], task: str) -> list[dict]:
    """The attempts at a challenge in a record of ATTEMPTS, those that are as they should be, after an edit by hand, say.

    Each has its scores, one a seed, and in words: when it was, its note, its source.
    """
    found = record.get(task, {}).get("attempts")
    return [entry for entry in found if _is_attempt(entry)] if isinstance(found, list) else []


def _is_attempt(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("scores"), list):
        return False
    numbers = [x for x in entry["scores"] if type(x) in (int, float) and math.isfinite(x)]
    words = [entry.get(name) for name in ("when", "note", "source")]
    return len(numbers) == len(entry["scores"]) == 3 and all(isinstance(word, str) for word in words)


def merge_attempts(record: dict[str, dict]) -> None:
    """Take over the attempts of another record of ATTEMPTS, in the order of their times; one that is in both counts once."""
    here = read_record(ATTEMPTS)
    for task in record:
        mine = attempts(here, task)
        both = mine + [entry for entry in attempts(record, task) if entry not in mine]
        here[task] = here.get(task, {}) | {"attempts": sorted(both, key=lambda entry: entry["when"])}
    write_record(here, ATTEMPTS)


def hint(ex: Exercise) -> Panel:
    """The next hint to an exercise, each stronger than the one before; the last is repeated."""
    try:
        hints = find_key(ex).hints
    except LookupError as error:
        return shown(message(str(error)))
    given = read_record(PROGRESS).get(ex.id, {}).get("hints", 0)
    now = min(given, len(hints) - 1)
    panel = shown(message(f"Hint {now + 1} of {len(hints)}: {hints[now]}"))
    if not answers.solutions_in_force():
        with contextlib.suppress(OSError):  # the hint is shown even where no record can be written
            _update(ex, hints=min(given + 1, len(hints)))
    return panel


def reveal(ex: Exercise) -> Panel:
    """The solution's source, where this edition contains it, after an attempt."""
    solution = answers.find_solution(ex, revealed_only=not answers.solutions_in_force())
    if solution is None:
        return shown(
            message(f"This edition does not contain the solution of {ex.id}. hint({ex.id}) gives a hint.")
        )
    if not answers.solutions_in_force() and not read_record(PROGRESS).get(ex.id, {}).get("checks"):
        return shown(
            message(f"Try first: write an answer to {ex.id} and check it. Then the solution can be shown.")
        )
    return shown(message(f"A solution of {ex.id}:", solution.source))


def progress() -> Panel:
    """The whole course at a glance: every exercise passed, tried or open, points, time, and what to do next."""
    record = read_record(PROGRESS)
    rows, lines, won, total, following = [], [], 0, 0, None
    for lesson in LESSONS:
        found = {ex: record.get(ex.id, {}).get("status", "not attempted") for ex in exercises(lesson)}
        passed = [ex for ex in found if found[ex] == "passed"]
        following = following or next((ex for ex in found if found[ex] != "passed"), None)
        points, most = sum(ex.points for ex in passed), sum(ex.points for ex in found)
        won, total = won + points, total + most
        lines.append(f"{lesson.notebook}: {len(passed)} of {len(found)} exercises passed")
        rows.append(
            f'<tr><td style="text-align:left;vertical-align:top;white-space:nowrap"><b>{lesson.title}</b><br>'
            f"<small>{len(passed)} of {len(found)} exercises · {points} of {most} points · about {lesson.minutes} min</small>"
            f'</td><td style="text-align:left">{" &ensp;".join(_mark(ex, found[ex]) for ex in found)}</td></tr>'
        )
    counts = [sum(entry.get(k, 0) for entry in record.values()) for k in ("checks", "hints")]
    predictions = sum(bool(entry.get("before")) for entry in read_record(PREDICTIONS).values())
    lines.append(
        f"{won} of {total} points · {counts[0]} checks, {counts[1]} hints, {predictions} predictions, "
        "counted on this machine alone"
    )
    if following:
        lines.append(f"Next: {following.id}, section “{following.section}” of {following.notebook}")
    words = "".join(f"<div>{html.escape(line)}</div>" for line in lines[len(LESSONS) :])
    table = f'<table style="max-width:60em">{"".join(rows)}</table>{words}'
    return Panel("\n".join(lines), markup=table)


def _mark(ex: Exercise, found: str) -> str:
    kind = {"passed": "passed", "not attempted": "open"}.get(found, "wrong")
    colour, sign = LOOKS[kind]
    return (
        f'<span style="white-space:nowrap"><b style="color:{colour}">{sign}</b> '
        f'<code title="{html.escape(found)}">{ex.name}</code></span>'
    )
