"""What runs in the sandbox: one process that imports torch once and forks for every request; it never runs an answer.

    b"c" check    a fork runs a student's answer on decoy inputs: its values, what it raised, its programs
    b"p" replay   a fork that no answer has touched runs programs on hidden inputs: their values

Each fork dies with its request, and with it all that it started: a changed torch, a crash, a hang or a thread that goes
on costs that check alone. Nothing here is told what is right.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_lib.catalogue import exercises, find
from course_lib.exercise import answers
from course_lib.exercise.answers import MissingAnswer
from course_lib.exercise.check import _check_device, _load
from course_lib.exercise.contract import Exercise, copy_inputs, draw, run_with_gradients
from course_lib.exercise.device import warm_up
from course_lib.exercise.findings import Finding, Wrong
from course_lib.exercise.key import Key
from course_lib.exercise.report import Report
from course_lib.grading.tracing import Copies, Recorder, replay, without_compiler
from course_lib.grading.walls import shut_in
from course_lib.grading.wire import DTYPES, decode_all, encode, encode_all, read_frame, to_json, write_frame

# ---------------------------------------------------------------- the process that forks


def main() -> None:
    """Serve requests from standard input until it closes."""
    source, sink, nothing = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # what goes wrong until all is ready is told
    _, setup = read_frame(source)
    setup = json.loads(setup)
    if setup["walls"] != "none":
        shut_in(setup["processes"], setup["walls"] == "sandbox")
    take_loops_away()
    without_compiler()
    warm_up()
    without_compiler()  # of what has been imported for that
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    write_frame(sink, b"r")
    while frame := read_frame(source):
        if frame[0] == b"c" and json.loads(frame[1])["exercise"].endswith("_step"):
            import torch._dynamo  # noqa: F401 (an optimiser's step imports it: here once, and not in every fork)
        serve(*frame, source, sink, setup)


def take_loops_away() -> None:
    """The plain loops that lessons give are there to be read, not to be called in an answer."""
    for ex in exercises():
        if ex.plain:
            name = ex.plain.__name__

            def refuse(*args, _name=name, **kwargs):
                raise RuntimeError(f"{_name} is not here")

            setattr(sys.modules[ex.function.__module__], name, refuse)
            ex.plain = None


def serve(kind: bytes, request: bytes, source: int, sink: int, setup: dict) -> None:
    """Answer one request in a fork; what that writes is handed on, and what the judge sends meanwhile handed in."""
    (down, to_child), (from_child, up) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        try:
            os.dup2(down, 3)  # above the standard streams there are these two pipes, and nothing else
            os.dup2(up, 4)
            os.closerange(5, 4096)
            _be_the_child(kind, request, setup)
        finally:
            os._exit(1)
    os.close(down)
    os.close(up)
    ended, over = os.pidfd_open(child), False
    while not over:
        ready = select.select([from_child, source, ended], [], [])[0]
        if over := ended in ready:  # what it wrote is all there; what it started ends here
            _kill(child, setup["walls"] != "none")
        while select.select([from_child], [], [], 0)[0] and (chunk := os.read(from_child, 1 << 16)):
            write_frame(sink, b"d", chunk)
        if source in ready and not over:
            _, reply = read_frame(source) or os._exit(0)
            with contextlib.suppress(BrokenPipeError):
                write_frame(to_child, b"a", reply)
    os.waitpid(child, 0)
    for pipe in (to_child, from_child, ended):
        os.close(pipe)
    write_frame(sink, b"e")


def _kill(child: int, all_of_them: bool) -> None:
    """End what a child started: where nothing else is this user's, everything but this process."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(-1, signal.SIGKILL) if all_of_them else os.killpg(child, signal.SIGKILL)


# ---------------------------------------------------------------- a fork


def _be_the_child(kind: bytes, request: bytes, setup: dict) -> None:
    """Do what was asked, write it in a line, end. A process that an answer forks off writes nothing."""
    own = os.getpid()
    os.setsid()
    sys.stdin = sys.stdout = sys.stderr = open(os.devnull, "w+")  # noqa: SIM115
    seconds, memory = int(setup["seconds"]) + 5, setup["memory"]
    size = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))
    try:
        request = json.loads(request)
        found = (check if kind == b"c" else replay_all)(request)
    except MemoryError:
        found = {"status": "out of memory"}
    except Exception:
        found = {"status": "not checked"}
    line = memoryview(to_json({"found": found}) + b"\n")
    while line and os.getpid() == own:
        line = line[os.write(4, line) :]


def ask(message: dict) -> Any:
    """What the judge replies to a question about a reference; None where it does not."""
    line = memoryview(to_json({"ask": message}) + b"\n")
    while line:
        line = line[os.write(4, line) :]
    frame = read_frame(3)
    return json.loads(frame[1]) if frame else None


def replay_all(request: dict) -> dict:
    """The values of programs on hidden inputs: {"cases": [{program: [named values, one for each draw]}]}."""
    found = []
    try:
        for programs, case in zip(request["programs"], request["cases"], strict=True):
            inputs, made = decode_all(case), {}
            for name, program in programs.items():
                draws = request["draws"] if name == "values" else request["draws"][:1]
                made[name] = [encode_all(replay(program, inputs, draw, _ask_values)) for draw in draws]
            found.append(made)
    except MemoryError:
        raise
    except Exception as error:  # whatever is no program
        return {"error": type(error).__name__}
    return {"cases": found}


def _ask_values(step: str, name: str, arguments: dict, tensors: list[Tensor]) -> list[Tensor]:
    message = {
        "step": step,
        "exercise": name,
        "arguments": arguments,
        "tensors": [encode(x) for x in tensors],
    }
    reply = ask(message)
    return [decode_all({"x": x})["x"] for x in reply]


# ---------------------------------------------------------------- a check


def check(request: dict) -> dict:
    """What an answer does on decoy inputs: values, gradients, programs, the run at full size, what it raised where.

    {"status": "ran", "cases": [named values], "gradients": [named values], "programs": [{"values", "gradients"}],
     "peak": bytes, "wrong": {stage: {"finding", "line"}}, "notes": [codes], "called": [ids]}
    """
    ex, cases = find(request["exercise"]), [decode_all(case) for case in request["cases"]]
    with references(request["references"]) as recording:
        return observe(ex, cases, recording)


def observe(ex: Exercise, cases: list[dict], recording: list) -> dict:
    found = {"status": "ran", "cases": [], "gradients": [], "programs": [{} for _ in cases], "wrong": {}}
    report = Report(ex.id)
    answers.called.clear()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(0)
        with _stage("runs", found):
            answer = _load(ex)
            for case, programs in zip(cases, found["programs"], strict=True):
                with recorded(case, recording) as recorder:
                    outcome = answer.call(case, report, draw)  # the judge tells the properties of it
                programs["values"] = recorder.program(outcome)
                found["cases"].append(encode_all(outcome))
        if "runs" not in found["wrong"]:
            with _stage("gradients", found):
                for case, programs in zip(cases, found["programs"] if ex.gradients else (), strict=False):
                    with recorded(case, recording) as recorder:
                        gradients = answer.guard(run_with_gradients, ex, answer.function, copy_inputs(case))
                    gradients = {f"gradient of {k}": v for k, v in gradients.items() if v is not None}
                    programs["gradients"] = recorder.program(gradients)
                    found["gradients"].append(encode_all(gradients))
            with _stage("GPU-ready", found):
                found["peak"] = _check_device(answer, Key(cases, [], {}, {}, [], [])).peak
    return found | {"notes": [x.code for x in report.remarks], "called": sorted(answers.called - {ex.id})}


@contextlib.contextmanager
def recorded(case: dict, recording: list):
    """A recorder of what runs within; `recording` holds it meanwhile, for the references."""
    with Recorder(case) as recorder, Copies():
        recording.append(recorder)
        try:
            yield recorder
        finally:
            recording.clear()


@contextlib.contextmanager
def _stage(name: str, found: dict):
    try:
        yield
    except Wrong as wrong:
        line = next((text for _, text in wrong.details), "")
        found["wrong"][name] = {"finding": wrong.finding.as_data(), "line": line}
    except Exception as error:  # whatever strange tensor an answer returns
        finding = Finding("check failed", {"text": type(error).__name__})
        found["wrong"][name] = {"finding": finding.as_data(), "line": ""}


# ---------------------------------------------------------------- exercises that stand in for missing ones


@contextlib.contextmanager
def references(names: list[str]):
    """Have the named exercises answered by stand-ins: random numbers of the right shapes, and a step in the program.

    The judge puts the reference's values there when the program is run again: none of them is ever seen here.
    """
    recording: list[Recorder] = []
    in_force = answers.in_force

    def found(ex: Exercise) -> Callable:
        if ex.id not in names:
            return in_force(ex)
        answers.called.add(ex.id)
        return lambda *args, **kwargs: _stand_in(ex, recording, args, kwargs)

    answers.in_force = found
    try:
        yield recording
    finally:
        answers.in_force = in_force


def _stand_in(ex: Exercise, recording: list, args: tuple, kwargs: dict) -> Any:
    bound = inspect.signature(ex.function).bind(*args, **kwargs)
    bound.apply_defaults()
    numbers = {k: v for k, v in bound.arguments.items() if not isinstance(v, Tensor)}
    if not all(type(v) in (int, float, bool) for v in numbers.values()):
        raise MissingAnswer(ex)  # a network or an optimiser: that cannot be sent
    tensors = {k: v for k, v in bound.arguments.items() if isinstance(v, Tensor)}
    shapes = {k: encode(torch.empty_like(v, device="meta")) for k, v in tensors.items()}
    reply = ask({"step": "shapes", "exercise": ex.id, "arguments": {"numbers": numbers}, "inputs": shapes})
    if reply is None:
        raise MissingAnswer(ex)
    arguments = {"names": list(tensors), "numbers": numbers}
    recorder = recording[-1] if recording else None
    outs = _Reference.apply(recorder, ex.id, arguments, reply["results"], *tensors.values())
    return tuple(outs) if reply["tuple"] else outs[0]


class _Reference(torch.autograd.Function):
    """Random numbers in place of an exercise's values and gradients, and the steps that stand for the true ones."""

    @staticmethod
    def forward(ctx, recorder, name, arguments, results, *tensors):
        ctx.save_for_backward(*tensors)
        ctx.recorder, ctx.step = recorder, [name, arguments]
        outs = tuple(_random(shape, DTYPES[dtype], tensors[0].device) for shape, dtype in results)
        if recorder:
            recorder.emit("refer", [*ctx.step, [{"t": recorder.number(x)} for x in tensors]], list(outs))
        ctx.mark_non_differentiable(*(x for x in outs if not x.is_floating_point()))
        return outs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        tensors, recorder = ctx.saved_tensors, ctx.recorder
        wanted = [
            need and x.is_floating_point() for need, x in zip(ctx.needs_input_grad[4:], tensors, strict=True)
        ]
        found = [_random(x.shape, x.dtype, x.device) for x, want in zip(tensors, wanted, strict=True) if want]
        if recorder:
            given = [{"t": recorder.number(x)} for x in (*tensors, *gradients)]
            recorder.emit("vjp", [ctx.step[0], {**ctx.step[1], "wanted": wanted}, given], found)
        rest = iter(found)
        return None, None, None, None, *(next(rest) if want else None for want in wanted)


def _random(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Random numbers that leave the global generator alone."""
    if device.type == "meta":
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


if __name__ == "__main__":
    main()
