"""The lessons: one module per notebook, with its contracts, the plain loops that are given, and probes."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from course_lib.exercise import Exercise


@dataclass(frozen=True)
class Lesson:
    module: str
    notebook: str
    title: str
    minutes: int


LESSONS = (
    Lesson("why_disentangle", "00_why_disentangle", "00 Why disentangle", 45),
    Lesson("mutual_information", "01_mutual_information", "01 Mutual information", 120),
    Lesson("elbo", "02_elbo", "02 The ELBO", 90),
    Lesson("beta_vae", "03_beta_vae", "03 beta-VAE and what hides in its KL", 150),
    Lesson("factor_vae", "04_factor_vae", "04 FactorVAE", 120),
    Lesson("adda", "05_adda", "05 ADDA: carrying a classifier to a new domain", 120),
    Lesson("ufdn", "06_ufdn", "06 UFDN: one representation for many domains", 120),
    Lesson("correlated_factors", "07_correlated_factors", "07 Correlated factors", 120),
)


def exercises(lesson: Lesson) -> list[Exercise]:
    """The lesson's exercises, in the order in which its module declares them."""
    module = importlib.import_module(f"course_lib.lessons.{lesson.module}")
    return [x for x in vars(module).values() if isinstance(x, Exercise) and x.lesson == lesson.module]
