"""A student's answers as one zip, out of a session that ends (Colab) and into the next one. Nothing is lost on the way."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

from course_lib.exercise import answers
from course_lib.exercise.panel import Panel, message
from course_lib.exercise.predict import merge as merge_predictions
from course_lib.exercise.progress import (
    ATTEMPTS,
    PREDICTIONS,
    PROGRESS,
    as_record,
    attempts,
    merge,
    merge_attempts,
)
from course_lib.files import replace

LARGEST = 200_000  # bytes of one answer
LARGEST_RECORD = 10_000_000  # of a record: a board keeps the source of every attempt


def download_answers(name: str = "answers.zip") -> Any:
    """All answers, the progress, the predictions and the boards of the challenges, as a zip beside the notebook: a link to it; on Colab, a download."""
    path = answers._HOME / name
    folder = answers.answers_folder()
    files = sorted(folder.glob("*/*.py"))
    if not files and not (folder / ATTEMPTS).exists():
        return message("There are no answers yet: running an answer's cell saves it.")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        records = (folder / name for name in (PROGRESS, PREDICTIONS, ATTEMPTS))
        for file in [*files, *filter(Path.exists, records)]:
            archive.write(file, file.relative_to(folder).as_posix())
    replace(path, buffer.getvalue())
    if "google.colab" in sys.modules:
        importlib.import_module("google.colab.files").download(str(path))
        return None
    from IPython.display import FileLink

    return FileLink(name, result_html_prefix=f"{len(files)} answers: ")


def upload_answers(path: str | Path | None = None) -> Panel:
    """Take back what `download_answers` gave. Without a path, Colab asks for the file.

    Where an answer differs from one that is here, the one here is kept beside it as NAME.before.py. A board has the attempts of both.
    """
    data = _chosen() if path is None else Path(path).expanduser().read_bytes()
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile:
        raise ValueError(f"{path or 'The file'} is no zip: expected what download_answers() gave.") from None
    found, records = {}, {PROGRESS: {}, PREDICTIONS: {}, ATTEMPTS: {}}
    for entry in archive.infolist():  # only what an answer may be called: nothing leads out of the folder
        if entry.file_size <= LARGEST and re.fullmatch(r"[a-z_]\w*/[a-z_]\w*\.py", entry.filename):
            found[entry.filename] = archive.read(entry).decode("utf-8")
        elif entry.filename in records and entry.file_size <= LARGEST_RECORD:
            with contextlib.suppress(ValueError):  # a damaged record stops no answer
                records[entry.filename] = as_record(archive.read(entry).decode("utf-8"))
    tried = sum(len(attempts(records[ATTEMPTS], task)) for task in records[ATTEMPTS])
    if not found and not tried:
        raise ValueError(
            f"{path or 'The file'} holds no answers: expected LESSON/EXERCISE.py, as download_answers() gives."
        )
    kept = [name for name, text in found.items() if _restore(answers.answers_folder() / name, text)]
    merge({name.removesuffix(".py").replace("/", ".") for name in found}, records[PROGRESS])
    if records[PREDICTIONS]:
        merge_predictions(records[PREDICTIONS])
    if tried:
        merge_attempts(records[ATTEMPTS])
    also = f" What was here before and differs is kept: {', '.join(kept)} as *.before.py." if kept else ""
    boards = f" {tried} attempts at challenges are on their boards." if tried else ""
    return message(f"{len(found)} answers are in force again.{also}{boards}")


def _restore(file: Path, text: str) -> bool:
    """Write an answer; True where another one was there and is kept."""
    differs = file.exists() and file.read_text(encoding="utf-8") != text
    if differs:
        file.replace(file.with_suffix(".before.py"))
    replace(file, text)
    return differs


def _chosen() -> bytes:
    if "google.colab" not in sys.modules:
        raise ValueError("upload_answers expects the path of a zip, such as upload_answers('answers.zip').")
    uploaded = importlib.import_module("google.colab.files").upload()
    if not uploaded:
        raise ValueError("No file was chosen.")
    return next(iter(uploaded.values()))
