"""The original dSprites file, dsprites_ndarray_*.npz, read and checked."""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from course_lib.datasets.grid import FactorGrid

NAMES = ("shape", "scale", "orientation", "x", "y")
ARRAYS = ("imgs", "latents_values", "latents_classes")
ADVICE = "download dsprites_ndarray_*.npz from https://github.com/google-deepmind/dsprites-dataset"


def read_dsprites(path: str | Path, size: int) -> tuple[FactorGrid, list[Tensor], Tensor]:
    """A dSprites file's grid, the latent values of each factor, and its uint8 images (N, size, size) in grid order."""
    path = Path(path)
    images, latents, classes = (torch.from_numpy(array) for array in _read(path))
    if images.shape[1] != size:
        raise ValueError(f"{path}: expected images of size={size}, got {images.shape[1]}; ask for that size")
    # Column 0, the colour, is always white; the file numbers its shapes from 1.
    classes = classes[:, 1:].long()
    latents = latents[:, 1:].float() - torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    grid = FactorGrid(NAMES, tuple((classes.amax(0) + 1).tolist()))
    points = math.prod(grid.sizes)
    # Sizes first: one wrong class can make a grid that would not fit into any memory.
    if points != len(classes) or not torch.equal(
        (ordered := grid.index(classes).sort()).values, torch.arange(points)
    ):
        raise ValueError(
            f"{path}: expected each of the {' x '.join(map(str, grid.sizes))} = {points} combinations of "
            f"factors once, got {len(classes)} rows; some are missing or repeated: {ADVICE}"
        )
    index, order = ordered
    if not torch.equal(order, index):  # the original is in order already: spare a copy of its 3 GB
        images, latents = images[order], latents[order]
    columns = zip(latents.unbind(1), grid.strides, grid.sizes, strict=True)
    values = [column[: stride * count : stride].clone() for column, stride, count in columns]
    if not torch.equal(torch.cartesian_prod(*values), latents):
        raise ValueError(f"{path}: expected latents_values to follow latents_classes, they do not; {ADVICE}")
    return grid, values, images


def _read(path: Path) -> list[np.ndarray]:
    """The arrays of a dSprites file: imgs (N, s, s) uint8, latents_values (N, 6), latents_classes (N, 6).

    Its fourth, `metadata`, is a pickle, which could run any code when opened: it is never touched.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a dSprites file, found none; leave out path= or {ADVICE}")
    try:
        with zipfile.ZipFile(path) as archive:
            found = sorted(name.removesuffix(".npy") for name in archive.namelist())
        if not set(ARRAYS) <= set(found):
            raise KeyError
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in ARRAYS]
    except KeyError:
        raise ValueError(f"{path}: expected the arrays {ARRAYS}, found {found}; {ADVICE}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected a readable .npz file, but: {error}; {ADVICE}") from error
    _check_arrays(path, *arrays)
    return arrays


def _check_arrays(path: Path, images: np.ndarray, values: np.ndarray, classes: np.ndarray) -> None:
    n = len(images) if images.ndim else 0
    shapes_agree = images.shape[1:2] * 2 == images.shape[1:] and values.shape == classes.shape == (n, 6)
    kinds_agree = images.dtype == np.uint8 and values.dtype.kind == "f" and classes.dtype.kind in "iu"
    if n == 0 or images.ndim != 3 or not shapes_agree or not kinds_agree:
        found = ", ".join(f"{array.dtype} {array.shape}" for array in (images, values, classes))
        raise ValueError(
            f"{path}: expected imgs uint8 (N, s, s), latents_values float (N, 6), latents_classes int (N, 6), "
            f"found {found}; {ADVICE}"
        )
    if images.max() > 1 or classes.min() < 0 or not np.isfinite(values).all():
        raise ValueError(f"{path}: expected pixels 0 or 1, classes from 0 and finite values; {ADVICE}")
