"""Is an answer ready for a GPU, and does it fit? Judged without one, on `meta` tensors.

Meta tensors have shapes and no values, so whatever needs a value on the host is found at once: on a
GPU the same line would make the processor wait for the device (a stall) or crash.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FunctionType

import torch
from torch import Tensor, overrides
from torch.overrides import TorchFunctionMode
from torch.utils import _python_dispatch as dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from course_lib.exercise.contract import Exercise, run, run_with_gradients
from course_lib.exercise.findings import Finding

_STALLS = {  # operations that make the host wait: the code of the finding
    "_local_scalar_dense": "host read",
    "bincount": "bincount",
    **dict.fromkeys(("nonzero", "masked_select", "argwhere"), "mask as index"),
    **dict.fromkeys(("_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"), "size of values"),
    **dict.fromkeys(
        ("_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "linalg_eig", "linalg_lstsq", "linalg_pinv"),
        "linear algebra",
    ),
    **dict.fromkeys(("equal", "allclose"), "host comparison"),
}
_FROM_HOST = (
    torch.tensor,
    torch.as_tensor,
    torch.asarray,
    Tensor.new_tensor,
)  # numbers to the device, one by one


class NotReady(Exception):
    """Ends a run on what a GPU would stall or crash on."""


class DeviceWatch(TorchDispatchMode):
    """Watches every operation: devices, host reads, their number, and the bytes alive at once (`peak`)."""

    def __init__(self, file: str | None = None, operations: int | None = None):
        super().__init__()
        self.file = file  # the answer's, to find the line at fault
        self.operations = operations  # at most so many, or None
        self.problem: Finding | None = None
        self.line: int | None = None
        self.count = self.alive = self.peak = 0
        self.double = 0  # how much of the peak is float64
        self._alive_double = 0
        self.largest: tuple[int, tuple[int, ...]] = 0, ()  # bytes and shape of the largest tensor
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(x.is_meta for x in tensors):
            self._check(name, args, kwargs, tensors)
            kwargs = {k: v for k, v in kwargs.items() if k != "generator"}  # some kernels on meta know none
        result = func(*args, **kwargs)
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if kwargs.get("generator") is not None and not all(x.is_meta for x in made):
            self.fail("CPU draw")  # all generators of this run are, they say, on meta
        if name == "_to_copy" and made[0].is_meta and not tensors[0].is_meta:
            self.fail("made on the CPU")
        for x in made:
            if x.is_meta:
                self._count(x)
        return result

    def _check(self, name: str, args: tuple, kwargs: dict, tensors: list[Tensor]) -> None:
        self.count += 1
        if self.operations is not None and self.count > self.operations:
            self.fail("many operations", operations=self.operations)
        if name == "_to_copy" and torch.device(kwargs.get("device") or "meta").type == "cpu":
            self.fail("copy to CPU")
        if name == "copy_" and args[0].device.type == "cpu":
            self.fail("copy to CPU")
        if name == "copy_" and args[1].device.type == "cpu" and args[1].ndim > 0:
            self.fail("made on the CPU")
        if name in ("copy_", "lift_fresh", "detach"):
            return
        if name in ("index", "index_put", "index_put_"):
            masked = any(x is not None and x.dtype == torch.bool for x in args[1])
            if masked and (name == "index" or args[2].numel() > 1):  # x[mask] = number is masked_fill
                self.fail("mask as index")
        if name in _STALLS:
            self.fail(_STALLS[name])
        # A number may live on the CPU (0-dimensional tensors are passed by value); anything else may not.
        joins = name in ("cat", "stack")
        if any(x.device.type == "cpu" and (x.ndim > 0 or joins) for x in tensors):
            self.fail("CPU tensor", operation=name.strip("_"))

    def fail(self, code: str, **fields) -> None:
        if self.problem is None:
            frame = sys._getframe()
            while frame and frame.f_code.co_filename != self.file:
                frame = frame.f_back
            self.problem, self.line = Finding(code, fields), frame and frame.f_lineno
        raise NotReady(self.problem.code)

    def _count(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(key)
        self.largest = max(self.largest, (size, tuple(x.shape)))
        double = size if x.dtype == torch.float64 else 0
        self._alive_double += double
        self.alive += size
        if self.alive > self.peak:
            self.peak, self.double = self.alive, self._alive_double
        weakref.finalize(storage, self._free, key, size, double)

    def _free(self, key: int, size: int, double: int) -> None:
        self._seen.discard(key)
        self.alive -= size
        self._alive_double -= double


@contextmanager
def modes_put_back() -> Iterator[None]:
    """Takes off whatever modes a block leaves behind: its time may be up within their own exit."""
    stacks = (
        (dispatch._get_current_dispatch_mode_stack, dispatch._pop_mode),
        (overrides._get_current_function_mode_stack, overrides._pop_mode),
    )
    before = [len(stack()) for stack, _ in stacks]
    try:
        yield
    finally:
        for (stack, pop), depth in zip(stacks, before, strict=True):
            left = stack()[depth:]  # torch 2.6 crashes where it pops a mode that nothing else holds
            for _ in left:
                pop()


class HostNumbers(TorchFunctionMode):
    """Sees what no operation shows: an answer that makes Python's numbers a tensor on the device, which a GPU waits for."""

    def __init__(self, watch: DeviceWatch):
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        by_the_answer = (
            sys._getframe(1).f_code.co_filename == self.watch.file
        )  # modules may, once, when they are built
        if by_the_answer and func in _FROM_HOST and result.is_meta:
            named = [x for name, x in (kwargs or {}).items() if name in ("data", "obj")]
            if not isinstance([*args, *named][-1], Tensor):
                self.watch.fail("made on the CPU")
        return result


@contextmanager
def _synchronisation(mode: int | str) -> Iterator[None]:
    """What PyTorch does where the host waits for CUDA: nothing ("default"), or raise ("error")."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class _NumbersMayCome(TorchFunctionMode):
    """Allows what copies a number to the device and does not show it: x[i] = 1, and the Python code of libraries.

    What a library reads on the host has been found on meta tensors before.
    """

    def __init__(self, file: str | None):
        super().__init__()
        self.file = file  # the answer's

    def __torch_function__(self, func, types, args=(), kwargs=None):
        number = func is Tensor.__setitem__ and not isinstance(args[2], Tensor)
        by_a_library = func in _FROM_HOST and sys._getframe(1).f_code.co_filename != self.file
        in_python = isinstance(func, FunctionType)  # torch.unravel_index makes a tensor of its shape
        with _synchronisation("default") if number or by_a_library or in_python else nullcontext():
            return func(*args, **(kwargs or {}))


def without_stalls(implementation: Callable, file: str | None) -> Callable:
    """The implementation, in which CUDA raises where the host would wait for it."""

    def strict(*args, **kwargs):
        with _synchronisation("error"), _NumbersMayCome(file):
            return implementation(*args, **kwargs)

    strict.__wrapped__ = implementation
    return strict


class SilentCovariance(TorchFunctionMode):
    """torch.cov without what it asks the host: whether its divisor, a matter of shapes, is positive."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.cov, Tensor.cov) and not {"fweights", "aweights"} & (kwargs or {}).keys():
            return _covariance(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _covariance(input: Tensor, *, correction: int = 1) -> Tensor:
    """The covariance matrix of variables in rows, observations in columns; of one variable its variance."""
    rows = torch.atleast_2d(input if input.is_floating_point() or input.is_complex() else input.float())
    centred = rows - rows.mean(-1, keepdim=True)
    return (centred @ centred.mH / (rows.shape[-1] - correction)).squeeze()


def watch(
    ex: Exercise,
    implementation: Callable,
    inputs: dict,
    file: str | None = None,
    gradients: bool | None = None,
) -> DeviceWatch:
    """Run an implementation, backward pass included (unless `gradients` says no), on meta copies of the inputs.

    What it raises for other reasons than a GPU's is raised here too.
    """
    inputs = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in inputs.items()}
    gradients = ex.gradients if gradients is None else gradients
    mode = DeviceWatch(file, ex.operations if ex.at_scale else None)

    for x in inputs.values():  # inputs exist anyway: they do not count
        if isinstance(x, Tensor):
            mode._seen.add(x.untyped_storage()._cdata)

    def watched(*args, **kwargs):
        result = implementation(*args, **kwargs)
        if any(isinstance(x, Tensor) and x.device.type == "cpu" for x in tree_leaves(result)):
            mode.fail("result on the CPU")
        return result

    watched.__wrapped__ = implementation

    try:
        with SilentCovariance(), HostNumbers(mode), mode:
            (run_with_gradients if gradients else run)(ex, watched, inputs)
    except Exception as error:
        if mode.problem is None and isinstance(error, TypeError) and "numpy" in str(error):
            mode.problem = Finding("NumPy")
        if mode.problem is None:
            raise
    return mode


def warm_up() -> None:
    """Have torch import, now rather than in the first check, what it needs for meta tensors (seconds)."""
    with DeviceWatch():
        x = torch.zeros(1, device="meta", requires_grad=True)
        (x + x).sum().backward()
