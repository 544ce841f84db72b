"""An introduction to disentanglement: the library of the course, with holes that students fill."""

from course_lib import notebook
from course_lib.exercise import answer, hint, needs, predict, progress, reveal
from course_lib.exercise.portable import download_answers, upload_answers
from course_lib.notebook import check
from course_lib.training import keep_freed_memory

__all__ = [
    "answer",
    "check",
    "download_answers",
    "hint",
    "needs",
    "predict",
    "progress",
    "reveal",
    "upload_answers",
]


def _start() -> None:
    """What the course needs once in each process: fast memory, and panels in the place of tracebacks."""
    import sys

    keep_freed_memory()
    ipython = sys.modules.get("IPython")
    notebook.install(ipython.get_ipython() if ipython else None)


_start()
