"""The trained checkpoints of lessons 03, 04 and 06: loading them, and the recipe that made them (`course pretrain`).

Four VAEs on the complete 64×64 dSprites grid and a UFDN, kept in half precision as `data/checkpoints/NAME.safetensors`,
each with a card `NAME.json`: settings, steps, seconds, machine, measured metrics.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from course_lib import metrics
from course_lib.datasets.sprites import Sprites
from course_lib.experiments import factor_vae, ufdn
from course_lib.experiments.elbo import forward
from course_lib.files import data_folder
from course_lib.lessons import beta_vae, elbo
from course_lib.lessons.factor_vae import Players
from course_lib.models import VAE
from course_lib.training import descend, fit, keep_freed_memory

# ------------------------------------------------------------------ the recipe

LATENTS, SIZE, BATCH, LR, SEED = 10, 64, 64, 5e-4, 0
# The paper's discriminator, 1000 × 6, would double the cost of a step on a CPU. A small one with a higher learning rate
# and three updates for each of the VAE keeps up with codes that move fast.
DISCRIMINATOR = {"width": 128, "layers": 3}
DISCRIMINATOR_LR, DISCRIMINATOR_STEPS = 3e-3, 3
STEPS = 5000
BOUND_IMAGES = 16_384  # over which the card's reconstruction and KL are averaged
ROUND = 250  # steps of one model before the next one's turn; the state is saved after each round


@dataclass(frozen=True)
class Recipe:
    """A method under its usual name, and the weight of its penalty: beta, or FactorVAE's gamma."""

    method: str
    weight: float


RECIPES = {
    "vae": Recipe("VAE", 1.0),
    "beta_vae": Recipe("beta-VAE", 4.0),
    "beta_tcvae": Recipe("beta-TCVAE", 6.0),
    "factor_vae": Recipe("FactorVAE", 35.0),
}


def _loss(recipe: Recipe, n: int) -> Callable[..., Tensor]:
    """loss(x, logits, mean, log_var, z) of a method with one optimiser, on a data set of n images."""
    if recipe.method == "VAE":
        return lambda x, logits, mean, log_var, z: -elbo.elbo(x, logits, mean, log_var)
    if recipe.method == "beta-VAE":
        return lambda x, logits, mean, log_var, z: beta_vae.beta_vae_loss(
            x, logits, mean, log_var, beta=recipe.weight
        )
    return lambda *terms: beta_vae.beta_tcvae_loss(*terms, dataset_size=n, beta=recipe.weight)


class Training:
    """One model on its way: networks, optimisers, source of randomness, steps done. Goes on from a saved state."""

    def __init__(self, name: str, device: torch.device | str = "cpu"):
        self.name, self.recipe, self.device = name, RECIPES[name], torch.device(device)
        self.sprites = Sprites(SIZE, device=device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            self.vae = VAE(LATENTS, SIZE).to(device)
            self.discriminator = factor_vae.make_discriminator(LATENTS, **DISCRIMINATOR).to(device)
        self.generator = torch.Generator(device).manual_seed(SEED)
        self.optimiser = torch.optim.Adam(self.vae.parameters(), lr=LR, fused=True)
        self.discriminator_optimiser = torch.optim.Adam(
            self.discriminator.parameters(), lr=DISCRIMINATOR_LR, betas=(0.5, 0.9), fused=True
        )
        self.loss = _loss(self.recipe, len(self.sprites))
        self.steps, self.seconds = 0, 0.0

    def step(self, i: int) -> dict[str, Tensor]:
        """One update on BATCH images of the grid, drawn afresh."""
        if self.recipe.method == "FactorVAE":
            networks = self.vae, self.discriminator, self.optimiser, self.discriminator_optimiser
            settings = {"gamma": self.recipe.weight, "discriminator_steps": DISCRIMINATOR_STEPS}
            return factor_vae.update(
                Players(*networks), self.sprites.sample, batch=BATCH, generator=self.generator, **settings
            )
        x, _ = self.sprites.sample(BATCH, self.generator)
        loss = self.loss(*forward(self.vae, x, self.generator))
        descend(self.optimiser, loss)
        return {"loss": loss}

    def advance(self, steps: int) -> bool:
        """Train for so many steps; False where the user interrupted."""
        start = time.perf_counter()
        history = fit(self.step, steps, f"{self.recipe.method}, from step {self.steps}")
        done = len(history.get("loss", ()))
        self.steps += done
        self.seconds += time.perf_counter() - start
        return done == steps

    def parts(self) -> dict:
        """All that has a state: networks and their optimisers."""
        names = ["vae", "optimiser"]
        if self.recipe.method == "FactorVAE":
            names += ["discriminator", "discriminator_optimiser"]
        return {name: getattr(self, name) for name in names}

    def save(self, path: Path) -> None:
        state = {name: part.state_dict() for name, part in self.parts().items()}
        state |= {"generator": self.generator.get_state(), "steps": self.steps, "seconds": self.seconds}
        _replace(path, lambda draft: torch.save(state, draft))

    def resume(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"].cpu())
        self.steps, self.seconds = state["steps"], state["seconds"]

    def card(self) -> dict:
        """What was done so far, without the metrics."""
        weight = "gamma" if self.recipe.method == "FactorVAE" else "beta"
        settings = {
            weight: self.recipe.weight,
            "latents": LATENTS,
            "batch": BATCH,
            "Adam lr": LR,
            "seed": SEED,
        }
        if self.recipe.method == "FactorVAE":
            settings["discriminator"] = {
                **DISCRIMINATOR,
                "Adam lr": DISCRIMINATOR_LR,
                "betas": [0.5, 0.9],
                "updates for each of the VAE": DISCRIMINATOR_STEPS,
            }
        return {
            "method": self.recipe.method,
            "data": f"dSprites, {len(self.sprites):,} images of {SIZE}×{SIZE}, rendered",
            "settings": settings,
            "steps": self.steps,
            "seconds": round(self.seconds),
            "machine": _machine(self.device),
        }


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} of {os.cpu_count()} CPU cores"


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Write beside the file, then rename: an interruption never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    write(draft)
    draft.replace(path)


def pretrain(
    names: list[str], steps: int, state_folder: Path, folder: Path, device: torch.device | str = "cpu"
) -> bool:
    """Train the named models to `steps` steps each, in turns of ROUND steps, from where `state_folder` left them.

    After each turn the state, the checkpoint and its card are written; the metrics follow at the end. Returns False
    where the user interrupted: what was trained is kept, and the next call goes on.
    """
    keep_freed_memory()
    trainings = [Training(name, device) for name in names]
    for training in trainings:
        if (path := state_folder / f"{training.name}.pt").exists():
            training.resume(path)
    while min(t.steps for t in trainings) < steps:
        training = min(trainings, key=lambda t: t.steps)
        finished = training.advance(min(ROUND, steps - training.steps))
        training.save(state_folder / f"{training.name}.pt")
        save_checkpoint(folder, training.name, training.vae, training.card())
        if not finished:
            return False
    for training in trainings:
        vae = load(training.name, device, folder).vae  # as it is kept, in half precision
        card = training.card() | {"metrics": measure(vae, training.sprites)}
        save_checkpoint(folder, training.name, training.vae, card)
    return True


def pretrain_ufdn(folder: Path, steps: int = ufdn.STEPS, device: torch.device | str = "cpu") -> bool:
    """Train the checkpoint of lesson 06 and write it, in half precision, with its card.

    Returns False, and writes nothing, where the user interrupted.
    """
    domains = ufdn.load_domains(ufdn.DOMAINS, "train", ufdn.IMAGES, device)
    tests = ufdn.load_domains(ufdn.DOMAINS, "test", 2000, device)
    start = time.perf_counter()
    trained = ufdn.train(
        domains, ufdn.SEED, steps, confusion_weight=ufdn.LONG_CONFUSION_WEIGHT, width=ufdn.WIDTH
    )
    seconds = time.perf_counter() - start
    if len(trained.history.get("VAE loss", ())) < steps:
        return False
    card = {
        "method": "UFDN",
        "data": f"{', '.join(ufdn.DOMAINS)}; up to {ufdn.IMAGES:,} images each of {ufdn.SIZE}×{ufdn.SIZE}, digits of the first only",
        "settings": {
            "latents": ufdn.LATENTS,
            "width": ufdn.WIDTH,
            "batch": f"{ufdn.BATCH} of each domain",
            "Adam lr": ufdn.LR,
            "KL weight": ufdn.KL_WEIGHT,
            "confusion weight": ufdn.LONG_CONFUSION_WEIGHT,
            "task weight": ufdn.TASK_WEIGHT,
            "seed": ufdn.SEED,
        },
        "steps": steps,
        "seconds": round(seconds),
        "machine": _machine(torch.device(device)),
    }
    save_checkpoint(folder, "ufdn", ufdn.networks_of(trained), card)
    kept = ufdn.load(folder, device)
    card["metrics"] = {
        "domain probe on z (chance 0.333)": round(ufdn.domain_probe(kept.model, domains), 4),
        **{
            f"accuracy on {name}": round(value, 4)
            for name, value in zip(ufdn.DOMAINS, ufdn.target_accuracies(kept, tests), strict=True)
        },
    }
    save_checkpoint(folder, "ufdn", ufdn.networks_of(kept), card)
    return True


# ------------------------------------------------------------------ what a model is worth


@torch.no_grad()
def codes(vae: VAE, sprites: Sprites, batch: int = 512) -> tuple[Tensor, Tensor]:
    """Means and log variances (N, D) of the whole grid, in its order. Minutes for 737,280 images on a CPU."""
    parts = [vae.encode(x) for x, _ in sprites.batches(batch)]
    mean, log_var = (torch.cat(part) for part in zip(*parts, strict=True))
    return mean, log_var


@torch.no_grad()
def bound(vae: VAE, sprites: Sprites, images: int, generator: torch.Generator) -> dict[str, float]:
    """−E log p(x|z) and the KL of the ELBO, nats per image, over so many random images of the grid."""
    parts = []
    for start in range(0, images, 512):
        x, _ = sprites.sample(min(512, images - start), generator)
        x, logits, mean, log_var, _ = forward(vae, x, generator)
        terms = (-elbo.bernoulli_log_likelihood(x, logits), elbo.gaussian_kl(mean, log_var))
        parts.append(torch.stack(terms))
    reconstruction, kl = torch.cat(parts, dim=1).mean(1).tolist()
    return {"reconstruction (nats)": reconstruction, "KL (nats)": kl}


def measure(vae: VAE, sprites: Sprites) -> dict[str, float]:
    """The card's metrics: the bound on BOUND_IMAGES random images; everything else from the codes of the whole grid.

    The densities behind the total correlation are exact (all N posteriors), the mean over z is over 2,048 draws.
    MIG has 20 bins; "modulo symmetry" counts orientations that look alike as one. FactorVAE score: 10,000 and 5,000
    votes of 64 codes.
    """
    generator = torch.Generator(sprites.device).manual_seed(SEED)
    values = bound(vae, sprites, BOUND_IMAGES, generator)
    mean, log_var = codes(vae, sprites)
    factors = sprites.grid.factors(torch.arange(len(sprites), device=sprites.device))
    parts = metrics.kl_decomposition_exact(mean, log_var, generator)
    symmetry = metrics.Symmetry()
    sampler = metrics.GroupSampler(factors)
    score = metrics.factor_vae_score(lambda rows: mean[rows], sampler, generator)
    values |= {
        "total correlation (nats)": parts.total_correlation,
        "mutual information (nats)": parts.mutual_information,
        "MIG": metrics.mutual_information_gap(mean, factors),
        "MIG modulo symmetry": metrics.mutual_information_gap(mean, factors, symmetry=symmetry),
        "FactorVAE score": score.eval_accuracy,
        "active latents": score.active_latents,
    }
    return {name: round(value, 4) for name, value in values.items()}


# ------------------------------------------------------------------ checkpoints


@dataclass(frozen=True)
class Checkpoint:
    """A trained VAE, in evaluation mode, and its card."""

    vae: VAE
    card: dict


def save_checkpoint(folder: Path, name: str, vae: VAE, card: dict) -> None:
    """Write the weights in half precision, and the card."""
    weights = {k: v.detach().half().cpu().contiguous() for k, v in vae.state_dict().items()}
    _replace(folder / f"{name}.safetensors", lambda draft: save_file(weights, draft))
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    _replace(folder / f"{name}.json", lambda draft: draft.write_text(text, encoding="utf-8"))


def load(name: str, device: torch.device | str = "cpu", folder: Path | None = None) -> Checkpoint:
    """A checkpoint of `data/checkpoints/` by name ("vae", "beta_vae", "beta_tcvae", "factor_vae"), in float32."""
    folder = folder or data_folder() / "checkpoints"
    if name not in RECIPES:
        raise ValueError(f"expected one of {', '.join(RECIPES)}, got {name!r}")
    path = folder / f"{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"No checkpoint at {path}. Reinstall the course, or run `course pretrain`.")
    vae = VAE(LATENTS, SIZE)
    vae.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    card = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return Checkpoint(vae.to(device).eval().requires_grad_(False), card)


def table(folder: Path | None = None) -> str:
    """The cards as a Markdown table, one model a row; a dash where a model was not measured yet."""
    folder = folder or data_folder() / "checkpoints"
    paths = [path for name in RECIPES if (path := folder / f"{name}.json").exists()]
    cards = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    columns = list(dict.fromkeys(name for card in cards for name in card.get("metrics", ())))
    rows = [["Model", "Weight", "Steps", *columns], ["---"] * (3 + len(columns))]
    for card in cards:
        weight = next(f"{k} {card['settings'][k]:g}" for k in ("beta", "gamma") if k in card["settings"])
        found = card.get("metrics", {})
        values = [f"{found[name]:.3g}" if name in found else "–" for name in columns]
        rows.append([card["method"], weight, f"{card['steps']:,}", *values])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
