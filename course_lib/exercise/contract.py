"""The contract: what an exercise promises, and the hole that a student's answer fills."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from course_lib.catalogue import LESSONS, declare
from course_lib.exercise import answers
from course_lib.exercise.panel import announce, message

MB = 1024**2


@dataclass(eq=False)
class Exercise:
    """A hole in the library. Calling it runs the answer in force; `check` says whether that is right.

    rtol, atol  the error that is allowed besides rounding, which is measured (`compare.close`)
    probe       `probe(implementation, **inputs)` turns tensors into the call and the result into tensors,
                where the exercise takes or returns something else: a module (`nn.Parameter(weight.clone())`), an
                optimiser, a generator (`generator_for`). It also runs on `meta` tensors and on CUDA, so it
                reads no values and makes its tensors on the inputs' device (torch.full, not new_tensor).
    properties  `properties(results, **inputs)` turns what the probe of a random answer draws into what must hold
                whatever the draw: tensors that are the same for every right answer.
    at_scale    `at_scale(n)` makes the inputs at size n; at n = `full_size` the answer must keep to
    memory      the bound in bytes on what it holds at once, and to
    operations  the bound on the operations it launches (both with the backward pass): a Python loop over
                the batch launches thousands.
    seconds     the time that a check of it may take
    plain       the readable loop that is given; timed against the answer at n = `timed_size`.
    kernel      the answer is a Triton kernel (`kernels.launch`): no list of tensor operations says what it does, so
                grading runs it once more, on the hidden inputs.
    """

    function: Callable
    section: str
    points: int = 1
    gradients: bool = True
    rtol: float = 1e-5
    atol: float = 1e-6
    probe: Callable[..., Any] | None = None
    properties: Callable[..., dict] | None = None
    at_scale: Callable[[int], dict] | None = None
    full_size: int = 4096
    memory: int | None = None
    operations: int = 2000
    seconds: float = 10
    plain: Callable | None = None
    timed_size: int = 128
    kernel: bool = False

    def __post_init__(self):
        functools.update_wrapper(self, self.function)
        self.name: str = self.function.__name__
        self.lesson: str = self.function.__module__.rpartition(".")[2]

    @property
    def id(self) -> str:
        return f"{self.lesson}.{self.name}"

    @property
    def notebook(self) -> str:
        return next((x.notebook for x in LESSONS if x.module == self.lesson), self.lesson)

    def __call__(self, *args, **kwargs):
        return answers.in_force(self)(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<exercise {self.id}>"


def exercise(section: str, **options) -> Callable[[Callable], Exercise]:
    """Declare the decorated signature and docstring as an exercise of the lesson it stands in."""

    def declared(function: Callable) -> Exercise:
        ex = Exercise(function, section, **options)
        declare(ex)
        return ex

    return declared


def answer(ex: Exercise) -> Callable[[Callable], Exercise | Callable]:
    """Decorator of an answer's cell: saves the function's source as a file and puts it in force.

    A stub never replaces an answer that was saved before.
    """
    if not isinstance(ex, Exercise):
        raise TypeError(f"@answer expects an exercise of a lesson, such as elbo.gaussian_kl; got {ex!r}.")

    def plug_in(function: Callable) -> Exercise | Callable:
        cell = sys._getframe(1)  # the function itself may come from another decorator's file
        if str(cell.f_globals.get("__name__")).startswith("answers."):  # a saved file is being loaded
            function.answers = ex.id
            return function
        if not answers.solutions_in_force():
            copy = answers.save_answer(ex, answers.cell_source(cell.f_code.co_filename))
            if copy:
                announce(
                    message(
                        f"{ex.id} had been edited by hand: that version is kept as {copy.name}, beside it."
                    )
                )
        return ex

    return plug_in


class _MetaGenerator(torch.Generator):
    """A generator that says it is where meta tensors are, as one on a GPU says where it is; torch accepts it there."""

    @property
    def device(self) -> torch.device:
        return torch.device("meta")


def generator_for(x: Tensor, seed: int = 0) -> torch.Generator:
    """A seeded generator on the device of x, for probes."""
    return (_MetaGenerator() if x.is_meta else torch.Generator(x.device)).manual_seed(seed)


def copy_inputs(inputs: dict) -> dict:
    """The inputs of one call, safe from changes in place, and laid out in memory as an answer may meet them."""
    return {k: _lay_out(v) if isinstance(v, Tensor) else v for k, v in inputs.items()}


def _lay_out(x: Tensor) -> Tensor:
    """A copy that is not contiguous: expanded where all rows are equal, else with the last two axes exchanged in memory."""
    if x.ndim < 2:
        return x.clone()
    if len(x) > 1 and (x == x[:1]).all():
        return x[:1].clone().expand_as(x)
    return x.mT.contiguous().mT.clone()


def run(ex: Exercise, implementation: Callable, inputs: dict) -> dict[str, Tensor]:
    """What `draw` gives; of a random answer, the properties of what it draws."""
    result = draw(ex, implementation, inputs)
    return ex.properties(result, **inputs) if ex.properties else result


def draw(ex: Exercise, implementation: Callable, inputs: dict) -> dict[str, Tensor]:
    """Call an implementation through the exercise's probe; its result as named tensors.

    A tensor is {"result": …}, a tuple {"result 0": …, …}, a dict stays. Anything else is returned under
    its name as it is, so that the caller can say what is wrong with it.
    """
    result = ex.probe(implementation, **inputs) if ex.probe else implementation(**inputs)
    if isinstance(result, tuple):
        result = {f"result {i}": value for i, value in enumerate(result)}
    elif not isinstance(result, dict):
        result = {"result": result}
    return result


def run_with_gradients(ex: Exercise, implementation: Callable, inputs: dict) -> dict[str, Tensor | None]:
    """The gradients of one fixed weighted sum of all outputs, by input. None: nothing flows there.

    The weights cos(1), cos(2), … differ, so errors of single elements cannot cancel in the sum.
    """
    leaves = {
        k: v.detach().clone().requires_grad_()
        for k, v in inputs.items()
        if isinstance(v, Tensor) and v.is_floating_point()
    }
    outputs = run(ex, implementation, {**inputs, **leaves})
    total = [
        (torch.arange(1, v.numel() + 1, device=v.device, dtype=v.dtype).cos().view_as(v) * v).sum()
        for v in outputs.values()
        if isinstance(v, Tensor) and v.requires_grad
    ]
    if not total or not leaves:
        return dict.fromkeys(leaves)
    gradients = torch.autograd.grad(sum(total), list(leaves.values()), allow_unused=True)
    return {k: _symmetrised(g, x) for (k, x), g in zip(leaves.items(), gradients, strict=True)}


def _symmetrised(gradient: Tensor | None, x: Tensor) -> Tensor | None:
    """The gradient with respect to symmetric matrices: half of it with its transpose.

    A function of a symmetric matrix may read the upper half, the lower half or both; all are the same function.
    """
    return gradient if gradient is None or not is_symmetric(x) else (gradient + gradient.mT) / 2


def is_symmetric(x: Tensor) -> bool:
    """Whether x holds square matrices that equal their transposes."""
    square = x.ndim >= 2 and x.shape[-1] == x.shape[-2] and not x.is_meta
    return square and torch.equal(x, x.mT)
