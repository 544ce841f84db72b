"""The KL's decomposition and its marginals, forward and backward, plain and in bounded memory.

python benchmarks/decomposition.py [--threads N] [--size N] [--repeats N]

Memory is what tensors hold at once. A process may keep more: the course has the C library keep what was freed, for
speed (`training.keep_freed_memory`).
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable

os.environ["COURSE_ANSWERS"] = "solutions"

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from course_lib.exercise.device import DeviceWatch
from course_lib.lessons import beta_vae
from course_lib.metrics import log_sum_exp
from course_lib.training import keep_freed_memory

SIZE, LATENTS, BLOCK, REPEATS = 4096, 10, 16, 3
BLOCKS = (1, 4, 16, 64, 256, 1024, 4096)
WANTED = 5  # times as fast as the plain form
LOG_2PI = math.log(2 * math.pi)


def log_densities(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log N(z_md; mean_nd, exp(log_var_nd)), (M, N, D), as usually written."""
    return -0.5 * ((z[:, None] - mean) ** 2 * (-log_var).exp() + log_var + LOG_2PI)


# ------------------------------------------------------------------ the marginals


def plain_marginals(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return log_densities(z, mean, log_var).logsumexp(1) - math.log(len(mean))


def checkpointed_marginals(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """The plain form 64 images at a time, each computed again when gradients are due: bounded memory, and no more."""

    def log_sum(*part: Tensor) -> Tensor:
        return log_densities(*part).logsumexp(1)

    total = torch.full_like(z, -math.inf)
    for part in zip(mean.split(64), log_var.split(64), strict=True):
        again = checkpoint(log_sum, z, *part, use_reentrant=False, preserve_rng_state=False)
        total = torch.logaddexp(total, again)
    return total - math.log(len(mean))


def streaming_marginals(block: int) -> Callable:
    return lambda z, mean, log_var: beta_vae.log_marginals_streaming(z, mean, log_var, block)


def differentiate(marginals: Callable) -> Callable:
    """The marginals (M, D), and the gradients of a weighted sum of them."""

    def run(leaves: list[Tensor]) -> tuple[Tensor, ...]:
        found = marginals(*leaves)
        weights = torch.arange(1, found.numel() + 1, device=found.device).cos().view_as(found) / len(found)
        return found.detach(), *torch.autograd.grad((weights * found).sum(), leaves)

    return run


# ------------------------------------------------------------------ the three terms


def plain_terms(z: Tensor, mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """log q(z) (B,) and log q(z_d) (B, D) from one tensor (B, B, D) of all log densities."""
    log_density, constant = log_densities(z, mean, log_var), math.log(len(mean))
    return log_density.sum(2).logsumexp(1) - constant, log_density.logsumexp(1) - constant


def bounded_terms(z: Tensor, mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """The same by the lesson's matrix products and streaming marginals."""
    joint = log_sum_exp(beta_vae.pairwise_log_density(z, mean, log_var), 1) - math.log(len(mean))
    return joint, beta_vae.log_marginals_streaming(z, mean, log_var, BLOCK)


def decompose(terms: Callable) -> Callable:
    """A weighted sum of the three terms, as in training, and its gradients."""

    def run(leaves: list[Tensor]) -> tuple[Tensor, ...]:
        z, mean, log_var = leaves
        log_conditional = -0.5 * ((z - mean) ** 2 * (-log_var).exp() + log_var + LOG_2PI).sum(1)
        found = beta_vae.kl_decomposition(z, log_conditional, *terms(z, mean, log_var))
        total = found[0] + 6 * found[1] + found[2]
        return total.detach(), *torch.autograd.grad(total, leaves)

    return run


# ------------------------------------------------------------------ time and memory


def inputs(size: int) -> list[Tensor]:
    """z, mean, log_var (size, LATENTS): a sample of each posterior, and the posteriors."""
    g = torch.Generator().manual_seed(0)
    mean, log_var, noise = torch.randn(3, size, LATENTS, generator=g)
    log_var = log_var - 2
    return [t.requires_grad_() for t in (mean + (0.5 * log_var).exp() * noise, mean, log_var)]


def peak_bytes(run: Callable, size: int) -> int:
    """Bytes alive at once, counted on meta tensors as a check does."""
    leaves = [t.detach().to("meta").requires_grad_() for t in inputs(size)]
    with DeviceWatch() as watch:
        run(leaves)
    return watch.peak


def compare(runs: dict[str, Callable], size: int, repeats: int) -> None:
    """Time and memory of each, beside the first; all in turns, so that whatever else the machine does slows all."""
    seconds, (first, *others) = {name: [] for name in runs}, runs
    values = {}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            values[name] = run(inputs(size))
            seconds[name].append(time.perf_counter() - start)
    for name in others:
        for a, b in zip(values[first], values[name], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    for name, run in runs.items():
        fastest = min(seconds[name])
        ratio = min(seconds[first]) / fastest
        print(f"{name:<20}{fastest:8.3f} s  {ratio:6.1f} x {peak_bytes(run, size) / 1024**2:8.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    print(f"{args.size} x {LATENTS}, forward and backward, {torch.get_num_threads()} thread(s)")
    print(f"\nMarginals (wanted: {WANTED} x)")
    marginals = {"plain": plain_marginals, "checkpoint, 64": checkpointed_marginals}
    marginals |= {f"streaming, {block}": streaming_marginals(block) for block in BLOCKS if block <= args.size}
    compare({k: differentiate(v) for k, v in marginals.items()}, args.size, args.repeats)
    print("\nAll three terms")
    terms = {"plain": plain_terms, f"bounded, {BLOCK}": bounded_terms}
    compare({k: decompose(v) for k, v in terms.items()}, args.size, args.repeats)


if __name__ == "__main__":
    main()
