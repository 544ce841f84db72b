"""Run a student's answer against its key, and find what is right and what is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import linecache
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from course_lib.exercise import answers, device, kernels
from course_lib.exercise.answers import MissingAnswer
from course_lib.exercise.compare import (
    agrees,
    compare,
    diagnose_raised,
    diagnose_structure,
    kind_of,
    structure,
)
from course_lib.exercise.contract import Exercise, copy_inputs, run, run_with_gradients
from course_lib.exercise.device import DeviceWatch, SilentCovariance, modes_put_back, watch, without_stalls
from course_lib.exercise.findings import QUIET, NoTriton, Wrong, error_text
from course_lib.exercise.key import Key, find_key
from course_lib.exercise.progress import note_check, status
from course_lib.exercise.report import Report


def inspect_answer(ex: Exercise) -> Report:
    """The report on the answer in force, without displaying it."""
    report, printed = Report(ex.id), _Printed()
    answers.called.clear()
    try:
        with contextlib.suppress(LookupError):  # `_check` tells it
            find_key(ex)  # reading the file is no part of the answer's time
        with (
            modes_put_back(),
            _validation_as_at_start(),
            torch.random.fork_rng(devices=[]),
            torch.enable_grad(),
            contextlib.redirect_stdout(printed),
            time_limit(ex.seconds),
        ):
            torch.default_generator.manual_seed(0)
            _check(ex, report)
    except Wrong as wrong:
        report.end(wrong)
    except TimeUp as up:
        report.end(_timed_out(ex, up, str(answers.answer_file(ex))))
    except KeyboardInterrupt:
        report.end(Wrong("interrupted"))
    except Exception as error:  # a check never raises, whatever strange tensor an answer returns
        report.end(Wrong("check failed", text=_raised_fields(ex, error)["text"]))
    if printed.getvalue():
        report.details.append(("It printed:", printed.getvalue().rstrip()))
    if not answers.solutions_in_force():
        _add_notes(ex, report)
    answers.called.clear()
    return report


@contextlib.contextmanager
def _validation_as_at_start() -> Iterator[None]:
    """torch.distributions validates its arguments in the block, as in a fresh process: torch.compile turns that off for all."""
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(__debug__)
    try:
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


class TimeUp(BaseException):
    """Raised in what runs when its time is up; no `except Exception` of an answer's catches it.

    places: file and line of all that ran at that moment, the innermost first.
    """

    def __init__(self, places: list[tuple[str, int]]):
        super().__init__()
        self.places = places


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the block after so many seconds, and again until it ends. Only where a process has SIGALRM.

    Time in which it waits for a core that others use is not counted. What runs in C at that moment, one long operation,
    ends first. On a busy machine it is raised again while the block's own clean-ups run, so what must be undone is
    opened around this limit or is one of _WHOLE; and a later TimeUp tells the places of the first.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    over, places, end = False, [], time.monotonic() + seconds - _waited()

    def ring(_, frame) -> None:
        nonlocal places
        if over or time.monotonic() - _waited() < end:
            return
        running = [*traceback.walk_stack(frame)]
        if not any(f.f_code in _WHOLE for f, _ in running):  # it rings again
            places = places or [(f.f_code.co_filename, line) for f, line in running]
            raise TimeUp(places)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.1)
    try:
        yield
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Which change Triton and PyTorch for their block: their own lines run while they do so, and when they put all back.
_WHOLE = {manager.__wrapped__.__code__ for manager in (kernels._patched, device._synchronisation)}


def _waited() -> float:
    """Seconds in which this thread could have run and others had the cores; 0 where the system does not tell (Linux does)."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


class _Printed(io.StringIO):
    """Keeps the first of what an answer prints."""

    def write(self, text: str) -> int:
        super().write(text[: max(0, 500 - self.tell())])
        return len(text)


def _add_notes(ex: Exercise, report: Report) -> None:
    """What the student should know besides, and the student's own record."""
    if answers.answered_twice(ex):
        report.remark("answered twice")
    if not report.passed and report.status not in QUIET:
        for other in sorted(answers.called - {ex.id}):
            if status(other) != "passed":
                report.remark("calls a failing answer", exercise=other)
    try:
        note_check(ex, report.status)
    except OSError as error:
        report.remark("progress not saved", text=str(error))


def _check(ex: Exercise, report: Report) -> None:
    with report.step("runs"):
        answer = _load(ex)
        key = _key(ex)
        with _explained(key):
            results = _run_cases(answer, key, report)
    with report.step("values"):
        compare(ex, key, results, "values")
    if ex.gradients:
        with report.step("gradients"):
            for case, found in zip(key.cases, results, strict=True):
                with _explained(key):
                    gradients = answer.guard(run_with_gradients, ex, answer.function, copy_inputs(case))
                found |= {f"gradient of {k}": v for k, v in gradients.items() if v is not None}
            compare(ex, key, results, "gradients")
    with report.step("GPU-ready"):
        seen = _check_device(answer, key)
    if ex.memory:
        with report.step("memory"):
            _check_memory(ex, seen.peak, *_memory_cause(answer, seen))


@contextlib.contextmanager
def _explained(key: Key) -> Iterator[None]:
    """Names the mistake that raises the same as the answer."""
    try:
        yield
    except Wrong as wrong:
        wrong.finding = dataclasses.replace(wrong.finding, **diagnose_raised(key, wrong.finding))
        raise


# ---------------------------------------------------------------- calling an answer


_TORCH_SAYS = {  # part of what torch says: the code of the finding
    "a leaf Variable that requires grad is being used in an in-place": "in place",
    "modified by an inplace operation": "overwritten",
    "backward through the graph a second time": "used up",
    "does not require grad and does not have a grad_fn": "no graph",
    "view size is not compatible": "not contiguous",
    "more than one element of the written-to tensor": "expanded",
    "numpy() on Tensor that requires grad": "NumPy",
    "synchronizing CUDA operation": "CUDA waits",
    "can't allocate memory": "no memory",
    "not enough memory": "no memory",
}
_KNOWN = {RecursionError: "recursion", SystemExit: "exit", MemoryError: "no memory"}


@dataclass
class Answer:
    """The function to be checked, and the file that its lines are in."""

    ex: Exercise
    function: Callable
    file: str

    def guard(self, function: Callable, *args):
        """Call `function`; whatever the answer raises becomes words about the student's own line."""
        try:
            return function(*args)
        except Wrong:  # a probe's own words
            raise
        except MissingAnswer as missing:
            other = missing.exercise
            raise Wrong(
                "waiting", exercise=other.id, notebook=other.notebook, section=other.section
            ) from None
        except NoTriton as missing:
            raise Wrong("no Triton", missing=str(missing)) from None
        except NotImplementedError as error:
            if any(line.startswith("raise NotImplementedError") for _, line in self.own_line(error)):
                raise Wrong("stub") from None
            raise self.raised(error) from None
        except TimeUp as up:
            raise _timed_out(self.ex, up, self.file) from None
        except (Exception, SystemExit) as error:
            raise self.raised(error) from None

    def raised(self, error: BaseException) -> Wrong:
        """What an exception means, where that is known; else what it says."""
        fields = _raised_fields(self.ex, error)
        code = next((code for part, code in _TORCH_SAYS.items() if part in fields["text"]), "raised")
        code = next((known for kind, known in _KNOWN.items() if isinstance(error, kind)), code)
        if isinstance(error, NameError):
            code, more = _unknown_name(error)
            fields |= more
        return Wrong(code, details=self.own_line(error), **fields)

    def own_line(self, error: BaseException) -> list[tuple[str, str]]:
        """The student's own line of the traceback; no library frames."""
        if isinstance(error, SyntaxError) and error.filename == self.file:
            return [("In your code:", (error.text or "").strip())]
        own = [n for f, n in traceback.walk_tb(error.__traceback__) if f.f_code.co_filename == self.file]
        return [_line(self.file, own[-1])] if own else []

    def call(self, case: dict, report: Report, method: Callable = run) -> dict:
        """Run one case, through the probe; complain about inputs changed in place. `method` is `run` or `draw`."""
        inputs, returned = copy_inputs(case), []

        def implementation(*args, **kwargs):
            before = torch.get_rng_state()
            returned.append(self.function(*args, **kwargs))
            if not torch.equal(before, torch.get_rng_state()):
                report.remark("global generator")
            return returned[-1]

        implementation.__wrapped__ = self.function  # a kernel is launched, not called
        try:
            found = self.guard(method, self.ex, implementation, inputs)
        except Wrong as wrong:  # the probe may fail on what the answer returned
            if returned and wrong.finding.code == "raised" and not wrong.details:
                text = wrong.finding.fields["text"]
                raise Wrong("unusable", got=kind_of(returned[-1]), text=text) from None
            raise
        for name, value in case.items():
            if isinstance(value, Tensor) and not _unchanged(value, inputs[name]):
                raise Wrong("input changed", name=name)
        return found


def _line(file: str, number: int) -> tuple[str, str]:
    return "In your code:", linecache.getline(file, number).strip()


def _timed_out(ex: Exercise, up: TimeUp, file: str) -> Wrong:
    """That the time was up, and the line of the answer's file that ran then."""
    own = [number for name, number in up.places if name == file]
    return Wrong("timed out", details=[_line(file, own[0])] if own else [], seconds=ex.seconds)


def _raised_fields(ex: Exercise, error: BaseException) -> dict[str, str]:
    """What findings say of an exception."""
    return {"text": error_text(error), "error": type(error).__name__, "exercise": ex.id}


def _unchanged(before: Tensor, after: Tensor) -> bool:
    return before.shape == after.shape and torch.equal(before.nan_to_num(), after.nan_to_num())


def _unknown_name(error: NameError) -> tuple[str, dict]:
    """The code and fields of a name that the answer's file lacks: left in another cell, as a rule."""
    name = error.name or ""
    other = getattr(sys.modules["__main__"], name or " ", None)
    if isinstance(other, Exercise):
        return "name of another answer", {"name": name, "exercise": other.id}
    return "unknown name" if other is None else "name of another cell", {"name": name}


def _load(ex: Exercise) -> Answer:
    if not answers.solutions_in_force() and (edit := answers.why_not_run(ex)):
        raise Wrong(edit[0], **edit[1])
    if answers.solutions_in_force():
        solution = answers.find_solution(ex)
        if solution is None:
            raise Wrong("no solution", exercise=ex.id)
        return Answer(ex, solution.function, solution.function.__code__.co_filename)
    answer = Answer(ex, answers.load_answer, str(answers.answer_file(ex)))
    answer.function = answer.guard(answers.load_answer, ex)
    if answer.function is None:
        raise Wrong("not written", section=ex.section, notebook=ex.notebook)
    return answer


def _key(ex: Exercise) -> Key:
    try:
        return find_key(ex)
    except LookupError as error:
        raise Wrong("no key", text=str(error)) from None


def _run_cases(answer: Answer, key: Key, report: Report) -> list[dict]:
    """The results of all cases; Wrong for the first of a wrong type, shape, dtype or device."""
    results, problem = [], None
    for case, expected in zip(key.cases, key.outcomes, strict=True):
        try:
            results.append(answer.call(case, report))
        except Wrong:
            if problem:  # the first problem is told; the other cases only help to diagnose it
                break
            raise
        problem = problem or structure(results[-1], expected)
    if problem:
        raise Wrong(dataclasses.replace(problem, **diagnose_structure(key, results)))
    return results


# ---------------------------------------------------------------- GPU and memory


def _check_device(answer: Answer, key: Key) -> DeviceWatch:
    """Run the answer at full size on shapes alone, and on CUDA where it is; what was seen of the memory."""
    ex = answer.ex
    inputs = ex.at_scale(ex.full_size) if ex.at_scale else key.cases[-1]
    try:
        seen = watch(ex, answer.function, inputs, answer.file)
    except Wrong as wrong:  # a probe's own words
        raise Wrong("CUDA device") if wrong.finding.code == "device" else wrong from None
    except (Exception, SystemExit) as error:
        known = answer.raised(error)
        code = "no memory" if known.finding.code == "no memory" else "only with values"
        raise Wrong(code, details=known.details, **_raised_fields(ex, error)) from None
    if seen.problem:
        raise Wrong(seen.problem, details=[_line(answer.file, seen.line)] if seen.line else [])
    if torch.cuda.is_available():
        _check_on_cuda(answer, key)
    return seen


def _check_on_cuda(answer: Answer, key: Key) -> None:
    """The recorded cases once more on the GPU, where any hidden synchronisation in the answer is an error."""
    ex, strict = answer.ex, without_stalls(answer.function, answer.file)
    for case, want, noise in zip(key.cases, key.outcomes, key.noise, strict=True):
        inputs = {k: v.cuda() if isinstance(v, Tensor) else v for k, v in case.items()}
        with SilentCovariance():
            found = answer.guard(run, ex, strict, inputs)
        if not all(isinstance(v, Tensor) and v.is_cuda for v in found.values()):
            raise Wrong("CUDA device")
        found = {k: v.detach().cpu() for k, v in found.items()}
        if (ex.probe is None or ex.kernel) and not agrees(
            ex, found, want, gradients=False, noise=noise, times=10
        ):
            # a probe's draw may differ between devices
            raise Wrong("CUDA value")


def _check_memory(ex: Exercise, peak: int, cause: str = "memory", fields: dict | None = None) -> None:
    if peak > ex.memory:
        raise Wrong(cause, size=ex.full_size, peak=peak, bound=ex.memory, **(fields or {}))


def _memory_cause(answer: Answer, seen: DeviceWatch) -> tuple[str, dict]:
    """The code, and more fields, of why an answer holds too much."""
    ex = answer.ex
    if seen.peak <= ex.memory:
        return "memory", {}
    if seen.double > seen.peak / 2:
        return "memory of float64", {}
    if ex.gradients:
        with torch.no_grad():
            forward = watch(ex, answer.function, ex.at_scale(ex.full_size), gradients=False).peak
        if forward <= ex.memory:
            return "memory of the backward pass", {"forward": forward}
    largest, shape = seen.largest
    return (
        ("memory of one tensor", {"largest": largest, "shape": list(shape)})
        if len(shape) > 2
        else ("memory", {})
    )


# ---------------------------------------------------------------- speed


def measure_speed(ex: Exercise) -> tuple[float, float, int]:
    """Milliseconds of the plain loop and of the answer in force, on the CPU, and the size they were run at.

    Raises TimeUp where both together take longer than a check may.
    """
    inputs = ex.at_scale(ex.timed_size)
    implementation = answers.in_force(ex)

    def milliseconds(function: Callable, repeats: int) -> float:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            run(ex, function, inputs)
            times.append(1000 * (time.perf_counter() - start))
        return median(times)

    with torch.no_grad(), torch.random.fork_rng(devices=[]), open(os.devnull, "w") as null:
        with contextlib.redirect_stdout(null), time_limit(ex.seconds):
            milliseconds(implementation, 1)
            return milliseconds(ex.plain, 1), milliseconds(implementation, 5), ex.timed_size
