"""Where the course keeps its data, and how any of its files is replaced."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where nobody else is kept out
    fcntl = None


def data_folder() -> Path:
    """`data/`: inside the installed library, or beside it in a checkout."""
    package = Path(__file__).parent
    return package / "data" if (package / "data").exists() else package.parent / "data"


def replace(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Write a file as a whole: a draft beside it, then a rename, so that an interruption never leaves half of it.

    content: text, bytes, or a function that writes to the path it is given. Folders are made as they are needed; the
    draft is removed where writing fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.touch()
        if callable(content):
            mode = draft.stat().st_mode
            content(draft)
            draft.chmod(mode & 0o777)  # as the umask has it: safetensors writes for its own user alone
        elif isinstance(content, bytes):
            draft.write_bytes(content)
        else:
            draft.write_text(content, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_table(path: Path, texts: Sequence[str]) -> list[dict]:
    """The rows of a CSV file; [] where there is none. Numbers, but in the columns `texts`; empty fields are left out."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: v if k in texts else float(v) for k, v in row.items() if v != ""} for row in rows]


def write_table(path: Path, rows: list[dict], columns: Sequence[str], digits: int = 6) -> None:
    """Write rows as a CSV file with these columns; numbers that are no integers with so many significant digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()

    def shown(value: object) -> object:
        if not isinstance(value, float):
            return value
        return int(value) if value.is_integer() else f"{value:.{digits}g}"

    writer.writerows({name: shown(value) for name, value in row.items()} for row in rows)
    replace(path, text.getvalue())


@contextlib.contextmanager
def claim(path: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process holds the lock `path` now; the kernel frees it when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def add_rows(
    path: Path,
    new: list[dict],
    texts: Sequence[str],
    place: Callable[[dict], tuple],
    columns: Sequence[str] = (),
    digits: int = 6,
) -> None:
    """Write new rows into a CSV file, in their place among the others, which are read again under a lock: processes share it.

    texts    columns that are no numbers, as in `read_table`.
    place    what rows are sorted by, and tells one run from another: rows that are there of a run which is written again go.
    columns  the first ones, if they are not those of the first row; then come all others that a row has.
    """
    with claim(path.with_name(f".{path.name}.lock"), wait=True):
        written = {place(row) for row in new}
        rows = [row for row in read_table(path, texts) if place(row) not in written] + new
        rows.sort(key=place)
        names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
        write_table(path, rows, [*names], digits)
