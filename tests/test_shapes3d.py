"""The ray-caster against rays that march in small steps through the same solids, its light, grid and files."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.datasets import shapes3d
from course_lib.datasets.shapes3d import HEIGHT, RADIUS, SHAPES, Shapes3D, render
from tests.helpers import generator

CUBE, CYLINDER, SPHERE, CAPSULE = range(4)


def random_latents(n: int, seed: int = 0) -> torch.Tensor:
    """Latents (n, 6) between the grid's points."""
    u = torch.rand(n, 6, generator=generator(seed))
    scale, shape, degrees = 0.75 + 0.5 * u[:, 3:4], (4 * u[:, 4:5]).floor(), 60 * u[:, 5:] - 30
    return torch.cat([u[:, :3], scale, shape, degrees], dim=1)


def scene(**changes: float) -> torch.Tensor:
    """One latent (1, 6): red floor, green wall, blue object of scale 1, straight ahead."""
    values = dict(floor=0.0, wall=1 / 3, thing=2 / 3, scale=1.0, shape=SPHERE, degrees=0.0) | changes
    return torch.tensor([list(values.values())], dtype=torch.float32)


# ------------------------------------------------------------------ the solids


def inside(shape: int, scale: float, p: torch.Tensor) -> torch.Tensor:
    """Whether points (…, 3) are inside the solid: its definition, and no ray."""
    x, y, z = p.unbind(-1)
    r, h = scale * RADIUS[shape], scale * HEIGHT[shape]
    if shape == CUBE:
        return (x.abs() < r) & (y.abs() < r) & (z > 0) & (z < h)
    if shape == CYLINDER:
        return (x.hypot(y) < r) & (z > 0) & (z < h)
    on_axis = z.clamp(r, h - r) if shape == CAPSULE else torch.full_like(z, r)
    return x.square() + y.square() + (z - on_axis).square() < r * r


def lines(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lines (n, 3) from points around the solid, most of them towards it."""
    g = generator(3)
    origin = 5 * torch.nn.functional.normalize(torch.randn(n, 3, generator=g), dim=1)
    target = torch.tensor([0.0, 0.0, 0.9]) + 0.7 * torch.randn(n, 3, generator=g)
    return origin, torch.nn.functional.normalize(target - origin, dim=1)


def met(shape: int, scale: float, origin: torch.Tensor, ray: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """near, far, axis (n,) and the normal (n, 3) of the renderer's own functions."""
    one = torch.ones(1, 1, 1)
    solid = shapes3d._solid(shape * one, scale * one)
    origin, ray = ([v.view(1, 1, -1) for v in x.unbind(1)] for x in (origin, ray))
    near, far, axis = shapes3d._meet(origin, ray, solid)
    normal = shapes3d._normal(origin, ray, near, axis, solid)
    return near.flatten(), far.flatten(), torch.stack([n.expand_as(near).flatten() for n in normal], dim=1)


@pytest.mark.parametrize("shape", range(4), ids=SHAPES)
@pytest.mark.parametrize("scale", [0.75, 1.1])
def test_a_ray_meets_the_solid_where_small_steps_find_it(shape, scale):
    origin, ray = lines(400)
    step = 0.002
    t = torch.arange(2, 8, step)
    found = inside(shape, scale, origin[:, None] + t[:, None] * ray[:, None])  # (400, steps)
    near, far, _ = met(shape, scale, origin, ray)
    hit = found.any(1)
    assert 100 < hit.sum() < 390
    first = t[found.int().argmax(1)]
    last = t[len(t) - 1 - found.flip(1).int().argmax(1)]
    assert ((first - near)[hit].abs() < 1.5 * step).all() and ((last - far)[hit].abs() < 1.5 * step).all()
    missed = near >= far
    assert not (missed & hit).any() and (far - near)[~hit & ~missed].lt(2 * step).all()


@pytest.mark.parametrize("shape", range(4), ids=SHAPES)
def test_normals_stand_on_the_surface_and_point_outwards(shape):
    origin, ray = lines(400)
    ray, origin = ray[origin[:, 2] > 2.5], origin[origin[:, 2] > 2.5]  # a camera sees no solid from below
    near, far, normal = met(shape, 1.0, origin, ray)
    hit = near < far - 0.01
    p, normal = (origin + near[:, None] * ray)[hit], normal[hit]
    assert len(p) > 50 and torch.allclose(normal.norm(dim=1), torch.ones(len(p)), atol=1e-4)
    assert inside(shape, 1.0, p - 1e-3 * normal).all() and not inside(shape, 1.0, p + 1e-3 * normal).any()
    # A tangent step of 0.01 stays within the curvature's 0.01² / 2r of the surface.
    tangent = torch.linalg.cross(normal, torch.randn(len(p), 3, generator=generator()), dim=1)
    moved = p + 0.01 * torch.nn.functional.normalize(tangent, dim=1)
    near_edge = ~inside(shape, 1.0, moved - 2e-4 * normal)
    assert near_edge.float().mean() < 0.05 and not inside(shape, 1.0, moved + 2e-4 * normal).any()


# ------------------------------------------------------------------ what is where on the screen


def materials(image: torch.Tensor) -> torch.Tensor:
    """Which of red, green and blue dominates each pixel of (3, S, S); 3 where none does."""
    best = image.argmax(0)
    margin = image.amax(0) - image.median(0).values
    return torch.where(margin > 0.15, best, 3)


def test_floor_wall_sky_and_object_are_where_they_belong():
    what = materials(render(scene())[0])
    assert (what[-8:] == 0).all(), "the floor is at the bottom"
    assert (what[10:20, :10] == 1).all(), "the wall is behind"
    assert what[32:36, 30:34].eq(2).all(), "the object is in the middle"
    assert render(scene())[0, 2, 0].min() > 0.8, "the sky is bright and bluish, at the top"


@pytest.mark.parametrize(("factor", "region"), [(0, "floor"), (1, "wall"), (2, "object")])
def test_a_hue_changes_its_own_surface_and_no_other(factor, region):
    before, after = scene(), scene()
    after[0, factor] = 0.15
    changed = (render(before) != render(after))[0].any(0)
    own = materials(render(before)[0]) == factor
    assert changed[own].float().mean() > 0.99, region
    other = {0, 1, 2} - {factor}
    # Pixels on an edge show both.
    assert all(changed[materials(render(before)[0]) == k].float().mean() < 0.12 for k in other)


def test_a_larger_scale_covers_more():
    area = [(materials(render(scene(scale=s))[0]) == 2).sum() for s in (0.75, 1.0, 1.25)]
    assert area[0] * 1.5 < area[1] < area[2] / 1.3


def test_all_four_shapes_differ_and_round_ones_do_not_change_their_outline_as_the_camera_turns():
    turned = [
        [materials(render(scene(shape=s, degrees=d))[0]) == 2 for d in (-30.0, 0.0, 30.0)] for s in range(4)
    ]
    straight = [row[1] for row in turned]
    assert all((straight[i] != straight[j]).sum() > 20 for i in range(4) for j in range(i))
    for shape in (CYLINDER, SPHERE, CAPSULE):
        assert (turned[shape][0] != turned[shape][2]).sum() <= 0.1 * turned[shape][1].sum()
    assert (turned[CUBE][0] != turned[CUBE][1]).sum() > 0.1 * turned[CUBE][1].sum()


def test_a_small_orientation_moves_the_corner_of_the_room():
    """At ±30° a corner of the room is in view, on the side the camera turned to; at 0° it is not."""
    step = [
        render(scene(wall=0.0, degrees=d))[0, 0, 12].diff().abs() for d in (-30.0, 0.0, 30.0)
    ]  # along a row of the wall
    assert step[1].max() < 0.02
    assert step[0].argmax() > 32 > step[2].argmax() or step[0].argmax() < 32 < step[2].argmax()


def test_the_shadow_falls_away_from_the_lamp():
    """The lamp is on the left: the floor is darker right of the object than left of it, at the same height."""
    row = render(scene(floor=0.15))[0, :2, 44].sum(0)
    assert row[44:50].mean() < row[14:20].mean() - 0.1


def test_edges_are_blended():
    """Supersampling: along the outline of a blue object on a green wall some pixels are in between."""
    image = render(scene())[0]
    between = (image[1] > 0.2) & (image[2] > 0.2) & (image[0] < 0.3)
    assert 15 < between[12:40, 20:44].sum() < 150


def test_a_finer_picture_is_the_same_picture():
    latents = random_latents(8)
    coarse, fine = render(latents, 64), render(latents, 192)
    # Both are means of light over the pixel, so compare light: the square of the screen's values.
    light = torch.nn.functional.avg_pool2d(fine.square(), 3)
    assert (light - coarse.square()).abs().mean() < 0.006


def test_colours_follow_the_hue_circle():
    hues = torch.arange(6) / 6
    lit = shapes3d._colour(hues)
    assert (lit > 0.5).tolist() == [
        [True, False, False],
        [True, True, False],
        [False, True, False],
        [False, True, True],
        [False, False, True],
        [True, False, True],
    ]
    assert torch.equal(shapes3d._colour(torch.zeros(1)), shapes3d._colour(torch.ones(1)))


# ------------------------------------------------------------------ batches, types and devices


@settings(max_examples=8)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_an_image_does_not_depend_on_its_batch(seed, parts):
    latents = random_latents(sum(parts), seed)
    whole = render(latents, 32)
    assert torch.equal(whole, torch.cat([render(part, 32) for part in latents.split(parts)]))


def test_images_are_float32_in_0_1_for_any_size_and_precision():
    latents = random_latents(5)
    for size in (1, 7, 32, 65):
        images = render(latents, size)
        assert images.dtype == torch.float32 and images.shape == (5, 3, size, size)
        assert images.isfinite().all() and images.min() >= 0 and images.max() <= 1
    assert torch.equal(render(latents, 16), render(latents.double(), 16))
    assert render(torch.empty(0, 6), 16).shape == (0, 3, 16, 16)
    assert not render(latents.requires_grad_(), 16).requires_grad


def test_drawing_waits_for_no_value():
    """On `meta` tensors, whose values cannot be read, as on a GPU that the host must not wait for."""
    images, factors = Shapes3D(device="meta").sample(40, generator())
    assert images.is_meta and factors.is_meta and images.shape == (40, 3, 64, 64)


# ------------------------------------------------------------------ the data set


def test_the_grid_is_that_of_the_original():
    data = Shapes3D()
    assert data.grid.sizes == (10, 10, 10, 8, 4, 15) and len(data) == 480_000
    latents = data.latents(torch.tensor([[0, 0, 0, 0, 0, 0], [9, 9, 9, 7, 3, 14], [1, 2, 3, 1, 2, 7]]))
    wanted = torch.tensor(
        [[0, 0, 0, 0.75, 0, -30], [0.9, 0.9, 0.9, 1.25, 3, 30], [0.1, 0.2, 0.3, 0.75 + 0.5 / 7, 2, 0]]
    )
    assert torch.allclose(latents, wanted, atol=1e-6)


def test_samples_pair_images_with_their_factors():
    data = Shapes3D(size=16)
    images, factors = data.sample(20, generator(5))
    assert torch.equal(images, render(data.latents(factors), 16))
    again, same = data.sample(20, generator(5))
    assert torch.equal(images, again) and torch.equal(factors, same)


@pytest.mark.parametrize("size", [64, 32])
def test_coloured_light_is_the_ray_caster_s_picture(size):
    data = Shapes3D(size=size)
    factors = data.grid.sample(48, generator(size))
    factors[:, 4] = torch.arange(48) % 4  # every shape
    difference = (data.images(factors) - render(data.latents(factors), size)).abs()
    assert difference.max() < 1 / 255


def test_the_rays_of_a_geometry_are_cast_once(monkeypatch):
    cast, light = [], shapes3d._light
    monkeypatch.setattr(
        shapes3d, "_light", lambda geometry, size: cast.append(geometry) or light(geometry, size)
    )
    monkeypatch.setattr(shapes3d, "_geometries", shapes3d.lru_cache(shapes3d.Geometries))
    rows = torch.tensor([[1, 2, 3, 4, 2, 6], [5, 6, 7, 4, 2, 6], [1, 2, 3, 0, 1, 14]])
    first = Shapes3D(size=8).images(rows)
    again = Shapes3D(size=8, only={"scale": [0, 4]}).images(torch.tensor([[1, 2, 3, 1, 2, 6]]))
    assert torch.cat(cast).tolist() == [[0.75, 1, 30], pytest.approx([0.75 + 2 / 7, 2, -30 + 6 * 30 / 7])]
    assert torch.equal(first[:1], again)


def test_a_part_of_the_grid_is_the_same_images_and_batches_run_through_it():
    only = {"floor_hue": 3, "wall_hue": [7, 2], "object_hue": 0, "scale": range(0, 8, 7), "orientation": 7}
    part = Shapes3D(size=16, only=only)
    assert part.grid.names == ("wall_hue", "scale", "shape") and part.grid.sizes == (2, 2, 4)
    rows = [[3, w, 0, s, k, 7] for w in (7, 2) for s in (0, 7) for k in range(4)]
    wanted = Shapes3D(size=16).images(torch.tensor(rows))
    images, factors = zip(*part.batches(5), strict=True)
    assert [len(x) for x in images] == [5, 5, 5, 1] and torch.equal(torch.cat(images), wanted)
    assert part.grid.index(torch.cat(factors)).tolist() == list(range(16))


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        ([[0.0] * 6], "shape"),
        (torch.zeros(2, 5), "shape"),
        (torch.zeros(2, 6, dtype=torch.int64), "floating"),
        (scene(floor=1.2), "hues"),
        (scene(scale=2.0), "scale"),
        (scene(shape=1.5), "shape 0"),
        (scene(degrees=31.0), "degrees"),
        (scene(wall=math.nan), "hues"),
    ],
)
def test_bad_latents_give_a_clear_error(latents, message):
    with pytest.raises(
        (TypeError, ValueError), match=message if isinstance(latents, torch.Tensor) else "Tensor"
    ):
        render(latents)


def test_bad_arguments_give_a_clear_error():
    with pytest.raises(ValueError, match="size"):
        Shapes3D(size=0)
    with pytest.raises(ValueError, match="no factor is called 'hue'"):
        Shapes3D(only={"hue": 0})
    with pytest.raises(ValueError, match="batch"):
        next(Shapes3D().batches(0))


# ------------------------------------------------------------------ the original file


def write_file(path, labels: torch.Tensor, images: torch.Tensor) -> str:
    """A file as the original is: images uint8 (N, s, s, 3), labels float64 (N, 6)."""
    h5py = pytest.importorskip("h5py", reason="reading the original file needs h5py")
    with h5py.File(path, "w") as file:
        file["images"] = images.numpy()
        file["labels"] = labels.double().numpy()
    return str(path)


@pytest.fixture
def original(tmp_path):
    """A small file: 2 x 3 x 2 x 2 x 4 x 3 of the original's values, every image of its own grey."""
    hue = [k / 10 for k in range(10)]
    values = [hue[:2], hue[4:7], hue[:2], [0.75, 1.25], [0, 1, 2, 3], [-30, 0, 30]]
    labels = torch.cartesian_prod(*(torch.tensor(v, dtype=torch.float64) for v in values))
    images = (torch.arange(len(labels)) % 251).byte()[:, None, None, None].repeat(1, 8, 8, 3)
    images[:, 0, 0, 0], images[:, 2, 5, 1] = 255, 7  # marks: channel and place
    return write_file(tmp_path / "3dshapes.h5", labels, images), labels, images


def test_a_file_is_read_through_the_same_interface(original):
    path, labels, images = original
    data = Shapes3D(size=8, path=path)
    assert data.grid.sizes == (2, 3, 2, 2, 4, 3)
    read, factors = (torch.cat(x) for x in zip(*data.batches(50), strict=True))
    assert torch.equal(read, images.permute(0, 3, 1, 2) / 255) and read[0, 0, 0, 0] == 1
    assert torch.equal(data.latents(factors), labels.float())


def test_a_part_of_a_file_is_the_same_images(original, monkeypatch):
    path, _, images = original
    monkeypatch.setattr("course_lib.datasets.shapes3d_file.BLOCK", 40)
    part = Shapes3D(size=8, path=path, only={"wall_hue": [2, 0], "shape": 1, "orientation": range(0, 3, 2)})
    assert part.grid.sizes == (2, 2, 2, 2, 2)
    complete = images.unflatten(0, (2, 3, 2, 2, 4, 3))
    wanted = complete[:, [2, 0]][:, :, :, :, 1][:, :, :, :, ::2].flatten(0, 4)
    assert torch.equal(torch.cat([x for x, _ in part.batches(7)]), wanted.permute(0, 3, 1, 2) / 255)


def test_bad_files_give_a_clear_error(original, tmp_path):
    path, labels, images = original
    with pytest.raises(FileNotFoundError, match="3d-shapes"):
        Shapes3D(path=tmp_path / "none.h5")
    with pytest.raises(ValueError, match="size=64"):
        Shapes3D(path=path)
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(ValueError, match="readable HDF5"):
        Shapes3D(size=8, path=tmp_path / "text.h5")
    for name, bad_labels, bad_images, message in [
        ("order", labels.flip(0), images, "another order"),
        ("missing", labels[:-1], images[:-1], "another order"),
        ("distinct", labels + torch.arange(len(labels))[:, None] / 1000, images, "another order"),
        ("columns", labels[:, :5], images, "expected images uint8"),
        ("floats", labels, images.float(), "expected images uint8"),
    ]:
        with pytest.raises(ValueError, match=message):
            Shapes3D(size=8, path=write_file(tmp_path / f"{name}.h5", bad_labels, bad_images))


def test_without_h5py_the_error_says_what_to_install(original, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install"):
        Shapes3D(path=original[0])
