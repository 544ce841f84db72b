"""The README's code runs: the real files, small ones under their names."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from course_lib.datasets.shapes3d import Shapes3D
from course_lib.datasets.sprites import Sprites

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def write_sprites(path: str) -> torch.Tensor:
    """A part of dSprites in its file format; the images in order."""
    data = Sprites(only={"orientation": [0, 20], "x": [3, 9], "y": [7]})
    factors = data.grid.factors(torch.arange(len(data)))
    images, latents = data.images(factors)[:, 0].byte(), data.latents(factors)
    values = torch.cat([torch.ones(len(data), 1), latents + torch.tensor([1.0, 0, 0, 0, 0])], dim=1)
    classes = torch.cat([torch.zeros(len(data), 1).long(), factors], dim=1)  # the colour is white for all
    np.savez(
        path, imgs=images.numpy(), latents_values=values.double().numpy(), latents_classes=classes.numpy()
    )
    return images


def write_scenes(path: str) -> None:
    h5py = pytest.importorskip("h5py", reason="reading the original file needs h5py")
    data = Shapes3D(only={"floor_hue": [0], "wall_hue": [1], "object_hue": [2, 3], "scale": [0, 4]})
    with h5py.File(path, "w") as file:
        labels = torch.cartesian_prod(
            torch.tensor([0.0]),
            torch.tensor([0.1]),
            torch.tensor([0.2, 0.3]),
            torch.tensor([0.75, 1.0]),
            torch.arange(4.0),
            torch.linspace(-30, 30, 15),
        )
        assert len(labels) == len(data)
        file["labels"] = labels.double().numpy()
        file["images"] = np.zeros((len(labels), 64, 64, 3), dtype=np.uint8)


class Digits:
    """In the place of torchvision's SVHN, which would download it."""

    def __init__(self, root, split, download):
        assert (str(root), split, download) == ("originals", "train", True)
        self.data, self.labels = np.zeros((5, 3, 32, 32), dtype=np.uint8), np.arange(5)


def test_the_real_files_load_as_the_readme_says(tmp_path, monkeypatch):
    section = README.partition("## Bring the real files")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.S)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.datasets, "SVHN", Digits)
    images = write_sprites("dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz")
    write_scenes("3dshapes.h5")
    found: dict = {}
    exec(code, found)
    (read, _) = next(found["sprites"].batches(len(images)))
    assert torch.equal(read[:, 0], images.float())
    assert found["scenes"].grid.names[-1] == "shape" and len(found["scenes"]) == 2 * 2 * 4
    assert found["images"].shape == (5, 3, 32, 32) and found["labels"].tolist() == [0, 1, 2, 3, 4]
