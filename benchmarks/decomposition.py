"""The KL's decomposition, forward and backward, in bounded memory and plain: `python benchmarks/decomposition.py`.

Memory is what tensors hold at once. A process may keep more: the course has the C library keep what was freed, for
speed (`training.keep_freed_memory`).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable

os.environ["COURSE_ANSWERS"] = "solutions"

import torch
from torch import Tensor

from course_lib.exercise.device import DeviceWatch
from course_lib.lessons import beta_vae

SIZE, LATENTS, BLOCK, REPEATS = 4096, 10, 64, 3
LOG_2PI = math.log(2 * math.pi)


def plain(z: Tensor, mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """log q(z) (B,) and log q(z_d) (B, D) from one tensor (B, B, D) of all log densities, as usually written."""
    log_density = -0.5 * ((z[:, None] - mean) ** 2 * (-log_var).exp() + log_var + LOG_2PI)
    constant = math.log(len(mean))
    return log_density.sum(2).logsumexp(1) - constant, log_density.logsumexp(1) - constant


def bounded(z: Tensor, mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """The same by the lesson's matrix products and streaming marginals."""
    joint = beta_vae.pairwise_log_density(z, mean, log_var).logsumexp(1) - math.log(len(mean))
    return joint, beta_vae.log_marginals_streaming(z, mean, log_var, BLOCK)


def inputs() -> list[Tensor]:
    """z, mean, log_var (SIZE, LATENTS): a sample of each posterior, and the posteriors."""
    g = torch.Generator().manual_seed(0)
    mean, log_var, noise = torch.randn(3, SIZE, LATENTS, generator=g)
    log_var = log_var - 2
    return [t.requires_grad_() for t in (mean + (0.5 * log_var).exp() * noise, mean, log_var)]


def run(estimate: Callable, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    """The weighted sum of the three terms, and its gradients."""
    z, mean, log_var = leaves
    log_conditional = -0.5 * ((z - mean) ** 2 * (-log_var).exp() + log_var + LOG_2PI).sum(1)
    terms = beta_vae.kl_decomposition(z, log_conditional, *estimate(z, mean, log_var))
    total = terms[0] + 6 * terms[1] + terms[2]
    return total.detach(), *torch.autograd.grad(total, leaves)


def peak_bytes(estimate: Callable) -> int:
    """Bytes alive at once, counted on meta tensors as a check does."""
    leaves = [t.detach().to("meta").requires_grad_() for t in inputs()]
    with DeviceWatch() as watch:
        run(estimate, leaves)
    return watch.peak


def main() -> None:
    seconds, values = {plain: [], bounded: []}, {}
    for _ in range(REPEATS):  # in turns, so that whatever else runs slows both
        for estimate, times in seconds.items():
            start = time.perf_counter()
            values[estimate] = run(estimate, inputs())
            times.append(time.perf_counter() - start)
    fastest = {estimate: min(times) for estimate, times in seconds.items()}
    peaks = {estimate: peak_bytes(estimate) for estimate in seconds}
    for estimate in seconds:
        print(f"{estimate.__name__:<8}{fastest[estimate]:7.2f} s {peaks[estimate] / 1024**2:7.0f} MB")
    for a, b in zip(values[plain], values[bounded], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    faster, smaller = (x[plain] / x[bounded] for x in (fastest, peaks))
    print(
        f"{SIZE} x {LATENTS}, forward and backward: {faster:.1f} times as fast, {smaller:.1f} times less memory"
    )


if __name__ == "__main__":
    main()
