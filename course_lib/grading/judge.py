"""One exercise: what came out of the sandbox against the solution's values, as one row of the gradebook.

Nothing of a student's process reaches a row: a sentence is made here of a finding's code, and a line is the student's.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from course_lib.catalogue import exercises, find
from course_lib.exercise.answers import find_solution
from course_lib.exercise.check import _check_memory
from course_lib.exercise.compare import agrees, close, compare, diagnose_raised, diagnose_structure, structure
from course_lib.exercise.contract import Exercise, is_symmetric
from course_lib.exercise.findings import Finding, Wrong, megabytes
from course_lib.exercise.key import Key, outcome, record, solutions_only
from course_lib.exercise.probe import DRAWS as DRAWN
from course_lib.grading.sandbox import CheckEnded, Limits
from course_lib.grading.tracing import LONGEST, launches
from course_lib.grading.wire import Unreadable, decode, decode_all, encode, encode_all

ENDINGS = {  # what ended a check: its row's status, and what is said
    "timed out": (
        "timed out",
        "Your answer did not finish in {seconds:g} seconds. Is there a loop that does not end?",
    ),
    "out of memory": ("out of memory", "Your answer took more than {memory} of memory."),
    "too many processes": ("crashed", "Your answer starts processes: more than {processes}."),
    "too much output": ("crashed", "Your answer gives far more output than was asked for."),
    "crashed": ("crashed", "Your answer ended the process that it ran in."),
    "not checked": (
        "not checked",
        "The grader itself failed on this answer, which is not your fault. Tell whoever grades.",
    ),
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
    code: str = ""  # of the finding
    mistake: str = ""  # the name of the mistake that the diagnosis is of
    calls: list[str] = field(default_factory=list)  # other exercises
    served: list[str] = field(default_factory=list)  # those of them that the reference stood in for
    shape: str = ""  # of the answer: a digest of its syntax up to names
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    as_dict = asdict


# ---------------------------------------------------------------- what is asked


@dataclass
class Test:
    """One exercise in one run: what an answer is watched on (decoys), and what its program is judged on (hidden).

    Both have the same shapes and plain numbers. `scaled` are two more cases, of sizes that the seed chooses, where
    the contract can make inputs of any size; they have no mistakes.
    """

    hidden: Key
    decoys: Key
    scaled: Key
    scaled_decoys: list[dict]
    sizes: tuple[int, ...]


def draw_test(ex: Exercise, seed: int) -> Test:
    """The test of an exercise: everything in it follows from the seed."""
    hidden = fresh_key(ex, seed)
    decoys = _decoys(ex, hidden, seed)
    small = 24 + 2 * (seed % 8)  # even: some contracts halve a batch
    sizes = (small, 2 * small) if ex.at_scale else ()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        scaled = [ex.at_scale(n) for n in sizes]
        scaled_decoys = [_decoy(ex.at_scale(n), case) for n, case in zip(sizes, scaled, strict=True)]
        with solutions_only():
            outcomes = [outcome(ex, find_solution(ex).function, case) for case in scaled]
    return Test(hidden, decoys, Key(scaled, outcomes, {}, {}, [], [{} for _ in scaled]), scaled_decoys, sizes)


def _decoys(ex: Exercise, hidden: Key, seed: int) -> Key:
    """Other cases of the same shapes and plain numbers."""
    for i in range(1, 50):
        drawn = find_solution(ex).draw_cases(seed + 1000 * i)
        if [_shapes(c) for c in drawn] == [_shapes(c) for c in hidden.cases]:
            with contextlib.suppress(ValueError):  # an ill-conditioned one
                return record(ex, seed, [_decoy(*pair) for pair in zip(drawn, hidden.cases, strict=True)])
    raise RuntimeError(f"{ex.id}: the cases in solutions/{ex.lesson}.py change their shapes with the seed.")


def _shapes(case: dict) -> dict:
    """Of each tensor its shape, and whether it is symmetric, since gradients are symmetrised then."""
    return {k: (v.shape, is_symmetric(v)) for k, v in case.items() if isinstance(v, Tensor)}


def _decoy(drawn: dict, case: dict) -> dict:
    return {k: drawn[k] if isinstance(v, Tensor) else v for k, v in case.items()}


def fresh_key(ex: Exercise, seed: int) -> Key:
    """Inputs drawn from the seed and what the solution gives on them.

    Drawn again, from the next seed, where chance lets a named mistake come near the solution on every case.
    """
    for i in range(50):
        try:
            key = record(ex, seed + i)
        except ValueError:  # an ill-conditioned one
            continue
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


def _loose(ex: Exercise) -> Exercise:
    """The exercise with ten times its tolerance."""
    return dataclasses.replace(ex, rtol=10 * ex.rtol, atol=10 * ex.atol)


# ---------------------------------------------------------------- what came back

Replay = Callable[[dict], Any]  # runs programs in the sandbox


def judge(
    ex: Exercise,
    test: Test,
    found: Any,
    source: str,
    limits: Limits,
    replay: Replay,
    served: Sequence[str] = (),
) -> Row:
    """The row for what a check sent, whatever it is; `source` is the student's answer.

    `served` are the exercises that the reference stands in for: what the answer gave on decoys is then arbitrary.
    """
    try:
        status = found["status"]
        if status != "ran":
            return ended(ex, status, limits)
        report = _Found(found, test)
    except Exception:  # it may be any JSON
        return ended(ex, "tampered", limits)
    used = [name for name in report.called if name in served]
    try:
        _judge_decoys(ex, test, report, source, bool(used))
        _judge_program(ex, test, report, replay, bool(used))
        row = Row(ex.id, "passed", ex.points)
    except Unreadable:
        return ended(ex, "tampered", limits)
    except Wrong as wrong:
        row = _row(ex, wrong, source, limits)
    except CheckEnded as end:
        row = ended(ex, str(end), limits)
    except Exception:  # of ours, or brought about by what no check sends: whoever grades has a look
        return ended(ex, "not checked", limits)
    if "global generator" in report.notes:
        row.notes.append(Finding("global generator").sentence)
    row.calls, row.served = report.called, used
    return row


class _Found:
    """A check's message with its values decoded and its types made sure of."""

    def __init__(self, found: dict, test: Test):
        cases, scaled = len(test.decoys.cases), len(test.scaled.cases)
        known = {
            f"gradient of {name}" for case in test.decoys.cases for name in case
        }  # also where none should flow
        known |= {name for values in test.decoys.outcomes for name in values} | {*DRAWN}
        self.cases = [_renamed(decode_all(c), known) for c in _list(found["cases"], cases + scaled)[:cases]]
        self.gradients = [_renamed(decode_all(c), known) for c in _list(found["gradients"], 64)[:cases]]
        self.wrong = {
            str(stage): (Finding.from_data(w["finding"]), str(w["line"])[:2000])
            for stage, w in found["wrong"].items()
        }
        self.programs = _list(found["programs"], cases + scaled)
        self.peak = int(found.get("peak", 0))
        self.notes = _list(found["notes"], 100)
        self.called = [name for name in _list(found["called"], 100) if _is_exercise(name)]
        if "runs" not in self.wrong and (
            (len(self.cases), len(self.programs)) != (cases, cases + scaled)
            or ("GPU-ready" not in self.wrong and "peak" not in found)
        ):
            raise Unreadable("Cases are missing")


def _list(value: Any, most: int) -> list:
    if not isinstance(value, list) or len(value) > most:
        raise Unreadable("Not a list")
    return value


def _renamed(values: dict, known: set[str]) -> dict:
    """Outputs of names that were not asked for get names of ours."""
    plain = known | {"result", *(f"result {i}" for i in range(64))}
    return {k if k in plain else f"entry {i}": v for i, (k, v) in enumerate(values.items())}


def _judge_decoys(ex: Exercise, test: Test, found: _Found, source: str, served: bool) -> None:
    """Raise Wrong for the first step that fails, in the order of `check`."""
    key, results = test.decoys, []
    if not served:
        results = [_finished(ex, got, case) for got, case in zip(found.cases, key.cases, strict=False)]
        _structure(key, results)
    _fail("runs", found, source, ex, key)
    if not served:
        _compare(ex, key, results, "values")
    if ex.gradients:
        _fail("gradients", found, source, ex, key)
        tensors = all(isinstance(v, Tensor) for g in found.gradients for v in g.values())
        if not tensors or len(found.gradients) != len(key.cases):
            raise Unreadable("A gradient is no tensor, or missing")
        if not served:
            pairs = zip(results, found.gradients, strict=True)
            _compare(ex, key, [got | gradients for got, gradients in pairs], "gradients")
    _fail("GPU-ready", found, source, ex, key)
    if ex.memory:
        _check_memory(ex, found.peak)


def _compare(ex: Exercise, key: Key, results: list[dict], step: str) -> None:
    """Raise Wrong where results differ by more than ten tolerances: fresh inputs may be worse conditioned than recorded."""
    try:
        compare(_loose(ex), key, results, step)
    except Wrong:
        compare(ex, key, results, step)
        raise


def _structure(key: Key, results: list[dict]) -> None:
    for got, want in zip(results, key.outcomes, strict=False):
        plain = {k: v for k, v in got.items() if not k.startswith("gradient of ")}
        if problem := structure(plain, want):
            raise Wrong(replace(problem, **diagnose_structure(key, results)))


def _fail(stage: str, found: _Found, source: str, ex: Exercise, key: Key) -> None:
    if stage in found.wrong:
        finding, line = found.wrong[stage]
        known = diagnose_raised(key, finding)
        raise Wrong(replace(believed(finding, source, ex), **known), details=[("", line)])


def _finished(ex: Exercise, results: dict, case: dict) -> dict:
    """Named values as `run` gives them: of a random answer, what must hold whatever the draw."""
    try:
        return ex.properties(results, **case) if ex.properties else results
    except Wrong:  # in words
        raise
    except Exception:  # it is written for what a right answer draws
        raise Wrong("check failed") from None


# ---------------------------------------------------------------- the program

DRAWS = 7  # of a random answer: what holds in most of them holds


def _judge_program(ex: Exercise, test: Test, found: _Found, replay: Replay, served: bool) -> None:
    """Raise Wrong unless the answer's operations give the right values on inputs that it has never seen."""
    if ex.kernel:
        _judge_kernel(ex, test, replay)
        return
    kinds = ["values", "gradients"] if ex.gradients else ["values"]
    programs = [{kind: case[kind] for kind in kinds} for case in _programs(found, kinds)]
    _count(ex, test, programs)
    cut = len(test.hidden.cases)
    cases = test.hidden.cases + test.scaled.cases
    if ex.properties:  # at any size, its inputs need not be those that its properties are told by
        programs, cases = programs[:cut], cases[:cut]
    draws = list(range(1, DRAWS + 1)) if ex.properties else [1]
    message = {"programs": programs, "cases": [encode_all(c) for c in cases], "draws": draws}
    answer = replay(message)
    try:
        results = _replayed(ex, test, answer, cases, kinds)
        _structure(test.hidden, results[:cut])
        for step in kinds:
            _compare(ex, test.hidden, results[:cut], step)
        if not all(map(alike, results[cut:], test.scaled.outcomes)):
            raise Wrong("no program")
    except Wrong:
        if served:
            raise
        raise Wrong("no program") from None


def _judge_kernel(ex: Exercise, test: Test, run_again: Replay) -> None:
    """Raise Wrong unless a kernel gives the right values on inputs that it has never seen; it has no gradients."""
    cases = [encode_all(case) for case in test.hidden.cases]
    found = run_again({"exercise": ex.id, "cases": cases, "references": []})
    try:
        if found["status"] != "ran" or found["wrong"]:
            raise Wrong("no program")
        results = [_renamed(decode_all(c), set(test.hidden.outcomes[0])) for c in found["cases"]]
    except (TypeError, KeyError, AttributeError):
        raise Unreadable("Not a check") from None
    if len(results) != len(cases):
        raise Unreadable("Cases are missing")
    _structure(test.hidden, results)
    _compare(ex, test.hidden, results, "values")


def alike(got: dict, want: dict, times: float = 1) -> bool:
    """Whether these are the same formula's values: to a hundredth, as no accuracy is asked for on made-up inputs."""
    return got.keys() == want.keys() and all(
        isinstance(got[k], Tensor)
        and got[k].shape == x.shape
        and torch.allclose(
            got[k].double(), x.double(), 0, times * (1e-4 + 0.01 * _largest(x)), equal_nan=True
        )
        for k, x in want.items()
    )


def _largest(x: Tensor) -> float:
    return x.double().abs().nan_to_num(0, 0, 0).max().item() if x.numel() else 0.0


def _programs(found: _Found, kinds: list[str]) -> list[dict]:
    try:
        for case in found.programs:
            for kind in kinds:
                steps = case[kind]["steps"]
                if len(steps) > LONGEST:
                    raise Wrong("many operations", operations=LONGEST)
                if not all(isinstance(s[0], str) and isinstance(s[1], list) for s in steps):
                    raise Unreadable("Not a step")
    except (TypeError, KeyError, IndexError):
        raise Unreadable("Not a program") from None
    return found.programs


def _count(ex: Exercise, test: Test, programs: list[dict]) -> None:
    """Raise Wrong where the operations are too many, or would be at full size, growing as they do from small to large."""
    if test.sizes:
        few, many = [max(launches(program) for program in case.values()) for case in programs[-2:]]
        small, large = test.sizes
        if max(many, many + (many - few) * (ex.full_size - large) / (large - small)) > ex.operations:
            raise Wrong("many operations", operations=ex.operations)


def _replayed(ex: Exercise, test: Test, found: Any, cases: list[dict], kinds: list[str]) -> list[dict]:
    """The results of replayed programs, case by case; Wrong where there are none."""
    try:
        results = []
        for i, (got, case) in enumerate(zip(found["cases"], cases, strict=True)):
            drawn = [_finished(ex, decode_all(x), case) for x in got["values"]]
            merged = (
                _most(ex, drawn, test.hidden.outcomes[i], test.hidden.noise[i]) if ex.properties else drawn[0]
            )
            results.append(merged | (decode_all(got["gradients"][0]) if "gradients" in kinds else {}))
        return results
    except (Unreadable, TypeError, KeyError, ValueError, IndexError, AttributeError):
        raise Wrong("no program") from None


def _most(ex: Exercise, drawn: list[dict], want: dict, noise: dict) -> dict:
    """Of every property, the expected value where most draws have it, else what one of the others has."""
    result = dict(drawn[0])
    for name, expected in want.items():
        found = [d.get(name) for d in drawn]
        bad = [
            x for x in found if not (isinstance(x, Tensor) and close(x, expected, ex, noise.get(name, 0.0)))
        ]
        result[name] = bad[0] if 2 * len(bad) > len(drawn) else expected
    return result


# ---------------------------------------------------------------- references

LARGEST_CALL = 2_000_000  # numbers in a reference's inputs
ANSWERED = {b"c": {"shapes"}, b"p": {"refer", "vjp"}}  # by the kind of the request that asks


def refer(kind: bytes, question: Any, allowed: list[str]) -> Any:
    """What a stand-in is told of an exercise: shapes while a check runs, values where its program is run again.

    A check runs an answer, which may ask by itself: it is told no value, as a kernel's check has hidden inputs.
    `shapes`: {"results": [[shape, dtype]], "tuple": bool}; `refer` and `vjp`: the encoded results, or the gradients of
    the inputs that are wanted. None for an exercise that is not served, and for inputs that it does not take.
    """
    try:
        if question["exercise"] not in allowed or question["step"] not in ANSWERED[kind]:
            return None
        function, arguments = find_solution(find(question["exercise"])).function, question["arguments"]
        with solutions_only(), torch.random.fork_rng(devices=[]), torch.enable_grad():
            if question["step"] == "shapes":
                tensors = {k: v for k, v in decode_all(question["inputs"]).items() if isinstance(v, Tensor)}
                result = function(**tensors, **arguments["numbers"])
                results = result if isinstance(result, tuple) else (result,)
                shapes = [[list(x.shape), str(x.dtype).removeprefix("torch.")] for x in results]
                return {"results": shapes, "tuple": isinstance(result, tuple)}
            tensors = [decode(x) for x in question["tensors"]]
            inputs, weights = tensors[: len(arguments["names"])], tensors[len(arguments["names"]) :]
            if sum(x.numel() for x in inputs) > LARGEST_CALL:
                return None
            return [encode(x) for x in _reference(function, question["step"], arguments, inputs, weights)]
    except Exception:  # a solution is called as a student calls it
        return None


def _reference(
    function: Callable, step: str, arguments: dict, inputs: list, weights: list
) -> Sequence[Tensor]:
    wanted = arguments.get("wanted", [False] * len(inputs))
    inputs = [x.requires_grad_(want) for x, want in zip(inputs, wanted, strict=True)]
    result = function(**dict(zip(arguments["names"], inputs, strict=True)), **arguments["numbers"])
    results = result if isinstance(result, tuple) else (result,)
    if step == "refer":
        return results
    pairs = [(y, w) for y, w in zip(results, weights, strict=True) if y.requires_grad]
    leaves = [x for x in inputs if x.requires_grad]
    outputs, vectors = [y for y, _ in pairs], [w for _, w in pairs]
    found = (
        torch.autograd.grad(outputs, leaves, vectors, allow_unused=True) if pairs else [None] * len(leaves)
    )
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


# ---------------------------------------------------------------- rows


def ended(ex: Exercise, ending: str, limits: Limits) -> Row:
    """The row of a check that came to no result."""
    status, message = ENDINGS.get(ending, ENDINGS["tampered"])
    said = {"seconds": limits.seconds, "memory": megabytes(limits.memory), "processes": limits.processes}
    return Row(ex.id, status, message=message.format(**said), code=status)


def not_attempted(ex: Exercise) -> Row:
    return Row(ex.id, "not attempted", message=f"Section “{ex.section}” of notebook {ex.notebook}.")


def _row(ex: Exercise, wrong: Wrong, source: str, limits: Limits) -> Row:
    """The row of a failed check, without any number of a hidden case."""
    finding = wrong.finding
    if finding.code in ("stub", "not written"):
        return not_attempted(ex)
    if finding.code == "no memory":
        return ended(ex, "out of memory", limits)
    if loop := next((name for name in plain_loops() if re.search(rf"\b{name}\b", source)), ""):
        finding = Finding("plain loop", {"name": loop})
    row = Row(ex.id, "failed", message=finding.public, diagnosis=finding.diagnosis)
    row.code, row.mistake = finding.code, finding.mistake
    line = next((text for _, text in wrong.details), "")
    row.line = line if line.strip() in {x.strip() for x in source.splitlines()} else ""
    return row


@functools.cache
def plain_loops() -> list[str]:
    """The names of the plain loops that lessons give, which are not in the sandbox."""
    return [ex.plain.__name__ for ex in exercises() if ex.plain]


def believed(finding: Finding, source: str, ex: Exercise) -> Finding:
    """A finding that came from a student's process, with no field but those that are made sure of here."""
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
    except KeyError:  # it says more than a student's process may
        return Finding("check failed")
    return safe


def _is_exercise(name: Any) -> bool:
    return name in [ex.id for ex in exercises()]
