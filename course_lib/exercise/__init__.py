"""Exercises: contract, answer, solution, key, check. Imported by the lessons, and importing none of them."""

from course_lib.exercise.answers import MissingAnswer, needs
from course_lib.exercise.contract import MB, Exercise, answer, exercise
from course_lib.exercise.predict import predict
from course_lib.exercise.progress import hint, progress, reveal

__all__ = [
    "MB",
    "Exercise",
    "MissingAnswer",
    "answer",
    "exercise",
    "hint",
    "needs",
    "predict",
    "progress",
    "reveal",
]
