"""Lesson 08, on the GPU: contracts, the plain forms that are given, and the launchers of the kernels.

A kernel is written for one program of many that run at once. Its arguments are pointers to the first numbers of its tensors,
sizes, strides (how far apart two rows, and two columns, lie in memory), and in capitals the sizes of blocks: powers of two, known when
the kernel is compiled. Tensors that it writes are contiguous. Terms that do not depend on the data, such as log 2π and log N, are
added by the launcher.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.exercise import MB, exercise
from course_lib.exercise.kernels import Trace, blocks, bytes_of, expect_moved, launch, power_of_two
from course_lib.exercise.kernels import tl as tl  # in an answer: from course_lib.lessons.on_the_gpu import tl
from course_lib.exercise.probe import check_report, linear

LOG_2PI = math.log(2 * math.pi)

# ------------------------------------------------------------------ the queue, a toy model


class ToyEvent:
    """A place in the queue of a `ToyQueue`; after `synchronize`, the time at which the device came by."""

    def __init__(self, queue: ToyQueue):
        self.queue, self.time, self.seen = queue, None, False

    def record(self) -> None:
        self.time, self.seen = torch.maximum(self.queue.device, self.queue.host), False
        self.queue.recorded.append(self)

    def elapsed_time(self, end: ToyEvent) -> Tensor:
        """Milliseconds from this event to a later one; RuntimeError before the device has come by both."""
        if not (self.seen and end.seen):
            raise RuntimeError(
                "Both events must be completed: synchronise the queue before you ask for their times."
            )
        return end.time - self.time


class ToyQueue:
    """A processor that launches work and a device that does it in order, each with its clock in milliseconds.

    host      the processor's clock, a scalar tensor
    device    when the device will have done all that was launched so far
    cost      what one launch takes the processor
    """

    def __init__(self, like: Tensor, cost: float = 0.0):
        self.host = torch.zeros((), device=like.device, dtype=like.dtype)
        self.device, self.cost, self.recorded = self.host, cost, []
        self.spans: list[tuple[Tensor, Tensor, Tensor]] = []  # launched, started, done

    def launch(self, milliseconds: Tensor) -> None:
        """Queue work that takes the device so long; the processor goes on at once."""
        self.host = self.host + self.cost
        start = torch.maximum(self.device, self.host)
        self.device = start + milliseconds
        self.spans.append((self.host, start, self.device))

    def synchronize(self) -> None:
        """The processor waits until the device has done everything."""
        self.host = torch.maximum(self.host, self.device)
        for event in self.recorded:
            event.seen = True

    def clock(self) -> Tensor:
        """The processor's time, as time.perf_counter() would give it."""
        return self.host

    def Event(self) -> ToyEvent:
        return ToyEvent(self)


class CudaQueue:
    """The current CUDA stream under the same names; events give times as tensors."""

    def Event(self) -> Any:
        return _CudaEvent(enable_timing=True)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def clock(self) -> Tensor:
        import time

        return torch.tensor(1000 * time.perf_counter(), dtype=torch.float64)


class _CudaEvent(torch.cuda.Event):
    def elapsed_time(self, end: _CudaEvent) -> Tensor:
        return torch.tensor(super().elapsed_time(end))


def _probe_time(implementation: Callable, durations: Tensor, warm_up: int) -> dict[str, Tensor]:
    queue, made = ToyQueue(durations), []
    queue.launch(torch.full((), 7.0, device=durations.device, dtype=durations.dtype))  # somebody else's work

    def call() -> None:
        if len(made) < len(durations):
            queue.launch(durations[len(made)])
        made.append(None)

    milliseconds = implementation(call, queue, warm_up, len(durations) - warm_up)
    calls = torch.full((), len(made), device=durations.device)
    return {"milliseconds": milliseconds, "calls": calls}


@exercise("Time it properly", probe=_probe_time, gradients=False)
def time_call(call: Callable[[], Any], queue: ToyQueue, warm_up: int, repeats: int) -> Tensor:
    """How long one call keeps the device busy: the median of `repeats` calls, after `warm_up` that are not counted.

    call     launches work on the device and returns at once
    queue    queue.Event() makes an event, event.record() puts it into the queue, queue.synchronize() waits for the
             device, start.elapsed_time(end) gives the milliseconds between two events that the device has passed, a
             scalar tensor. It is a `ToyQueue`, or a `CudaQueue` around torch.cuda
    Returns a scalar in milliseconds, as torch.median counts: of an even number the lower of the two in the middle.

    https://docs.pytorch.org/docs/stable/notes/cuda.html#asynchronous-execution
    """


# ------------------------------------------------------------------ a step without stalls


def stalling_step(
    model: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, labels: Tensor, limit: float
) -> dict[str, Tensor]:
    """A step of training as one writes it at first: right, and a GPU waits in it five times."""
    losses = F.cross_entropy(model(x), labels, reduction="none")
    kept = losses[losses < limit]  # a size that depends on values
    if len(kept) > 0:
        loss = kept.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total = loss.item()  # a value read on the host
    else:
        total = 0.0
    right = 0
    for scores, label in zip(model(x).tolist(), labels.tolist(), strict=True):
        right += scores.index(max(scores)) == label
    numbers = torch.tensor([total, len(kept), right], dtype=x.dtype).to(x.device)  # host to device
    return {"loss": numbers[0], "kept": numbers[1], "right": numbers[2]}


def _probe_step(
    implementation: Callable, weight: Tensor, x: Tensor, labels: Tensor, limit: float
) -> dict[str, Tensor]:
    model = linear(weight)
    model.weight.grad = torch.ones_like(weight)  # of an earlier step
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    with torch.enable_grad():
        report = implementation(model, optimiser, x, labels, limit)
    check_report(report, ("loss", "kept", "right"), x)
    return {"weight": model.weight.detach()} | report


def _step_at_scale(n: int) -> dict:
    return {
        "weight": torch.randn(10, 8),
        "x": torch.randn(n, 8),
        "labels": torch.arange(n) % 10,
        "limit": 2.5,
    }


@exercise(
    "Find the stalls",
    points=2,
    probe=_probe_step,
    gradients=False,
    at_scale=_step_at_scale,
    memory=4 * MB,
    plain=stalling_step,
)
def lean_step(
    model: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, labels: Tensor, limit: float
) -> dict[str, Tensor]:
    """`stalling_step` without a stall: the same weights and the same report, and the processor never waits.

    One step on the mean cross-entropy (nats) of those examples whose loss is below `limit`; where there are none the
    loss is 0 and the weights stay (the optimiser is plain SGD).
    model      gives logits (B, K) for x (B, P);  labels (B,), int64
    Returns {"loss": that mean, "kept": how many examples it is of, "right": how many of all examples the model classifies
    rightly after the step}: detached scalars of x's dtype, on its device.
    """


# ------------------------------------------------------------------ bytes and flops


class Device(NamedTuple):
    """What a GPU does in a second, at most.

    peak       operations on float32 outside the tensor cores, where a multiplication and the addition to it are two
    bandwidth  bytes from and to its memory
    specials   exponentials, logarithms and roots. A multiprocessor does 16 of them a clock, and of multiplications with addition 64
               (T4, A100) or 128 (H100), so this is the peak by 8 or by 16
    """

    peak: float
    bandwidth: float
    specials: float


# Peaks and bandwidths: NVIDIA T4 product brief PB-09256-001; A100 80GB SXM, datasheet nvidia-a100-datasheet-us; H100 SXM, datasheet.
# Specials: CUDA C++ Best Practices Guide, "Throughput of Native Arithmetic Instructions", compute capabilities 7.5, 8.0 and 9.0,
# https://docs.nvidia.com/cuda/cuda-c-best-practices-guide/#throughput-of-native-arithmetic-instructions. Measured on an H100: 4.17e12.
DEVICES = {
    "T4": Device(8.1e12, 320e9, 8.1e12 / 8),
    "A100": Device(19.5e12, 2039e9, 19.5e12 / 8),
    "H100": Device(67e12, 3350e9, 67e12 / 16),
}
# Seconds of the processor's: for one launch at the least (x + x from Python took 7 µs beside an H100), and for one operation of a
# training step in eager PyTorch, with modules, autograd and Adam about it (the steps a second in data/gpu say 59 µs for the VAE's, 42
# for FactorVAE's).
LAUNCH, EAGER = 5e-6, 45e-6


def _products_at_scale(n: int) -> dict:
    return {name: 1 + torch.rand(n) for name in ("rows", "inner", "columns")} | {"size": 4}


@exercise("Bytes and flops", gradients=False, at_scale=_products_at_scale)
def arithmetic_intensity(rows: Tensor, inner: Tensor, columns: Tensor, size: int) -> Tensor:
    """Operations for each byte of the product of matrices (rows, inner) and (inner, columns), whose numbers take `size` bytes.

    2 · rows · inner · columns operations (a multiplication and an addition for each term); every matrix is moved once: both
    factors are read, the product is written. All of shape (K,): K products at once; returns (K,), in operations a byte.
    """


def _work_at_scale(n: int) -> dict:
    device = {"peak": 1.0, "bandwidth": 1.0, "launch_seconds": 1.0}
    return {name: torch.rand(n) for name in ("flops", "moved", "launches")} | device


@exercise("Bytes and flops", gradients=False, at_scale=_work_at_scale)
def roofline_seconds(
    flops: Tensor, moved: Tensor, launches: Tensor, peak: float, bandwidth: float, launch_seconds: float
) -> Tensor:
    """The least time that a device needs: whatever takes longest of computing, moving and launching, which overlap.

    flops (K,) operations, moved (K,) bytes, launches (K,): the K pieces of work.
    peak       operations a second;  bandwidth: bytes a second;  launch_seconds: for one launch
    Returns (K,), in seconds. Williams et al. (2009), https://doi.org/10.1145/1498765.1498785, with a third roof.
    """


def fused_traffic_loop(reads: Tensor, writes: Tensor, kept: Tensor, sizes: Tensor) -> Tensor:
    """Operation by operation, tensor by tensor."""
    apart = fused = 0.0
    for t, size in enumerate(sizes.tolist()):
        read = any(row[t] for row in reads.tolist())
        written = any(row[t] for row in writes.tolist())
        for k in range(len(reads)):
            apart += size * (bool(reads[k, t]) + bool(writes[k, t]))
        fused += size * (read and not written)
        fused += size * (written and bool(kept[t]))
    return torch.tensor([apart, fused], dtype=sizes.dtype)


def _traffic_at_scale(n: int) -> dict:
    reads = torch.rand(8, n) < 0.3
    return {
        "reads": reads,
        "writes": (torch.rand(8, n) < 0.1) & ~reads,
        "kept": torch.rand(n) < 0.5,
        "sizes": torch.rand(n) + 1,
    }


@exercise(
    "What fusion saves", gradients=False, at_scale=_traffic_at_scale, memory=4 * MB, plain=fused_traffic_loop
)
def fused_traffic(reads: Tensor, writes: Tensor, kept: Tensor, sizes: Tensor) -> Tensor:
    """The bytes that K operations on T tensors move, each launched for itself, and all fused into one kernel.

    reads, writes (K, T) bool: which operation reads and writes which tensor;  kept (T,) bool: what is needed afterwards
    sizes (T,): bytes of the tensors
    Apart, an operation moves all that it reads and writes. Fused, a tensor that any operation reads and none writes is read once; one
    that any writes is written once if it is kept, and never leaves the chip otherwise. Returns (2,): apart, fused.
    """


# ------------------------------------------------------------------ kernels and their launchers


def _strides(**tensors: Tensor) -> dict[str, int]:
    """The arguments NAME_row and NAME_column of matrices."""
    return {
        f"{n}_{axis}": x.stride(i) for n, x in tensors.items() for i, axis in enumerate(("row", "column"))
    }


def _unwritten(like: Tensor, *shape: int) -> Tensor:
    """Room for a kernel's result; on the CPU, where it is checked, what no program writes is NaN."""
    empty = torch.empty(shape, device=like.device, dtype=like.dtype)
    return empty.fill_(math.nan) if like.device.type == "cpu" else empty


def launch_gaussian_kl(
    kernel: Callable, mean: Tensor, log_var: Tensor, rows: int = 16
) -> tuple[Tensor, Trace | None]:
    """The KL (B,) that a kernel writes, `rows` examples a program, and what its programs did."""
    batch, latents = mean.shape
    kl = _unwritten(mean, batch)
    tensors = {"mean": mean, "log_var": log_var}
    numbers = {"B": batch, "D": latents, **_strides(**tensors)}
    sizes = {"ROWS": rows, "COLUMNS": power_of_two(latents)}
    return kl, launch(kernel, blocks(batch, rows), **tensors, kl=kl, **numbers, **sizes)


def launch_log_sum_exp(
    kernel: Callable, x: Tensor, rows: int = 4, block: int = 32
) -> tuple[Tensor, Trace | None]:
    """The log Σ exp (B,) of rows that a kernel writes, `rows` of them a program, `block` columns at a time."""
    batch, length = x.shape
    out = _unwritten(x, batch)
    numbers = {"B": batch, "N": length, **_strides(x=x)}
    return out, launch(kernel, blocks(batch, rows), x=x, out=out, **numbers, ROWS=rows, BLOCK=block)


# Codes and posteriors at a time, and warps, of a program: of the forward kernel, which keeps its codes, and the backward, which
# keeps its posteriors. On a GPU they are among the fastest that were timed on an H100 (data/gpu).
FORWARD = {"cpu": (4, 16, None), "cuda": (16, 128, 8)}
BACKWARD = {"cpu": (16, 4, None), "cuda": (4, 64, 4)}


def launch_log_aggregate_posterior(
    kernel: Callable, z: Tensor, mean: Tensor, log_var: Tensor, sizes: str = ""
) -> tuple[Tensor, Trace | None]:
    """log q(z) and all log q(z_d), (B, 1 + D) in nats, that a kernel has summed over N posteriors.

    sizes: whose blocks, "cpu" or "cuda"; those of z's device if not given.
    """
    (batch, latents), number = z.shape, len(mean)
    rows, block, warps = FORWARD[sizes or ("cuda" if z.is_cuda else "cpu")]
    mean, log_var = _column_after_column(mean, log_var)
    out = _unwritten(z, batch, 1 + latents)
    tensors = {"z": z, "mean": mean, "log_var": log_var}
    numbers = {"B": batch, "N": number, "D": latents, **_strides(**tensors)}
    sizes = {"ROWS": rows, "BLOCK": block, "COLUMNS": power_of_two(latents)}
    trace = launch(kernel, blocks(batch, rows), warps=warps, **tensors, out=out, **numbers, **sizes)
    return out - _constants(out, number), trace


def launch_backward(
    kernel: Callable,
    gradient: Tensor,
    out: Tensor,
    z: Tensor,
    mean: Tensor,
    log_var: Tensor,
    sizes: str = "",
) -> tuple[tuple[Tensor, Tensor, Tensor], Trace | None]:
    """The gradients of z, mean and log_var, given that of `out`; `sizes` as for the forward kernel."""
    (batch, latents), number = z.shape, len(mean)
    rows, block, warps = BACKWARD[sizes or ("cuda" if z.is_cuda else "cpu")]
    sums = out + _constants(out, number)
    found = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (z, mean, log_var)]
    mean, log_var = _column_after_column(mean, log_var)
    tensors = {
        "z": z,
        "mean": mean,
        "log_var": log_var,
        "sums": sums.contiguous(),
        "gradient": gradient.contiguous(),
    }
    tensors |= dict(zip(("z_gradient", "mean_gradient", "log_var_gradient"), found, strict=True))
    numbers = {"B": batch, "N": number, "D": latents, **_strides(z=z, mean=mean, log_var=log_var)}
    sizes = {"ROWS": rows, "BLOCK": block, "COLUMNS": power_of_two(latents)}
    trace = launch(kernel, blocks(number, block), warps=warps, **tensors, **numbers, **sizes)
    return (found[0], found[1], found[2]), trace


def _column_after_column(*posteriors: Tensor) -> tuple[Tensor, ...]:
    """On a GPU the same matrices with each latent's numbers side by side in memory, so that neighbouring threads, which have
    neighbouring posteriors, read neighbouring numbers; elsewhere as they are."""
    return tuple(x.T.contiguous().T if x.is_cuda else x for x in posteriors)


def _constants(out: Tensor, number: int) -> Tensor:
    """What the kernels leave out: log N, and log 2π / 2 for every latent of a density. (1 + D,)"""
    latents = torch.full((out.shape[1],), 0.5 * LOG_2PI, device=out.device, dtype=out.dtype)
    latents[0] *= out.shape[1] - 1
    return latents + math.log(number)


def least_bytes(batch: int, number: int, latents: int, rows: int, size: int = 4) -> int:
    """What the streaming kernel must move: z and the result once, all posteriors once for every block of `rows` codes."""
    return size * (batch * latents + batch * (1 + latents) + blocks(batch, rows) * 2 * number * latents)


def least_bytes_backward(batch: int, number: int, latents: int, block: int, size: int = 4) -> int:
    """Of the backward kernel: posteriors and their gradients once; for every block of them z, sums and gradients once, and z's
    gradient read and written."""
    codes = batch * latents + 2 * batch * (1 + latents) + 2 * batch * latents
    return size * (4 * number * latents + blocks(number, block) * codes)


def _laid_out(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The same numbers, some tensors row after row and some as they come: each is to be read with its own strides."""
    return tuple(x.contiguous() if (len(x) + i) % 2 else x for i, x in enumerate(tensors))


def _probe_kl(implementation: Callable, mean: Tensor, log_var: Tensor) -> Tensor:
    kl, trace = launch_gaussian_kl(implementation, *_laid_out(mean, log_var))
    expect_moved(trace, bytes_of(mean, log_var, kl))
    return kl


@exercise("A kernel for the KL", points=2, probe=_probe_kl, gradients=False, kernel=True)
def gaussian_kl_kernel(
    mean: tl.pointer_type,
    log_var: tl.pointer_type,
    kl: tl.pointer_type,
    B: int,
    D: int,
    mean_row: int,
    mean_column: int,
    log_var_row: int,
    log_var_column: int,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Triton kernel: kl_b = ½ Σ_d (mean_bd² + exp(log_var_bd) − log_var_bd − 1), in nats.

    mean, log_var   pointers to (B, D), number (b, d) at NAME + b · NAME_row + d · NAME_column
    kl              pointer to (B,), contiguous, written
    ROWS, COLUMNS   powers of two: program i has the examples from i · ROWS on; COLUMNS ≥ D covers a row
    Each number is loaded once. Nothing past B and D is read or written, and what pads a block counts for nothing.
    """


def _probe_log_sum_exp(implementation: Callable, x: Tensor) -> Tensor:
    out, trace = launch_log_sum_exp(implementation, *_laid_out(x))
    expect_moved(trace, bytes_of(x, out))
    return out


@exercise("A sum that streams", points=2, probe=_probe_log_sum_exp, gradients=False, kernel=True)
def log_sum_exp_kernel(
    x: tl.pointer_type,
    out: tl.pointer_type,
    B: int,
    N: int,
    x_row: int,
    x_column: int,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Triton kernel: out_b = log Σ_n exp x_bn, in one pass over rows of any length.

    x       pointer to (B, N), number (b, n) at x + b · x_row + n · x_column
    out     pointer to (B,), contiguous, written
    ROWS    rows of a program;  BLOCK: columns that it holds at a time
    Keep the largest number so far and the sum of exp(x − largest); where the largest grows, rescale the sum. Accumulate in
    float32 or wider. Milakov and Gimelshein (2018), https://arxiv.org/abs/1805.02867.
    """


def _probe_aggregate(implementation: Callable, z: Tensor, mean: Tensor, log_var: Tensor) -> dict[str, Tensor]:
    out, trace = launch_log_aggregate_posterior(implementation, *_laid_out(z, mean, log_var))
    expect_moved(trace, least_bytes(len(z), len(mean), z.shape[1], 4, z.element_size()))
    return {"joint": out[:, 0], "marginals": out[:, 1:]}


@exercise("The aggregate posterior, streamed", points=3, probe=_probe_aggregate, gradients=False, kernel=True)
def log_aggregate_posterior_kernel(
    z: tl.pointer_type,
    mean: tl.pointer_type,
    log_var: tl.pointer_type,
    out: tl.pointer_type,
    B: int,
    N: int,
    D: tl.constexpr,
    z_row: int,
    z_column: int,
    mean_row: int,
    mean_column: int,
    log_var_row: int,
    log_var_column: int,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Triton kernel: log Σ_n exp of e_bnd = −½ ((z_bd − mean_nd)² exp(−log_var_nd) + log_var_nd), jointly and for each latent.

    z (B, D), mean and log_var (N, D): pointers, with strides as before
    out     pointer to (B, 1 + D), contiguous, written: out_b0 = log Σ_n exp Σ_d e_bnd, out_b,1+d = log Σ_n exp e_bnd
    ROWS    codes of a program;  BLOCK: posteriors that it holds at a time;  COLUMNS ≥ D
    One pass over the posteriors for all of it: nothing of size (B, N) is stored. The launcher subtracts log N and log 2π.
    """


def _probe_backward(
    implementation: Callable, z: Tensor, mean: Tensor, log_var: Tensor, gradient: Tensor
) -> dict[str, Tensor]:
    out = streamed(z, mean, log_var, block=16)
    found, trace = launch_backward(implementation, gradient, out, *_laid_out(z, mean, log_var))
    expect_moved(trace, least_bytes_backward(len(z), len(mean), z.shape[1], 4, z.element_size()))
    return dict(zip(("z", "mean", "log_var"), found, strict=True))


@exercise(
    "Backward, by computing again",
    points=3,
    probe=_probe_backward,
    gradients=False,
    kernel=True,
    rtol=1e-4,
    atol=1e-5,
)
def log_aggregate_posterior_backward_kernel(
    z: tl.pointer_type,
    mean: tl.pointer_type,
    log_var: tl.pointer_type,
    sums: tl.pointer_type,
    gradient: tl.pointer_type,
    z_gradient: tl.pointer_type,
    mean_gradient: tl.pointer_type,
    log_var_gradient: tl.pointer_type,
    B: int,
    N: int,
    D: tl.constexpr,
    z_row: int,
    z_column: int,
    mean_row: int,
    mean_column: int,
    log_var_row: int,
    log_var_column: int,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Triton kernel: the gradients of `log_aggregate_posterior_kernel`, its exponents e computed again.

    With the weights w_bnd = gradient_b0 exp(Σ_d e_bnd − sums_b0) + gradient_b,1+d exp(e_bnd − sums_b,1+d) and
    s_bnd = (z_bd − mean_nd) exp(−log_var_nd):

        z_gradient_bd = −Σ_n w s,   mean_gradient_nd = Σ_b w s,   log_var_gradient_nd = ½ Σ_b w ((z − mean) s − 1)

    sums, gradient      pointers to (B, 1 + D), contiguous: what the forward kernel wrote, and the gradient of it
    *_gradient          pointers to (B, D), (N, D), (N, D), contiguous, zero at first, written
    ROWS, BLOCK         program i has the posteriors from i · BLOCK on, and goes through the codes, ROWS at a time. All programs
                        add to z_gradient: tl.atomic_add
    """


# ------------------------------------------------------------------ wrapped for autograd


@torch.no_grad()
def streamed(z: Tensor, mean: Tensor, log_var: Tensor, block: int = 256) -> Tensor:
    """log q(z) and all log q(z_d), (B, 1 + D), in plain PyTorch, `block` posteriors at a time; no gradient flows."""
    top = torch.full((len(z), 1 + z.shape[1]), -math.inf, device=z.device, dtype=z.dtype)
    total = torch.zeros_like(top)
    for exponents in _exponents(z, mean, log_var, block):
        higher = torch.maximum(top, exponents.amax(1))
        total = total * (top - higher).exp() + (exponents - higher[:, None]).exp().sum(1)
        top = higher
    return top + total.log() - _constants(top, len(mean))


@torch.no_grad()
def streamed_backward(
    gradient: Tensor, out: Tensor, z: Tensor, mean: Tensor, log_var: Tensor, block: int = 256
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of z, mean, log_var, given that of `streamed`, by computing its exponents again."""
    sums, start = out + _constants(out, len(mean)), 0
    to_z, to_mean, to_log_var = torch.zeros_like(z), torch.zeros_like(mean), torch.zeros_like(log_var)
    for exponents in _exponents(z, mean, log_var, block):
        part = slice(start, start + exponents.shape[1])
        weights = (exponents - sums[:, None]).exp() * gradient[:, None]
        weights = weights[..., :1] + weights[..., 1:]  # (B, block, D)
        difference = z[:, None] - mean[part]
        scaled = difference * (-log_var[part]).exp()
        to_z -= (weights * scaled).sum(1)
        to_mean[part] = (weights * scaled).sum(0)
        to_log_var[part] = 0.5 * (weights * (difference * scaled - 1)).sum(0)
        start = part.stop
    return to_z, to_mean, to_log_var


def _exponents(z: Tensor, mean: Tensor, log_var: Tensor, block: int) -> Any:
    """Block by block (B, block, 1 + D): the sum over latents, and each of them."""
    for m, v in zip(mean.split(block), log_var.split(block), strict=True):
        each = -0.5 * ((z[:, None] - m) ** 2 * (-v).exp() + v)
        yield torch.cat([each.sum(2, keepdim=True), each], dim=2)


def _probe_differentiable(implementation: Callable, z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return implementation(streamed, streamed_backward)(z, mean, log_var)


def _codes(n: int) -> dict:
    return {name: torch.randn(n, 10) for name in ("z", "mean", "log_var")}


@exercise(
    "Backward, by computing again",
    points=2,
    probe=_probe_differentiable,
    at_scale=_codes,
    memory=300 * MB,
    rtol=1e-4,
    atol=1e-5,
)
def differentiable(
    forward: Callable[..., Tensor], backward: Callable[..., Sequence[Tensor]]
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Two functions that autograd cannot look into, a kernel's launchers say, as one that it can differentiate.

    forward(z, mean, log_var)                         → out, with no graph
    backward(gradient, out, z, mean, log_var)         → the gradients of z, mean, log_var
    Returns a function of (z, mean, log_var) that gives forward's result and, where gradients are asked for, backward's. Keep for it
    what backward needs with ctx.save_for_backward, and nothing larger.

    https://docs.pytorch.org/docs/stable/notes/extending.html
    """
