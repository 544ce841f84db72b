"""The course as a site to read: `course book`. Nothing is executed, and nothing is fetched to build or to read it.

Sphinx with MyST-NB, and not Jupyter Book: Jupyter Book 2 needs Node and fetches its theme when it builds; this one is made of
wheels alone, takes the outputs that are stored in the notebooks, and checks every internal link.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import tempfile
from pathlib import Path

from course_lib.book.pages import write_downloads, write_pages
from course_lib.release import ROOT

NEEDED = {"sphinx": "sphinx", "myst_nb": "myst-nb", "furo": "furo", "pybtex": "pybtex"}
MATHJAX = "sphinx-mathjax-offline"  # the package, and the module, that carries MathJax and its fonts
SITE = ".buildinfo"  # what Sphinx leaves in a folder that it made


def book(dist: Path, instructor: bool = False, repository: str = "") -> Path:
    """Build the site into the folder `dist`, in the place of an older one; the path of its start page.

    instructor  with the teacher's notes, the solutions and the common mistakes beside the exercises.
    repository  "owner/name" on GitHub: every lesson gets a button that opens it on Colab, and one to download it.
    """
    missing = [name for name in [*NEEDED, MATHJAX] if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"The site needs {', '.join(missing)}: pip install '.[book]'")
    if not (ROOT / "book/conf.py").exists():
        raise FileNotFoundError(f"The site is made from a checkout of the course; {ROOT} is none.")
    if repository and not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"repository: expected owner/name, got {repository!r}")
    if dist.is_dir() and any(dist.iterdir()) and not (dist / SITE).exists():
        raise ValueError(f"{dist} holds other files: expected an empty folder, or an older site to replace.")
    with tempfile.TemporaryDirectory() as folder:
        sources, made = Path(folder) / "sources", Path(folder) / "site"
        write_pages(sources, instructor, repository)
        run_sphinx(sources, made)
        add_mathematics(made)
        if repository:
            write_downloads(made / "downloads")
        shutil.rmtree(dist, ignore_errors=True)
        shutil.copytree(made, dist)
    return dist / "index.html"


def run_sphinx(sources: Path, made: Path) -> None:
    """Sphinx with book/conf.py. A RuntimeError with its words where it warns: of a link that leads nowhere, say."""
    import contextlib
    import io

    from sphinx.cmd.build import build_main

    said = io.StringIO()
    options = ["-b", "html", "-c", str(ROOT / "book"), "-d", str(made.with_name("cache")), "-q", "-W"]
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        failed = build_main([*options, "--keep-going", str(sources), str(made)])
    if failed:
        raise RuntimeError(f"Sphinx did not build the site:\n{said.getvalue()}")


def add_mathematics(made: Path) -> None:
    """MathJax and its fonts, from the package that carries them: of its 24 MB what book/conf.py asks for."""
    carried = Path(importlib.util.find_spec(MATHJAX).origin).parent / "static/mathjax"
    for part in ("tex-chtml.js", "output/chtml/fonts/woff-v2"):
        source, target = carried / part, made / "_static/mathjax" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
