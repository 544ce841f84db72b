"""The sandbox: bubblewrap, an empty environment, nothing to write on, a filter of system calls, limits watched from outside.

Without root, bubblewrap makes a user namespace in which no other can be made; as root it makes none, and what runs
inside is an unprivileged user of its own.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import course_lib
from course_lib.files import data_folder
from course_lib.grading.wire import HEADER, to_json, write_frame

PACKAGE = Path(course_lib.__file__).parent
LISTED = Path(
    "/proc/thread-self/children"
).exists()  # most kernels list a process's children: 30 times cheaper


@dataclass(frozen=True)
class Limits:
    """What one check may take. Memory is what it holds beyond torch itself, all its processes together."""

    seconds: float = 20.0
    memory: int = 2 * 1024**3
    processes: int = 32
    output: int = 16_000_000  # bytes


class NoSandbox(RuntimeError):
    """There is no bubblewrap, or it does not work here."""


class CheckEnded(RuntimeError):
    """A check hung, died, or took more than it may. The text is its status."""


# ---------------------------------------------------------------- the command


def environment(answers: str) -> dict[str, str]:
    """All that the sandbox knows of the grader's environment: nothing."""
    settings = {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "USER": "student",
        "PYTHONPATH": str(PACKAGE.parent),
    }
    settings |= {
        "COURSE_ANSWERS": answers,
        "TQDM_DISABLE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TORCHINDUCTOR_CACHE_DIR": "/tmp",
    }
    settings |= dict.fromkeys(("PYTHONDONTWRITEBYTECODE", "PYTHONSAFEPATH", "PYTHONNOUSERSITE"), "1")
    settings |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return settings | dict.fromkeys(("HOME", "IPYTHONDIR", "MPLCONFIGDIR"), "/tmp")


def bubblewrap(files: dict[str, str], keep: list[int]) -> list[str]:
    """The command that runs another one with no network, no other process, nothing to write on, and this to read:

    Python, the libraries, the course's library without its data, and `files` (text by path), which are nowhere on disk.
    Their descriptors, which the command needs, are appended to `keep`.
    """
    command = shlex.split(
        "bwrap --unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try"
    )
    command += shlex.split(
        "--die-with-parent --new-session --cap-drop ALL --clearenv --proc /proc --dev /dev"
    )
    if os.getuid() == 0:
        command += shlex.split("--cap-add CAP_SETUID --cap-add CAP_SETGID --cap-add CAP_SETPCAP")
    else:
        command += ["--unshare-user", *(["--disable-userns"] if "--disable-userns" in _help() else [])]
    for name, value in environment("/tmp/answers").items():
        command += ["--setenv", name, value]
    for path in shlex.split("/usr /lib /lib64 /bin /sbin /etc/ld.so.cache /etc/ld.so.conf /etc/alternatives"):
        if Path(path).is_symlink():
            command += ["--symlink", os.readlink(path), path]
        else:
            command += [*_parents(path), "--ro-bind-try", path, path]
    for path in dict.fromkeys((sys.base_prefix, sys.prefix, str(PACKAGE))):
        command += [*_parents(path), "--ro-bind", path, path]
    for path in map(str, hidden()):
        command += ["--perms", "0555", "--tmpfs", path, "--remount-ro", path]
    if code := system_calls():
        command += ["--seccomp", str(_in_memory(code, keep))]
    command += shlex.split("--ro-bind /proc/sys /proc/sys --perms 0755 --dir /tmp")
    for path, text in files.items():
        command += [
            *_parents(path),
            "--perms",
            "0444",
            "--file",
            str(_in_memory(text.encode(errors="replace"), keep)),
            path,
        ]
    command += shlex.split("--remount-ro /dev --remount-ro / --chdir /tmp --")
    return command + (as_nobody() if os.getuid() == 0 else [])


def as_nobody() -> list[str]:
    """The command by which root runs another one as a user of its own, without any right."""
    user = 61184 + os.getpid() % 4096  # of those that are nobody's: for services that get one while they run
    command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"]
    return [*command, "--bounding-set=-all", "--inh-caps=-all"]


@functools.cache
def _help() -> str:
    return subprocess.run(["bwrap", "--help"], capture_output=True, text=True).stdout


def _parents(path: str) -> list[str]:
    """The folders above a path, which the unprivileged user may walk through."""
    return [x for p in reversed(Path(path).parents[:-1]) for x in ("--perms", "0755", "--dir", str(p))]


def _in_memory(data: bytes, keep: list[int]) -> int:
    """A descriptor of a file that has no name."""
    descriptor = os.memfd_create("course")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    keep.append(descriptor)
    return descriptor


def hidden() -> list[Path]:
    """What lies inside a folder that the sandbox shows and must not be seen: solutions, keys, data, other copies of them."""
    import solutions

    private = [Path(solutions.__file__).parent, data_folder(), PACKAGE / "data", PACKAGE.parent / "data"]
    private += [PACKAGE.parent / name for name in ("tests", ".git", "notebooks")]
    for site in {p for p in map(Path, sys.path) if p.is_dir()}:
        private += [site / "solutions", site / "course_lib/data"]
    shown = [Path(p).resolve() for p in ("/usr", sys.base_prefix, sys.prefix, PACKAGE)]
    found = {p.resolve() for p in private if p.is_dir()}
    return sorted(p for p in found if any(p.is_relative_to(s) for s in shown))


DENIED = {  # number on x86_64, on aarch64: what no answer needs, and what could leave the sandbox, or outlive its limits
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "socket": (41, 198), "socketpair": (53, 199), "vmsplice": (278, 75), "fanotify_init": (300, 262),
    "personality": (135, 92), "syslog": (103, 116), "clone3": (435, 435),
}  # fmt: skip
CLONE = (56, 220)
NAMESPACES = 0x7E020000 | 0x80  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET, and NEWTIME


def system_calls() -> bytes:
    """The filter for `bwrap --seccomp`: a program of the kernel's packet filter (BPF); b"" on other machines.

    Each denied call fails with EPERM; clone3, whose flags a filter cannot see, with ENOSYS, so that clone is used.
    """
    machines = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
    if platform.machine() not in machines:
        return b""
    machine, column = machines[platform.machine()]
    allow, deny, absent, kill = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000

    def step(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
        return struct.pack("HBBI", code, if_so, if_not, value)

    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    code = step(load, 4) + step(equal, machine, 1) + step(give, kill) + step(load, 0)
    code += step(at_least, 0x40000000, 0, 1) + step(give, deny)  # the x32 calls of x86_64
    for name, numbers in DENIED.items():
        code += step(equal, numbers[column], 0, 1) + step(give, absent if name == "clone3" else deny)
    code += (
        step(equal, CLONE[column], 0, 3) + step(load, 16) + step(any_bit, NAMESPACES, 0, 1) + step(give, deny)
    )
    return code + step(give, allow)


def require_sandbox() -> None:
    """NoSandbox, with the reason, where student's code cannot be shut in."""
    needed = ["bwrap", "setpriv"] if os.getuid() == 0 else ["bwrap"]
    if missing := [name for name in needed if shutil.which(name) is None]:
        raise NoSandbox(f"{' and '.join(missing)} (bubblewrap, util-linux) must be installed.")
    keep: list[int] = []
    command = bubblewrap({}, keep)
    command += [sys.executable, "-P", str(PACKAGE / "grading/walls.py"), str(Limits().processes)]
    tried = subprocess.run(command, pass_fds=keep, cwd="/", capture_output=True, text=True)
    for descriptor in keep:
        os.close(descriptor)
    if tried.returncode:
        raise NoSandbox(f"bubblewrap does not work here: {tried.stderr.strip()[-2000:]}")


# ---------------------------------------------------------------- the running sandbox


class Sandbox:
    """A process of inside.py, shut in, and the watch over it. `answers` are texts by path, LESSON/EXERCISE.py.

    unsafe: True for no walls at all; "user" for root's container, where a user without rights is the only wall.
    """

    def __init__(self, answers: dict[str, str], limits: Limits, unsafe: bool | str):
        self.answers, self.limits, self.unsafe = answers, limits, unsafe
        self.process: subprocess.Popen | None = None
        self.folder: tempfile.TemporaryDirectory | None = None

    def start(self) -> None:
        """Start it, unless it runs. NoSandbox, with what it said, where it does not come up."""
        if self.process is not None:
            return
        keep: list[int] = []
        python = [sys.executable, "-P", "-m", "course_lib.grading.inside"]
        if self.unsafe:
            nobody = as_nobody() if self.unsafe == "user" else []
            command, variables = nobody + python, self._unsafe_files()
        else:
            command = bubblewrap({f"/tmp/answers/{k}": v for k, v in self.answers.items()}, keep) + python
            variables = {"PATH": os.environ.get("PATH", "")}
        self.log, stderr = os.pipe()
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=stderr,
            env=variables,
            pass_fds=keep,
            cwd="/",
            start_new_session=True,
        )
        for descriptor in (*keep, stderr):
            os.close(descriptor)
        walls = {True: "none", "user": "user", False: "sandbox"}[self.unsafe]
        limits = vars(self.limits) | {"walls": walls}
        self.base = 0
        try:
            self._exchange(b"s", to_json(limits), 120, b"r")
        except CheckEnded:
            said = self._said()
            self.stop()
            raise NoSandbox(f"The sandbox does not start: {said}") from None
        self.base = _memory(self._processes())

    def _unsafe_files(self) -> dict[str, str]:
        self.folder = tempfile.TemporaryDirectory(prefix="course-answers-")
        os.chmod(self.folder.name, 0o755)
        for path, text in self.answers.items():
            file = Path(self.folder.name, path)
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8", errors="replace")
        return environment(self.folder.name)

    def _said(self) -> str:
        """What the process wrote to its standard error."""
        os.set_blocking(self.log, False)
        with contextlib.suppress(BlockingIOError):
            return os.read(self.log, 1 << 16).decode(errors="replace").strip()[-2000:]
        return ""

    def stop(self) -> None:
        """Kill everything in it."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            if self.unsafe == "user":
                subprocess.run([*as_nobody(), "sh", "-c", "kill -9 -1"], check=False)
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            os.close(self.log)
            self.process = None
        if self.folder is not None:
            self.folder.cleanup()
            self.folder = None

    def request(self, kind: bytes, message: dict, answer: Callable[[dict], Any]) -> Any:
        """What a fork found, whatever it is; its questions go to `answer`. CheckEnded where it came to no end."""
        self.start()
        lines, found = bytearray(), []

        def hear(data: bytes) -> None:
            lines.extend(data)
            while (end := lines.find(b"\n")) >= 0:
                said = json.loads(bytes(lines[:end]))
                del lines[: end + 1]
                if "ask" in said:
                    write_frame(self.process.stdin.fileno(), b"a", to_json(answer(said["ask"])))
                else:
                    found.append(said["found"])

        try:
            self._exchange(kind, to_json(message), self.limits.seconds, b"e", hear)
        except CheckEnded:
            self.stop()
            raise
        except Exception:  # it sent what no check sends
            self.stop()
            raise CheckEnded("tampered") from None
        if len(found) != 1:
            raise CheckEnded("tampered" if found else "crashed")
        return found[0]

    def _exchange(
        self, kind: bytes, data: bytes, seconds: float, last: bytes, hear: Callable = bytes
    ) -> None:
        """Send a frame; hear what comes until a frame of kind `last`, while the limits are kept."""
        deadline, received, buffer = time.monotonic() + seconds, 0, bytearray()
        pipe = self.process.stdout.fileno()
        try:
            write_frame(self.process.stdin.fileno(), kind, data)
        except BrokenPipeError:
            raise CheckEnded("crashed") from None
        while True:
            if select.select([pipe], [], [], 0.02)[0]:
                chunk = os.read(pipe, 1 << 16)
                if not chunk:
                    raise CheckEnded("crashed")
                received += len(chunk)
                buffer += chunk
                while len(buffer) >= HEADER.size:
                    got, size = HEADER.unpack_from(buffer)
                    if len(buffer) < HEADER.size + size:
                        break
                    content = bytes(buffer[HEADER.size : HEADER.size + size])
                    del buffer[: HEADER.size + size]
                    if got == last:
                        return
                    hear(content)
            self._watch(deadline, received)

    def _watch(self, deadline: float, received: int) -> None:
        if received > self.limits.output:
            raise CheckEnded("too much output")
        if time.monotonic() > deadline:
            raise CheckEnded("timed out")
        if self.base:
            running = self._processes()
            if len(running) > self.limits.processes + 3:
                raise CheckEnded("too many processes")
            if (
                _memory(running) > self.limits.memory + 2 * self.base
            ):  # the fork shares what the first one holds
                raise CheckEnded("out of memory")

    def _processes(self) -> list[int]:
        """All processes in the sandbox: the descendants of bubblewrap, as the host's /proc tells."""
        found = [self.process.pid]
        if LISTED:
            for process in found:
                with contextlib.suppress(OSError):
                    for thread in os.listdir(f"/proc/{process}/task"):
                        path = f"/proc/{process}/task/{thread}/children"
                        found += map(int, Path(path).read_text().split())
            return found
        children: dict[int, list[int]] = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    stat = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
                    children.setdefault(int(stat[1]), []).append(int(entry))
        for process in found:
            found += children.get(process, [])
        return found


def _memory(processes: list[int]) -> int:
    """Bytes of memory that processes hold: their own and shared pages, not those of files."""
    total = 0
    for process in processes:
        with contextlib.suppress(OSError, ValueError):
            for line in Path(f"/proc/{process}/status").read_text().splitlines():
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += 1024 * int(line.split()[1])
    return total
