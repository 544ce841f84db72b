"""Lesson 08: what a function launches, moves and computes; pictures of queues, tiles and roofs; the kernels in use."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from course_lib.exercise.kernels import NOWHERE, Trace
from course_lib.files import data_folder
from course_lib.lessons import on_the_gpu as lesson
from course_lib.training import descend

if TYPE_CHECKING:  # slow to import, and not needed where nothing is drawn
    from matplotlib.figure import Figure

# ------------------------------------------------------------------ what a function costs


@dataclass
class Work:
    """What a function asks of a device.

    launches, moved   and bytes
    flops             as peaks are counted: two for a multiplication with the addition that follows, which is one instruction. An
                      addition or a multiplication alone takes as long, so it counts as two as well
    specials          exponentials, logarithms and roots, for which there are fewer units
    """

    launches: int = 0
    moved: int = 0
    flops: int = 0
    specials: int = 0

    def computing(self, device: lesson.Device) -> float:
        """Operations that take the device as long as these flops and specials, which different units of it do at once."""
        return max(self.flops, self.specials * device.peak / device.specials)


_FREE = {  # these launch nothing: they look at the same memory in another way, or only reserve it
    *(
        "view",
        "_unsafe_view",
        "t",
        "transpose",
        "permute",
        "expand",
        "slice",
        "select",
        "unsqueeze",
        "squeeze",
        "detach",
    ),
    *(
        "alias",
        "as_strided",
        "split",
        "split_with_sizes",
        "unbind",
        "empty",
        "empty_like",
        "new_empty",
        "lift_fresh",
        "diagonal",
    ),
    *("_reshape_alias", "unfold", "empty_strided", "new_empty_strided", "is_pinned"),
    # and these are the processor's: Adam's numbers of steps, and notes for a profiler
    *("_local_scalar_dense", "_record_function_enter_new", "_record_function_exit"),
}
_SPECIAL = {"exp", "exp2", "log", "log2", "log1p", "expm1", "sqrt", "rsqrt", "sigmoid", "tanh", "logsumexp"}
_SPECIAL |= {"_foreach_sqrt", "_softmax", "_log_softmax", "binary_cross_entropy_with_logits"}


class _Counting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.work = Work()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in _FREE:
            return result
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.work.launches += 1
        self.work.moved += sum(_bytes(x) for x in (*read, *made))
        if counter := flop_registry.get(func.overloadpacket):
            self.work.flops += counter(*args, **(kwargs or {}), out_val=result)
        else:
            numbers = max([x.numel() for x in (*read, *made)], default=0)
            self.work.flops += 2 * numbers
            self.work.specials += numbers * (func.overloadpacket.__name__ in _SPECIAL)
        return result


def _bytes(x: Tensor) -> int:
    """The bytes of the memory behind a tensor: an expanded axis is not there twice."""
    shape = [n for n, s in zip(x.shape, x.stride(), strict=True) if s]
    return math.prod(shape) * x.element_size()


def count(function: Callable, *inputs: Tensor) -> Work:
    """What `function` costs in eager PyTorch, where every operation is launched for itself. Also of meta tensors."""
    with _Counting() as mode:
        function(*inputs)
    return mode.work


def seconds(work: Work | Trace, device: str, launch: float = lesson.LAUNCH) -> float:
    """The roofline's estimate for a device of `lesson.DEVICES`, by your `roofline_seconds`; a launch takes `launch` seconds."""
    if isinstance(work, Trace):
        work = Work(1, work.moved, 2 * work.operations, work.specials)
    speeds = lesson.DEVICES[device]
    asked = (work.computing(speeds), work.moved, work.launches)
    flops, moved, launches = (torch.tensor([float(n)], dtype=torch.float64) for n in asked)
    return lesson.roofline_seconds(flops, moved, launches, speeds.peak, speeds.bandwidth, launch).item()


def limit(work: Work, device: str, launch: float = lesson.LAUNCH) -> str:
    """What takes longest there: "computing", "moving" or "launching"."""
    speeds = lesson.DEVICES[device]
    times = {
        "computing": work.computing(speeds) / speeds.peak,
        "moving": work.moved / speeds.bandwidth,
        "launching": work.launches * launch,
    }
    return max(times, key=times.get)


def plain_log_aggregate_posterior(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log q(z) and all log q(z_d), (B, 1 + D), by one tensor (B, N, D): what the kernel never stores."""
    each = -0.5 * ((z[:, None] - mean) ** 2 * (-log_var).exp() + log_var + lesson.LOG_2PI)
    return torch.cat([each.sum(2, keepdim=True), each], dim=2).logsumexp(1) - math.log(len(mean))


def kernel_work(batch: int, number: int, latents: int) -> Work:
    """What your `log_aggregate_posterior_kernel` costs on a GPU at a size that the interpreter does not run, in one launch.

    Arithmetic is counted in a small run, in a GPU's blocks, whose sizes are powers of two, so that nothing pads a block; it grows with the pairs of a code and a
    posterior, and with the densities of each, 1 + latents. Bytes are the least possible (`lesson.least_bytes`), to which a check has held
    the kernel.
    """
    kernel = lesson.log_aggregate_posterior_kernel
    trace = lesson.launch_log_aggregate_posterior(kernel, *_small(), sizes="cuda")[1]
    moved = lesson.least_bytes(batch, number, latents, lesson.FORWARD["cuda"][0])
    return _grown(trace, moved, batch * number * (1 + latents))


def backward_work(batch: int, number: int, latents: int) -> Work:
    """The same of your `log_aggregate_posterior_backward_kernel`."""
    z, mean, log_var = _small()
    out = lesson.streamed(z, mean, log_var)
    kernel = lesson.log_aggregate_posterior_backward_kernel
    trace = lesson.launch_backward(kernel, torch.ones_like(out), out, z, mean, log_var, sizes="cuda")[1]
    moved = lesson.least_bytes_backward(batch, number, latents, lesson.BACKWARD["cuda"][1])
    return _grown(trace, moved, batch * number * (1 + latents))


_SMALL = (16, 256, 8)  # codes, posteriors, latents


def _small() -> tuple[Tensor, Tensor, Tensor]:
    codes, posteriors, latents = _SMALL
    g = torch.Generator().manual_seed(0)
    return tuple(torch.randn(n, latents, generator=g) for n in (codes, posteriors, posteriors))


def _grown(trace: Trace, moved: int, densities: int) -> Work:
    times = densities / (_SMALL[0] * _SMALL[1] * (1 + _SMALL[2]))
    return Work(1, moved, round(2 * times * trace.operations), round(times * trace.specials))


def vae_step(vae: torch.nn.Module, optimiser: torch.optim.Optimizer, x: Tensor) -> None:
    """One step of a VAE with the ELBO in plain operations, so that it can be counted on meta tensors."""
    mean, log_var = vae.encode(x)
    z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
    reconstruction = torch.nn.functional.binary_cross_entropy_with_logits(vae.decode(z), x, reduction="sum")
    kl = 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum()
    descend(optimiser, (reconstruction + kl) / len(x))


# ------------------------------------------------------------------ the kernels in use


def log_aggregate_posterior(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log q(z) and all log q(z_d), (B, 1 + D) in nats, by your kernels, with gradients by your `differentiable`."""

    def forward(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return lesson.launch_log_aggregate_posterior(lesson.log_aggregate_posterior_kernel, z, mean, log_var)[
            0
        ]

    def backward(*tensors: Tensor) -> Sequence[Tensor]:
        return lesson.launch_backward(lesson.log_aggregate_posterior_backward_kernel, *tensors)[0]

    return lesson.differentiable(forward, backward)(z, mean, log_var)


def total_correlation(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """E[log q(z) − Σ_d log q(z_d)] in nats over codes z (B, D) of the aggregate posterior of all (N, D): a scalar."""
    found = log_aggregate_posterior(z, mean, log_var)
    return (found[:, 0] - found[:, 1:].sum(1)).mean()


# ------------------------------------------------------------------ numbers from a GPU


def recorded() -> dict[str, dict]:
    """What `benchmarks/gpu.py` has recorded, by the name of the device; {} as long as nobody has."""
    files = sorted((data_folder() / "gpu").glob("*.json"))
    return {card["device"]: card for card in (json.loads(f.read_text(encoding="utf-8")) for f in files)}


def recorded_table() -> str:
    """The recorded numbers as a table in Markdown, or who could record them."""
    cards = recorded()
    if not cards:
        return (
            "No CUDA numbers have been recorded yet: on a machine with a GPU, `make gpu` runs the course's tests there, and "
            "`python benchmarks/gpu.py --write` measures and keeps what this section only estimates."
        )
    rows = list(dict.fromkeys(name for card in cards.values() for name in card["numbers"]))
    lines = ["| | " + " | ".join(cards) + " |", "|---" * (1 + len(cards)) + "|"]
    lines += [
        f"| {row} | " + " | ".join(str(c["numbers"].get(row, "")) for c in cards.values()) + " |"
        for row in rows
    ]
    return "\n".join(lines)


# ------------------------------------------------------------------ pictures


def _drawing() -> tuple[Any, Any]:
    """pyplot, in the course's style, and the course's plots."""
    import matplotlib.pyplot as plt

    from course_lib import plots

    plots.use_style()
    return plt, plots


def queue_figure(queues: Mapping[str, lesson.ToyQueue]) -> Figure:
    """What processor and device do over time, one panel a queue; a gap in the lower row is a device that waits."""
    plt, plots = _drawing()
    figure, axes = plt.subplots(
        len(queues), 1, figsize=(6.8, 1.25 * len(queues) + 0.5), sharex=True, squeeze=False
    )
    for ax, (name, queue) in zip(axes[:, 0], queues.items(), strict=True):
        for launched, start, done in ([float(t) for t in span] for span in queue.spans):
            ax.barh(1, queue.cost, left=launched - queue.cost, color=plots.COLOURS[7], edgecolor="white")
            ax.barh(0, done - start, left=start, color=plots.COLOURS[0], edgecolor="white")
        ax.set(title=name, yticks=[0, 1], yticklabels=["device", "processor"], ylim=(-0.6, 1.6))
    axes[-1, 0].set_xlabel("time (ms)")
    return figure


def busy(queue: lesson.ToyQueue) -> float:
    """The share of the time, from the first launch to the end, in which the device works."""
    work = sum(float(done - start) for _, start, done in queue.spans)
    end = max(float(queue.device), float(queue.host))
    return work / (end - float(queue.spans[0][0]) + queue.cost)


def tiles_figure(trace: Trace, names: Sequence[str], title: str = "") -> Figure:
    """Which program touched which number: written where it was written, else read (the last one to do so)."""
    plt, plots = _drawing()
    figure, axes = plt.subplots(1, len(names), figsize=(6.8, 3.2), squeeze=False)
    colours = plt.matplotlib.colors.ListedColormap(["#f2f2f2", *plots.COLOURS])
    for ax, name in zip(axes[0], names, strict=True):
        written = (trace.writers[name] != NOWHERE).any()
        touched = trace.writers[name] if written else trace.readers[name]
        touched = touched.reshape(len(touched), -1)
        shown = torch.where(touched == NOWHERE, 0, 1 + touched.clamp(min=0) % len(plots.COLOURS))
        ax.imshow(shown.numpy(), cmap=colours, vmin=0, vmax=len(plots.COLOURS), aspect="auto")
        ax.set(title=f"{name}, {'written' if written else 'read'}", xticks=[], yticks=[0, len(touched) - 1])
        for axis, cells in (("x", touched.shape[1]), ("y", len(touched))):  # a line between two numbers
            getattr(ax, f"set_{axis}ticks")([i + 0.5 for i in range(cells - 1)], minor=True)
        ax.grid(which="minor", color="white", linewidth=0.5)
        ax.tick_params(which="both", length=0)
        seen = 0
        for program in touched.unique().tolist():
            if program >= 0 and seen < 10:
                rows, columns = (touched == program).nonzero().double().T
                ax.text(
                    columns.mean().item(),
                    rows.mean().item(),
                    str(program),
                    ha="center",
                    va="center",
                    color="white",
                    weight="bold",
                )
                seen += 1
    axes[0, 0].set_ylabel("row")
    figure.suptitle(title or f"{trace.programs} programs: the colour and the number say which")
    return figure


def roofline_figure(works: Mapping[str, Work], device: str) -> Figure:
    """Operations a second against operations a byte: the roofs of a device, and where pieces of work stand under them."""
    peak, bandwidth, _ = lesson.DEVICES[device]
    plt, plots = _drawing()
    figure, axes = plt.subplots(figsize=(6.8, 3.6))
    intensity = torch.logspace(-2, 4, 200)
    axes.loglog(
        intensity,
        (bandwidth * intensity).clamp(max=peak),
        color=plots.PALETTE["exact"],
        label="the two roofs",
    )
    axes.axvline(peak / bandwidth, color=plots.PALETTE["exact"], linestyle=":", linewidth=1)
    for i, (name, work) in enumerate(works.items()):
        speed = work.flops / seconds(work, device)
        axes.plot(
            work.flops / work.moved,
            speed,
            "osD^vP*"[i % 7],
            markersize=9,
            color=plots.COLOURS[i % 10],
            label=name,
        )
    axes.set(
        xlabel="operations for each byte",
        ylabel="operations a second",
        title=f"{device}: the roofs, and estimates below them",
    )
    axes.legend(fontsize=9, loc="lower right")
    return figure


def times_figure(times: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Estimated seconds: a group of bars for each device, a bar for each way to do it, on a logarithmic axis."""
    plt, plots = _drawing()
    figure, axes = plt.subplots(figsize=(6.8, 3.2))
    ways = list(next(iter(times.values())))
    for i, way in enumerate(ways):
        places = [n + 0.8 * i / len(ways) for n in range(len(times))]
        values = [1000 * row[way] for row in times.values()]
        axes.bar(places, values, 0.75 / len(ways), color=plots.COLOURS[(7, 0, 2)[i % 3]], label=way)
        for place, value in zip(places, values, strict=True):
            axes.annotate(
                f"{value:,.0f}" if value >= 100 else f"{value:.2g}",
                (place, value),
                ha="center",
                va="bottom",
                fontsize=9,
            )
    axes.set(yscale="log", ylabel="estimated milliseconds", title=title)
    axes.set_xticks([n + 0.4 * (len(ways) - 1) / len(ways) for n in range(len(times))], list(times))
    axes.margins(y=0.15)
    axes.set_ylim(top=30 * 1000 * max(row[way] for row in times.values() for way in ways))
    axes.legend(ncols=len(ways), loc="upper right")
    return figure
