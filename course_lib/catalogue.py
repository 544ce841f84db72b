"""The catalogue: every lesson and every exercise of the course, and the one look-up of them by name.

It stands below the exercises and the lessons and imports neither. An exercise enters by `declare` when its lesson
is imported; a lesson's module is imported when its exercises are asked for.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Lesson:
    module: str  # in course_lib.lessons and in solutions: "elbo"
    notebook: str  # its file without .ipynb: "02_elbo"
    title: str
    minutes: int

    @property
    def number(self) -> str:
        """The two digits that the notebook's name starts with."""
        return self.notebook[:2]


LESSONS = (
    Lesson("why_disentangle", "00_why_disentangle", "00 Why disentangle", 45),
    Lesson("mutual_information", "01_mutual_information", "01 Mutual information", 120),
    Lesson("elbo", "02_elbo", "02 The ELBO", 90),
    Lesson("beta_vae", "03_beta_vae", "03 beta-VAE and what hides in its KL", 150),
    Lesson("factor_vae", "04_factor_vae", "04 FactorVAE", 120),
    Lesson("adda", "05_adda", "05 ADDA: carrying a classifier to a new domain", 120),
    Lesson("ufdn", "06_ufdn", "06 UFDN: one representation for many domains", 120),
    Lesson("correlated_factors", "07_correlated_factors", "07 Correlated factors", 120),
    Lesson("on_the_gpu", "08_on_the_gpu", "08 On the GPU", 120),
    Lesson("what_it_takes", "09_what_it_takes", "09 What it takes", 120),
)

_declared: dict[
    str, dict[str, Any]
] = {}  # the exercises, by lesson's module and by name, in order of declaration


def declare(exercise: Any) -> None:
    """Enter an exercise; one of the same id, from a module that is loaded again, takes the place of the old one."""
    _declared.setdefault(exercise.lesson, {})[exercise.name] = exercise


def declared(name: str) -> list[Any]:
    """The exercises of this name in the lessons that have been imported."""
    return [found[name] for found in _declared.values() if name in found]


def exercises(lesson: Lesson | None = None) -> list[Any]:
    """The exercises of a lesson, or of the whole course, in the order in which they are declared."""
    if lesson is None:
        return [ex for one in LESSONS for ex in exercises(one)]
    importlib.import_module(f"course_lib.lessons.{lesson.module}")
    return list(_declared.get(lesson.module, {}).values())


def find(name: str) -> Any:
    """The exercise "elbo.gaussian_kl", or the lesson "02", "02_elbo" or "elbo"; a LookupError for any other name."""
    first, dot, second = name.partition(".")
    for lesson in LESSONS:
        if first in (lesson.number, lesson.notebook, lesson.module):
            found = [lesson] if not dot else [ex for ex in exercises(lesson) if ex.name == second]
            if found:
                return found[0]
            raise LookupError(f"{lesson.notebook} has no exercise {second!r}: {_listed(exercises(lesson))}.")
    raise LookupError(
        f"Expected a lesson by number, notebook or module, such as 02, 02_elbo or elbo, or an exercise, such as "
        f"elbo.gaussian_kl; got {name!r}. The lessons are {', '.join(x.notebook for x in LESSONS)}."
    )


def _listed(found: list[Any]) -> str:
    return f"it has {', '.join(ex.name for ex in found)}" if found else "it has none"
