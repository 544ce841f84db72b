"""`check`: run a student's answer against its key, and say what is right and what is wrong."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
import traceback
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from course_lib.exercise import answers, progress
from course_lib.exercise.contract import Exercise, MissingAnswer, run, run_with_gradients
from course_lib.exercise.device import watch
from course_lib.exercise.key import Key, find_key
from course_lib.exercise.report import Report, megabytes, show


class Wrong(Exception):
    """Ends a check: the status, and what the report says."""

    def __init__(self, status: str, message: str = "", step: str = "", **report):
        self.report = {"status": status, "message": message, "failed": step, **report}


def check(ex: Exercise) -> None:
    """Check the answer in force and display what was found. Never raises for a wrong answer."""
    if not isinstance(ex, Exercise):
        raise TypeError(f"check expects an exercise, such as elbo.gaussian_kl; got {type(ex).__name__}.")
    from IPython.display import display

    report = inspect_answer(ex)
    display(report)
    if report.passed and ex.plain:
        from course_lib.plots import speed_bars

        speed_bars(ex.name, *measure_speed(ex))


def inspect_answer(ex: Exercise) -> Report:
    """The report on the answer in force, without displaying it."""
    printed = io.StringIO()
    done: list[str] = []
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), contextlib.redirect_stdout(printed):
            torch.manual_seed(0)
            _check(ex, done)
        report = Report(ex.id, "passed")
    except Wrong as wrong:
        report = Report(ex.id, **wrong.report)
    except KeyboardInterrupt:
        report = Report(ex.id, "interrupted", "You interrupted the check. Is there a loop that does not end?")
    report.done = tuple(done)
    if printed.getvalue():
        report.notes.append("Your answer prints; printing is not graded, and is hidden here.")
    if not answers.solutions_in_force():
        progress.note_check(ex, report.status)
    return report


def _check(ex: Exercise, done: list[str]) -> None:
    implementation, file = _load(ex)
    key = find_key(ex)
    results = []
    for case, expected in zip(key.cases, key.outcomes, strict=True):
        found = _call(ex, implementation, case, file)
        results.append(found)
        if problem := _structure(found, expected):
            problem.report["diagnosis"] = _diagnose_structure(key, results)
            raise problem
    done.append("runs")
    _compare(ex, implementation, key, results, "values")
    done.append("values")
    if ex.gradients:
        for case, found in zip(key.cases, results, strict=True):
            gradients = _guard(ex, file, run_with_gradients, ex, implementation, _copy(case))
            found |= {f"gradient of {k}": v for k, v in gradients.items() if v is not None}
        _compare(ex, implementation, key, results, "gradients")
        done.append("gradients")
    _check_device(ex, implementation, key, file, done)


def _load(ex: Exercise) -> tuple[Callable, str]:
    if answers.solutions_in_force():
        function = answers.in_force(ex)
        return function, function.__code__.co_filename
    file = str(answers.answer_file(ex))
    function = _guard(ex, file, answers.load_answer, ex)
    if function is None:
        raise Wrong(
            "not attempted",
            f"Write it in section “{ex.section}” of notebook {ex.notebook}, then run its cell and this one again.",
        )
    return function, file


def _copy(case: dict) -> dict:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in case.items()}


# ---------------------------------------------------------------- calling an answer


def _guard(ex: Exercise, file: str, function: Callable, *args):
    """Call `function`; whatever it raises becomes words about the student's own line."""
    try:
        return function(*args)
    except MissingAnswer as missing:
        other = missing.exercise
        raise Wrong(
            "waiting",
            f"Your answer calls {other.id}, which has no answer yet (notebook {other.notebook}, "
            f"section “{other.section}”). Write that one first.",
        ) from None
    except NotImplementedError as error:
        if "course_lib" not in str(error) and not str(error):
            raise Wrong("not attempted", "Your answer still raises NotImplementedError.") from None
        raise _raised(error, file) from None
    except RecursionError as error:
        raise _raised(error, file, "Your answer calls itself without end.") from None
    except Exception as error:
        raise _raised(error, file) from None


def _raised(error: Exception, file: str, message: str = "") -> Wrong:
    text = f"{type(error).__name__}: {error}".strip()
    if len(text) > 600:
        text = text[:600] + " …"
    if "a leaf Variable that requires grad is being used in an in-place operation" in text:
        return Wrong("changed input", _IN_PLACE, "gradients", details=_own_line(error, file))
    if isinstance(error, NameError) and hasattr(sys.modules["__main__"], error.name or " "):
        message = (
            f"`{error.name}` lives in another cell of the notebook. An answer must stand on its own: "
            "move what it uses into the answer's cell."
        )
    return Wrong("raised", message or text, "runs", details=_own_line(error, file))


def _own_line(error: Exception, file: str) -> list[tuple[str, str]]:
    """The student's own line of the traceback; no library frames."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return [("In your code:", f"{(error.text or '').strip()}")]
    own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return [("In your code:", own[-1].line)] if own else []


_IN_PLACE = (
    "Your answer changes its input in place (+=, an operation that ends in _, or assigning to x[…]). The caller "
    "still needs that tensor: make a new one."
)


def _call(ex: Exercise, implementation: Callable, case: dict, file: str) -> dict:
    inputs = _copy(case)
    found = _guard(ex, file, run, ex, implementation, inputs)
    for name, value in case.items():
        if isinstance(value, Tensor) and not torch.equal(value.nan_to_num(), inputs[name].nan_to_num()):
            raise Wrong("changed input", f"{_IN_PLACE} It changed `{name}`.", "runs")
    return found


# ---------------------------------------------------------------- comparing with the key


def _structure(found: dict, expected: dict) -> Wrong | None:
    """The first output of the wrong type, shape, dtype or device; None where all are right."""
    wanted = {k: v for k, v in expected.items() if not k.startswith("gradient of ")}
    if found.keys() != wanted.keys():
        return Wrong(
            "wrong type", f"Expected {_count(wanted)}; your answer returned {_count(found)}.", "runs"
        )
    for name, want in wanted.items():
        got = found[name]
        what = "" if len(wanted) == 1 else f" in {name}"
        if not isinstance(got, Tensor):
            hint = " Is there a `return`?" if got is None else ""
            kind = "None" if got is None else f"a {type(got).__module__}.{type(got).__name__}"
            kind = kind.replace("builtins.", "")
            return Wrong(
                "wrong type", f"Expected a torch.Tensor{what}; your answer returned {kind}.{hint}", "runs"
            )
        if got.shape != want.shape:
            return Wrong(
                "wrong shape",
                f"Expected shape {tuple(want.shape)}{what}; your answer returned shape {tuple(got.shape)}.",
                "runs",
            )
        if got.device != want.device:
            return Wrong(
                "wrong device", f"Expected a tensor on {want.device}{what}; got {got.device}.", "runs"
            )
        if got.dtype != want.dtype:
            names = [str(d).removeprefix("torch.") for d in (want.dtype, got.dtype)]
            return Wrong(
                "wrong dtype", f"Expected {names[0]}{what}; your answer returned {names[1]}.", "runs"
            )
    return None


def _count(outputs: dict) -> str:
    if all(k.startswith("result") for k in outputs):
        return "one tensor" if len(outputs) == 1 else f"a tuple of {len(outputs)}"
    return "the entries " + ", ".join(map(str, outputs))


def close(got: Tensor, want: Tensor, ex: Exercise) -> bool:
    """Equal within the exercise's tolerance; infinities and NaN only equal their like."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    if not want.is_floating_point():
        return torch.equal(got, want)
    return torch.allclose(got, want, rtol=ex.rtol, atol=ex.atol, equal_nan=True)


def _agrees(ex: Exercise, got: dict, want: dict, gradients: bool) -> bool:
    """Whether two outcomes of one case are the same, with gradients or without."""
    got, want = ({k: v for k, v in x.items() if gradients or not k.startswith("grad")} for x in (got, want))
    return got.keys() == want.keys() and all(close(got[k], want[k], ex) for k in want)


def diagnose(ex: Exercise, key: Key, results: list[dict], gradients: bool) -> str:
    """The sentence of the named mistake that gives these results on every case; "" if there is none."""
    for name, outcomes in key.mistakes.items():
        pairs = zip(results, outcomes, strict=True)
        if all(_agrees(ex, got, want, gradients) for got, want in pairs):
            return key.sentences[name]
    return ""


def _diagnose_structure(key: Key, results: list[dict]) -> str:
    """As `diagnose`, for results of a wrong shape: the cases run so far, by shape and value."""
    for name, outcomes in key.mistakes.items():
        pairs = [
            (got[k], want[k]) for got, want in zip(results, outcomes, strict=False) for k in got if k in want
        ]
        if pairs and all(
            isinstance(g, Tensor)
            and g.shape == w.shape
            and torch.allclose(g.double(), w.double(), 1e-4, 1e-5, True)
            for g, w in pairs
        ):
            return key.sentences[name]
    return ""


def _compare(ex: Exercise, implementation: Callable, key: Key, results: list[dict], step: str) -> None:
    """Raise Wrong for the worst disagreement with the key, shown on the smallest case that disagrees."""
    gradients = step == "gradients"
    bad = []
    for i, (got, want) in enumerate(zip(results, key.outcomes, strict=True)):
        for name in sorted(got.keys() | want.keys()):
            if name.startswith("gradient") != gradients:
                continue
            if name not in got or name not in want or not close(got[name], want[name], ex):
                size = sum(v.numel() for v in key.cases[i].values() if isinstance(v, Tensor))
                bad.append((size, i, name))
    if not bad:
        return
    size, i, name = min(bad)
    got, want = results[i].get(name), key.outcomes[i].get(name)
    cases = len({case for _, case, _ in bad})
    raise Wrong(
        f"wrong {step.removesuffix('s')}",
        _describe(got, want, name, cases, len(results)),
        step,
        diagnosis=diagnose(ex, key, results, gradients),
        details=[
            *((f"{k} =", show(v)) for k, v in key.cases[i].items()),
            ("expected:", "no gradient" if want is None else show(want)),
            ("yours:", "no gradient" if got is None else show(got)),
        ],
    )


def _describe(got: Tensor | None, want: Tensor | None, name: str, cases: int, total: int) -> str:
    where = f"{cases} of {total} cases differ. " if total > 1 else ""
    what = "" if name == "result" else f" ({name})"
    if got is None:
        return (
            f"{where}No gradient reaches the input{what}: is there a .detach(), .data or no_grad on the way?"
        )
    if want is None:
        return f"{where}A gradient reaches an input that should get none{what}: detach it."
    if got.is_floating_point() and (got.isnan() & ~want.isnan()).any():
        return f"{where}Your result has NaN where a number is expected{what}."
    if got.is_floating_point() and (got.isinf() & ~want.isinf()).any():
        return f"{where}Your result overflows to infinity{what}: find a stable form."
    error = (got.double() - want.double()).abs().nan_to_num(posinf=float("inf")).max().item()
    return f"{where}The largest error here is {error:.3g}{what}. The smallest case that differs:"


# ---------------------------------------------------------------- GPU and memory


def _check_device(ex: Exercise, implementation: Callable, key: Key, file: str, done: list[str]) -> None:
    if ex.at_scale:
        with torch.device("meta"):
            inputs = ex.at_scale(ex.full_size)
    else:
        inputs = key.cases[-1]
    try:
        seen = watch(ex, implementation, inputs, file)
    except Exception as error:
        raise Wrong(
            "not GPU-ready",
            f"Run without values, on shapes alone, your answer raised {type(error).__name__}: {error}",
            "GPU-ready",
            details=_own_line(error, file),
        ) from None
    if seen.problem:
        raise Wrong(
            "not GPU-ready",
            f"Your answer {seen.problem}.",
            "GPU-ready",
            details=[("In your code:", _source_line(file, seen.line))] if seen.line else [],
        )
    if torch.cuda.is_available():
        _check_on_cuda(ex, implementation, key, file)
    done.append("GPU-ready")
    if ex.memory:
        if seen.peak > ex.memory:
            raise Wrong(
                "too much memory",
                f"At size {ex.full_size:,} your answer would hold {megabytes(seen.peak)} at once; "
                f"{megabytes(ex.memory)} is enough. Which intermediate tensor has more axes than it needs?",
                "memory",
            )
        done.append("memory")


def _source_line(file: str, line: int) -> str:
    import linecache

    return linecache.getline(file, line).strip()


def _check_on_cuda(ex: Exercise, implementation: Callable, key: Key, file: str) -> None:
    """The recorded cases once more on the GPU, where any hidden synchronisation is an error."""
    for case, want in zip(key.cases, key.outcomes, strict=True):
        inputs = {k: v.cuda() if isinstance(v, Tensor) else v for k, v in case.items()}
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = _guard(ex, file, run, ex, implementation, inputs)
        finally:
            torch.cuda.set_sync_debug_mode(before)
        if not all(isinstance(v, Tensor) and v.is_cuda for v in found.values()):
            raise Wrong(
                "wrong device", "Given CUDA tensors, your answer returned one on the CPU.", "GPU-ready"
            )
        if not _agrees(ex, {k: v.detach().cpu() for k, v in found.items()}, want, gradients=False):
            if ex.probe is None:  # a probe's draw may differ between devices; its properties may not
                raise Wrong("wrong value", "On the GPU your answer gives other values.", "GPU-ready")


# ---------------------------------------------------------------- speed


def measure_speed(ex: Exercise) -> tuple[float, float, int]:
    """Milliseconds of the plain loop and of the answer in force, and the size they were run at."""
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
        with contextlib.redirect_stdout(null):
            milliseconds(implementation, 1)
            return milliseconds(ex.plain, 1), milliseconds(implementation, 5), ex.timed_size
