"""Exercises: contract, answer, solution, key, check."""

from course_lib.exercise.answers import answer
from course_lib.exercise.check import check
from course_lib.exercise.contract import MB, Exercise, MissingAnswer, exercise
from course_lib.exercise.progress import hint, progress, reveal

__all__ = [
    "MB",
    "Exercise",
    "MissingAnswer",
    "answer",
    "check",
    "exercise",
    "hint",
    "progress",
    "reveal",
]
