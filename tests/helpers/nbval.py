"""The lessons' notebooks, run whole under nbval."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tests.helpers import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def run_nbval(notebook: Path, folder: Path, answers: str) -> dict[int, bool]:
    """Run a copy of a notebook in `folder` under nbval-lax; by number of its code cell, whether it failed."""
    shutil.copy(notebook, folder)
    report = folder / "report.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval-lax",
        "--nbval-current-env",
        "-q",
        f"--junitxml={report}",
    ]
    settings = {
        "COURSE_ANSWERS": answers,
        "TQDM_DISABLE": "1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", notebook.name],
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    cases = ElementTree.parse(report).iter("testcase")
    return {int(c.get("name").removeprefix("Cell ")): c.find("failure") is not None for c in cases}
