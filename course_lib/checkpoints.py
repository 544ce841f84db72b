"""Trained networks as files: weights in half precision, and a card that says how they were made and what they are worth.

`data/checkpoints/NAME.safetensors` and `NAME.json`; `course pretrain` makes them (experiments.pretraining).
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from course_lib.files import data_folder, replace
from course_lib.models import VAE
from course_lib.training import seeded

VAES = ("vae", "beta_vae", "beta_tcvae", "beta_tcvae_in_turns", "factor_vae")
SCENES = ("scenes_vae", "scenes_outlines")  # of scenes in colour
PAIRS = ("ada_gvae",)  # which `course pretrain --pairs` makes
SHOWN = (  # in `table`, of a card's metrics
    "reconstruction (nats)",
    "KL (nats)",
    "total correlation (nats)",
    "mutual information (nats)",
    "MIG",
    "DCI disentanglement",
    "FactorVAE score",
    "active latents",
)


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, in evaluation mode and without gradients, and its card."""

    network: nn.Module
    card: dict


def vae_of(card: dict) -> VAE:
    """The untrained VAE that a card describes: {"network": {"latents", "size", "channels"}}, and perhaps "outlines"."""
    return VAE(**card["network"])


def load(
    name: str,
    device: torch.device | str = "cpu",
    *,
    build: Callable[[dict], nn.Module] = vae_of,
    folder: Path | None = None,
) -> Checkpoint:
    """A checkpoint by name, in float32 on `device`.

    build   makes the untrained network from the card.
    folder  where the files are; `data/checkpoints` by default. FileNotFoundError, with what there is, if they are not.
    """
    folder = folder or data_folder() / "checkpoints"
    paths = folder / f"{name}.safetensors", folder / f"{name}.json"
    if not all(path.exists() for path in paths):
        there = ", ".join(sorted(path.stem for path in folder.glob("*.safetensors"))) or "nothing"
        argument = "--pairs" if name in PAIRS else name
        raise FileNotFoundError(
            f"No checkpoint {name!r} in {folder}, which holds {there}. Reinstall the course, or run `course pretrain {argument}`."
        )
    card = json.loads(paths[1].read_text(encoding="utf-8"))
    with seeded(0):  # weights that are overwritten
        network = build(card)
    network.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in load_file(paths[0]).items()}
    )
    return Checkpoint(network.to(device).eval().requires_grad_(False), card)


def save(folder: Path, name: str, network: nn.Module, card: dict) -> None:
    """Write the weights, floating numbers in half precision and others as they are, and the card."""

    def kept(value: Tensor) -> Tensor:
        value = value.detach().cpu().contiguous()
        return value.half() if value.is_floating_point() else value

    weights = {k: kept(v) for k, v in network.state_dict().items()}
    replace(folder / f"{name}.safetensors", lambda draft: save_file(weights, draft))
    replace(folder / f"{name}.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")


def rounded(network: nn.Module) -> nn.Module:
    """A copy that is what `load` will give back: in half precision for a moment, in evaluation mode and without gradients."""
    return copy.deepcopy(network).half().float().eval().requires_grad_(False)


def steps_of(folder: Path, name: str) -> int:
    """How many steps the checkpoint was trained for; 0 where there is none."""
    card = folder / f"{name}.json"
    return json.loads(card.read_text(encoding="utf-8"))["steps"] if card.exists() else 0


def machine(device: torch.device | str) -> str:
    """What trained: the GPU's name, how many of the CPU's cores, or what else PyTorch calls it ("mps")."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_name(device)
    if kind != "cpu":
        return kind
    return f"{torch.get_num_threads()} of {os.cpu_count()} CPU cores"


def table(folder: Path | None = None, names: tuple[str, ...] = VAES) -> str:
    """The cards of VAEs as a Markdown table, one model a row; a dash where a model was not measured yet."""
    folder = folder or data_folder() / "checkpoints"
    paths = [path for name in names if (path := folder / f"{name}.json").exists()]
    cards = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    rows = [["Model", "Weight", "Steps", *SHOWN], ["---"] * (3 + len(SHOWN))]
    for card in cards:
        weight = next(f"{k} {card['settings'][k]:g}" for k in ("beta", "gamma") if k in card["settings"])
        found = card.get("metrics", {})
        values = [_short(found[name]) if name in found else "–" for name in SHOWN]
        rows.append([card["method"], weight, f"{card['steps']:,}", *values])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _short(value: float) -> str:
    """Three digits, or as many as there are before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
