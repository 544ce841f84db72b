"""The share of the cores: how many threads beside whom, whom that counts, and when it is chosen."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch

from course_lib import cores
from course_lib.training import fit

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")


@pytest.mark.parametrize(
    ("own", "others", "wanted"),
    [
        (2, [], 2),
        (2, [0.05] * 8, 2),  # nobody is at work
        (2, [0.4], 2),  # a browser
        (2, [1.0], 1),
        (2, [0.5, 0.5, 0.5], 1),  # four trainings on two cores
        (1, [1.0, 1.0], 1),
        (16, [1.0], 15),  # what is left
        (16, [16.0], 8),  # somebody took it all: half
        (16, [4.0, 4.0, 4.0], 4),
        (4, [2.0], 2),
        (4, [7.0, 7.0, 7.0, 7.0, 7.0], 1),
    ],
)
def test_a_process_takes_what_is_left_or_its_equal_share(own, others, wanted):
    assert cores.threads(own, others) == wanted


@LINUX
@pytest.mark.parametrize("nice", [0, 5])
def test_a_process_at_work_is_seen_and_one_that_ranks_below_is_not(nice):
    other = subprocess.Popen([sys.executable, "-c", f"import os; os.nice({nice})\nwhile True: pass"])
    try:
        end = time.monotonic() + 50
        while time.monotonic() < end:  # on a busy machine it takes a while to start, and to get its share
            before = cores.processor_seconds()
            time.sleep(0.3)
            used = cores.processor_seconds().get(str(other.pid), 0) - before.get(str(other.pid), 0)
            if used > 0.02 and str(other.pid) in before and nice == 0:
                break
            if nice and str(other.pid) not in before and os.getpriority(os.PRIO_PROCESS, other.pid) == nice:
                break
        assert (used > 0.02) == (nice == 0)
        assert str(os.getpid()) not in cores.processor_seconds()
    finally:
        other.kill()
        other.wait()


@LINUX
def test_the_cores_are_those_this_process_is_bound_to():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from course_lib.cores import usable_cores; print(usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"] and 1 <= cores.usable_cores() <= os.cpu_count()


@pytest.fixture
def machine(monkeypatch):
    """A machine of 8 cores on which time passes and others work as the test says; gives what was set."""

    class Machine:
        now, used, threads = 100.0, 0.0, 8

        def work(self, seconds: float, cores_used: float) -> None:
            self.now, self.used = self.now + seconds, self.used + seconds * cores_used
            cores.share_cores()

    simulated = Machine()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(
        cores, "_Share", type("_Share", (), {"looked": -1e9, "used": {}, "most": 0, "chosen": 0})
    )
    monkeypatch.setattr(cores, "usable_cores", lambda: 8)
    monkeypatch.setattr(cores.time, "monotonic", lambda: simulated.now)
    monkeypatch.setattr(cores.time, "sleep", lambda s: setattr(simulated, "now", simulated.now + s))
    monkeypatch.setattr(cores, "processor_seconds", lambda: {"7": simulated.used})
    monkeypatch.setattr(torch, "get_num_threads", lambda: simulated.threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: setattr(simulated, "threads", n))
    return simulated


def test_threads_are_given_up_and_taken_back_as_others_come_and_go(machine):
    machine.work(0, 0)
    assert machine.threads == 8
    machine.work(0.5, 5)
    assert machine.threads == 8  # not yet: it looks once a second
    machine.work(0.6, 5)
    assert machine.threads == 4  # in the mean of that second the other used 5 cores: an equal share
    machine.work(1.1, 3)
    assert machine.threads == 5
    machine.work(1.1, 0)
    assert machine.threads == 8


def test_an_old_look_is_not_averaged_into_a_new_one(machine):
    machine.work(0, 0)
    machine.work(100, 8)  # all that is over
    assert machine.threads == 8


def test_what_the_student_sets_is_the_most(machine):
    machine.work(0, 0)
    machine.threads = 6
    machine.work(1.1, 0)
    assert machine.threads == 6
    machine.work(1.1, 7)
    assert machine.threads == 4  # an equal share of all eight
    machine.work(1.1, 0)
    assert machine.threads == 6


def test_a_number_that_is_fixed_outside_stays(machine, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    machine.work(0, 0)
    machine.work(1.1, 8)
    assert machine.threads == 8


def test_a_training_asks_at_every_step(monkeypatch):
    asked = []
    monkeypatch.setattr("course_lib.training.share_cores", lambda: asked.append(1))
    fit(lambda i: {"loss": torch.zeros(())}, 5)
    assert len(asked) == 5


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("avx2 avx512f amx_bf16", True),
        ("sse avx512_bf16", True),
        ("asimd bf16", True),
        ("avx2 avx512f", False),
        ("", False),
    ],
)
def test_a_processor_says_whether_it_multiplies_bfloat16(tmp_path, flags, wanted):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {flags}\n\n")
    assert cores.multiplies_bfloat16(tmp_path / "cpuinfo") is wanted
    assert not cores.multiplies_bfloat16(tmp_path / "nothing")
