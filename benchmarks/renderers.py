"""Images per second of the Shapes3D-like data set, of its ray caster and of the scenes' parts, and a training's share.

python benchmarks/renderers.py [--threads N]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

os.environ |= {"COURSE_ANSWERS": "solutions", "TQDM_DISABLE": "1"}
sys.path.insert(0, str(Path(__file__).parent))

import torch
from sprites import seconds

from course_lib.datasets.scenes import occlude, textures
from course_lib.datasets.shapes3d import Shapes3D
from course_lib.datasets.shapes3d import render as render_shapes3d
from course_lib.datasets.sprites import render as render_sprites
from course_lib.experiments.elbo import train_vae
from course_lib.models import VAE
from course_lib.training import keep_freed_memory

WANTED = 50_000  # images per second of the Shapes3D-like data set at 64x64 on 2 cores


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def compare() -> None:
    grid = Shapes3D().grid
    factors = grid.sample(64, generator())
    latents = Shapes3D().latents(factors)
    labels = torch.arange(1024) % 3
    flat = torch.stack([labels, *torch.rand(4, 1024, generator=generator())], dim=1).clamp(min=0.5)
    images = torch.rand(1024, 1, 64, 64)
    flat[:, 0] = labels
    for size in (64, 32):
        data = Shapes3D(size)
        timed = {
            "Shapes3D-like": (64, 100, lambda: data.images(factors)),  # noqa: B023
            "its ray caster": (64, 4, lambda: render_shapes3d(latents, size)),  # noqa: B023
            "sprites": (1024, 4, lambda: render_sprites(flat, size)),  # noqa: B023
            "textures": (1024, 4, lambda: textures(labels % 2, generator(), size)),  # noqa: B023
            "clouds": (1024, 4, lambda: occlude(images[..., :size, :size], 0.6, generator())),  # noqa: B023
        }
        rates = {name: n / seconds(draw, repeats) for name, (n, repeats, draw) in timed.items()}
        for name, rate in rates.items():
            note = f"  (wanted: {WANTED:,})" if name == "Shapes3D-like" and size == 64 else ""
            print(f"{name:<16} {size:4} {rate:12,.0f}{note}")
        print(f"{'ratio':<16} {size:4} {rates['Shapes3D-like'] / rates['its ray caster']:12,.0f}")


def share(batch: int, steps: int = 8) -> None:
    """Rendering and the rest of a step of one training, timed in the same run."""
    scenes, starts, drawing = Shapes3D(), [], []
    scenes.images(scenes.grid.sample(8192, generator()))  # every geometry is drawn before the clock starts

    def sample(n: int, g: torch.Generator):
        starts.append(time.perf_counter())
        drawn = scenes.sample(n, g)
        drawing.append(time.perf_counter() - starts[-1])
        return drawn

    torch.manual_seed(0)
    train_vae(VAE(channels=3), sample, steps, batch=batch, generator=generator())
    step = median(end - start for start, end in pairwise(starts[1:]))
    draw = median(drawing[1:])
    print(f"{batch:5}  {1000 * step:7.1f}  {1000 * draw:12.1f}  {100 * draw / step:7.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)
    keep_freed_memory()  # as in a training
    print(f"{torch.get_num_threads()} thread(s)\nrenderer         size     images/s")
    compare()
    print("\nVAE at 64x64, Shapes3D-like\nbatch  step ms  rendering ms    share")
    share(64)


if __name__ == "__main__":
    main()
