"""The original Shapes3D file, 3dshapes.h5, read and checked."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from course_lib.datasets.grid import FactorGrid

NAMES = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
ADVICE = "download 3dshapes.h5 from https://github.com/google-deepmind/3d-shapes"
BLOCK = 4096  # images read at once: 50 MB


def read_shapes3d(
    path: str | Path, size: int, only: dict[str, int | Sequence[int]]
) -> tuple[FactorGrid, list[Tensor], list[list[int]], Tensor]:
    """A part of a Shapes3D file: its grid, all values of each factor, the values kept, and the uint8 images of the part.

    The images (N, size, size, 3) are in the order of the part's grid; blocks with none of them are not read.
    """
    path = Path(path)
    try:
        import h5py
    except ImportError:
        raise ImportError(
            "path: reading 3dshapes.h5 needs h5py: pip install 'disentanglement-course[h5]'"
        ) from None
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a Shapes3D file, found none; leave out path= or {ADVICE}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: expected a readable HDF5 file, but: {error}; {ADVICE}") from error
    with file:
        _check_arrays(path, file, size)
        complete, values = _grid(path, torch.from_numpy(file["labels"][:]).float())
        grid, kept = complete.restrict(only)
        rows = _rows(complete, kept)
        images = torch.empty(len(rows), size, size, 3, dtype=torch.uint8)
        for start in range(0, len(complete), BLOCK):
            here = (rows >= start) & (rows < start + BLOCK)
            if here.any():
                block = torch.from_numpy(file["images"][start : start + BLOCK])
                images[here] = block[rows[here] - start]
    return grid, values, kept, images


def _check_arrays(path: Path, file, size: int) -> None:
    if not {"images", "labels"} <= set(file):
        raise ValueError(f"{path}: expected the arrays images and labels, found {sorted(file)}; {ADVICE}")
    images, labels = file["images"], file["labels"]
    n = labels.shape[0] if labels.ndim else 0
    fits = images.ndim == 4 and images.shape == (n, *images.shape[1:2] * 2, 3) and labels.shape == (n, 6)
    if n == 0 or not fits or images.dtype.str != "|u1" or labels.dtype.kind != "f":
        found = ", ".join(f"{array.dtype} {array.shape}" for array in (images, labels))
        raise ValueError(
            f"{path}: expected images uint8 (N, s, s, 3) and labels float (N, 6), found {found}; {ADVICE}"
        )
    if images.shape[1] != size:
        raise ValueError(f"{path}: expected images of size={size}, got {images.shape[1]}; ask for that size")


def _grid(path: Path, labels: Tensor) -> tuple[FactorGrid, list[Tensor]]:
    """The grid of the labels (N, 6), which must be complete and in order, and the values of each factor, ascending."""
    values = [column.unique() for column in labels.unbind(1)]
    # Sizes first: the product of labels that are all distinct would not fit into any memory.
    fits = math.prod(map(len, values)) == len(labels)
    if not (fits and torch.equal(torch.cartesian_prod(*values), labels)):
        sizes = " x ".join(str(len(column)) for column in values)
        raise ValueError(
            f"{path}: expected each of the {sizes} combinations of {NAMES} once, the last changing fastest, "
            f"got {len(labels)} rows in another order; {ADVICE}"
        )
    return FactorGrid(NAMES, tuple(map(len, values))), values


def _rows(grid: FactorGrid, kept: list[list[int]]) -> Tensor:
    """The rows of the grid that combine kept values, in the order of the smaller grid."""
    return grid.index(torch.cartesian_prod(*map(torch.tensor, kept)))
