"""Seconds of each notebook, training included, on the solutions: `python benchmarks/notebooks.py`."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


def seconds(notebook: Path, folder: str) -> float:
    """Run a copy of a notebook in `folder`, in a kernel of its own; a cell that raises ends the benchmark."""
    copy = shutil.copy(notebook, folder)
    start = time.perf_counter()
    NotebookClient(nbformat.read(copy, as_version=4), resources={"metadata": {"path": folder}}).execute()
    return time.perf_counter() - start


def main() -> None:
    os.environ |= {"COURSE_ANSWERS": "solutions", "TQDM_DISABLE": "1"}
    wanted = sys.argv[1:] or [""]
    print("notebook                 seconds")
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if any(word in notebook.stem for word in wanted):
            with tempfile.TemporaryDirectory() as folder:
                print(f"{notebook.stem:<25}{seconds(notebook, folder):7.1f}", flush=True)


if __name__ == "__main__":
    main()
