"""Ten digits in six domains, all through one function: `images, labels = digits("mnist_m", "test")`.

    mnist      handwriting: 10,000 + 2,000 images bundled with the course; the full set where `root` is given
    optdigits  handwriting of other people on other forms (UCI), from scikit-learn: 1,297 + 500, of 8×8 pixels
    mnist_m    the bundled MNIST blended with photographs
    synth      street numbers drawn from fonts, the offline stand-in for SVHN: 10,000 + 2,000
    usps       handwriting on envelopes, 7,291 + 2,007, of 16×16 pixels; the real files, in `root`
    svhn       photographs of street numbers, 73,257 + 26,032; the real files, in `root`

Every domain has the same range, [0, 1], and no further normalisation. One that came in [0, 255], or standardised by
its own mean, would be told apart by its scale alone, and no adaptation could be read off the result.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.datasets import digit_rendering, mnist_subset
from course_lib.datasets.digit_rendering import SIZE

DOMAINS = ("mnist", "optdigits", "mnist_m", "synth", "usps", "svhn")
FROM_FILES = ("mnist", "usps", "svhn")
RENDERED = {"train": 10_000, "test": 2_000}


def digits(
    domain: str,
    split: str = "train",
    *,
    n: int | None = None,
    channels: int = 3,
    device: torch.device | str = "cpu",
    root: str | Path | None = None,
    download: bool = False,
) -> tuple[Tensor, Tensor]:
    """Images (N, channels, 32, 32), float32 in [0, 1], and labels (N,), int64, of a domain's "train" or "test" split.

    n         the first n images only; `synth` draws as many as are asked for. What is drawn depends on n.
    channels  3, grey images repeated, or 1, colours turned into brightness.
    root      the folder of the original files, for `usps`, `svhn` and the full `mnist`; with download=True torchvision
              gets them there first.

    28×28 images get a black border of 2 pixels; smaller ones are enlarged bilinearly. Raises ValueError for anything
    else and for damaged files, FileNotFoundError for missing ones, ConnectionError where a download fails.
    """
    _check(domain, split, n, channels, root, download)
    if domain == "synth":
        images, labels = digit_rendering.street_numbers(n or RENDERED[split], _generator(split))
    else:
        images, labels = _read(domain, split, root, download)
        if n is not None and n > len(images):
            raise ValueError(f"n: {domain} has {len(images)} {split} images, got n={n}")
        images, labels = to_size(images[:n]), labels[:n].clone()
    if domain == "mnist_m":
        images = digit_rendering.blend(images, _generator(split))
    return to_channels(images, channels).to(device), labels.to(device)


def to_size(images: Tensor) -> Tensor:
    """8-bit images (N, C, S, S) to float32 (N, C, 32, 32) in [0, 1]: 28 is padded with black, less is enlarged."""
    images = images.float() / 255
    if images.shape[-1] == SIZE:
        return images
    if images.shape[-1] != 28:
        images = F.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    return F.pad(images, (2, 2, 2, 2))


def to_channels(images: Tensor, channels: int) -> Tensor:
    """(N, 1 or 3, S, S) to (N, channels, S, S): grey repeated (as a view), or brightness 0.299 R + 0.587 G + 0.114 B."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    luma = torch.tensor(digit_rendering.LUMA, device=images.device)
    return (images * luma[:, None, None]).sum(1, keepdim=True)


def _generator(split: str) -> torch.Generator:
    """For the backgrounds of `mnist_m` and all of `synth`: the two splits share no draw."""
    return torch.Generator().manual_seed(int(split == "test"))


def _check(domain: str, split: str, n: int | None, channels: int, root: object, download: bool) -> None:
    if domain not in DOMAINS:
        raise ValueError(f"domain: expected one of {', '.join(DOMAINS)}, got {domain!r}")
    if split not in RENDERED:
        raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
    if n is not None and (type(n) is not int or n < 1):
        raise ValueError(f"n: expected a positive number of images, or None for all, got {n!r}")
    if channels not in (1, 3):
        raise ValueError(f"channels: expected 1 (grey) or 3 (colour), got {channels!r}")
    if root is not None and domain not in FROM_FILES:
        raise ValueError(f"root: only {', '.join(FROM_FILES)} are read from original files, not {domain}")
    if root is None and (download or domain in ("usps", "svhn")):
        raise ValueError(
            f"root: expected the folder that holds the original files of {domain} (or that download=True shall put "
            "them in), got None. mnist, optdigits, mnist_m and synth need no files"
        )


# ------------------------------------------------------------------ where images come from


def _read(domain: str, split: str, root: str | Path | None, download: bool) -> tuple[Tensor, Tensor]:
    """Images (N, C, S, S), uint8, and labels (N,), int64."""
    if root is not None:
        images, labels = _read_original(domain, split, Path(root), download)
    elif domain == "optdigits":
        images, labels = _optdigits(split)
    else:
        images, labels = mnist_subset.load(split)
    return (images[:, None] if images.ndim == 3 else images), labels


def _optdigits(split: str) -> tuple[Tensor, Tensor]:
    """8×8 images with 17 levels of grey. The files go from writer to writer, so the test images are other people's."""
    from sklearn.datasets import load_digits

    data = load_digits()
    part = slice(None, -500) if split == "train" else slice(-500, None)
    images = (torch.from_numpy(data.images[part]) * (255 / 16)).round().byte()
    return images, torch.from_numpy(data.target[part])


def _read_original(domain: str, split: str, root: Path, download: bool) -> tuple[Tensor, Tensor]:
    """The original files of MNIST, USPS or SVHN in `root`, by torchvision; its failures in words."""
    if not download and not root.is_dir():
        raise FileNotFoundError(
            f"root: expected a folder with the files of {domain}, found no folder {root}; download=True makes it"
        )
    from torchvision import datasets

    train = split == "train"
    try:
        if domain == "mnist":
            data = datasets.MNIST(root, train=train, download=download)
        elif domain == "usps":
            data = datasets.USPS(root, train=train, download=download)
        else:
            data = datasets.SVHN(root, split=split, download=download)
        labels = torch.as_tensor(data.labels if domain == "svhn" else data.targets, dtype=torch.int64)
    except Exception as error:
        raise _explained(error, domain, root, download) from error
    images = torch.as_tensor(data.data)
    _check_read(images, labels, f"{root}: {domain}")
    return images, labels


def _explained(error: Exception, domain: str, root: Path, download: bool) -> Exception:
    """Torchvision's failure as the kind of error that it is, with what to do about it."""
    text = " ".join(f"{type(error).__name__}: {error}".split())  # on one line
    if download and (isinstance(error, OSError) or "download" in str(error).lower()):
        return ConnectionError(
            f"{domain} could not be downloaded to {root} ({text}). Without a network leave out download=True, and "
            "put the files there by hand or use mnist, optdigits, mnist_m or synth, which need none"
        )
    if isinstance(error, FileNotFoundError) or (
        isinstance(error, RuntimeError) and not _any_file(domain, root)
    ):
        return FileNotFoundError(
            f"{root}: expected the original files of {domain}, found none; is this the right folder? "
            f"download=True gets them ({text})"
        )
    return ValueError(
        f"{root}: the files of {domain} are damaged or not in their original format; delete them and use "
        f"download=True ({text})"
    )


def _any_file(domain: str, root: Path) -> bool:
    folder, pattern = {"mnist": (root / "MNIST" / "raw", "*-ubyte"), "svhn": (root, "*_32x32.mat")}.get(
        domain, (root, "usps*")
    )
    return any(folder.glob(pattern))


def _check_read(images: Tensor, labels: Tensor, source: str) -> None:
    shapes_agree = images.ndim in (3, 4) and labels.shape == images.shape[:1] and len(images) > 0
    if not shapes_agree or images.dtype != torch.uint8 or images.shape[-1] not in (16, 28, SIZE):
        raise ValueError(
            f"{source}: expected 8-bit images with one label each, found {images.dtype} {tuple(images.shape)} and "
            f"labels {tuple(labels.shape)}; the files are damaged"
        )
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(
            f"{source}: expected labels 0 to 9, found {labels.min()} to {labels.max()}; the files are damaged"
        )
