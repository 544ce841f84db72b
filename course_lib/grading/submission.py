"""Who handed in what, read without running any of it.

`plan` looks at names alone: a class is a folder or a zip as a learning platform exports it, and every student gets one
entry. `read` opens one student's files, in that student's worker: notebooks, `answers/*.py`, and zips of these.
Nothing is unpacked to disk, no link is followed.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from course_lib.catalogue import LESSONS

LARGEST_NOTEBOOK = 20_000_000  # bytes; with all its outputs a lesson's has less than one million
LARGEST_SUBMISSION = 100_000_000  # bytes, all its notebooks
MOST_FILES = 2000
DEEPEST = 30  # folders in folders
COMPANIONS = [
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
    ".pdf",
]
JUNK = re.compile(r"\.|__MACOSX|Thumbs\.db|desktop\.ini")
COPY = re.compile(r" ?\((\d+)\)$|-Copy(\d+)$|-(\d+)$| copy ?(\d*)$")
CANVAS = re.compile(r"(?P<name>[^_]+)(?P<late>_LATE)?_(?P<user>\d+)_(?P<order>\d+)_(?P<rest>.+)")
MOODLE = re.compile(r"(?P<name>.+)_(?P<user>\d+)_assignsubmission_(?P<kind>[a-z]+)_?(?P<rest>.*)")
BLACKBOARD = re.compile(r".+_(?P<name>[^_]+)_attempt_(?P<order>\d{4}(?:-\d\d){5})(?:_(?P<rest>.+)|\.txt)")
GRADESCOPE = re.compile(r"submission_(?P<user>\d+)")


class Unreadable(Exception):
    """Why a file cannot be read, in words."""


@dataclass(frozen=True)
class Part:
    """A file or folder: a path, and inside a class's zip the member or folder in it."""

    path: Path
    inside: str = ""

    @property
    def name(self) -> str:
        return PurePosixPath(self.inside).name if self.inside else self.path.name


@dataclass
class Student:
    """One student of a class, before anything is opened. `name` is safe as a file's; `shown` is the export's."""

    name: str
    shown: str
    parts: list[Part] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)  # files of theirs that do not count, and why
    platform: dict[str, str] = field(
        default_factory=dict
    )  # export, id, email, handed in, late: what is known of it


@dataclass
class Submission:
    """What one student's files hold. `problems` says what could not be read; the rest counts."""

    cells: list[tuple[str, str, int]] = field(
        default_factory=list
    )  # where, source, rank: a later one counts more
    problems: list[str] = field(default_factory=list)
    digest: str = ""  # of all that was read


RAW, CODE, FILE = 0, 1, 2  # ranks: a cell that was retyped, a code cell, a file of the answers folder

# ---------------------------------------------------------------- who handed in


def plan(paths: list[Path]) -> tuple[dict[str, Student], list[str]]:
    """The students by safe name, and the names that are nobody's.

    Each path is one submission. A single folder or zip is a class, unless it holds mostly lessons' files itself.
    """
    if missing := [str(p) for p in paths if not p.exists() and not p.is_symlink()]:
        raise FileNotFoundError(f"There is no {', no '.join(missing)}: expected notebooks, folders or zips.")
    parts, known = [(Part(p), p.is_dir() and not p.is_symlink()) for p in paths], {}
    if len(paths) == 1:
        root = _unwrapped(Part(paths[0]))
        inner = _children(root)
        if inner and not _is_submission(inner):
            parts = [(_child(root, name), inner[name]) for name in sorted(inner)]
            known = _gradescope(root, inner)
    found: dict[tuple, Student] = {}
    passed_over = []
    for part, folder in parts:
        key, shown, file, platform = _owner(part.name, folder, known)
        if JUNK.match(part.name) or (
            file and not key[1] and PurePosixPath(file).suffix.lower() in COMPANIONS
        ):
            passed_over.append(_clean(part.name))
            continue
        student = found.setdefault(key, Student("", shown))
        student.platform |= platform
        if file is None or (key[1] and PurePosixPath(file).suffix.lower() in COMPANIONS):
            student.passed_over.append(f"{_clean(part.name)}: neither a notebook nor a zip.")
        else:
            student.parts.append(part)
    for student in found.values():
        _keep_newest(student)
    return _named(list(found.values())), passed_over


def _owner(name: str, folder: bool, known: dict[str, dict]) -> tuple[tuple, str, str | None, dict]:
    """Whose a file or folder is: a key, the name that is shown, its file's name ("" a folder, None no file), the rest."""
    if found := MOODLE.fullmatch(name):
        file = found["rest"] or ("" if folder else None)
        person = f"{found['name']}_{found['user']}"
        return (
            (person, found["user"]),
            person,
            file if found["kind"] == "file" else None,
            {"export": "moodle", "id": found["user"]},
        )
    if folder and (found := GRADESCOPE.fullmatch(name)):
        platform = {"export": "gradescope", "submission": found["user"]} | known.get(name, {})
        return (name, found["user"]), platform.get("name", name), "", platform
    if not folder and (found := CANVAS.fullmatch(name)):
        person, late = f"{found['name']}_{found['user']}", {"late": "yes"} if found["late"] else {}
        return (
            (person, found["user"]),
            person,
            found["rest"],
            {"export": "canvas", "id": found["user"]} | late,
        )
    if not folder and (found := BLACKBOARD.fullmatch(name)):
        person = found["name"]
        platform = {"export": "blackboard", "id": person, "handed in": found["order"]}
        return (person, "attempt"), person, found["rest"], platform
    suffix = PurePosixPath(name).suffix
    if folder and suffix.lower() not in (".zip", ".ipynb"):
        return (name, ""), name, "", {}
    return (name.removesuffix(suffix), ""), name.removesuffix(suffix), name, {}


def _keep_newest(student: Student) -> None:
    """Of a file that was handed in again under a number, the newest counts; of Blackboard's attempts, the last."""
    newest: dict[str, tuple[tuple, Part]] = {}
    for part in student.parts:
        found = CANVAS.fullmatch(part.name) or BLACKBOARD.fullmatch(part.name)
        if found is None:
            continue
        stem, number = without_number(PurePosixPath(found["rest"]).stem)
        blackboard = found.re is BLACKBOARD
        name = "" if blackboard else stem + PurePosixPath(found["rest"]).suffix.lower()
        order = (found["order"],) if blackboard else (number, int(found["order"]))
        if name not in newest or order > newest[name][0]:
            newest[name] = order, part
    for part in list(student.parts):
        found = CANVAS.fullmatch(part.name) or BLACKBOARD.fullmatch(part.name)
        if found and part not in [kept for _, kept in newest.values()]:
            if found.re is CANVAS or (found["order"],) != newest[""][0]:
                student.parts.remove(part)
                student.passed_over.append(f"{_clean(part.name)}: an earlier attempt.")


def without_number(stem: str) -> tuple[str, int]:
    """A file's name without the number that browsers, Jupyter and platforms give to one that is there already."""
    found = COPY.search(stem)
    if found is None:
        return stem, 0
    return stem[: found.start()], int(next((x for x in found.groups() if x), 1))


def _named(students: list[Student]) -> dict[str, Student]:
    """Safe names, the same in every run; a name that is not shown in full, or twice, gets a mark of its own."""
    safe = [re.sub(r"[^\w .,'@+()-]", "_", x.shown).strip(" .")[:100] or "unnamed" for x in students]
    folded = [name.casefold() for name in safe]
    for student, name in zip(students, safe, strict=True):
        lost = not all(c.isascii() or re.match(r"[\w]", c) for c in student.shown) or len(student.shown) > 100
        if lost or folded.count(name.casefold()) > 1:
            identity = (
                f"{student.shown} {sorted(p.name for p in student.parts)}" if not lost else student.shown
            )
            name += "~" + hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()[:6]
        student.name, student.shown = name, _clean(student.shown)
    return {student.name: student for student in students}


def _clean(text: str) -> str:
    """Text that can be written: what is no character becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def _is_submission(names: dict[str, bool]) -> bool:
    """Whether a folder's names are those of one student's work rather than of a class."""
    lessons = {x.notebook for x in LESSONS} | {x.module for x in LESSONS} | {"answers", "notebooks"}
    others = {"data", "figures", "course_lib", "solutions", "__pycache__"}
    stems = {n: without_number(n.removesuffix(".ipynb"))[0] for n in names}
    mine = [n for n, folder in names.items() if stems[n] in lessons and (folder or n.endswith(".ipynb"))]
    theirs = [n for n, folder in names.items() if folder or n.lower().endswith((".ipynb", ".zip"))]
    return len(mine) > len([n for n in theirs if n not in mine and n not in others])


def _unwrapped(part: Part) -> Part:
    """The folder that a folder or zip holds and nothing else, again and again."""
    for _ in range(DEEPEST):
        inner = _children(part)
        if len(inner) != 1 or _is_submission(inner):
            break
        (name, folder), *_ = inner.items()
        if not folder or MOODLE.fullmatch(name) or GRADESCOPE.fullmatch(name):
            break
        if not any(
            is_folder or n.lower().endswith((".ipynb", ".zip"))
            for n, is_folder in _children(_child(part, name)).items()
        ):
            break
        part = _child(part, name)
    return part


def _child(part: Part, name: str) -> Part:
    if part.inside or part.path.is_file():
        return Part(part.path, f"{part.inside}/{name}".lstrip("/"))
    return Part(part.path / name)


def _children(part: Part) -> dict[str, bool]:
    """The names in a folder or a zip, and whether each is a folder; none in anything else."""
    if part.inside or part.path.suffix.lower() == ".zip":
        prefix, found = PurePosixPath(part.inside).parts, {}
        for parts, folder in _members_of(part.path):
            if (
                parts[: len(prefix)] == prefix
                and len(parts) > len(prefix)
                and not JUNK.match(parts[len(prefix)])
            ):
                name = parts[len(prefix)]
                found[name] = found.get(name, False) or folder or len(parts) > len(prefix) + 1
        return found
    if not part.path.is_dir() or part.path.is_symlink():
        return {}
    return {
        p.name: p.is_dir() and not p.is_symlink()
        for p in sorted(part.path.iterdir())
        if not JUNK.match(p.name)
    }


@functools.lru_cache(4)
def _members_of(path: Path) -> list[tuple[tuple[str, ...], bool]]:
    """The members of a zip by their parts; none of one that is damaged, or that names a way out of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                (PurePosixPath(m.filename.replace("\\", "/")).parts, m.is_dir()) for m in archive.infolist()
            ]
    except Exception:  # it is one student's, who is told when it is read
        return []
    return (
        []
        if any(".." in parts or parts[:1] == ("/",) for parts, _ in members)
        else [m for m in members if m[0]]
    )


def _gradescope(root: Part, names: dict[str, bool]) -> dict[str, dict]:
    """By folder, what Gradescope's export says of its submissions: name, id, e-mail, time."""
    if "submission_metadata.yml" not in names:
        return {}
    import yaml

    found = {}
    data = yaml.safe_load(_read_part(_child(root, "submission_metadata.yml")).decode("utf-8-sig"))
    for folder, about in data.items():
        people = [{str(k).lstrip(":"): v for k, v in x.items()} for x in about.get(":submitters", [])]
        known = {"id": "sid", "email": "email", "name": "name"}
        found[folder] = {to: ", ".join(str(x[k]) for x in people if x.get(k)) for to, k in known.items()}
        found[folder]["handed in"] = str(about.get(":created_at", ""))
        found[folder] = {k: v for k, v in found[folder].items() if v}
    return found


def table(students: dict[str, Student], passed_over: list[str]) -> str:
    """Who was found, with which files, and what was passed over: to be looked at before anything runs."""
    width = max((len(x.shown) for x in students.values()), default=0)
    lines = [f"{len(students)} submissions"]
    for student in students.values():
        files = ", ".join(_clean(p.name) for p in student.parts) or "no file"
        late = " (late)" if student.platform.get("late") else ""
        lines.append(f"  {student.shown:<{width}}  {files}{late}")
        lines += [f"  {'':<{width}}  passed over: {text}" for text in student.passed_over]
    return "\n".join(lines + [f"  passed over: {name}" for name in passed_over])


# ---------------------------------------------------------------- reading one submission


@dataclass
class _File:
    """A file of a submission: its place, when it was changed, and how to read it."""

    where: str
    changed: tuple
    read: Callable[[], bytes]


def read(student: Student) -> Submission:
    """All that may be an answer in a student's files. Whatever cannot be read is a problem, never an error."""
    submission, digest, total = Submission(problems=list(student.passed_over)), hashlib.sha256(), 0
    files: list[_File] = []
    for part in student.parts:
        try:
            files += _files(part)
        except Exception as error:
            submission.problems.append(f"{_clean(part.name)}: {_why(error)}")
    for file in _newest(files, submission.problems):
        try:
            data = file.read()
            total += len(data)
            if total > LARGEST_SUBMISSION:
                raise Unreadable(f"is one of more than {LARGEST_SUBMISSION // 10**6} MB of notebooks.")
            digest.update(data)
            submission.cells += [(file.where, _clean(text), rank) for text, rank in _cells(file, data)]
        except Exception as error:
            submission.problems.append(f"{file.where}: {_why(error)}")
    if not files and len(submission.problems) == len(student.passed_over):
        submission.problems.append("There is no notebook in it.")
    submission.cells.sort(key=lambda cell: cell[2])
    digest.update("\n".join(submission.problems).encode())
    submission.digest = digest.hexdigest()
    return submission


def _why(error: Exception) -> str:
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, RecursionError | MemoryError):
        return "cannot be read: it is nested too deeply, or too large."
    return f"cannot be unpacked ({_clean(f'{type(error).__name__}: {error}')[:200]})."


def _newest(files: list[_File], problems: list[str]) -> list[_File]:
    """Of notebooks whose names differ by a number alone, in one folder or several, the one that was changed last."""
    newest: dict[Any, _File] = {}
    for file in files:
        stem, number = without_number(PurePosixPath(file.where).stem)
        lesson = stem in [x.notebook for x in LESSONS] and file.where.lower().endswith(".ipynb")
        name = stem if lesson else file.where
        rank = (file.changed, number)
        before = newest.get(name)
        if before is not None and rank < (
            before.changed,
            without_number(PurePosixPath(before.where).stem)[1],
        ):
            file, before = before, file
        if before is not None:
            problems.append(f"{before.where}: {file.where} is newer and counts.")
        newest[name] = file
    return list(newest.values())


def _wanted(parts: tuple[str, ...]) -> bool:
    """Whether a file may hold answers: a notebook, or LESSON/EXERCISE.py."""
    name = PurePosixPath(parts[-1])
    if any(JUNK.match(part) for part in parts):
        return False
    lessons = [x.module for x in LESSONS]
    plain = name.suffix == ".py" and len(parts) > 1 and parts[-2] in lessons and name.stem.isidentifier()
    return plain or name.suffix.lower() in (".ipynb", ".zip")


def _files(part: Part) -> list[_File]:
    """The files of a part that may hold answers."""
    suffix = PurePosixPath(part.name).suffix.lower()
    if part.inside:
        return _unzipped(part.path, "", 1, part.inside)
    if part.path.is_symlink():
        raise Unreadable("is a symbolic link, which is not followed. Hand in the file itself.")
    if part.path.is_dir():
        return _folder(part.path)
    if suffix == ".zip":
        return _unzipped(io.BytesIO(_read_path(part.path, LARGEST_SUBMISSION)), "", 1)
    if suffix != ".ipynb":
        raise Unreadable("expected a notebook (.ipynb), a folder or a zip.")
    changed = datetime.fromtimestamp(part.path.stat().st_mtime).timetuple()[:6]
    return [_File(_clean(part.name), changed, lambda: _read_path(part.path))]


def _folder(top: Path) -> list[_File]:
    found, count, folders = [], 0, [(top, ())]
    for folder, parts in folders:
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            count, inner = count + 1, (*parts, entry.name)
            if count > MOST_FILES:
                raise Unreadable(f"holds more than {MOST_FILES} files.")
            if entry.is_dir(follow_symlinks=False):
                if len(inner) <= DEEPEST and not JUNK.match(entry.name):
                    folders.append((Path(entry.path), inner))
            elif _wanted(inner):
                where, path = _clean("/".join(inner)), Path(entry.path)
                if entry.name.lower().endswith(".zip") and not entry.is_symlink():
                    found += _unzipped(io.BytesIO(_read_path(path, LARGEST_SUBMISSION)), f"{where}/", 1)
                else:
                    changed = datetime.fromtimestamp(entry.stat(follow_symlinks=False).st_mtime).timetuple()[
                        :6
                    ]
                    found.append(_File(where, changed, lambda path=path: _read_path(path)))
    return found


def _read_path(path: Path, most: int = LARGEST_NOTEBOOK) -> bytes:
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
        return _bounded(file, most)


def _bounded(file: io.BufferedIOBase, most: int = LARGEST_NOTEBOOK) -> bytes:
    data = file.read(most + 1)
    if len(data) > most:
        raise Unreadable(f"is larger than {most // 10**6} MB. Clear the outputs and hand it in again.")
    return data


def _read_part(part: Part) -> bytes:
    if not part.inside:
        return _read_path(part.path)
    with zipfile.ZipFile(part.path) as archive, archive.open(part.inside) as file:
        return _bounded(file)


def _unzipped(data: io.BytesIO | Path, where: str, depth: int, inside: str = "") -> list[_File]:
    """The files of a zip that may hold answers, or of one folder or member of it; of zips in it, too."""
    found, prefix = [], PurePosixPath(inside).parts
    archive = zipfile.ZipFile(data)
    members = [(m, PurePosixPath(m.filename.replace("\\", "/"))) for m in archive.infolist()]
    members = [(m, path) for m, path in members if path.parts[: len(prefix)] == prefix]
    if len(members) > MOST_FILES:
        raise Unreadable(f"holds more than {MOST_FILES} files.")
    for member, path in sorted(members, key=lambda x: x[0].filename):
        if path.is_absolute() or ".." in path.parts:
            raise Unreadable("holds a path that leads out of it (../ or /). Zip the folder again.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise Unreadable(f"holds a symbolic link ({_clean(path.name)}), which is not followed.")
        inner = path.parts[len(prefix) :] or path.parts[-1:]
        if member.is_dir() or not inner or not _wanted(inner):
            continue
        place = where + _clean("/".join(inner))

        def read(member=member) -> bytes:
            with archive.open(member) as file:
                return _bounded(file)

        if path.suffix.lower() != ".zip":
            found.append(_File(place, member.date_time, read))
        elif depth < 3:
            found += _unzipped(io.BytesIO(read()), f"{place}/", depth + 1)
    return found


# ---------------------------------------------------------------- cells


def _cells(file: _File, data: bytes) -> Iterator[tuple[str, int]]:
    """The sources in a file that may hold an answer, whatever their type and the notebook's version, and their ranks."""
    if file.where.endswith(".py"):
        yield data.decode("utf-8-sig"), FILE
        return
    try:
        notebook = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise Unreadable("is not a notebook: it is not valid JSON.") from None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if cells is None and isinstance(notebook, dict):  # nbformat 3
        sheets = notebook.get("worksheets")
        first = sheets[0] if isinstance(sheets, list) and sheets else None
        cells = first.get("cells") if isinstance(first, dict) else None
    if not isinstance(cells, list):
        raise Unreadable("is not a notebook: it has no cells.")
    for cell in cells:
        source = cell.get("source", cell.get("input", "")) if isinstance(cell, dict) else ""
        if isinstance(source, list):
            source = "".join(line for line in source if isinstance(line, str))
        if isinstance(source, str) and "answer" in source and "def " in source:
            yield source, CODE if cell.get("cell_type") == "code" else RAW
