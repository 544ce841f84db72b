"""Training: a loop that knows nothing of the model, and the VAE's training step on top of it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm.auto import tqdm

from course_lib.models import VAE

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
    Interrupting (KeyboardInterrupt) returns the history so far; what was trained is kept.
    Raises FloatingPointError, with the step, where a value is NaN or infinite.
    """
    _positive(steps, "steps")
    names, history, done, checked, looked = [], torch.empty(0), 0, 0, time.monotonic()
    with (
        contextlib.suppress(KeyboardInterrupt),
        tqdm(total=steps, desc=label, leave=False, mininterval=0.5) as bar,
    ):
        for i in range(steps):
            values = _scalars(step(i))
            if i == 0:
                names, history = (
                    list(values),
                    torch.empty(steps, len(values), device=values[next(iter(values))].device),
                )
            history[i] = torch.stack([values[name].float() for name in names])
            done = i + 1
            bar.update()
            if time.monotonic() - looked > REFRESH:
                bar.set_postfix(_latest(names, history[checked:done], checked), refresh=False)
                checked, looked = done, time.monotonic()
    _latest(names, history[checked:done], checked)
    return dict(zip(names, history[:done].cpu().unbind(1), strict=True)) if done else {}


def train_vae(
    vae: VAE,
    sample: Callable[[int, torch.Generator], Tensor | tuple[Tensor, Tensor]],
    steps: int,
    *,
    batch: int,
    generator: torch.Generator,
    lr: float = 1e-3,
    loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Train `vae` in place with Adam and return the history {"loss": (steps,)} in nats per image.

    sample     `sample(batch, generator)` gives images (B, C, S, S) in [0, 1], alone or first in a tuple.
    generator  the source of all randomness; on the model's device, nothing has to be copied.
    loss       `loss(x, logits, mean, log_var)`, a scalar to minimise; −ELBO where it is left out.
    """
    from course_lib.lessons import elbo

    _positive(batch, "batch")
    if not lr > 0:
        raise ValueError(f"lr: expected a positive learning rate, got {lr!r}")
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected torch.Generator(), got {type(generator).__name__}")
    loss = loss or (lambda *x: -elbo.elbo(*x))
    optimiser = torch.optim.Adam(vae.parameters(), lr=lr, fused=True)
    device = next(vae.parameters()).device

    def step(i: int) -> dict[str, Tensor]:
        drawn = sample(batch, generator)
        x = drawn[0] if isinstance(drawn, tuple) else drawn
        if i == 0:
            check_images(x, vae.encoder.shape)
        x = x.to(device)
        mean, log_var = vae.encode(x)
        noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(device)
        value = loss(x, vae.decode(elbo.reparameterise(mean, log_var, noise)), mean, log_var)
        if not isinstance(value, Tensor) or value.ndim != 0:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss: expected a scalar tensor (the mean over the batch), got {got}")
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        return {"loss": value.detach()}

    vae.train()
    return fit(step, steps)


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


def _positive(number: int, name: str) -> None:
    if type(number) is not int or number < 1:
        raise ValueError(f"{name}: expected a positive integer, got {number!r}")


def _scalars(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a step returned, detached; a clear error where it is not a dict of scalar tensors."""
    if not isinstance(values, dict) or not values:
        raise TypeError(f"step: expected a dict of scalar tensors, got {type(values).__name__}")
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.ndim != 0:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"step: expected a scalar tensor for {name!r}, got {got}; take .mean() of a batch"
            )
    return {name: value.detach() for name, value in values.items()}


def _latest(names: list[str], rows: Tensor, first: int) -> dict[str, str]:
    """The last row (K,) of rows (n, K), for the bar; FloatingPointError where one of them is not finite."""
    if len(rows) == 0:
        return {}
    rows = rows.tolist()
    for i, row in enumerate(rows):
        for name, value in zip(names, row, strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} at step {first + i}: the training has diverged. Lower the learning rate, or "
                    "look for the log of 0, the exp of a large number or a division by 0."
                )
    return {name: f"{value:.4g}" for name, value in zip(names, rows[-1], strict=True)}
