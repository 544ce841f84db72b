"""The course where others run it: an autograder for Gradescope, a workflow for GitHub Classroom.

Gradescope unpacks autograder.zip into /autograder/source, runs setup.sh once and, for every submission, run_autograder as
root in a container of its own, with the files in /autograder/submission, and reads /autograder/results/results.json.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

from course_lib.catalogue import LESSONS, Lesson
from course_lib.files import replace
from course_lib.grading.assignment import read_assignment
from course_lib.grading.sandbox import NoSandbox, require_sandbox
from course_lib.release import ROOT, copy_course, pack

SECRET = ("source/course/solutions", "source/course/data")  # what the user that answers run as cannot read
SETUP = """#!/usr/bin/env bash
# Gradescope runs this once, when it builds the container.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends bubblewrap util-linux python3 python3-venv
python=python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  apt-get install -y -qq --no-install-recommends python3.11 python3.11-venv
  python=python3.11
}
"$python" -m venv venv
venv/bin/python -m pip install --quiet -r requirements.txt
"""
RUN = """#!/usr/bin/env bash
# Gradescope runs this for every submission.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$root/source/course" PYTHONDONTWRITEBYTECODE=1 TQDM_DISABLE=1 OMP_NUM_THREADS=1
exec "${COURSE_PYTHON:-$root/source/venv/bin/python}" -P -m course_lib.grading.platforms "$root"
"""


def autograder(out: Path, assignment: str = "", seed: int | None = None) -> list[str]:
    """Write autograder.zip for an assignment (the text of assignment.toml; the course without one); the names in it.

    The zip holds solutions and the seed of the hidden inputs: it is for Gradescope, and no student's.
    """
    if not (ROOT / "solutions").is_dir() or not (ROOT / "pyproject.toml").exists():
        raise FileNotFoundError(f"An autograder is made from a checkout of the course; {ROOT} is none.")
    read_assignment(assignment)
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder) / "source"
        copy_course(top / "course", tuple(x.module for x in LESSONS))
        for name in ("notebooks", "data/answer_keys", "data/checkpoints", "data/sweeps"):
            shutil.rmtree(top / "course" / name, ignore_errors=True)
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        texts = {"setup.sh": SETUP, "run_autograder": RUN, "assignment.toml": assignment}
        texts["requirements.txt"] = "\n".join(project["dependencies"]) + "\n"
        texts["seed"] = str(secrets.randbits(31) if seed is None else seed)
        for name, text in texts.items():
            (top / name).write_text(text, encoding="utf-8")
        replace(out, lambda draft: pack(top, draft, inside=True))
        return sorted(p.relative_to(top).as_posix() for p in top.rglob("*") if p.is_file())


def autograde(root: Path) -> dict:
    """Grade root/submission into root/results/results.json, as Gradescope asks for it; an error of ours is raised.

    Answers run under bubblewrap where the container allows it, else as a user that can read neither solutions nor
    other submissions, and can write to nothing but empty files.
    """
    from course_lib.grading.supervisor import grade

    source = root / "source"
    for secret in (*SECRET, "source/seed", "submission", "results"):
        (root / secret).chmod(0o700)
    try:
        require_sandbox()
        unsafe: bool | str = False
    except NoSandbox:
        if os.getuid():
            raise
        unsafe = "user"
    with tempfile.TemporaryDirectory() as folder:
        (top := Path(folder, "class")).mkdir()
        shutil.copytree(root / "submission", top / "submission_1", symlinks=True)
        (top / "submission_metadata.yml").write_text(json.dumps({"submission_1": _about(root)}))
        grades = Path(folder, "grades")
        replace(grades / "assignment.toml", (source / "assignment.toml").read_text(encoding="utf-8"))
        failed = grade([top], grades, seed=int((source / "seed").read_text()), unsafe=unsafe)
        if failed:
            raise RuntimeError("; ".join(failed.values()))
        (found,) = (grades / "results").glob("*.json")
        results = json.loads(found.read_text(encoding="utf-8"))
    results |= {"stdout_visibility": "hidden", "visibility": "visible"}
    replace(root / "results/results.json", json.dumps(results, indent=1, ensure_ascii=False))
    return results


def _about(root: Path) -> dict:
    """Who handed in, and when: what Gradescope says beside a submission, as its export would."""
    try:
        data = json.loads((root / "submission_metadata.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    people = [
        {":name": x.get("name"), ":email": x.get("email"), ":sid": x.get("sid")}
        for x in data.get("users", [])
    ]
    return {":created_at": data.get("created_at", ""), ":submitters": people}


WORKFLOW = """# Checks the answers of this repository on every push, as `course check` does. Made by `course classroom`.
name: course check
on: [push, workflow_dispatch]
permissions:
  contents: read
jobs:
  check:
    runs-on: ubuntu-latest
    timeout-minutes: 30
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
          cache: pip
          cache-dependency-path: pyproject.toml
      - run: python -m pip install --quiet .
{checks}"""
CHECK = """      - name: {title}
        if: ${{{{ !cancelled() }}}}
        run: course check {number}
"""


def classroom(repository: Path, lessons: list[Lesson]) -> Path:
    """Write the workflow that runs a student's own checks into a student's repository, or its template; its path."""
    checks = "".join(CHECK.format(title=json.dumps(x.title), number=x.number) for x in lessons)
    path = repository / ".github/workflows/check.yml"
    replace(path, WORKFLOW.format(checks=checks))
    return path


if __name__ == "__main__":
    autograde(Path(sys.argv[1]))
