"""Digits: one interface, one range; the bundled subset; loaders of the real files, on small files in the true format."""

import bz2
import gzip
import hashlib
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import scipy.ndimage
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.datasets import digit_rendering, mnist_subset
from course_lib.datasets.digits import DOMAINS, digits, to_channels, to_size
from tests.helpers import generator

OFFLINE = ("mnist", "optdigits", "mnist_m", "synth")
SPLITS = ("train", "test")


def random_images(n, *shape, seed=0):
    """uint8 images that use the whole range."""
    images = np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(np.uint8)
    images.flat[:2] = 0, 255
    return images


# ------------------------------------------------------------------ files in the true formats


def write_mnist(root, n=12, images=None):
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in ("train", "t10k"):
        x = random_images(n, 28, 28) if images is None else images
        y = (np.arange(n) % 10).astype(np.uint8)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(
            struct.pack(">iiii", 2051, n, 28, 28) + x.tobytes()
        )
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, n) + y.tobytes())
    return x


def write_usps(root, n=12):
    """libsvm lines, compressed: a label 1 … 10, then 256 values in [−1, 1] as index:value."""
    x = random_images(n, 256)
    root.mkdir(exist_ok=True)
    for name in ("usps.bz2", "usps.t.bz2"):
        lines = [
            f"{i % 10 + 1} " + " ".join(f"{j + 1}:{v / 127.5 - 1:.6f}" for j, v in enumerate(row))
            for i, row in enumerate(x)
        ]
        (root / name).write_bytes(bz2.compress("\n".join(lines).encode() + b"\n"))
    return x.reshape(n, 16, 16)


def write_svhn(root, monkeypatch, n=12):
    """MATLAB files: X (32, 32, 3, n) uint8 and y (n, 1), where 10 stands for the digit 0. torchvision wants their MD5."""
    x = random_images(n, 32, 32, 3)
    root.mkdir(exist_ok=True)
    known = dict(torchvision.datasets.SVHN.split_list)
    for split in SPLITS:
        path = root / f"{split}_32x32.mat"
        labels = (np.arange(n) % 10 + 1)[:, None].astype(np.uint8)
        scipy.io.savemat(path, {"X": x.transpose(1, 2, 3, 0), "y": labels})
        known[split] = [known[split][0], path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", known)
    return x


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """A folder with small files of each real domain."""
    write_mnist(tmp_path / "mnist")
    write_usps(tmp_path / "usps")
    write_svhn(tmp_path / "svhn", monkeypatch)
    return tmp_path


# ------------------------------------------------------------------ one interface


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("domain", DOMAINS)
def test_every_domain_has_the_same_shape_range_and_types(domain, channels, roots):
    root = roots / domain if domain in ("usps", "svhn") else None
    for split in SPLITS:
        images, labels = digits(domain, split, n=12, channels=channels, root=root)
        assert images.shape == (12, channels, 32, 32) and images.dtype == torch.float32
        assert labels.shape == (12,) and labels.dtype == torch.int64
        assert labels.min() >= 0 and labels.max() <= 9
        low, high = images.aminmax()
        assert 0 <= low < 0.2 and 0.8 < high <= 1, "the range is [0, 1], and it is used"


@pytest.mark.parametrize("domain", OFFLINE)
def test_every_digit_occurs_about_equally_often(domain):
    _, labels = digits(domain)
    share = labels.bincount(minlength=10) / len(labels)
    assert share.shape == (10,) and share.min() > 0.08 and share.max() < 0.12


@pytest.mark.parametrize(("domain", "sizes"), [("mnist", (10_000, 2_000)), ("optdigits", (1_297, 500))])
def test_sizes_are_as_promised(domain, sizes):
    assert tuple(len(digits(domain, split)[1]) for split in SPLITS) == sizes


@pytest.mark.parametrize("domain", OFFLINE)
def test_the_same_call_gives_the_same_images_and_splits_differ(domain):
    first, again, test = (digits(domain, split, n=200)[0] for split in ("train", "train", "test"))
    assert torch.equal(first, again)
    distance = torch.cdist(first.flatten(1), test.flatten(1))
    assert (distance > 1e-3).all(), "an image of the training split is in the test split"


def test_the_first_n_are_the_first_of_all():
    whole, labels = digits("mnist")
    part, part_labels = digits("mnist", n=50)
    assert torch.equal(part, whole[:50]) and torch.equal(part_labels, labels[:50])


def test_28_pixels_get_a_border_and_fewer_are_enlarged_first():
    images = torch.from_numpy(random_images(3, 1, 28, 28))
    sized = to_size(images)
    assert torch.equal(sized[:, :, 2:-2, 2:-2], images / 255)
    assert sized.sum() == sized[:, :, 2:-2, 2:-2].sum(), "the border is black"
    flat = to_size(torch.full((1, 1, 8, 8), 51, dtype=torch.uint8))
    assert torch.allclose(flat[:, :, 2:-2, 2:-2], torch.tensor(0.2)) and flat[0, 0, 0].sum() == 0


def test_grey_is_repeated_and_colour_becomes_brightness():
    grey = torch.rand(2, 1, 4, 4)
    assert torch.equal(to_channels(grey, 3), torch.cat([grey] * 3, dim=1))
    assert torch.allclose(to_channels(to_channels(grey, 3), 1), grey, atol=1e-6)
    green = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
    assert to_channels(green, 1).item() == pytest.approx(0.587)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"domain": "emnist"}, "domain: expected one of mnist"),
        ({"domain": "mnist", "split": "valid"}, "split: expected"),
        ({"domain": "mnist", "n": 0}, "n: expected a positive"),
        ({"domain": "mnist", "n": True}, "n: expected a positive"),
        ({"domain": "optdigits", "n": 5000}, "has 1297 train images, got n=5000"),
        ({"domain": "mnist", "channels": 2}, "channels: expected 1"),
        ({"domain": "synth", "root": "."}, "only mnist, usps, svhn are read from original files, not synth"),
        ({"domain": "usps"}, "root: expected the folder"),
        ({"domain": "mnist", "download": True}, "root: expected the folder"),
    ],
)
def test_bad_arguments_are_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        digits(**arguments)


# ------------------------------------------------------------------ the bundled subset


def test_the_bundled_subset_is_small_and_of_the_original():
    path = mnist_subset.data_folder() / "mnist" / "mnist_subset.npz"
    assert path.stat().st_size < 2_500_000
    images, labels = mnist_subset.load("train")
    assert images.shape == (10_000, 28, 28) and images.dtype == torch.uint8
    # The first images of the original training file are 5 0 4 1 9 2 1 3 1 4 3 5 3 …: every sixth of them.
    assert labels[:3].tolist() == [5, 1, 3]


def test_a_subset_is_built_from_the_original_files_alone(tmp_path, monkeypatch):
    images = write_mnist(tmp_path, n=30)
    folder = tmp_path / "MNIST" / "raw"
    with pytest.raises(ValueError, match="expected MD5 6bbc9ace898e44ae57da46a324031adb, found"):
        mnist_subset.build(folder, tmp_path / "subset.npz")
    found = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in mnist_subset.ORIGINALS}
    monkeypatch.setattr(mnist_subset, "ORIGINALS", found)
    mnist_subset.build(folder, tmp_path / "subset.npz")
    with np.load(tmp_path / "subset.npz") as file:
        assert np.array_equal(file["train_images"], images[::6])
        assert file["test_labels"].tolist() == [0, 5, 0, 5, 0, 5]


def test_a_damaged_or_missing_subset_is_named(tmp_path):
    whole = (mnist_subset.data_folder() / "mnist" / "mnist_subset.npz").read_bytes()
    path = tmp_path / "subset.npz"
    with pytest.raises(FileNotFoundError, match="expected the bundled MNIST subset"):
        mnist_subset.read(path)
    for damaged in (whole[:100_000], b"not a file", whole[:50_000] + b"\0" * 64 + whole[50_064:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="expected a readable"):
            mnist_subset.read(path)
    np.savez(path, **{name: np.zeros(3, np.uint8) for name in mnist_subset.ARRAYS})
    with pytest.raises(ValueError, match="expected arrays with SHA-256"):
        mnist_subset.read(path)


# ------------------------------------------------------------------ the real files


def test_mnist_files_are_read(tmp_path):
    written = write_mnist(tmp_path, n=11)
    images, labels = digits("mnist", "test", root=tmp_path, channels=1)
    assert torch.equal(images[:, 0, 2:-2, 2:-2], torch.from_numpy(written) / 255)
    assert labels.tolist() == [*range(10), 0]


def test_usps_files_are_read(tmp_path):
    written = write_usps(tmp_path, n=11)
    images, labels = digits("usps", root=tmp_path, channels=1)
    want = to_size(torch.from_numpy(written)[:, None])
    assert (images - want).abs().max() < 1.5 / 255, "torchvision rounds down to 8 bits"
    assert labels.tolist() == [*range(10), 0], "label 1 in the file is the digit 0"


def test_svhn_files_are_read(tmp_path, monkeypatch):
    written = write_svhn(tmp_path, monkeypatch, n=11)
    images, labels = digits("svhn", "test", root=tmp_path)
    assert torch.equal(images, torch.from_numpy(written).permute(0, 3, 1, 2) / 255)
    assert labels.tolist() == [*range(1, 10), 0, 1], "label 10 in the file is the digit 0"


@pytest.mark.parametrize("domain", ["mnist", "usps", "svhn"])
def test_missing_files_and_wrong_paths_are_named(domain, tmp_path):
    with pytest.raises(FileNotFoundError, match="found no folder"):
        digits(domain, root=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=f"expected the original files of {domain}, found none"):
        digits(domain, root=tmp_path)


@pytest.mark.parametrize("domain", ["mnist", "usps", "svhn"])
@pytest.mark.parametrize("kind", ["cut", "scrambled"])
def test_damaged_files_are_named(domain, kind, roots):
    root = roots / domain
    for path in (p for p in root.rglob("*") if p.is_file()):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if kind == "cut" else bytes(len(content)))
    with pytest.raises(ValueError, match=f"the files of {domain} are damaged"):
        digits(domain, root=root)


def test_files_with_impossible_labels_are_named(tmp_path):
    write_mnist(tmp_path, n=12)
    path = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    path.write_bytes(struct.pack(">ii", 2049, 12) + bytes([77] * 12))
    with pytest.raises(ValueError, match="expected labels 0 to 9, found 77"):
        digits("mnist", root=tmp_path)


@pytest.mark.parametrize("domain", ["mnist", "usps", "svhn"])
def test_without_a_network_a_download_says_what_to_do(domain, tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(ConnectionError, match=f"{domain} could not be downloaded .*use mnist, optdigits"):
        digits(domain, root=tmp_path, download=True)


def test_a_download_is_read(tmp_path, monkeypatch):
    """The four archives as the mirror sends them; torchvision unpacks and checks them."""
    write_mnist(tmp_path / "there", n=12)
    archives, known = {}, []
    for path in sorted((tmp_path / "there" / "MNIST" / "raw").iterdir()):
        archives[f"{path.name}.gz"] = gzip.compress(path.read_bytes())
        known.append((f"{path.name}.gz", hashlib.md5(archives[f"{path.name}.gz"]).hexdigest()))

    def retrieve(url, filename):
        Path(filename).write_bytes(archives[Path(filename).name])

    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", known)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", retrieve)
    images, _ = digits("mnist", root=tmp_path / "here", download=True)
    assert torch.equal(images, digits("mnist", root=tmp_path / "there")[0])


# ------------------------------------------------------------------ MNIST-M


def test_blending_is_the_difference_to_a_crop_of_a_photograph():
    """On black the crop itself is left: find each crop in the photographs, then blend by hand."""
    black, white = torch.zeros(4, 1, 32, 32), torch.ones(4, 1, 32, 32)
    crops = digit_rendering.blend(black, generator(3))
    assert torch.allclose(digit_rendering.blend(white, generator(3)), 1 - crops)
    photos = digit_rendering.photographs().permute(0, 3, 1, 2) / 255
    for crop in crops:
        windows = photos.unfold(2, 32, 1).unfold(3, 32, 1)  # (2, 3, H', W', 32, 32)
        corner = (windows[..., 0, 0] - crop[:, 0, 0, None, None]).abs().sum(1) == 0
        places = corner.nonzero()
        assert any(torch.equal(windows[p, :, i, j], crop) for p, i, j in places)


def test_the_bundled_mnist_is_what_is_blended():
    x, y = digits("mnist", n=20)
    m, labels = digits("mnist_m", n=20)
    background = digits("mnist", n=1)[0][0, 0, 0, 0]
    assert torch.equal(y, labels) and background == 0
    assert torch.equal(m, digit_rendering.blend(x[:, :1], generator()))


# ------------------------------------------------------------------ digits from fonts


def test_fields_are_distances_to_the_outline():
    """Next to each other by one pixel, distances differ by at most one pixel (and somewhere by about one)."""
    fields, widths = digit_rendering.glyphs()
    pixel = digit_rendering.SPAN / (digit_rendering.ATLAS - 1)
    steps = fields.diff(dim=-1).abs()
    assert steps.max() < 1.1 * pixel and steps.amax((1, 2, 3)).min() > 0.8 * pixel
    inside = (fields > 0).float().sum((1, 2, 3)) * pixel**2  # area in digit heights squared
    assert (inside > 0.03).all() and (inside < 0.7 * widths).all()
    extent = (fields > 0).any(-1).float().sum((1, 2)) * pixel
    assert torch.allclose(extent, torch.ones(()), atol=2.5 * pixel), "every digit is one digit high"


def test_a_drawn_digit_is_the_glyph(monkeypatch):
    """Upright and in the middle: some channel is an affine function of one font's coverage, sampled here by scipy."""

    def middle_of_range(generator, low, high, *shape):
        return torch.full(shape, (low + high) / 2)

    monkeypatch.setattr(digit_rendering, "uniform", middle_of_range)  # no shift, no rotation, no stroke
    images, labels = digit_rendering.street_numbers(64, generator())
    fields, _ = digit_rendering.glyphs()
    height, blur = 32 * 0.675, 2.5
    centre = (digit_rendering.ATLAS - 1) / 2
    place = centre + (np.arange(32) - 15.5) / height * (digit_rendering.ATLAS - 1) / digit_rendering.SPAN
    place = np.stack(np.meshgrid(place, place[11:21], indexing="ij"))  # the middle 10 columns
    found = []
    for image, label in zip(images[..., 11:21], labels.tolist(), strict=True):
        channel = image[image.flatten(1).std(1).argmax()].flatten()
        for field in fields[label::10]:
            distance = scipy.ndimage.map_coordinates(field[0].numpy(), place, order=1) * height
            t = torch.from_numpy(0.5 + distance / blur).clamp(0, 1)
            found.append(torch.corrcoef(torch.stack([channel, (3 * t**2 - 2 * t**3).flatten()]))[0, 1].abs())
    best = torch.stack(found).view(64, -1).amax(1)
    assert best.median() > 0.9999


def test_labels_are_those_of_the_middle_digit():
    """One network that sees only middle digits of other draws: a linear probe on clean glyphs beats chance by far."""
    x, y = digits("synth", n=3000, channels=1)
    test, test_y = digits("synth", "test", n=500, channels=1)

    def edges(images):  # contrast, whatever the colours
        middle = images[:, 0, :, 6:26]
        return ((middle - middle.mean((1, 2), keepdim=True)) / middle.std((1, 2), keepdim=True)).square()

    features, other = edges(x).flatten(1), edges(test).flatten(1)
    nearest = torch.cdist(other, features).argmin(1)
    assert (y[nearest] == test_y).float().mean() > 0.35


@settings(max_examples=10)
@given(st.integers(1, 30), st.integers(0, 1000))
def test_drawn_images_are_colours_in_range(n, seed):
    images, labels = digit_rendering.street_numbers(n, generator(seed))
    assert images.shape == (n, 3, 32, 32) and labels.shape == (n,)
    assert images.min() >= 0 and images.max() <= 1 and images.isfinite().all()
    assert (images.flatten(1).std(1) > 0.02).all(), "there is something to see in each"
