"""Seconds of each notebook and of its training cells, on the solutions: `python benchmarks/notebooks.py [--write] [names]`.

--write keeps the run: the outputs, and behind `# Trains …` at the head of a training cell how long that took.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from course_lib.cores import usable_cores

ROOT = Path(__file__).parents[1]
TRAINS = re.compile(r"\A(# Trains .+?)(: about \d+ s on \d+ cores?)?\.$", re.MULTILINE)


def run(document: nbformat.NotebookNode, folder: str) -> float:
    """Execute a notebook in place, in a kernel that starts in `folder`; its seconds. A cell that raises ends the benchmark."""
    start = time.perf_counter()
    resources = {"metadata": {"path": folder}}
    NotebookClient(document, timeout=None, resources=resources, store_widget_state=False).execute()
    return time.perf_counter() - start


def seconds(cell: nbformat.NotebookNode) -> float:
    """How long a cell ran, by the times that its execution has left in its metadata, which are taken out."""
    times = cell.metadata.pop("execution", {})
    start, end = (datetime.fromisoformat(times[f"iopub.{name}"]) for name in ("execute_input", "status.idle"))
    return (end - start).total_seconds()


def with_time(source: str, took: float, cores: int) -> str:
    """A training cell's source with the time that it took in its first comment."""
    said = f": about {max(1, round(took))} s on {cores} core{'s' if cores > 1 else ''}."
    return TRAINS.sub(lambda found: found[1] + said, source)


def main() -> None:
    os.environ |= {"COURSE_ANSWERS": "solutions", "TQDM_DISABLE": "1"}
    wanted = [word for word in sys.argv[1:] if word != "--write"] or [""]
    print("notebook                 seconds")
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if not any(word in notebook.stem for word in wanted):
            continue
        document = nbformat.read(notebook, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            print(f"{notebook.stem:<25}{run(document, folder):7.1f}", flush=True)
        for cell in (c for c in document.cells if c.cell_type == "code"):
            took = seconds(cell)
            if TRAINS.search(cell.source):
                cell.source = with_time(cell.source, took, usable_cores())
                print(f"    {took:7.1f}  {cell.source.splitlines()[0]}", flush=True)
        if "--write" in sys.argv:
            nbformat.write(document, notebook)


if __name__ == "__main__":
    main()
