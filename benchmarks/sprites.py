"""Images per second of the renderer, beside a plain NumPy loop, and its share of a training step.

python benchmarks/sprites.py
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

os.environ |= {"COURSE_ANSWERS": "solutions", "TQDM_DISABLE": "1"}

import numpy as np
import torch

from course_lib.datasets.sprites import Sprites, render
from course_lib.experiments.elbo import train_vae
from course_lib.models import VAE


def plain_image(latent: np.ndarray, size: int) -> np.ndarray:
    """One sprite, all pixels of one image at a time: what a straightforward renderer does."""
    shape, scale, angle, x, y = latent
    centres = (np.arange(size) + 0.5) * 64 / size
    dx, dy = centres[None, :] - (16 + 32 * x), centres[:, None] - (16 + 32 * y)
    across = (math.cos(angle) * dx - math.sin(angle) * dy) / scale
    down = (math.sin(angle) * dx + math.cos(angle) * dy) / scale
    if shape == 0:
        inside = (np.abs(across) < 9.6) & (np.abs(down) < 9.6)
    elif shape == 1:
        inside = (across / 12.8) ** 2 + (down / 7.2) ** 2 < 1
    else:
        q = np.cbrt((across / 9.6) ** 2)
        v = (down + 1.5) / 0.6627
        inside = (v - 6 + 18 * q - 8 * q**2) ** 2 < (1 - q) * (11 + 8 * q) ** 2
    return inside.astype(np.float32)


def seconds(act: Callable, repeats: int = 7) -> float:
    """The shortest of several runs, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def rates(size: int) -> None:
    sprites = Sprites()
    latents = sprites.latents(sprites.grid.sample(8192, torch.Generator().manual_seed(0)))
    few = latents[:512].double().numpy()
    loop = 512 / seconds(lambda: [plain_image(latent, size) for latent in few], repeats=3)
    ours = len(latents) / seconds(lambda: render(latents, size))
    drawn = np.stack([plain_image(latent, size) for latent in few])
    assert np.array_equal(render(latents[:512], size)[:, 0].numpy(), drawn)
    print(f"{size:4}  {ours:10,.0f}  {loop:13,.0f}  {ours / loop:6.1f}")


def share(batch: int, steps: int = 12) -> None:
    """Rendering and the rest of a step of one training, timed in the same run."""
    sprites, generator, starts, drawing = Sprites(), torch.Generator().manual_seed(0), [], []

    def sample(n: int, g: torch.Generator):
        starts.append(time.perf_counter())
        drawn = sprites.sample(n, g)
        drawing.append(time.perf_counter() - starts[-1])
        return drawn

    torch.manual_seed(0)
    train_vae(VAE(), sample, steps, batch=batch, generator=generator)
    step = median(end - start for start, end in pairwise(starts[1:]))
    draw = median(drawing[1:])
    print(f"{batch:5}  {1000 * step:7.1f}  {1000 * draw:12.2f}  {100 * draw / step:7.1f} %")


def main() -> None:
    print("size    images/s  of NumPy loop   ratio")
    for size in (64, 32):
        rates(size)
    print("\nVAE at 64x64")
    print("batch  step ms  rendering ms    share")
    for batch in (64, 256):
        share(batch)


if __name__ == "__main__":
    main()
