"""An answer's results against its key: structure, values, and the named mistake that explains them."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from course_lib.exercise.contract import Exercise
from course_lib.exercise.findings import Finding, Wrong
from course_lib.exercise.key import Key
from course_lib.exercise.report import picture, show

READABLE = 40  # numbers in a case that is small enough to read


ROUNDINGS = 20  # how many times the solution's rounding error another right answer may show


def close(got: Tensor, want: Tensor, ex: Exercise, noise: float = 0.0, times: float = 1) -> bool:
    """Equal up to rounding; infinities and NaN only equal their like, and what is not a float only itself.

    noise: the rounding error of the solution on this tensor, which the key records. The bound on an error is

        atol + rtol |want| + 20 (noise + eps max |want|),    times `times`,

    so that an ill-conditioned case allows what it must and no other case does.
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    if not want.is_floating_point() or not want.numel():
        return torch.equal(got, want)
    scale = want.abs().nan_to_num(0, 0, 0)
    rounding = noise + torch.finfo(want.dtype).eps * scale.max().item()
    bound = times * (ex.atol + ex.rtol * scale + ROUNDINGS * rounding)
    same = (got == want) | (got.isnan() & want.isnan())  # infinities too
    return bool((same | ((got - want).abs() <= bound)).all())


def agrees(
    ex: Exercise, got: dict, want: dict, gradients: bool, noise: dict[str, float], times: float = 1
) -> bool:
    """Whether two outcomes of one case are the same, with gradients or without; `noise` is the key's for that case."""
    got, want = ({k: v for k, v in x.items() if gradients or not _is_gradient(k)} for x in (got, want))
    return got.keys() == want.keys() and all(
        close(got[k], want[k], ex, noise.get(k, 0.0), times) for k in want
    )


def _is_gradient(name: str) -> bool:
    return name.startswith("gradient of ")


# ---------------------------------------------------------------- type, shape, dtype, device


def structure(found: dict, expected: dict) -> Finding | None:
    """The first output of a wrong type, shape, dtype or device; None if there is none."""
    wanted = {k: v for k, v in expected.items() if not _is_gradient(k)}
    if found.keys() != wanted.keys():
        return Finding("outputs", {"expected": _outputs(wanted), "got": _outputs(found)})
    for name, want in wanted.items():
        if problem := _structure(found[name], want):
            code, fields = problem
            return Finding(code, {"entry": "" if len(wanted) == 1 else name, **fields})
    return None


def _structure(got: object, want: Tensor) -> tuple[str, dict] | None:
    """The code and the fields of what is wrong with one output."""
    if got is None:
        return "nothing", {}
    if not isinstance(got, Tensor):
        return "no tensor", {"got": kind_of(got)}
    if got.shape != want.shape:
        code = "axis of length 1" if got.squeeze().shape == want.squeeze().shape else "shape"
        return code, {"expected": list(want.shape), "got": list(got.shape)}
    if got.device != want.device:
        return "device", {"expected": str(want.device), "got": str(got.device)}
    if got.dtype != want.dtype:
        expected, found = (str(x.dtype).removeprefix("torch.") for x in (want, got))
        return "dtype", {"expected": expected, "got": found}
    return None


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


def diagnose(ex: Exercise, key: Key, results: list[dict], gradients: bool) -> dict[str, str]:
    """The named mistake that gives these results on every case, and its sentence; {} if there is none."""
    for name, outcomes in key.mistakes.items():
        pairs = zip(results, outcomes, key.noise, strict=True)
        if all(agrees(ex, got, want, gradients, noise, times=10) for got, want, noise in pairs):
            return key.named(name)
    return {}


def diagnose_structure(key: Key, results: list[dict]) -> dict[str, str]:
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
            return key.named(name)
    return {}


def diagnose_raised(key: Key, finding: Finding) -> dict[str, str]:
    """The named mistake that raises the same, and its sentence; {} if there is none."""
    said = finding.fields.get("text")
    name = next((name for name, text in key.raises.items() if text == said), None)
    return {} if name is None else key.named(name)


def compare(ex: Exercise, key: Key, results: list[dict], step: str) -> None:
    """Raise Wrong where values, or gradients, disagree with the key; the first such case of a readable size is shown."""
    bad = []
    for i, (got, want) in enumerate(zip(results, key.outcomes, strict=True)):
        for name in sorted(got.keys() | want.keys()):
            if _is_gradient(name) != (step == "gradients"):
                continue
            noise = key.noise[i].get(name, 0.0)
            if name not in got or name not in want or not close(got[name], want[name], ex, noise):
                size = sum(v.numel() for v in key.cases[i].values() if isinstance(v, Tensor))
                bad.append((max(size, READABLE), i, name))
    if not bad:
        return
    _, i, name = min(bad)
    got, want = results[i].get(name), key.outcomes[i].get(name)
    code, fields = _describe(got, want, name)
    cases = {case for _, case, _ in bad}
    fields |= {"step": step.removesuffix("s"), "cases": [len(cases), len(results)]}
    known = diagnose(ex, key, results, gradients=step == "gradients") or _reason(key, cases)
    raise Wrong(
        Finding(code, fields, **known),
        picture="" if got is None or want is None else picture(want, got),
        details=[*((f"{k} =", show(key.cases[i][k])) for k in _shown(ex, key.cases[i])), *_both(want, got)],
    )


def _reason(key: Key, cases: set[int]) -> dict[str, str]:
    """What the author says where these cases alone fail; {} if it is nothing, or not one thing."""
    said = {key.reasons[i] for i in cases} if key.reasons else set()
    return {"diagnosis": said.pop()} if len(said) == 1 and said != {""} else {}


def _both(want: Tensor | None, got: Tensor | None) -> list[tuple[str, str]]:
    """Expected and yours; nothing where the sentence says it all."""
    if want is not None and want.dtype == torch.bool and not want.ndim:
        return []
    return [
        ("expected:", "no gradient" if want is None else show(want)),
        ("yours:", "no gradient" if got is None else show(got)),
    ]


def _shown(ex: Exercise, case: dict) -> list[str]:
    """The names of the inputs that are shown, as the signature has them. Networks' weights, many at once, say nothing."""
    order = list(inspect.signature(ex.probe or ex.function).parameters)
    if ex.probe and sum(isinstance(v, Tensor) for v in case.values()) > 4:
        return []
    return sorted(case, key=lambda name: order.index(name) if name in order else len(order))


def _describe(got: Tensor | None, want: Tensor | None, name: str) -> tuple[str, dict]:
    """The code and the fields of how a value, or a gradient, differs."""
    if got is None or want is None:
        code = "no gradient" if got is None else "gradient not wanted"
        return code, {"entry": name.removeprefix("gradient of ")}
    entry = {"entry": "" if name == "result" else name}
    if want.dtype == torch.bool and not want.ndim:
        return "not so" if want else "so", entry
    if got.is_floating_point() and (got.isnan() & ~want.isnan()).any():
        return "NaN", entry
    if got.is_floating_point() and (got.isinf() & ~want.isinf()).any():
        return "overflow", entry
    error = (got.double() - want.double()).abs().nan_to_num(posinf=float("inf"))
    index = [int(i) for i in torch.unravel_index(error.argmax(), error.shape)] if error.ndim else []
    return "value", {**entry, "error": error.max().item(), "index": index}
