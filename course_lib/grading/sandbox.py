"""The kernel that a student's code runs in: bubblewrap, ipc sockets, an empty environment."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from queue import Empty

import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import KernelManager
from nbval.kernel import RunningKernel

import course_lib
from course_lib.files import data_folder
from course_lib.grading.inside import SANDBOXED

PACKAGE = Path(course_lib.__file__).parent
MESSAGE = 8_000_000  # bytes: the longest message that is taken from a kernel


@dataclass(frozen=True)
class Limits:
    """What one check may take. Memory is what it holds beyond torch itself, all its processes together."""

    seconds: float = 20.0
    memory: int = 2 * 1024**3
    processes: int = 32
    output: int = 4_000_000  # bytes


class NoSandbox(RuntimeError):
    """There is no bubblewrap, or it does not work here."""


class KernelFailed(RuntimeError):
    """The kernel hangs, died, or sends more than it may. The text is the status of its check."""


def environment(answers: Path) -> dict[str, str]:
    """All that a kernel knows of the grader's environment: nothing."""
    settings = {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "USER": "student",
        "PYTHONPATH": str(PACKAGE.parent),
    }
    settings |= {"COURSE_ANSWERS": str(answers), "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
    settings |= dict.fromkeys(("PYTHONDONTWRITEBYTECODE", "PYTHONSAFEPATH", "PYTHONNOUSERSITE"), "1")
    settings |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return settings | dict.fromkeys(("HOME", "IPYTHONDIR", "MPLCONFIGDIR", "JUPYTER_RUNTIME_DIR"), "/tmp")


def bubblewrap(folder: Path) -> list[str]:
    """The command that runs another one with no network, no other process and only this to read:

    Python, the libraries, the course's library without its keys, and `folder`, the one place to write (sockets).
    """
    command = shlex.split("bwrap --unshare-all --die-with-parent --new-session --cap-drop ALL --clearenv")
    for name, value in {**environment(folder / "answers"), SANDBOXED: "bubblewrap"}.items():
        command += ["--setenv", name, value]
    command += shlex.split("--proc /proc --dev /dev --tmpfs /tmp")
    for path in shlex.split("/usr /lib /lib64 /bin /etc/ld.so.cache /etc/ld.so.conf /etc/alternatives"):
        if Path(path).is_symlink():
            command += ["--symlink", os.readlink(path), path]
        else:
            command += ["--ro-bind-try", path, path]
    for path in dict.fromkeys((sys.base_prefix, sys.prefix, str(PACKAGE))):
        command += ["--ro-bind", path, path]
    for path in map(str, hidden()):
        command += ["--tmpfs", path, "--remount-ro", path]
    answers = str(folder / "answers")
    command += ["--bind", str(folder), str(folder), "--ro-bind-try", answers, answers]
    return command + shlex.split("--remount-ro /dev --remount-ro / --chdir /tmp")


def hidden() -> list[Path]:
    """What lies inside a folder that the sandbox shows and must not be seen: solutions, keys and data."""
    import solutions

    private = [
        Path(solutions.__file__).parent,
        data_folder(),
        PACKAGE.parent / "tests",
        PACKAGE.parent / ".git",
    ]
    shown = [Path(p).resolve() for p in ("/usr", sys.base_prefix, sys.prefix, PACKAGE)]
    return [p for p in private if p.is_dir() and any(p.resolve().is_relative_to(s) for s in shown)]


def require_sandbox() -> None:
    """NoSandbox, with the reason, where student's code cannot be shut in."""
    if shutil.which("bwrap") is None:
        raise NoSandbox("bubblewrap (the command bwrap) is not installed.")
    with tempfile.TemporaryDirectory() as folder:
        command = [*bubblewrap(Path(folder)), sys.executable, "-c", ""]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NoSandbox(f"bubblewrap does not work here: {done.stderr.strip()}")


class _OneKernel(KernelSpecManager):
    """Knows one kernel: ours."""

    def __init__(self, prefix: list[str]):
        super().__init__()
        self.prefix = prefix

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        python = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        python += ["--HistoryManager.enabled=False", "--log-level=50"]
        return KernelSpec(argv=self.prefix + python, display_name="student", language="python")


class SandboxedKernel(RunningKernel):
    """nbval's kernel, in bubblewrap. Every wait ends: at a check's deadline, or when the kernel is dead.

    `folder` is private to it; `folder/answers` holds the answers.
    """

    def __init__(self, folder: Path, limits: Limits, unsafe: bool):
        self.limits, self.deadline, self.received = limits, time.monotonic() + 120, 0
        self.sockets = Path(tempfile.mkdtemp(prefix="kernel", dir=folder))
        self.km = KernelManager(
            kernel_spec_manager=_OneKernel([] if unsafe else bubblewrap(folder)),
            transport="ipc",
            ip=str(self.sockets / "s"),
            connection_file=str(self.sockets / "connection.json"),
        )
        quiet = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
        self.km.start_kernel(env=environment(folder / "answers"), cwd=str(folder), **quiet)
        context = zmq.Context()
        for option, value in ((zmq.MAXMSGSIZE, MESSAGE), (zmq.RCVHWM, 20), (zmq.LINGER, 0)):
            context.setsockopt(option, value)
        self.kc = BlockingKernelClient(context=context, connection_file=self.km.connection_file)
        self.kc.load_connection_file()
        self.kc.start_channels(stdin=False, hb=False, control=False)
        self.await_reply(self.kc.kernel_info())
        self._ensure_iopub_up()

    def execute_cell_input(self, cell_input: str, allow_stdin: bool | None = None, seconds: float = 0) -> str:
        """Send a cell. Its deadline is a little after the check's own, for a kernel that no longer keeps that."""
        self.deadline, self.received = time.monotonic() + (seconds or self.limits.seconds + 5), 0
        return super().execute_cell_input(cell_input, allow_stdin)

    def get_message(self, stream: str, timeout: float | None = None) -> dict:
        """The next message. KernelFailed where none can come."""
        end = min(self.deadline, time.monotonic() + (1e9 if timeout is None else timeout))
        while True:
            alive = self.km.is_alive()  # before looking: what a dead kernel has sent is then all there
            try:
                message = super().get_message(stream, timeout=0.1)
            except Empty:
                if not alive:
                    raise KernelFailed("crashed") from None
                if time.monotonic() > self.deadline:
                    raise KernelFailed("timed out") from None
                if time.monotonic() > end:
                    raise
                continue
            self.received += len(str(message["content"])) + sum(map(len, message["buffers"]))
            if self.received > 2 * self.limits.output:
                raise KernelFailed("too much output")
            if message["msg_type"] != "stream":  # what is printed says nothing
                return message

    def stop(self) -> None:
        """Kill the kernel and, in the sandbox, every process in it."""
        with contextlib.suppress(Exception):  # whatever state a hostile kernel is in
            self.kc.stop_channels()
        if self.km.has_kernel:
            self.km.shutdown_kernel(now=True)
        self.kc.context.destroy(linger=0)
        shutil.rmtree(self.sockets, ignore_errors=True)
