"""Grading a class: `course grade`.

    submission.py   what a student handed in, read without running it: notebooks, folders, zips → cells
    supervisor.py   all submissions: one worker process each, in parallel or on a Dask cluster; resumes
    worker.py       one submission: its answers by AST, and pytest with nbval on a notebook of check cells
    judge.py        one exercise: the values that came back against the solution's → one row of the gradebook
    sandbox.py      the kernel that the student's code runs in: bubblewrap, ipc sockets, limits
    inside.py       what runs in that kernel: each check in a forked process; values out, never verdicts
    wire.py         tensors as JSON
    gradebook.py    gradebook.csv, results/, feedback/, record.json
    helpers.py      `course check` (a student's own) and `course solve`

What is trusted. Values and gradients are compared here, in the grader's own process, with what the solution
gives on inputs drawn from a secret seed; neither solution nor expected value enters the sandbox. Code that
rewrites everything in its kernel can therefore report any values it likes, but the right ones only by computing
them. Three things do come from the student's kernel as it tells them: whether an answer is ready for a GPU, its
peak memory, and which exception it raised. A student who forges the first two wins the step from a right answer
to a right and fast one, no more. What such a kernel says is shown in feedback only as far as it can be chosen
from fixed sentences, so that hidden inputs cannot be printed there.

A check sees the student's own earlier answers where it calls them: an answer that builds on a wrong one is wrong,
and its row says which. Between checks nothing else is shared.
"""
