"""One exercise: what came out of the kernel against the solution's values, as one row of the gradebook.

Nothing of a kernel's words reaches a row: a sentence is made here of a finding's code, and a line is the student's.
"""

from __future__ import annotations

import builtins
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from course_lib.catalogue import exercises
from course_lib.exercise.check import _check_memory
from course_lib.exercise.compare import agrees, compare, diagnose_structure, structure
from course_lib.exercise.contract import Exercise
from course_lib.exercise.findings import Finding, Wrong, megabytes
from course_lib.exercise.key import Key, record
from course_lib.grading.sandbox import Limits
from course_lib.grading.wire import Unreadable, decode_all

STATUSES = ("passed", "failed", "not attempted", "crashed", "timed out", "out of memory", "tampered")
ENDINGS = {  # what ended a check: its row's status, and what is said
    "timed out": (
        "timed out",
        "Your answer did not finish in {seconds:g} seconds. Is there a loop that does not end?",
    ),
    "out of memory": ("out of memory", "Your answer took more than {memory} of memory."),
    "too many processes": ("crashed", "Your answer starts processes: more than {processes}."),
    "too much output": ("crashed", "Your answer gives far more output than was asked for."),
    "crashed": ("crashed", "Your answer ended the process that it ran in."),
    "tampered": (
        "tampered",
        "What came back is not what a check sends: your answer interferes with its check.",
    ),
}


@dataclass
class Row:
    """The result of one exercise of one submission."""

    exercise: str
    status: str
    points: int = 0
    message: str = ""
    diagnosis: str = ""
    line: str = ""  # the student's own
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    as_dict = asdict


def fresh_key(ex: Exercise, seed: int) -> Key:
    """Inputs drawn from the seed and what the solution gives on them.

    Drawn again, from the next seed, where chance lets a named mistake come near the solution on every case.
    """
    for i in range(50):
        key = record(ex, seed + i)
        if not any(
            all(
                agrees(ex, a, b, ex.gradients, noise, times=100)
                for a, b, noise in zip(outcomes, key.outcomes, key.noise, strict=True)
            )
            for outcomes in key.mistakes.values()
        ):
            return key
    raise RuntimeError(
        f"{ex.id}: the cases in solutions/{ex.lesson}.py do not tell a mistake from the solution."
    )


def ended(ex: Exercise, how: str, limits: Limits) -> Row:
    """The row of a check that came to no result."""
    status, message = ENDINGS.get(how, ENDINGS["tampered"])
    said = {"seconds": limits.seconds, "memory": megabytes(limits.memory), "processes": limits.processes}
    return Row(ex.id, status, message=message.format(**said))


def judge(ex: Exercise, key: Key, found: Any, source: str, limits: Limits) -> Row:
    """The row for what a check cell sent, whatever it is; `source` is the student's answer."""
    try:
        status = found["status"]
        if status != "ran":
            return ended(ex, status, limits)
        report = _Found(found, key, ex)
    except Exception:  # it may be any JSON
        return ended(ex, "tampered", limits)
    try:
        _judge(ex, key, report, source)
        row = Row(ex.id, "passed", ex.points)
    except Unreadable:
        return ended(ex, "tampered", limits)
    except Wrong as wrong:
        row = _row(ex, wrong, source, limits)
    except Exception:  # a strange tensor, such as one of 16 axes
        row = Row(ex.id, "failed", message="Your answer returned something that cannot be compared.")
    return _noted(row, report)


class _Found:
    """A check's message with its values decoded and its types made sure of."""

    def __init__(self, found: dict, key: Key, ex: Exercise):
        known = {name for outcome in key.outcomes for name in outcome}
        known |= {f"gradient of {name}" for case in key.cases for name in case}  # also where none should flow
        self.cases = [_renamed(decode_all(c), known) for c in _list(found["cases"], len(key.cases))]
        self.gradients = [_renamed(decode_all(c), known) for c in _list(found["gradients"], len(key.cases))]
        self.wrong = {
            str(stage): (Finding.from_data(w["finding"]), str(w["line"])[:2000])
            for stage, w in found["wrong"].items()
        }
        self.peak = int(found.get("peak", 0))
        self.notes, self.called = _list(found["notes"], 100), _list(found["called"], 100)
        if "runs" not in self.wrong and (
            len(self.cases) != len(key.cases) or ("GPU-ready" not in self.wrong and "peak" not in found)
        ):
            raise Unreadable("Cases are missing")


def _list(value: Any, most: int) -> list:
    if not isinstance(value, list) or len(value) > most:
        raise Unreadable("Not a list")
    return value


def _renamed(outcome: dict, known: set[str]) -> dict:
    """Outputs of names that were not asked for get names of ours."""
    plain = known | {"result", *(f"result {i}" for i in range(64))}
    return {k if k in plain else f"entry {i}": v for i, (k, v) in enumerate(outcome.items())}


def _judge(ex: Exercise, key: Key, found: _Found, source: str) -> None:
    """Raise Wrong for the first step that fails, in the order of `check`."""
    for got, want in zip(found.cases, key.outcomes, strict=False):
        if problem := structure(got, want):
            raise Wrong(replace(problem, **diagnose_structure(key, found.cases)))
    _fail("runs", found, source, ex)
    compare(ex, key, found.cases, "values")
    if ex.gradients:
        _fail("gradients", found, source, ex)
        pairs = zip(found.cases, found.gradients, strict=True)
        if not all(isinstance(v, Tensor) for g in found.gradients for v in g.values()):
            raise Unreadable("A gradient is no tensor")
        compare(ex, key, [got | gradients for got, gradients in pairs], "gradients")
    _fail("GPU-ready", found, source, ex)
    if ex.memory:
        _check_memory(ex, found.peak)


def _fail(stage: str, found: _Found, source: str, ex: Exercise) -> None:
    if stage in found.wrong:
        finding, line = found.wrong[stage]
        raise Wrong(believed(finding, source, ex), details=[("", line)])


def _row(ex: Exercise, wrong: Wrong, source: str, limits: Limits) -> Row:
    """The row of a failed check, without any number of a hidden case."""
    finding = wrong.finding
    if finding.code in ("stub", "not written"):
        return not_attempted(ex)
    if finding.code == "no memory":
        return ended(ex, "out of memory", limits)
    row = Row(ex.id, "failed", message=finding.public, diagnosis=finding.diagnosis)
    line = next((text for _, text in wrong.details), "")
    row.line = line if line.strip() in {x.strip() for x in source.splitlines()} else ""
    return row


def not_attempted(ex: Exercise) -> Row:
    return Row(ex.id, "not attempted", message=f"Section “{ex.section}” of notebook {ex.notebook}.")


# ---------------------------------------------------------------- findings that come from the kernel


def believed(finding: Finding, source: str, ex: Exercise) -> Finding:
    """A finding that came from the kernel, with no field but those that are made sure of here."""
    name, error, other = (str(finding.fields.get(k)) for k in ("name", "error", "exercise"))
    fields = {
        "name": name if re.search(rf"\b{re.escape(name)}\b", source) else "a name",
        "error": error if isinstance(getattr(builtins, error, None), type) else "an exception",
        "exercise": other if finding.code == "waiting" and _is_exercise(other) else ex.id,
        "operations": ex.operations,
    }
    safe = Finding(finding.code, fields)
    try:
        _ = safe.status, safe.public
    except KeyError:  # it says more than a kernel may
        return Finding("check failed")
    return safe


def _is_exercise(name: Any) -> bool:
    return name in [ex.id for ex in exercises()]


def _noted(row: Row, found: _Found) -> Row:
    """Add the notes that are ours, and which other answers this one calls (the worker adds how those went)."""
    if "global generator" in found.notes:
        row.notes.append(Finding("global generator").sentence)
    row.notes += [f"calls {name}" for name in found.called if _is_exercise(name)]
    return row
