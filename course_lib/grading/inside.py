"""What runs in the sandboxed kernel: one check cell calls `emit`, and values come out as one display output.

Each check runs in a process forked from the kernel, which dies with it: a changed torch, a changed default, a
crash, a hang or a thread that goes on costs that check alone. The kernel's own process never runs an answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path

import torch

from course_lib.catalogue import find
from course_lib.exercise import answers
from course_lib.exercise.check import _check_device, _load
from course_lib.exercise.contract import Exercise, copy_inputs, run_with_gradients
from course_lib.exercise.device import warm_up
from course_lib.exercise.findings import Finding, Wrong
from course_lib.exercise.key import Key
from course_lib.exercise.report import Report
from course_lib.grading.wire import MIME, decode_all, encode_all

PAGE = os.sysconf("SC_PAGE_SIZE")
SANDBOXED = "COURSE_SANDBOX"  # set in the sandbox only


def prepare(names: list[str]) -> None:
    """Once in each kernel: import what checks need, so that a fork has it; then write no file any more."""
    for name in names:
        find(name)
    warm_up()
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def emit(name: str, cases: str, seconds: float, memory: int, processes: int, output: int) -> None:
    """Run the check of one exercise on `cases` (JSON) in a fork and display what came back."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _be_the_check(writer, name, cases, seconds, memory)
    os.close(writer)
    status, text = _await(child, reader, seconds, memory, processes, output)
    os.close(reader)
    if not status:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = {"status": "tampered"}
    else:
        found = {"status": status}
    from IPython.core.getipython import get_ipython

    get_ipython().display_pub.publish({MIME: found})


# ---------------------------------------------------------------- the kernel's side of the fork


def _await(
    child: int, reader: int, seconds: float, memory: int, processes: int, output: int
) -> tuple[str, bytes]:
    """Why the check was ended, or "", and what it sent. When this returns, none of its processes lives."""
    end, text, kernel, status, ended = time.monotonic() + seconds, bytearray(), _pages(os.getpid()), "", False
    while not status and not ended:
        ended = os.waitpid(child, os.WNOHANG)[0] != 0  # before reading: what it wrote is then all there
        while select.select([reader], [], [], 0 if ended else 0.02)[0]:
            chunk = os.read(reader, 1 << 20)
            text += chunk
            if not chunk or len(text) > output:
                break
        running = [int(p) for p in os.listdir("/proc") if p.isdigit()] if _alone() else [child]
        if len(text) > output:
            status = "too much output"
        elif len(running) > processes:
            status = "too many processes"
        elif sum(max(0, _pages(p) - kernel) for p in running) * PAGE > memory:
            status = "out of memory"
        elif time.monotonic() > end and not ended:
            status = "timed out"
    _kill(child)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return status or ("" if text else "crashed"), bytes(text)


def _pages(process: int) -> int:
    """Pages of memory that a process holds; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0


def _alone() -> bool:
    """True in the sandbox, where every process that can be seen was started here."""
    return SANDBOXED in os.environ


def _kill(child: int) -> None:
    """End the check with all that it started: in the sandbox, everything but this process."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if _alone():
            os.kill(-1, signal.SIGKILL)
        else:
            os.killpg(child, signal.SIGKILL)


# ---------------------------------------------------------------- the check's side


def _be_the_check(writer: int, name: str, cases: str, seconds: float, memory: int) -> None:
    """In the fork: run the check, send what it found, end. A process that an answer forks off sends nothing."""
    check = os.getpid()
    try:
        os.setsid()
        os.nice(5)
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(0, 1)
        os.dup2(0, 2)
        os.closerange(3, writer)  # the kernel's sockets
        os.closerange(writer + 1, 4096)
        sys.stdin = sys.stdout = sys.stderr = open(os.devnull, "w+")  # noqa: SIM115
        cpu, size = (
            int(seconds) + 5,
            os.sysconf("SC_PAGE_SIZE") * int(Path("/proc/self/statm").read_text().split()[0]),
        )
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
        resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        found = observe(find(name), [decode_all(case) for case in json.loads(cases)])
        view = memoryview(json.dumps(found).encode())
        while view and os.getpid() == check:
            view = view[os.write(writer, view) :]
    except MemoryError:
        if os.getpid() == check:
            os.write(writer, b'{"status": "out of memory"}')
    finally:
        os._exit(1)


def observe(ex: Exercise, cases: list[dict]) -> dict:
    """What the answer in force does on `cases`: values, gradients, the run at full size, and what it raised where.

    {"status": "ran", "cases": [named tensors], "gradients": [named tensors], "peak": bytes,
     "wrong": {stage: {"finding", "line"}}, "notes": [codes], "called": [ids]}
    """
    found = {"status": "ran", "cases": [], "gradients": [], "wrong": {}}
    report = Report(ex.id)
    answers.called.clear()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(0)
        with _stage("runs", found):
            answer = _load(ex)
            for case in cases:
                found["cases"].append(encode_all(answer.call(case, report)))
        if "runs" not in found["wrong"]:
            with _stage("gradients", found):
                for case in cases if ex.gradients else ():
                    gradients = answer.guard(run_with_gradients, ex, answer.function, copy_inputs(case))
                    found["gradients"].append(
                        encode_all({f"gradient of {k}": v for k, v in gradients.items() if v is not None})
                    )
            with _stage("GPU-ready", found):
                found["peak"] = _check_device(answer, Key(cases, [], {}, {}, [], []))
    return found | {"notes": [x.code for x in report.remarks], "called": sorted(answers.called - {ex.id})}


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
