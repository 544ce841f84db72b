"""What a FactorVAE step costs beside a VAE step of the same batch, 64×64: `python benchmarks/factor_vae.py`.

The steps take turns within one run, so that whatever else the machine does falls on all of them alike; a ratio is
the median over rounds of one step's time over that of the VAE step of its round. "Second batch" is the step as the
paper words it, which this benchmark contains: the codes to be permuted come from a second, encoded batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from statistics import median

os.environ["COURSE_ANSWERS"] = "solutions"

import torch
from torch import Tensor, nn

from course_lib.datasets.sprites import Sprites
from course_lib.experiments.factor_vae import make_discriminator
from course_lib.lessons import elbo, factor_vae
from course_lib.models import VAE
from course_lib.training import descend, keep_freed_memory, pick_device

BATCH, LATENTS, ROUNDS = 64, 10, 25
DISCRIMINATORS = {
    "128 × 3 (the course's)": (128, 3),
    "256 × 4": (256, 4),
    "1000 × 6 (paper)": (1000, 6),
}
LIMIT = 1.6  # of a VAE step, with the course's discriminator


def vae_step(vae: VAE, optimiser: torch.optim.Optimizer, x: Tensor, noise: Tensor) -> None:
    mean, log_var = vae.encode(x)
    loss = -elbo.elbo(x, vae.decode(elbo.reparameterise(mean, log_var, noise)), mean, log_var)
    descend(optimiser, loss)


def second_batch_step(
    vae: VAE,
    discriminator: nn.Module,
    optimisers: tuple,
    x: Tensor,
    other: Tensor,
    noise: Tensor,
    permute: Callable,
) -> None:
    """FactorVAE as worded in the paper; gradients of the discriminator in the VAE's backward are computed and dropped."""
    mean, log_var = vae.encode(x)
    z = elbo.reparameterise(mean, log_var, noise)
    loss = factor_vae.factor_vae_loss(x, vae.decode(z), mean, log_var, discriminator(z), 10.0)
    descend(optimisers[0], loss)
    with torch.no_grad():
        second = elbo.reparameterise(*vae.encode(other), noise)
    critic_loss = factor_vae.discriminator_loss(discriminator(z.detach()), discriminator(permute(second)))
    descend(optimisers[1], critic_loss)


def contenders(device: torch.device) -> dict[str, Callable[[], None]]:
    """Each step with networks and optimisers of its own, on the same images."""
    generator = torch.Generator(device).manual_seed(0)
    sprites = Sprites(64, device=device)
    x, other = (sprites.sample(BATCH, generator)[0] for _ in range(2))
    noise = torch.randn(BATCH, LATENTS, generator=generator, device=device)
    permute = partial(factor_vae.permute_dims, generator=generator)

    def networks(width: int, layers: int) -> factor_vae.Players:
        vae = VAE(LATENTS, 64).to(device)
        critic = make_discriminator(LATENTS, width, layers).to(device)
        optimisers = (torch.optim.Adam(m.parameters(), fused=True) for m in (vae, critic))
        return factor_vae.Players(vae, critic, *optimisers)

    vae, _, optimiser, _ = networks(1, 1)
    steps = {"VAE": partial(vae_step, vae, optimiser, x, noise)}
    for name, size in DISCRIMINATORS.items():
        steps[name] = partial(factor_vae.factor_vae_step, networks(*size), x, noise, 10.0, permute)
    vae, critic, *optimisers = networks(*DISCRIMINATORS["1000 × 6 (paper)"])
    steps["1000 × 6, second batch"] = partial(
        second_batch_step, vae, critic, tuple(optimisers), x, other, noise, permute
    )
    return steps


def milliseconds(step: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    device = pick_device()
    keep_freed_memory()
    steps = contenders(device)
    for step in steps.values():  # the first step also builds the optimiser's state
        milliseconds(step, device)
    rounds = [{name: milliseconds(step, device) for name, step in steps.items()} for _ in range(ROUNDS)]
    print(f"batch {BATCH}, 64×64, {LATENTS} latents, {device.type}, {torch.get_num_threads()} threads")
    print(f"{'discriminator':<28}{'median ms':>10}{'× VAE step':>12}")
    for name in steps:
        ratio = median(r[name] / r["VAE"] for r in rounds)
        print(f"{name:<28}{median(r[name] for r in rounds):>10.1f}{ratio:>12.2f}")
    course = median(r[next(iter(DISCRIMINATORS))] / r["VAE"] for r in rounds)
    print(f"limit for the course's: {LIMIT}, {'kept' if course <= LIMIT else 'EXCEEDED'}")


if __name__ == "__main__":
    main()
