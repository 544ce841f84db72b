"""What students get: `course release`. A zip (notebooks, library, data, environment) and a wheel for Colab.

Both hold the solutions of the revealed lessons and nothing of any other. They are built from a list of what belongs
in, never by taking things out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import course_lib
from course_lib.catalogue import LESSONS, Lesson, find

ROOT = Path(course_lib.__file__).parents[1]
NAME = "disentanglement"  # of the zip, and of the folder in it
FILES = ("LICENSE", "Makefile", "environment.yml", "pyproject.toml", "references.bib", "CITATION.cff")
FOR_STUDENTS = (  # sections of the README
    "If you are a student",
    "Bring the real files",
    "From the lecture's slides to the notebooks",
    "References",
)
WHEEL = 'WHEEL = ""'  # in the first code cell of every notebook
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
COLAB = "https://colab.research.google.com/github/{repository}/blob/main/notebooks/{notebook}"


def release(
    dist: Path, reveal: str = "none", url: str = "", repository: str = "", outputs: bool = False
) -> tuple[Path, Path]:
    """Build an edition into the folder `dist`; the paths of its zip and its wheel.

    reveal      lessons whose solutions it contains: "none", "all", or numbers such as "01,02".
    url         the address of the folder where the wheel will lie: the first cell of every notebook installs it on Colab.
    repository  "owner/name" on GitHub: every notebook gets a badge that opens it on Colab from there.
    outputs     keep the notebooks' outputs. Without them no plot answers a question before it is asked.
    """
    lessons = revealed(reveal)
    if not (ROOT / "solutions").is_dir() or not (ROOT / "notebooks").is_dir():
        raise FileNotFoundError(f"An edition is made from a checkout of the course; {ROOT} is none.")
    if importlib.util.find_spec("hatchling") is None:
        raise ModuleNotFoundError("Building a wheel needs hatchling: pip install '.[release]'")
    if repository and not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"repository: expected owner/name, got {repository!r}")
    dist.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / NAME
        copy_course(tree, lessons)
        wheel = build_wheel(tree, Path(folder) / "wheel")
        for notebook in sorted(tree.glob("notebooks/*.ipynb")):
            address = f"{url.rstrip('/')}/{wheel.name}" if url else ""
            fill_in(notebook, address, repository, outputs)
        archive = pack(tree, Path(folder) / f"{NAME}.zip")
        return tuple(Path(shutil.copy(made, dist)) for made in (archive, wheel))


def revealed(reveal: str) -> tuple[str, ...]:
    """The modules of the lessons that "none", "all" or a list of lessons names."""
    if reveal in ("none", "all"):
        return tuple(x.module for x in LESSONS) if reveal == "all" else ()
    try:
        found = [find(name.strip()) for name in reveal.split(",")]
    except LookupError as error:
        numbers = ",".join(lesson.number for lesson in LESSONS)
        raise ValueError(f"reveal: expected none, all, or some of {numbers}. {error}") from None
    if some := [ex.id for ex in found if not isinstance(ex, Lesson)]:
        raise ValueError(f"reveal: expected whole lessons, such as 01,02; got {', '.join(some)}")
    return tuple(dict.fromkeys(lesson.module for lesson in found))


def copy_course(tree: Path, lessons: tuple[str, ...]) -> None:
    """The student's folder: what is listed here, and nothing else of the checkout."""
    sources = [ROOT / name for name in FILES]
    for pattern in ("notebooks/*.ipynb", "notebooks/images/*.png", "course_lib/**/*.py", "data/**/*.*"):
        sources += sorted(path for path in ROOT.glob(pattern) if not path.name.startswith("."))  # locks
    everything = len(lessons) == len(LESSONS)
    sources += [
        ROOT / "solutions" / f"{name}.py" for name in (*lessons, *(["challenges"] if everything else []))
    ]
    for source in sources:
        target = tree / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    readme = sections((ROOT / "README.md").read_text(encoding="utf-8"))
    text = readme[""] + "\n".join(f"## {title}\n\n{readme[title]}\n" for title in FOR_STUDENTS)
    (tree / "README.md").write_text(text, encoding="utf-8")
    if lessons:
        text = (ROOT / "solutions/__init__.py").read_text(encoding="utf-8")
        filled, found = re.subn(r"(?m)^(REVEALED: [^=]+= )\(\)", rf"\g<1>{lessons!r}", text)
        assert found, "solutions/__init__.py has no line REVEALED = ()"
        (tree / "solutions/__init__.py").write_text(filled, encoding="utf-8")
        project = tree / "pyproject.toml"
        packages = project.read_text().replace(
            'packages = ["course_lib"]', 'packages = ["course_lib", "solutions"]'
        )
        project.write_text(packages)


def sections(readme: str) -> dict[str, str]:
    """A text's sections by their heading; what stands above the first under ""."""
    first, *rest = re.split(r"^## (.+)\n", readme, flags=re.MULTILINE)
    return {"": first, **{title: text.strip() for title, text in zip(rest[::2], rest[1::2], strict=True)}}


def build_wheel(tree: Path, out: Path) -> Path:
    """The wheel of the library, its data, and the revealed solutions."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    settings = os.environ | {"SOURCE_DATE_EPOCH": "1577836800"}  # the same course gives the same bytes
    done = subprocess.run(command, cwd=tree, env=settings, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The wheel could not be built:\n{done.stdout}{done.stderr}")
    (wheel,) = out.glob("*.whl")
    return wheel


def fill_in(notebook: Path, address: str, repository: str, outputs: bool) -> None:
    """Write the wheel's address into the first code cell, and a badge above the title; take outputs out, or keep them."""
    document = json.loads(notebook.read_text(encoding="utf-8"))
    code = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    if not outputs:
        for cell in code:
            cell |= {"outputs": [], "execution_count": None}
    first = code[0]
    source = "".join(first["source"])
    if WHEEL not in source:
        raise ValueError(f"{notebook.name}: expected {WHEEL} in the first code cell")
    first["source"] = source.replace(WHEEL, f"WHEEL = {json.dumps(address)}").splitlines(keepends=True)
    if repository:
        link = COLAB.format(repository=repository, notebook=notebook.name)
        title = document["cells"][0]
        title["source"] = [f"[![Open in Colab]({BADGE})]({link})\n", "\n", *title["source"]]
    notebook.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def pack(tree: Path, archive: Path, inside: bool = False) -> Path:
    """A zip of a folder, with its name in front or of what is inside; the same folder gives the same bytes."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(p for p in tree.rglob("*") if p.is_file()):
            top = tree if inside else tree.parent
            entry = zipfile.ZipInfo(path.relative_to(top).as_posix(), (2020, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            file.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return archive
