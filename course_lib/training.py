"""Training: a loop that knows nothing of the model, and what it needs of the machine."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.optim.optimizer import register_optimizer_step_pre_hook
from tqdm.auto import tqdm

from course_lib.cores import share_cores
from course_lib.models import mlp

T = TypeVar("T")
_WHOLE = ContextVar("whole", default=False)  # see `whole_trainings`
REFRESH = 1.0  # seconds between two looks at the loss: each makes the processor wait for the device


@functools.cache
def keep_freed_memory() -> bool:
    """Have glibc keep large freed buffers instead of giving them back to the kernel at every step.

    Otherwise each step gets fresh pages, which the kernel must fill with zeros: about half of all training time
    on a CPU. Returns whether it was done; elsewhere than on Linux with glibc it does nothing. See mallopt(3).
    """
    trim_threshold, mmap_max = -1, -4
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 (only glibc has it)
        return bool(libc.mallopt(mmap_max, 0) and libc.mallopt(trim_threshold, 2**31 - 1))
    return False


def pick_device() -> torch.device:
    """The fastest device here: CUDA, Apple's MPS, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def fit(
    step: Callable[[int], dict[str, Tensor]],
    steps: int,
    label: str = "training",
    *,
    draws: torch.Generator | None = None,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> dict[str, Tensor]:
    """Call `step(0)`, `step(1)`, … and return what it reports, name by name, each (steps,) float32 on the CPU.

    `step` returns scalar tensors; they stay on its device until the end, but for a look once per second.
    Interrupting (KeyboardInterrupt) returns the history so far; what was trained is kept. See `whole_trainings`.
    Raises FloatingPointError, with the step, where a value is NaN or infinite.

    draws     of a step that from the second call on does the same, whatever its number, and keeps what it changes in place: the
              generator that it draws from. On CUDA such a step is recorded after a few calls and then replayed: see `_Recorder`.
    schedule  of the learning rate: one step of it follows each step
    """
    check_positive(steps, "steps")
    if draws is not None and draws.device.type == "cuda":
        step = _Recorder(step, draws, bool(schedule))
    history, done, checked, looked = {}, 0, 0, time.monotonic()
    # tqdm's notebook bar does not read TQDM_DISABLE by itself.
    hidden = bool(os.environ.get("TQDM_DISABLE"))
    bar = tqdm(total=steps, desc=label, leave=False, mininterval=0.5, disable=hidden)
    kept = () if _WHOLE.get() else (KeyboardInterrupt,)
    with contextlib.suppress(*kept), bar, getattr(step, "stream", contextlib.nullcontext()):
        for i in range(steps):
            share_cores()
            values = _scalars(step(i))
            if schedule:
                schedule.step()
            if i == 0:
                history = {name: torch.empty(steps, device=value.device) for name, value in values.items()}
            if values.keys() != history.keys():
                raise ValueError(f"step: expected the names {[*history]} at every step, got {[*values]}")
            for name, value in values.items():
                history[name][i] = value
            done = i + 1
            bar.update()
            if time.monotonic() - looked > REFRESH:
                bar.set_postfix(_latest(history, checked, done), refresh=False)
                checked, looked = done, time.monotonic()
    _latest(history, checked, done)
    return {name: values[:done].cpu() for name, values in history.items()}


@contextlib.contextmanager
def whole_trainings() -> Iterator[None]:
    """Inside the block, or a function that it decorates, an interrupted `fit` raises KeyboardInterrupt.

    For tables and checkpoints: what was cut short must not be measured.
    """
    before = _WHOLE.set(True)
    try:
        yield
    finally:
        _WHOLE.reset(before)


def descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of the optimiser down the gradient of a scalar loss."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def capture(
    call: Callable[[], T], generator: torch.Generator | None = None, stream: torch.cuda.Stream | None = None
) -> tuple[torch.cuda.CUDAGraph, T]:
    """A CUDA graph of a call that may draw from `generator`, and what the call returned: tensors that a replay writes anew.

    What the call makes only the first time must have been made before, in a stream that is not the default one.
    """
    graph = torch.cuda.CUDAGraph()
    if generator:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph, stream=stream):
        result = call()
    return graph, result


class _Recorder:
    """A step on a CUDA device that, after ORDINARY calls, is recorded as a CUDA graph and then replayed.

    A step of a small network is mostly the launch of some hundred kernels; a replay launches all of them at once. What Python
    does in the step happens no more. A step that waits for the device, draws from another generator, or trains what is kept in
    a graph of autograd's from before, is called again and again.

    stream    in which all calls must be
    """

    ORDINARY = 3  # calls in which all is made that is made once; the last one says whether the step waits

    def __init__(self, step: Callable[[int], dict[str, Tensor]], draws: torch.Generator, scheduled: bool):
        self.step, self.draws, self.scheduled = step, draws, scheduled
        self.calls, self.recordable = 0, False
        self.parameters: set[Tensor] = set()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.values: dict[str, Tensor] = {}
        self.stream = _aside(draws.device)

    def __call__(self, i: int) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls <= self.ORDINARY:
            hook = register_optimizer_step_pre_hook(self._prepare)
            try:
                with waits() as found:
                    # Without their graph, which would keep alive what `_in_a_graph` looks for.
                    values = _scalars(self.step(i))
            finally:
                hook.remove()
            self.recordable = not found and not any(map(_in_a_graph, self.parameters))
            return values
        if self.recordable and not self.graph:
            try:
                stream = torch.cuda.current_stream()
                self.graph, self.values = capture(lambda: _scalars(self.step(i)), self.draws, stream)
            except RuntimeError:  # another generator
                self.recordable = False
        if not self.graph:
            return self.step(i)
        self.graph.replay()
        return self.values

    def _prepare(self, optimiser: torch.optim.Optimizer, *_: object) -> None:
        """Let an optimiser, before it steps, keep on the device what it counts, and the learning rate where that changes."""
        for group in optimiser.param_groups:
            self.parameters.update(p for p in group["params"] if p.requires_grad)
            if "capturable" in group:
                group["capturable"] = True
                for parameter in group["params"]:
                    if "step" in (state := optimiser.state.get(parameter, {})):
                        state["step"] = torch.as_tensor(state["step"], device=parameter.device)
            if self.scheduled and not isinstance(group["lr"], Tensor):
                group["lr"] = torch.tensor(group["lr"], device=self.draws.device)


def _in_a_graph(parameter: Tensor) -> bool:
    """Whether something keeps a graph of autograd's alive that ends in this parameter. Its end belongs to the stream of that time."""
    mark = object()
    get_gradient_edge(parameter).node.metadata[mark] = True  # gone with the node, unless that is kept
    return mark in get_gradient_edge(parameter).node.metadata


@contextlib.contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """Inside the block, a stream of its own, as a recording needs; what came before is waited for, and what comes after waits."""
    before, own = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    own.wait_stream(before)
    try:
        with torch.cuda.stream(own):
            yield
    finally:
        before.wait_stream(own)


@contextlib.contextmanager
def waits() -> Iterator[list[str]]:
    """What makes the processor wait for the CUDA device inside the block: a list of PyTorch's warnings that grows to its end."""
    mode, found = torch.cuda.get_sync_debug_mode(), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for w in caught:
        if "synchronizing" in str(w.message):
            found.append(str(w.message))
        else:  # somebody else's: shown as it would have been
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno, source=w.source)


@contextlib.contextmanager
def coarse_products() -> Iterator[None]:
    """Inside the block, or a function that it decorates, products of float32 matrices on a GPU may be in TF32: 10 bits, several times as fast."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's global generator on the CPU starts from this seed inside the block, and is put back after it.

    For what cannot be drawn from a generator of one's own: the first weights of a network.
    """
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of x's shape on x's device.

    Drawn where the generator is: a CPU generator gives the same numbers for every device.
    """
    return torch.randn(x.shape, generator=generator, device=generator.device).to(x.device)


def fit_classifier(
    x: Tensor,
    y: Tensor,
    classes: int,
    *,
    hidden: int = 128,
    lr: float = 3e-3,
    batch: int = 128,
    steps: int = 300,
    seed: int = 0,
    label: str = "fresh classifier",
) -> nn.Module:
    """A fresh classifier of x (N, …) into y (N,), an MLP of one hidden layer; in eval mode.

    Adam on the cross-entropy of minibatches drawn with replacement; no gradient reaches x. The seed decides about all.
    """
    x = x.detach().flatten(1)
    generator = torch.Generator(x.device).manual_seed(seed)
    with seeded(seed):
        classifier = nn.Sequential(nn.Flatten(), mlp(x.shape[1], hidden, classes)).to(x.device)
    optimiser = torch.optim.Adam(classifier.parameters(), lr=lr, fused=True)

    def step(i: int) -> dict[str, Tensor]:
        rows = torch.randint(len(x), (batch,), generator=generator, device=x.device)
        loss = F.cross_entropy(classifier(x[rows]), y[rows])
        descend(optimiser, loss)
        return {"cross-entropy": loss}

    fit(step, steps, label=label, draws=generator)
    return classifier.eval()


def check_images(x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise TypeError or ValueError unless x is a floating (B, *shape) with values in [0, 1]. Waits for the device."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"images: expected a floating torch.Tensor, got {got}; divide 8-bit images by 255")
    if x.shape[1:] != shape or len(x) == 0:
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"images: this model expects (B, {wanted}), got {tuple(x.shape)}")
    low, high = (float(bound) for bound in x.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also where either is NaN
        raise ValueError(f"images: expected values in [0, 1], got {low:.4g} to {high:.4g}")


def check_positive(number: int, name: str) -> None:
    """Raise ValueError unless number is a whole number above 0."""
    if type(number) is not int or number < 1:
        raise ValueError(f"{name}: expected a positive integer, got {number!r}")


def check_scalar(value: Tensor, name: str) -> None:
    """Raise ValueError unless value is a tensor of one number."""
    if not isinstance(value, Tensor) or value.ndim != 0:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name}: expected a scalar tensor, got {got}; take the mean over the batch")


def _scalars(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a step returned, detached; a clear error where it is not a dict of scalar tensors."""
    if not isinstance(values, dict) or not values:
        raise TypeError(f"step: expected a dict of scalar tensors, got {values!r}")
    for name, value in values.items():
        check_scalar(value, f"step: {name!r}")
    return {name: value.detach() for name, value in values.items()}


def _latest(history: dict[str, Tensor], first: int, end: int) -> dict[str, str]:
    """The values of the last step, for the bar; FloatingPointError where one in [first, end) is not finite."""
    recent = {name: values[first:end].tolist() for name, values in history.items()}
    for i, row in enumerate(zip(*recent.values(), strict=True)):
        for name, value in zip(recent, row, strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} at step {first + i}: the training has diverged. Lower the learning rate, or "
                    "look for the log of 0, the exp of a large number or a division by 0."
                )
    return {name: f"{values[-1]:.4g}" for name, values in recent.items() if values}
