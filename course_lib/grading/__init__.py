"""Grading a class: `course grade`.

    submission.py   who handed in what (by names alone), and one student's files: notebooks, answers/*.py, zips
    supervisor.py   all students: one forked worker each; what is graded is written down, an interrupted run goes on
    worker.py       one student: files read, answers taken out by AST, pytest with nbval on one check cell an exercise
    sandbox.py      bubblewrap, a filter of system calls, limits that are watched from outside
    inside.py       what runs in there: a process that imports torch once and forks for every request
    walls.py        the limits that it inherits, and whether its walls stand
    tracing.py      an answer as a program: its tensor operations, recorded on one input and run again on another
    judge.py        one exercise: what came back against the solution's values → one row
    wire.py         tensors and frames on a pipe
    gradebook.py    records/, and what is rendered from them: gradebook.csv, results/, feedback/, sheets to import
    assignment.py   what a teacher asks and decides: points, due date, roster, overrides; applied to records, never in them
    report.py       the class at a glance: mistakes by name, what blocks what, what to teach again
    similar.py      answers that are alike up to names
    platforms.py    an autograder for Gradescope, a workflow for GitHub Classroom
    helpers.py      `course check` (a student's own) and `course solve`

Why a point means the formula, and why nothing gets out. Three processes, each trusted with less than the one before.

1. The judge (worker.py, judge.py) has the solutions, the hidden inputs and the expected values. It parses bytes that
   come out of the sandbox as JSON of bounded size, never as pickles or code, and compares numbers.
2. The replay (inside.py, b"p") has the hidden inputs, and torch. No line of a student's Python ever runs in it: it is
   forked afresh from a process that never ran any, and interprets a list of tensor operations of torch's own library.
   If such a list could take over the process, it would win the hidden inputs, in a place that it cannot leave.
3. The check (inside.py, b"c") runs the student's Python, on decoys: inputs of the same shapes, drawn from another
   seed. It has neither hidden inputs nor expected values, so there is nothing to steal in it. It sends values, from which
   the sentences of feedback are made, and the program.

A row passes where the values on the decoys are right, and the program gives the right values *and gradients* on the
hidden inputs, at sizes that the seed chooses, too. Whoever rewrites everything in the check can send any program; to be
right on inputs that it has not seen it must contain the formula. What an answer reads out of a tensor (.item(), .tolist(),
NumPy) is a constant in its program, right on the decoys alone: so a plain loop over numbers, with differences for
gradients, is worth nothing, whatever it does when it is watched. Loops over tensors show in the program's length, which
is counted here and extrapolated from the two sizes to the full one. Random answers are drawn several times by replay,
from other seeds; what must hold of the draws is judged in process 1.

What process 3 is believed: whether the answer is ready for a GPU (CPU tensors mixed in), its peak memory at full size,
and which exception it raised, as a code whose fields are made sure of. Who forges these wins the step from a right answer to
a right and lean one, and no word of theirs reaches a page: sentences are made in process 1; a line is shown only
if it stands in the student's own source.

An answer that calls an exercise which is missing, or did not pass, is checked with a stand-in: random numbers of the
right shapes, and a step in its program. Process 1 computes that step's values, and gradients, when the program is
replayed, so no value of a solution is ever where a student's code runs. It serves only exercises that stand
earlier in the course, and that the row is told to name.

A Triton kernel (lesson 08, `Exercise.kernel`) is no list of tensor operations: under the interpreter its numbers pass through
NumPy. So the check runs once more, in a fresh fork, on the hidden inputs, and process 1 compares its values. There is still
nothing to steal: the fork has those inputs and no expected values, nothing that it writes but its values reaches process
1, of them only right or wrong reaches a page, and the next run has another seed. What it costs: right values on hidden
inputs must be COMPUTED, but any Python that computes them will do. That it was a kernel, its bounds, its races and the bytes it
moved are believed of process 3, like an answer's memory. Whoever forges them wins the step from a right function to a right kernel.

What the sandbox is. Namespaces for processes, network, IPC, mounts; without root, a user namespace in which no other can be
made; as root, an unprivileged user with no capabilities. Nothing in it can be written to: no file, no directory, no
bind of the host's disk, /proc/sys read-only; no memory file, no System V memory, no socket, no namespace, no other
process's memory, by a filter of system calls (on x86-64 and arm64). The answers' files are not on the host's disk. Python,
libraries and the course are read-only; solutions, keys, data, tests, and installed copies of them are covered.
The watch is outside: the worker kills the sandbox at its deadline, and for processes, memory (shared memory too) and
output, all of which it reads from the host. A check that ends the sandbox costs itself: the next starts a new one.
Between checks nothing is kept, as the fork that ran one is gone with all that it started.
Every student has a sandbox of their own, though its start, an import of torch, is half of a lesson's grading: a check could
lower the limits or the priority of the process that serves the next one.

A worker is a fork as well: whatever a student's file does to it, its student gets a remark, and the run goes on. It
dies with the supervisor (PR_SET_PDEATHSIG), the sandbox dies with it, and no key is ever on disk.

Rendering reads records and the teacher's files alone: no student's code, and no solution, is near it.

In Gradescope's containers, which run one submission as root and may forbid namespaces, the wall is a user without rights
(`unsafe="user"`): solutions, seed, submission and results are closed to it, and it can write
nothing into a file. The network is open, with nothing to send. Process 3 cannot read process 2, as neither can be traced.

Not covered: flaws of the kernel and of bubblewrap; a machine without seccomp filters for its kind; --unsafe; and
whoever writes the right operations without having understood them.
"""
