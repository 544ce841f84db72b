"""One exercise: what came out of the kernel against the solution's values, as one row of the gradebook.

Nothing of a kernel's words reaches a row unless it is one of our own sentences or a line of the student's answer.
"""

from __future__ import annotations

import builtins
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from course_lib.catalogue import exercises
from course_lib.exercise import device
from course_lib.exercise.check import _GLOBAL_DRAWS, _IN_PLACE, _TORCH_SAYS, _check_memory
from course_lib.exercise.compare import agrees, compare, diagnose_structure, structure
from course_lib.exercise.contract import Exercise
from course_lib.exercise.key import Key, record
from course_lib.exercise.report import Wrong, megabytes
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
    loose = Exercise(ex.function, ex.section, rtol=10 * ex.rtol, atol=10 * ex.atol)
    for i in range(50):
        key = record(ex, seed + i)
        if not any(
            all(agrees(loose, a, b, ex.gradients) for a, b in zip(outcomes, key.outcomes, strict=True))
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
        _judge(ex, key, report)
        row = Row(ex.id, "passed", ex.points)
    except Wrong as wrong:
        row = _row(ex, wrong.report, source, limits)
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
            str(stage): {k: str(w[k])[:2000] for k in ("status", "message", "line")}
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


def _judge(ex: Exercise, key: Key, found: _Found) -> None:
    """Raise Wrong for the first step that fails, in the order of `check`."""
    for got, want in zip(found.cases, key.outcomes, strict=False):
        if problem := structure(got, want):
            raise Wrong(*problem, diagnosis=diagnose_structure(key, found.cases))
    _fail("runs", found)
    compare(ex, key, found.cases, "values")
    if ex.gradients:
        _fail("gradients", found)
        pairs = zip(found.cases, found.gradients, strict=True)
        if not all(isinstance(v, Tensor) for g in found.gradients for v in g.values()):
            raise Wrong("tampered")
        compare(ex, key, [got | gradients for got, gradients in pairs], "gradients")
    _fail("GPU-ready", found)
    if ex.memory:
        _check_memory(ex, found.peak)


def _fail(stage: str, found: _Found) -> None:
    if stage in found.wrong:
        raise Wrong(**found.wrong[stage])


def _row(ex: Exercise, wrong: dict, source: str, limits: Limits) -> Row:
    """The row of a failed check, without any number of a hidden case."""
    if wrong["status"] in ("not attempted", "tampered"):
        return ended(ex, "tampered", limits) if wrong["status"] == "tampered" else not_attempted(ex)
    if re.search("MemoryError|can't allocate memory|not enough memory", wrong["message"]):
        return ended(ex, "out of memory", limits)
    row = Row(ex.id, "failed", diagnosis=wrong.get("diagnosis", ""))
    line = wrong.get("line", "")
    row.line = line if line.strip() in {x.strip() for x in source.splitlines()} else ""
    message = wrong["message"]
    if "line" in wrong:  # it comes from the kernel
        row.message = known_sentence(message, source, ex)
    else:
        row.message = (
            message.split("The largest error here")[0].strip() or "The values differ from the solution's."
        )
    return row


def not_attempted(ex: Exercise) -> Row:
    return Row(ex.id, "not attempted", message=f"Section “{ex.section}” of notebook {ex.notebook}.")


# ---------------------------------------------------------------- words that come from the kernel


_SENTENCES = [message for _, message in _TORCH_SAYS.values()]
_SENTENCES += [f"Your answer {x}." for x in (*device._STALLS.values(), device.NUMPY, device._TO_CPU)]
_SENTENCES += [_IN_PLACE, "Your answer calls itself without end (RecursionError)."]
_SENTENCES += ["Your answer ends the program: take exit() or sys.exit() out."]


def known_sentence(message: str, source: str, ex: Exercise) -> str:
    """The sentence of ours that a message is; else the kind of exception, where it is Python's or names a name."""
    for sentence in [*_SENTENCES, f"Your answer {device._MANY_OPERATIONS.format(ex.operations)}."]:
        if message.startswith(sentence):
            return sentence
    if message.startswith("Your answer mixes a CPU tensor into "):
        return f"Your answer {device._CPU_MIXED_IN.format('a GPU operation')}."
    if named := re.search(r"`(\w+)` lives in another cell|name '(\w+)' is not defined", message):
        name = named[1] or named[2]
        if re.search(rf"\b{name}\b", source):
            return f"`{name}` is not defined: everything an answer uses, imports too, belongs into its cell."
    if waits := re.match(r"Your answer calls (\w+\.\w+), which has no answer yet", message):
        return f"Your answer calls {waits[1]}, which has no answer." if _is_exercise(waits[1]) else ""
    on_shapes = message.startswith("Run without values, on shapes alone")
    kind = re.search(r"\b(\w+(Error|Exit|Exception))\b", message)
    known = kind and isinstance(getattr(builtins, kind[1], None), type)
    return (
        f"Your answer raised {kind[1] if known else 'an exception'}"
        f"{', run without values, on shapes alone' if on_shapes else ''}. "
        f"check({ex.id}) in the notebook shows what it says."
    )


def _is_exercise(name: Any) -> bool:
    return name in [ex.id for ex in exercises()]


def _noted(row: Row, found: _Found) -> Row:
    """Add the notes that are ours, and which other answers this one calls (the worker adds how those went)."""
    if _GLOBAL_DRAWS in found.notes:
        row.notes.append(_GLOBAL_DRAWS)
    row.notes += [f"calls {name}" for name in found.called if _is_exercise(name)]
    return row
