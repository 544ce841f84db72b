"""An answer's results against its key: structure, values, and the named mistake that explains them."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from course_lib.exercise.contract import Exercise
from course_lib.exercise.key import Key
from course_lib.exercise.report import Wrong, picture, show

READABLE = 40  # numbers in a case that is small enough to read


def close(got: Tensor, want: Tensor, ex: Exercise) -> bool:
    """Equal within the exercise's tolerance; infinities and NaN only equal their like."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    if not want.is_floating_point():
        return torch.equal(got, want)
    return torch.allclose(got, want, rtol=ex.rtol, atol=ex.atol, equal_nan=True)


def agrees(ex: Exercise, got: dict, want: dict, gradients: bool) -> bool:
    """Whether two outcomes of one case are the same, with gradients or without."""
    got, want = ({k: v for k, v in x.items() if gradients or not _is_gradient(k)} for x in (got, want))
    return got.keys() == want.keys() and all(close(got[k], want[k], ex) for k in want)


def _is_gradient(name: str) -> bool:
    return name.startswith("gradient of ")


# ---------------------------------------------------------------- type, shape, dtype, device


def structure(found: dict, expected: dict) -> tuple[str, str] | None:
    """What is wrong with the first output of a wrong type, shape, dtype or device: status and message, or None."""
    wanted = {k: v for k, v in expected.items() if not _is_gradient(k)}
    if found.keys() != wanted.keys():
        return "wrong type", f"Expected {_outputs(wanted)}; your answer returned {_outputs(found)}."
    for name, want in wanted.items():
        got, what = found[name], "" if len(wanted) == 1 else f" in {name}"
        if not isinstance(got, Tensor):
            more = " Is there a `return`?" if got is None else ""
            return (
                "wrong type",
                f"Expected a torch.Tensor{what}; your answer returned {kind_of(got)}.{more}",
            )
        if got.shape != want.shape:
            return "wrong shape", _shape_message(got, want, what)
        if got.device != want.device:
            return (
                "wrong device",
                f"Expected a tensor on {want.device}{what}; your answer returned one on {got.device}.",
            )
        if got.dtype != want.dtype:
            names = [str(d).removeprefix("torch.") for d in (want.dtype, got.dtype)]
            return "wrong dtype", f"Expected {names[0]}{what}; your answer returned {names[1]}."
    return None


def _shape_message(got: Tensor, want: Tensor, what: str) -> str:
    message = (
        f"Expected shape {tuple(want.shape)}{what}; your answer returned shape {tuple(got.shape)}."
        if want.ndim
        else f"Expected a scalar, shape (){what}; your answer returned shape {tuple(got.shape)}."
    )
    if got.squeeze().shape == want.squeeze().shape:
        message += " An axis of length 1 too many or too few (keepdim, [:, None], squeeze)?"
    return message


def kind_of(value: object) -> str:
    """A value's type in words: None, a numpy.ndarray, a list."""
    kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
    return "None" if value is None else f"a {kind}"


def _outputs(outputs: dict) -> str:
    if list(outputs) == ["result"]:
        return "one tensor" if isinstance(outputs["result"], Tensor) else kind_of(outputs["result"])
    if all(str(k).startswith("result ") for k in outputs):
        return f"a tuple of {len(outputs)}"
    return "the entries " + ", ".join(map(str, outputs))


# ---------------------------------------------------------------- values and gradients


def diagnose(ex: Exercise, key: Key, results: list[dict], gradients: bool) -> str:
    """The sentence of the named mistake that gives these results on every case; "" if there is none."""
    for name, outcomes in key.mistakes.items():
        pairs = zip(results, outcomes, strict=True)
        if all(agrees(ex, got, want, gradients) for got, want in pairs):
            return key.sentences[name]
    return ""


def diagnose_structure(key: Key, results: list[dict]) -> str:
    """As `diagnose`, for results of a wrong shape or dtype: by shape and value alone."""
    for name, outcomes in key.mistakes.items():
        pairs = [
            (got[k], want[k]) for got, want in zip(results, outcomes, strict=False) for k in got if k in want
        ]
        if pairs and all(
            isinstance(g, Tensor)
            and (g.shape, g.device) == (w.shape, w.device)
            and torch.allclose(g.double(), w.double(), 1e-4, 1e-5, True)
            for g, w in pairs
        ):
            return key.sentences[name]
    return ""


def compare(ex: Exercise, key: Key, results: list[dict], step: str) -> None:
    """Raise Wrong where values, or gradients, disagree with the key; the first such case of a readable size is shown."""
    bad = []
    for i, (got, want) in enumerate(zip(results, key.outcomes, strict=True)):
        for name in sorted(got.keys() | want.keys()):
            if _is_gradient(name) != (step == "gradients"):
                continue
            if name not in got or name not in want or not close(got[name], want[name], ex):
                size = sum(v.numel() for v in key.cases[i].values() if isinstance(v, Tensor))
                bad.append((max(size, READABLE), i, name))
    if not bad:
        return
    _, i, name = min(bad)
    got, want = results[i].get(name), key.outcomes[i].get(name)
    cases = len({case for _, case, _ in bad})
    where = f"{cases} of {len(results)} cases differ. " if len(results) > 1 else ""
    raise Wrong(
        f"wrong {step.removesuffix('s')}",
        where + _describe(got, want, name),
        diagnosis=diagnose(ex, key, results, gradients=step == "gradients"),
        picture="" if got is None or want is None else picture(want, got),
        details=[
            *((f"{k} =", show(key.cases[i][k])) for k in _in_order(ex, key.cases[i])),
            ("expected:", "no gradient" if want is None else show(want)),
            ("yours:", "no gradient" if got is None else show(got)),
        ],
    )


def _in_order(ex: Exercise, case: dict) -> list[str]:
    """The inputs' names as the signature has them."""
    order = list(inspect.signature(ex.probe or ex.function).parameters)
    return sorted(case, key=lambda name: order.index(name) if name in order else len(order))


def _describe(got: Tensor | None, want: Tensor | None, name: str) -> str:
    what, of = "" if name == "result" else f" ({name})", name.removeprefix("gradient of ")
    if got is None:
        return f"No gradient reaches `{of}`: is there a .detach(), .data or no_grad on the way?"
    if want is None:
        return f"A gradient reaches `{of}`, which should get none: detach it."
    if got.is_floating_point() and (got.isnan() & ~want.isnan()).any():
        return f"Your result has NaN where a number is expected{what}."
    if got.is_floating_point() and (got.isinf() & ~want.isinf()).any():
        return f"Your result overflows to infinity{what}: find a stable form."
    error = (got.double() - want.double()).abs().nan_to_num(posinf=float("inf"))
    index = [int(i) for i in torch.unravel_index(error.argmax(), error.shape)] if error.ndim else []
    at = f", at {index}" if index else ""
    return f"The largest error here is {error.max().item():.3g}{what}{at}. A case that differs:"
