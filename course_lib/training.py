"""Training: a loop that knows nothing of the model, and what it needs of the machine."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
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


def fit(step: Callable[[int], dict[str, Tensor]], steps: int, label: str = "training") -> dict[str, Tensor]:
    """Call `step(0)`, `step(1)`, … and return what it reports, name by name, each (steps,) float32 on the CPU.

    `step` returns scalar tensors; they stay on its device until the end, but for a look once per second.
    Interrupting (KeyboardInterrupt) returns the history so far; what was trained is kept. See `whole_trainings`.
    Raises FloatingPointError, with the step, where a value is NaN or infinite.
    """
    check_positive(steps, "steps")
    history, done, checked, looked = {}, 0, 0, time.monotonic()
    # tqdm's notebook bar does not read TQDM_DISABLE by itself.
    hidden = bool(os.environ.get("TQDM_DISABLE"))
    bar = tqdm(total=steps, desc=label, leave=False, mininterval=0.5, disable=hidden)
    kept = () if _WHOLE.get() else (KeyboardInterrupt,)
    with contextlib.suppress(*kept), bar:
        for i in range(steps):
            share_cores()
            values = _scalars(step(i))
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

    fit(step, steps, label=label)
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
