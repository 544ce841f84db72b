"""Answer keys: what the solution and every named mistake give on recorded inputs.

With `data/answer_keys/LESSON.safetensors` a student's check needs no solution. Tensors are named
`exercise/case/kind/name`; a mistake's kind is `mistake=its name`. Sentences, hints and plain numbers
stand as JSON in the file's metadata.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from course_lib.exercise.answers import find_solution
from course_lib.exercise.contract import Exercise, copy_inputs, run, run_with_gradients
from course_lib.exercise.findings import error_text
from course_lib.exercise.solution import Mistake
from course_lib.files import data_folder, replace


@dataclass
class Key:
    """One exercise's key. An outcome is a dict of tensors: outputs, and `gradient of x` for each input.

    noise is, for each case and each tensor of its outcome, the solution's error by rounding to float32.
    """

    cases: list[dict]
    outcomes: list[dict[str, Tensor]]
    mistakes: dict[str, list[dict[str, Tensor]]]
    sentences: dict[str, str]
    hints: list[str]
    noise: list[dict[str, float]]
    raises: dict[str, str] = field(default_factory=dict)  # what a mistake raises, by name
    reasons: list[str] = field(default_factory=list)  # what is said where a case alone fails

    def named(self, variant: str) -> dict[str, str]:
        """A mistake as a finding has it. Variants share one sentence, and go by the name of the first."""
        sentence = self.sentences[variant]
        return {
            "mistake": next(m for m, said in self.sentences.items() if said == sentence),
            "diagnosis": sentence,
        }


def outcome(ex: Exercise, implementation: Callable, inputs: dict) -> dict[str, Tensor]:
    """Outputs and, where the exercise asks for them, gradients; what no gradient reaches is absent."""
    found = {k: v.detach() for k, v in run(ex, implementation, copy_inputs(inputs)).items()}
    if ex.gradients:
        gradients = run_with_gradients(ex, implementation, copy_inputs(inputs))
        found |= {f"gradient of {k}": v for k, v in gradients.items() if v is not None}
    return found


@contextmanager
def solutions_only() -> Iterator[None]:
    """Answers called by answers come from the solutions, whatever is saved in `answers/`."""
    before = os.environ.get("COURSE_ANSWERS")
    os.environ["COURSE_ANSWERS"] = "solutions"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COURSE_ANSWERS"]
        else:
            os.environ["COURSE_ANSWERS"] = before


def record(ex: Exercise, seed: int = 0, cases: list[dict] | None = None) -> Key:
    """Run the solution of `ex` and every named mistake on its cases, or on those that are given."""
    solution = find_solution(ex)
    if solution is None:
        raise LookupError(f"{ex.id} has no solution in solutions/{ex.lesson}.py: a key cannot be recorded.")
    cases = solution.draw_cases(seed) if cases is None else cases
    with solutions_only(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        outcomes, noise = zip(*(exact(ex, solution.function, c) for c in cases), strict=True)
        key = Key(
            cases=[dict(c) for c in cases],
            outcomes=list(outcomes),
            noise=list(noise),
            mistakes={},
            sentences={m.name: m.sentence for m in solution.mistakes},
            hints=list(solution.hints),
            reasons=[getattr(c, "reason", "") for c in cases],
        )
        for mistake in solution.mistakes:
            _add_mistake(key, ex, mistake)
        return key


def _add_mistake(key: Key, ex: Exercise, mistake: Mistake) -> None:
    """Run a mistake on the cases of a key; one that raises has outcomes up to there."""
    outcomes: list[dict[str, Tensor]] = [{} for _ in key.cases]
    key.mistakes[mistake.name] = outcomes
    function = mistake.function
    try:
        for i, case in enumerate(key.cases):
            outcomes[i] = outcome(ex, function, case)
    except Exception as error:
        key.raises[mistake.name] = error_text(error)


def exact(ex: Exercise, implementation: Callable, case: dict) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The outcome as float64 gives it, rounded to the dtypes of the case's own, and by how much that run is off."""
    found, noise = outcome(ex, implementation, case), {}
    for name, precise in _in_float64(ex, implementation, case).items():
        rounded = precise.to(found[name].dtype)
        both = rounded.isfinite() & found[name].isfinite()
        error = (found[name].double() - precise.double())[both].abs().max().item() if both.any() else 0.0
        if error > 0.01 * max(1.0, rounded[both].double().abs().max().item() if both.any() else 0.0):
            raise ValueError(
                f"{ex.id}: {name} is off by {error:g} in float32. If it, or its probe, draws random numbers, draw them "
                "in float32; else make the case better conditioned."
            )
        noise[name] = float(f"{error:.1e}")
        found[name] = torch.where(both, rounded, found[name])
    return found, noise


def _in_float64(ex: Exercise, implementation: Callable, case: dict) -> dict[str, Tensor]:
    """The outcome with every float32 in its place, in the inputs and by default, a float64."""
    double = {k: v.double() if _is_float(v) else v for k, v in case.items()}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return outcome(ex, implementation, double)
    finally:
        torch.set_default_dtype(before)


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def write_keys(path: Path, keys: dict[str, Key]) -> None:
    """Store the keys of one lesson, by exercise name."""
    tensors, notes = {}, {}
    for name, key in keys.items():
        for i, case in enumerate(key.cases):
            kinds = {"input": case, "outcome": key.outcomes[i]}
            kinds |= {f"mistake={m}": found[i] for m, found in key.mistakes.items()}
            for kind, values in kinds.items():
                for k, v in values.items():
                    if isinstance(v, Tensor):
                        tensors[f"{name}/{i}/{kind}/{k}"] = v.contiguous().clone()
        numbers = [{k: v for k, v in c.items() if not isinstance(v, Tensor)} for c in key.cases]
        texts = {"sentences": key.sentences, "hints": key.hints, "raises": key.raises, "reasons": key.reasons}
        notes[name] = {"numbers": numbers, "noise": key.noise, **texts}
    metadata = {"exercises": json.dumps(notes, ensure_ascii=False)}
    replace(path, lambda draft: save_file(tensors, draft, metadata=metadata))


@functools.cache
def read_keys(path: Path, version: float) -> dict[str, Key]:
    keys: dict[str, Key] = {}
    with safe_open(path, framework="pt") as file:
        for name, note in json.loads(file.metadata()["exercises"]).items():
            blank = [{} for _ in note["numbers"]]
            mistakes = {m: [dict(b) for b in blank] for m in note["sentences"]}
            outcomes = [dict(b) for b in blank]
            rest = (note[k] for k in ("sentences", "hints", "noise", "raises", "reasons"))
            keys[name] = Key(note["numbers"], outcomes, mistakes, *rest)
        for entry in file.keys():  # noqa: SIM118 (not a dict)
            name, case, kind, item = entry.split("/")
            key, i = keys[name], int(case)
            mistake = kind.partition("=")[2]
            target = {"input": key.cases, "outcome": key.outcomes}.get(kind) or key.mistakes[mistake]
            target[i][item] = file.get_tensor(entry)
    return keys


def find_key(ex: Exercise) -> Key:
    """The recorded key of an exercise; a LookupError that says what to do where there is none."""
    path = data_folder() / "answer_keys" / f"{ex.lesson}.safetensors"
    remedy = "Reinstall the course, or, with solutions at hand, run `course keys`."
    try:
        keys = read_keys(path, path.stat().st_mtime)
    except FileNotFoundError:
        raise LookupError(f"There is no answer key at {path}. {remedy}") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise LookupError(f"The answer key {path} is damaged ({error}). {remedy}") from None
    if ex.name not in keys:
        raise LookupError(f"{path} holds no answer key for {ex.id}. {remedy}")
    return keys[ex.name]
