"""What a student handed in, read without running any of it.

A submission is a notebook, a folder or a zip of notebooks; a class is a folder or a zip of submissions. Notebooks
are JSON, and only the cells that may hold an answer are kept. Nothing is unpacked to disk, no link is followed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from course_lib.catalogue import LESSONS

LARGEST_NOTEBOOK = 20_000_000  # bytes; with all its outputs a lesson's has less than one million
LARGEST_SUBMISSION = 100_000_000  # bytes, all its notebooks
LARGEST_CELL = 100_000  # characters of a cell that may hold an answer
MOST_FILES = 2000
COMPANIONS = (
    ".py",
    ".csv",
    ".txt",
    ".xml",
    ".html",
    ".ini",
    ".cfg",
    ".toml",
    ".json",
    ".md",
    ".yml",
    ".yaml",
)


class Unreadable(Exception):
    """Why a file cannot be read, in words."""


@dataclass(frozen=True)
class Source:
    """Where a submission, or a part of it, lies: a path, and inside a class's zip the folder or file of one student."""

    path: Path
    inside: str = ""


@dataclass
class Submission:
    """One student's cells. `problems` says what of it could not be read; the rest counts."""

    name: str
    cells: list[tuple[str, str]] = field(default_factory=list)  # (where, source)
    problems: list[str] = field(default_factory=list)
    digest: str = ""  # of all that was read


# ---------------------------------------------------------------- who handed in


def find_submissions(paths: list[Path]) -> tuple[dict[str, list[Source]], list[str]]:
    """The sources of every submission by the student's name, and what in the folders is none.

    Each path is one submission. A single folder or zip is a class, unless it holds a lesson's notebook itself.
    """
    if missing := [str(p) for p in paths if not p.exists()]:
        raise FileNotFoundError(f"There is no {', no '.join(missing)}: expected notebooks, folders or zips.")
    sources = [(p.name, Source(p)) for p in paths]
    if len(paths) == 1 and (entries := _class_entries(paths[0])):
        sources = entries
    found: dict[str, list[Source]] = {}
    taken: dict[str, tuple[Path, str]] = {}
    passed_over = []
    for name, source in sources:
        suffix = PurePosixPath(name).suffix
        if name.startswith((".", "__MACOSX")) or suffix.lower() in COMPANIONS:
            passed_over.append(name)
            continue
        is_file = suffix.lower() in (".ipynb", ".zip") or (source.path.is_file() and not source.inside)
        student = name.removesuffix(suffix) if is_file else name
        key, owner = file_name(student), (source.path.parent, student)
        while taken.setdefault(key, owner) != owner:  # another student whose name looks alike
            key += " (2)"
        found.setdefault(key, []).append(source)
    return found, passed_over


def file_name(student: str) -> str:
    """A name that is safe as a file's."""
    return re.sub(r"[^\w .,'@+()-]", "_", student).strip(" .")[:100] or "unnamed"


def _class_entries(path: Path) -> list[tuple[str, Source]]:
    """The entries of a class's folder or zip; none where the path is one student's submission."""
    if path.is_dir():
        entries = [(p.name, Source(p)) for p in sorted(path.iterdir())]
    elif path.suffix.lower() == ".zip" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts = [PurePosixPath(n).parts for n in archive.namelist()]
        names = sorted({p[0] for p in parts if p and p[0] not in ("/", "..")})
        entries = [(name, Source(path, name)) for name in names]
        if len(names) == 1 and not PurePosixPath(names[0]).suffix:  # a zip of one folder: one student's
            return []
    else:
        return []
    lessons = [x.notebook for x in LESSONS]
    return [] if any(name.removesuffix(".ipynb") in lessons for name, _ in entries) else entries


# ---------------------------------------------------------------- reading one submission


def read_submission(name: str, sources: list[Source]) -> Submission:
    """All cells of a student's notebooks that may hold answers, in the notebooks' alphabetical order."""
    submission, digest, total = Submission(name), hashlib.sha256(), 0
    for source in sources:
        try:
            for where, read in _notebooks(source):
                try:
                    data = read()
                    total += len(data)
                    if total > LARGEST_SUBMISSION:
                        raise Unreadable(
                            f"is one of more than {LARGEST_SUBMISSION // 10**6} MB of notebooks."
                        )
                    digest.update(data)
                    submission.cells += [(where, cell) for cell in _cells(data)]
                except Unreadable as error:
                    submission.problems.append(f"{where}: {error}")
        except Unreadable as error:
            submission.problems.append(f"{source.inside or source.path.name}: {error}")
    if not total and not submission.problems:
        submission.problems.append("There is no notebook in it.")
    digest.update("\n".join(submission.problems).encode())
    submission.digest = digest.hexdigest()
    return submission


Reader = Callable[[], bytes]


def _notebooks(source: Source) -> Iterator[tuple[str, Reader]]:
    """The notebooks of a source, with a function that reads each. Unreadable for a source that is none."""
    path = source.path
    if path.is_symlink() and not source.inside:
        raise Unreadable("is a symbolic link, which is not followed. Hand in the file itself.")
    if path.is_dir():
        yield from _folder(path)
    elif path.suffix.lower() == ".ipynb":
        yield path.name, lambda: _read_file(path)
    elif path.suffix.lower() == ".zip":
        yield from _zip(path, source.inside)
    else:
        raise Unreadable("expected a notebook (.ipynb), a folder or a zip.")


def _folder(path: Path) -> Iterator[tuple[str, Reader]]:
    count = 0
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
        for name in sorted(files):
            count += 1
            if count > MOST_FILES:
                raise Unreadable(f"holds more than {MOST_FILES} files.")
            file = Path(folder, name)
            if name.lower().endswith(".ipynb") and not name.startswith("."):
                yield str(file.relative_to(path)), lambda file=file: _read_file(file)


def _read_file(path: Path) -> bytes:
    """A regular file of bounded size, opened without following a link at its end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if path.is_symlink():
            raise Unreadable("is a symbolic link, which is not followed. Hand in the file itself.") from None
        raise Unreadable(f"cannot be read ({error.strerror}).") from None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unreadable("is not a file.")
        return _bounded(file)


def _bounded(file: io.BufferedIOBase) -> bytes:
    data = file.read(LARGEST_NOTEBOOK + 1)
    if len(data) > LARGEST_NOTEBOOK:
        raise Unreadable(
            f"is larger than {LARGEST_NOTEBOOK // 10**6} MB. Clear the outputs and hand it in again."
        )
    return data


def _zip(path: Path, inside: str) -> Iterator[tuple[str, Reader]]:
    """The notebooks of a zip, or of one student's part of a class's zip (which may be a zip itself)."""
    try:
        with zipfile.ZipFile(path) as archive:
            if inside.lower().endswith(".zip"):
                with archive.open(inside) as file, zipfile.ZipFile(io.BytesIO(_bounded(file))) as inner:
                    yield from _members(inner, "")
            else:
                yield from _members(archive, inside)
    except (
        OSError,
        zipfile.BadZipFile,
        RuntimeError,
        NotImplementedError,
        ValueError,
        KeyError,
        EOFError,
    ) as error:
        raise Unreadable(f"cannot be unpacked ({error}).") from None


def _members(archive: zipfile.ZipFile, inside: str) -> Iterator[tuple[str, Reader]]:
    members = [
        m for m in archive.infolist() if not inside or PurePosixPath(m.filename).parts[:1] == (inside,)
    ]
    if len(members) > MOST_FILES:
        raise Unreadable(f"holds more than {MOST_FILES} files.")
    for member in sorted(members, key=lambda m: m.filename):
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise Unreadable("holds a path that leads out of it (../ or /). Zip the folder again.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise Unreadable(f"holds a symbolic link ({path.name}), which is not followed.")
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        if path.suffix.lower() == ".ipynb" and not hidden and not member.is_dir():
            yield str(path), lambda member=member: _read_member(archive, member)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as file:
            return _bounded(file)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise Unreadable(f"cannot be unpacked ({error}).") from None


# ---------------------------------------------------------------- cells


def _cells(data: bytes) -> Iterator[str]:
    """The sources of a notebook's cells that may hold an answer, whatever their type and the notebook's version."""
    try:
        notebook = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise Unreadable("is not a notebook: it is not valid JSON.") from None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if cells is None and isinstance(notebook, dict):  # nbformat 3
        sheets = notebook.get("worksheets")
        cells = (
            sheets[0].get("cells")
            if isinstance(sheets, list) and sheets and isinstance(sheets[0], dict)
            else None
        )
    if not isinstance(cells, list):
        raise Unreadable("is not a notebook: it has no cells.")
    for cell in cells:
        source = cell.get("source", cell.get("input", "")) if isinstance(cell, dict) else ""
        if isinstance(source, list):
            source = "".join(line for line in source if isinstance(line, str))
        if isinstance(source, str) and "answer" in source and "def " in source:
            yield source
