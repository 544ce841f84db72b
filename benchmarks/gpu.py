"""What lesson 08 estimates, measured on a GPU: `python benchmarks/gpu.py [--no-notebooks] [--write]`; no GPU, nothing measured.

--write keeps the numbers as data/gpu/NAME.json, with the device's name; the lesson then shows them. Times are medians of calls
between two CUDA events, after a warm-up and with the second-level cache cleared before each; memory is what tensors held at once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

os.environ |= {"COURSE_ANSWERS": "solutions", "TQDM_DISABLE": "1"}
sys.path.insert(0, str(Path(__file__).parent))

import torch
from decomposition import bounded_terms, inputs
from torch import Tensor

from course_lib.checkpoints import machine
from course_lib.datasets.shapes3d import Shapes3D
from course_lib.datasets.sprites import Sprites
from course_lib.experiments import on_the_gpu as experiments
from course_lib.experiments.factor_vae import make_discriminator
from course_lib.files import data_folder, replace
from course_lib.lessons import elbo, factor_vae
from course_lib.lessons import on_the_gpu as lesson
from course_lib.models import VAE
from course_lib.training import capture, coarse_products, descend

SIZES = (4096, 16_384, 65_536)
AIMS = {  # on an H100
    "training of the whole course (s)": "≤ 60",
    "300,000 FactorVAE steps (min)": "≤ 5",
    "kernel over streaming, B = N = 65,536 (times)": "≥ 10",
    "kernel over its roofline, B = N = 65,536 (%)": "≥ 50",
}


def milliseconds(
    call: Callable[[], object], device: torch.device, warm_up: int = 2, repeats: int = 10
) -> float:
    """The median time of a call that keeps the device busy; of fewer calls, but three, where they take more than a second."""
    if device.type != "cuda":  # a rehearsal
        start = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - start)
    cache = torch.empty(256 * 1024**2, dtype=torch.int8, device=device)  # larger than any second-level cache
    times = []
    for i in range(warm_up + repeats):
        if sum(times) > 1000 and len(times) >= 3:
            break
        cache.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times += [start.elapsed_time(end)] if i >= warm_up else []
    return median(times)


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The bytes that tensors hold at once during a call, beside those that were there."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


# ------------------------------------------------------------------ the decomposition


def streaming(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log q(z) and its marginals, (B, 1 + D), by lesson 03's answers."""
    joint, marginals = bounded_terms(z, mean, log_var)
    return torch.cat([joint[:, None], marginals], dim=1)


def forward_and_backward(terms: Callable, leaves: list[Tensor]) -> None:
    torch.autograd.grad(terms(*leaves).sum(), leaves)


def decomposition(device: torch.device, sizes: tuple[int, ...] = SIZES) -> dict[str, float | str]:
    """Forward and backward of log q(z) and its marginals; where one does not fit, that is what is said."""
    found: dict[str, float | str] = {}
    ways = {
        "plain": experiments.plain_log_aggregate_posterior,
        "streaming": streaming,
        "compiled": torch.compile(experiments.plain_log_aggregate_posterior),
        "kernel": experiments.log_aggregate_posterior,
    }
    for size in sizes:
        leaves = [x.detach().to(device).requires_grad_() for x in inputs(size)]
        for name, terms in ways.items():
            if name == "compiled" and device.type != "cuda":
                continue
            call = partial(forward_and_backward, terms, leaves)
            where = f"B = N = {size:,}"
            try:
                found[f"{name}, {where} (ms)"] = round(milliseconds(call, device), 3)
                found[f"{name}, {where} (MB)"] = round(peak_bytes(call, device) / 1024**2, 1)
            except torch.cuda.OutOfMemoryError:
                found[f"{name}, {where} (ms)"] = "does not fit"
                torch.cuda.empty_cache()
    return found


def kernels_alone(device: torch.device, size: int) -> dict[str, float]:
    """Milliseconds of the forward kernel, and of the backward, each with its launcher."""
    leaves = [x.detach().to(device) for x in inputs(size)]
    forward = partial(lesson.launch_log_aggregate_posterior, lesson.log_aggregate_posterior_kernel)
    out = forward(*leaves)[0]
    backward = partial(lesson.launch_backward, lesson.log_aggregate_posterior_backward_kernel)
    calls = {
        "forward": partial(forward, *leaves),
        "backward": partial(backward, torch.ones_like(out), out, *leaves),
    }
    return {
        f"kernel {name}, B = N = {size:,} (ms)": round(milliseconds(call, device), 3)
        for name, call in calls.items()
    }


def against_estimates(found: dict[str, float | str], card: str) -> dict[str, float]:
    """The lesson's estimates over what was measured, where the card is one of the lesson's."""
    known = next((name for name in lesson.DEVICES if name in card), None)
    if known is None:
        return {}
    estimated = {}  # milliseconds, by the name of what was measured
    step = experiments.count(*meta_step(64))
    estimated["VAE, eager (steps/s)"] = 1000 * experiments.seconds(step, known, lesson.EAGER)
    for size in SIZES:
        where, sizes = f"B = N = {size:,} (ms)", (size, size, 10)
        leaves = [torch.empty(size, 10, device="meta", requires_grad=True) for _ in range(3)]
        plain = experiments.count(forward_and_backward, experiments.plain_log_aggregate_posterior, leaves)
        estimated[f"plain, {where}"] = 1000 * experiments.seconds(plain, known)
        forward, backward = (
            1000 * experiments.seconds(work(*sizes), known)
            for work in (experiments.kernel_work, experiments.backward_work)
        )
        estimated[f"kernel forward, {where}"], estimated[f"kernel backward, {where}"] = forward, backward
        estimated[f"kernel, {where}"] = forward + backward
    shares = {}
    for name, expected in estimated.items():
        value = found.get(name)
        if isinstance(value, int | float) and value:
            took = 1000 / value if name.endswith("(steps/s)") else value
            shares[f"estimated over measured: {name.rpartition(' (')[0]}"] = round(expected / took, 2)
    return shares


def share_of_roofline(shares: dict[str, float], size: int = SIZES[-1]) -> dict[str, float]:
    """Of `against_estimates`, the roofline's bound for the forward kernel over its time, in percent."""
    share = shares.get(f"estimated over measured: kernel forward, B = N = {size:,}")
    return {} if share is None else {f"kernel over its roofline, B = N = {size:,} (%)": round(100 * share, 1)}


def meta_step(batch: int) -> tuple[Callable, Tensor]:
    """A step of the VAE without values, and its images, for `experiments.count`."""
    vae, x = VAE().to("meta"), torch.empty(batch, 1, 64, 64, device="meta")
    optimiser = torch.optim.Adam(vae.parameters(), foreach=True)  # as on a GPU
    step = partial(experiments.vae_step, vae, optimiser)
    step(x)  # Adam makes its state
    return step, x


# ------------------------------------------------------------------ training, rendering


def vae_steps(device: torch.device, batch: int = 64) -> dict[str, Callable[[], None]]:
    """A VAE's step at 64×64: eager, with channels last, in bf16; on CUDA compiled, and as a CUDA graph."""
    x = Sprites(64, device=device).sample(batch, torch.Generator(device).manual_seed(0))[0]

    def made(layout: torch.memory_format = torch.contiguous_format) -> Callable[[], None]:
        vae = VAE().to(device, memory_format=layout)
        graphs = {"capturable": True} if device.type == "cuda" else {}
        optimiser = torch.optim.Adam(vae.parameters(), **graphs)
        return partial(experiments.vae_step, vae, optimiser, x.contiguous(memory_format=layout))

    steps = {
        "eager": made(),
        "channels last": made(torch.channels_last),
        "bf16 autocast": torch.autocast(device.type, torch.bfloat16)(made()),
        "bf16 autocast, channels last": torch.autocast(device.type, torch.bfloat16)(
            made(torch.channels_last)
        ),
    }
    if device.type == "cuda":
        steps["compiled"] = torch.compile(made())
        steps["CUDA graph"] = captured(made())
    return steps


def captured(step: Callable[[], object], generator: torch.Generator | None = None) -> Callable[[], None]:
    """The step, which may draw from a generator, recorded once as a CUDA graph; a call launches all of it at once."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is made in the first steps is not recorded
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    return capture(step, generator)[0].replay


def factor_vae_steps(device: torch.device, batch: int = 64) -> dict[str, Callable[[], object]]:
    """A step of FactorVAE at 64×64 with the paper's discriminator: eager, and on CUDA as a CUDA graph, in one stream and in two."""
    g = torch.Generator(device).manual_seed(0)
    x = Sprites(64, device=device).sample(batch, g)[0]
    permute = partial(factor_vae.permute_dims, generator=g)
    on_cuda = device.type == "cuda"

    def made(step: Callable, compiled: bool = False) -> Callable[[], object]:
        vae, critic = VAE().to(device), make_discriminator(10, 1000, 6).to(device)
        if compiled:
            for network in (vae.encoder, vae.decoder, critic):
                network.compile()
        optimisers = (
            torch.optim.Adam(network.parameters(), fused=on_cuda, capturable=on_cuda)
            for network in (vae, critic)
        )
        noise = torch.randn(batch, 10, generator=g, device=device)
        return partial(step, factor_vae.Players(vae, critic, *optimisers), x, noise, 10.0, permute)

    steps = {"eager": made(factor_vae.factor_vae_step)}
    if on_cuda:
        aside = partial(two_streams, torch.cuda.Stream())
        with coarse_products():
            steps |= {
                "CUDA graph": captured(made(factor_vae.factor_vae_step), g),
                "CUDA graph of two streams": captured(made(aside), g),
                "CUDA graph of two streams, compiled": captured(made(aside, compiled=True), g),
            }
    return steps


def two_streams(
    aside: torch.cuda.Stream,
    players: factor_vae.Players,
    x: Tensor,
    noise: Tensor,
    gamma: float,
    permute: Callable,
) -> dict[str, Tensor]:
    """`factor_vae_step`, with all that the discriminator does in the stream `aside`, beside the decoder."""
    vae, discriminator, vae_optimiser, discriminator_optimiser = players
    here = torch.cuda.current_stream()
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    code = z.detach().requires_grad_()
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        total_correlation = discriminator(code).mean()
        (pull,) = torch.autograd.grad(gamma * total_correlation, code)
        pulled = aside.record_event()
        joint, other = code.detach().chunk(2)
        loss = factor_vae.discriminator_loss(discriminator(joint), discriminator(permute(other)))
        descend(discriminator_optimiser, loss)
    bound = elbo.elbo(x, vae.decode(z), mean, log_var)
    vae_optimiser.zero_grad()
    here.wait_event(pulled)
    torch.autograd.backward([-bound, z], [None, pull])
    vae_optimiser.step()
    here.wait_stream(aside)
    return {"bound": bound.detach(), "total correlation": total_correlation.detach()}


def training(device: torch.device) -> dict[str, float]:
    found, per_step = {}, math.inf
    for name, step in vae_steps(device).items():
        found[f"VAE, {name} (steps/s)"] = round(1000 / milliseconds(step, device))
    for name, step in factor_vae_steps(device).items():
        took = milliseconds(step, device)
        found[f"FactorVAE, {name} (steps/s)"] = round(1000 / took)
        per_step = min(per_step, took)
    found["300,000 FactorVAE steps (min)"] = round(300_000 * per_step / 60_000, 1)
    return found


def rendering(device: torch.device, batch: int = 4096) -> dict[str, float]:
    found = {}
    for name, data in (("sprites", Sprites(64, device=device)), ("scenes", Shapes3D(64, device=device))):
        factors = data.grid.sample(batch, torch.Generator(device).manual_seed(0))
        rate = 1000 * batch / milliseconds(lambda: data.images(factors), device)  # noqa: B023
        found[f"{name}, 64×64 (images/s)"] = round(rate)
    return found


def notebooks() -> dict[str, float]:
    """Seconds of every notebook, and of all their cells that train."""
    import nbformat

    from notebooks import ROOT, TRAINS, run, seconds

    found, trained = {}, 0.0
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        document = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            found[f"{path.stem} (s)"] = round(run(document, folder), 1)
        trained += sum(
            seconds(c) for c in document.cells if c.cell_type == "code" and TRAINS.search(c.source)
        )
    return found | {"training of the whole course (s)": round(trained, 1)}


def show(numbers: dict[str, float | str]) -> None:
    for name, value in numbers.items():
        print(f"{name:<56}{value!s:>14}  {AIMS.get(name, '')}", flush=True)


def measure(device: torch.device, sizes: tuple[int, ...] = SIZES) -> dict[str, float | str]:
    """All but the notebooks, each printed as soon as it is known."""
    found: dict[str, float | str] = {}

    def add(numbers: dict[str, float | str]) -> None:
        found.update(numbers)
        show(numbers)

    add(rendering(device, 4096 if device.type == "cuda" else 4))
    add(training(device))
    for size in sizes:
        add(decomposition(device, (size,)))
        add(kernels_alone(device, size))
    if device.type == "cuda":
        add(against_estimates(found, torch.cuda.get_device_name(device)))
        add(share_of_roofline(found, sizes[-1]))
    streamed, kernel = (found.get(f"{name}, B = N = {sizes[-1]:,} (ms)") for name in ("streaming", "kernel"))
    if isinstance(streamed, float) and isinstance(kernel, float) and kernel:
        add({f"kernel over streaming, B = N = {sizes[-1]:,} (times)": round(streamed / kernel, 1)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-notebooks", action="store_true")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "No CUDA device: nothing is measured. Lesson 08's estimates stand until someone runs this on one."
        )
        return
    device = torch.device("cuda")
    numbers = measure(device)
    if not args.no_notebooks:
        timed = notebooks()
        numbers |= timed
        show(timed)
    if args.write:
        name = torch.cuda.get_device_name(device)
        card = {"device": name, "machine": machine(device), "torch": torch.__version__, "numbers": numbers}
        path = data_folder() / "gpu" / f"{name.replace(' ', '_').replace('/', '_')}.json"
        replace(path, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
        print(f"written: {path}")


if __name__ == "__main__":
    main()
