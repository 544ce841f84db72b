"""A Shapes3D-like data set: a solid in a coloured room, drawn on demand, or read from the original file.

What light reaches the camera from where (the geometry: scale, shape and orientation) is ray-cast; an image is that
light times the colours of its three hues. `render` casts rays for every image. The data set has 480 geometries only:
it casts the rays of each once, and then colours.

The factors, their values and their order are those of Burgess & Kim (2018), https://github.com/google-deepmind/3d-shapes.
Their camera and lights were never published: the pictures here are alike, not equal.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from course_lib.datasets.grid import FactorGrid
from course_lib.datasets.shapes3d_file import NAMES, read_shapes3d

SHAPES = ("cube", "cylinder", "sphere", "capsule")

# The scene: x to the right, y away from the camera, z up; the solid stands on the floor at the origin.
ROOM = 7.0  # half the width of the square room
WALL = 3.05  # height of its walls
CAMERA = (0.0, -6.4, 3.0)  # at orientation 0; it is turned about the z axis
LOOK_AT = 1.25  # height of the point over the origin that is in the centre of the image
FIELD = 0.35  # tangent of half the field of view
LAMP = (-0.5, -0.45, 1.0)  # the direction to it, in the room
LAMP_WIDTH = 0.3  # of a square lamp: the shadow's edge is as soft
RAYS = 3  # along each side of a pixel

# By shape, at scale 1: radius (of the cube, half a side) and height.
RADIUS = (0.80, 0.82, 0.98, 0.68)
HEIGHT = (1.60, 1.70, 1.96, 2.20)
SCALES = (0.75, 1.25)
WIDEST, TALLEST = 1.25 * 0.80 * math.sqrt(2), 1.25 * 2.20

CPU_CHUNK = 1 << 17  # numbers in a temporary of one step: 512 KiB stay in the cache of one core
ACCELERATOR_CHUNK = 1 << 23


@torch.no_grad()
def render(latents: Tensor, size: int = 64) -> Tensor:
    """Draw scenes: latents (N, 6) to float32 images (N, 3, size, size) in [0, 1], on the same device.

    Columns: hues of floor, wall and object in [0, 1], scale in [0.75, 1.25], shape (0 cube, 1 cylinder, 2 sphere,
    3 capsule), orientation of the camera about the solid in degrees, -30 to 30. Each pixel is the mean of 3x3 rays.
    An image does not depend on the batch it is drawn in. Raises TypeError or ValueError for anything else;
    values are checked on the CPU only, since on an accelerator the check would make the host wait.
    """
    _check_size(size)
    _check_latents(latents)
    images = torch.empty(len(latents), 3, size, size, device=latents.device)
    colours, chunk = _colour(latents[:, :3].float()), _chunk(latents.device, (size * RAYS) ** 2)
    for part, colour, canvas in zip(*(x.split(chunk) for x in (latents, colours, images)), strict=True):
        if len(part):
            _paint(_light(part[:, 3:], size), colour, canvas)
    return images


def _chunk(device: torch.device, numbers: int) -> int:
    """How many images to draw in one step, where a temporary has so many numbers for each."""
    return max(1, (CPU_CHUNK if device.type == "cpu" else ACCELERATOR_CHUNK) // numbers)


# ------------------------------------------------------------------ the camera


class View(NamedTuple):
    """What does not depend on the latents: rays from the camera at orientation 0, and where they may meet what."""

    rays: Tensor  # (3, h, w) directions, not of unit length; h = w = size · RAYS
    lamp: Tensor  # (2, h, w) the point of the lamp that each ray looks for, x and y
    sky: Tensor  # (3, size, size) linear colours
    solid: tuple[slice, slice]  # the rows and columns of rays that may meet a solid,
    shadow: tuple[slice, slice]  # or its shadow


@lru_cache(maxsize=8)
def _view(size: int, device: torch.device) -> View:
    side = size * RAYS
    forward, up = _axes()
    # A shift of a millionth: no ray is exactly parallel to a wall or a side of a cube.
    across = ((torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1) * FIELD + 1e-6
    x = across.expand(side, side)
    y, z = (forward[k] - across[:, None].expand(side, side) * up[k] for k in (1, 2))
    rays = torch.stack([x, y, z])
    point = ((torch.arange(side) % RAYS + 0.5) / RAYS - 0.5) * LAMP_WIDTH
    lamp = torch.stack([point.expand(side, side), point[:, None].expand(side, side)])
    height = (rays[2] / rays.norm(dim=0)).clamp(min=0)[::RAYS, ::RAYS] / 0.15
    horizon, zenith = (
        torch.tensor(colour).view(3, 1, 1) for colour in ((0.75, 0.88, 1.0), (0.16, 0.40, 0.80))
    )
    sky = horizon + (zenith - horizon) * height.clamp(max=1)
    reach = WIDEST + TALLEST * (math.hypot(LAMP[0], LAMP[1]) + LAMP_WIDTH / 2)
    return View(
        rays.float().to(device),
        lamp.float().to(device),
        sky.float().to(device),
        _window(side, WIDEST, TALLEST),
        _window(side, reach, 0.0),
    )


def _axes() -> tuple[list[float], list[float]]:
    """The camera's unit vectors forward and up; to the right is (1, 0, 0)."""
    depth, drop = -CAMERA[1], LOOK_AT - CAMERA[2]
    length = math.hypot(depth, drop)
    return [0.0, depth / length, drop / length], [0.0, -drop / length, depth / length]


def _window(side: int, radius: float, height: float) -> tuple[slice, slice]:
    """Rows and columns of rays that contain the box |x|, |y| ≤ radius, 0 ≤ z ≤ height."""
    forward, up = _axes()
    rows, columns = [], []
    for x in (-radius, radius):
        for y in (-radius, radius):
            for z in (0.0, height):
                y_, z_ = y - CAMERA[1], z - CAMERA[2]
                depth = (y_ * forward[1] + z_ * forward[2]) * FIELD
                columns.append((x / depth + 1) / 2)
                rows.append((1 - (y_ * up[1] + z_ * up[2]) / depth) / 2)
    return tuple(
        slice(max(0, math.floor(min(place) * side)), min(side, math.ceil(max(place) * side)))
        for place in (rows, columns)
    )


# ------------------------------------------------------------------ drawing


class Solid(NamedTuple):
    """Solids of n images, each (n, 1, 1)."""

    shape: Tensor
    scale: Tensor
    radius: Tensor
    height: Tensor
    low: Tensor  # the cylinder's side reaches from here
    high: Tensor  # to here; a capsule's ends, and the sphere, are balls around these two points of the axis


def _paint(light: Tensor, colours: Tensor, canvas: Tensor) -> None:
    """Colour light (n, 6, S, S), as `_light` gives it, into canvas (n, 3, S, S).

    colours (n, 3, 3): red, green and blue of floor, wall and solid.
    """
    scattered, coloured = light.flatten(2).split(3, dim=1)
    torch.baddbmm(coloured, colours.mT, scattered, out=canvas.flatten(2))
    canvas.clamp_(max=1).sqrt_()  # light to the values of a screen: a gamma of 2


def _light(geometry: Tensor, size: int) -> Tensor:
    """Scale, shape and orientation (n, 3) to the light in each pixel, (n, 6, size, size).

    First how much light floor, wall and solid scatter there, to be multiplied by their colours, then what has a
    colour of its own: red, green and blue of the sky and of the lamp that the solid mirrors.
    """
    view = _view(size, geometry.device)
    scale, shape, _ = geometry.float()[:, :, None, None].unbind(1)
    solid = _solid(shape, scale)
    # float64: no rounding, of a vectorised or a scalar cosine, say, shows in float32.
    turn = torch.deg2rad(geometry[:, 2].to(torch.float32 if geometry.device.type == "mps" else torch.float64))
    cos, sin = turn.cos().float()[:, None, None], turn.sin().float()[:, None, None]
    x, y, z = view.rays  # (h, w)
    rays = (cos * x - sin * y, sin * x + cos * y, z)  # in the room: (n, h, w) twice, (h, w)
    eye = (-sin * CAMERA[1], cos * CAMERA[1], CAMERA[2])
    floor, wall, sky = _room(eye, rays)
    _darken(floor, eye, rays, solid, view)
    body, shine = _light_solid(eye, rays, solid, view, (floor, wall, sky))
    scattered = torch.stack([_pixels(floor), _pixels(wall), _pixels(body)], dim=1)
    return torch.cat([scattered, _pixels(sky)[:, None] * view.sky + _pixels(shine)[:, None]], dim=1)


def _solid(shape: Tensor, scale: Tensor) -> Solid:
    radius, height = (scale * _of_shape(shape, *values) for values in (RADIUS, HEIGHT))
    ball = shape >= 2
    return Solid(
        shape, scale, radius, height, torch.where(ball, radius, 0), torch.where(ball, height - radius, height)
    )


def _of_shape(shape: Tensor, cube: float, cylinder: float, sphere: float, capsule: float) -> Tensor:
    """The value for each solid's shape. No table to index: it would have to be copied to the device."""
    angular = torch.where(shape == 0, cube, torch.full_like(shape, cylinder))
    return torch.where(shape < 2, angular, torch.where(shape == 2, sphere, torch.full_like(shape, capsule)))


def _room(eye: tuple, rays: tuple) -> tuple[Tensor, Tensor, Tensor]:
    """The light on floor, walls and sky along each ray, (n, h, w) each; 0 where the ray meets another of them."""
    x, y, z = rays
    across, along = ((ROOM * d.sign() - o) / d for o, d in zip(eye[:2], (x, y), strict=True))
    sideways = across < along
    far = torch.where(sideways, across, along)  # how many ray lengths to the wall
    height = eye[2] + far * z
    on_floor, on_wall = height < 0, (height >= 0) & (height < WALL)
    corner = ROOM - torch.where(sideways, eye[1] + far * y, eye[0] + far * x).abs()
    front = torch.where(sideways, torch.where(x > 0, 0.62, 0.40), torch.where(y > 0, 0.52, 0.8))
    wall = front * _crevice(corner, 0.5) * _crevice(height, 0.35)
    down = -eye[2] / z.clamp(max=-1e-6)  # how many ray lengths to the floor
    edge = ROOM - torch.maximum((eye[0] + down * x).abs(), (eye[1] + down * y).abs())
    floor = _crevice(edge.clamp(min=0), 0.35) * (0.9 - 0.02 * down.clamp(max=20))
    return on_floor * floor, on_wall * wall, (height >= WALL).float()


def _crevice(distance: Tensor, width: float) -> Tensor:
    """Less light gets into the corner between two surfaces: 0.55 in it, 1 far from it."""
    return 1 - 0.45 * width / (distance + width)


def _darken(floor: Tensor, eye: tuple, rays: tuple, solid: Solid, view: View) -> None:
    """Multiply, in place, the light (n, h, w) on the floor by the solid's shadow and the dark under it."""
    rows, columns = view.shadow
    x, y, z = (d[..., rows, columns] for d in rays)
    down = -eye[2] / z.clamp(max=-1e-6)
    x, y = eye[0] + down * x, eye[1] + down * y  # on the floor
    lamp = [LAMP[k] + view.lamp[k][rows, columns] for k in (0, 1)]
    near, far, _ = _meet((x, y, 0.0), (*lamp, torch.full_like(lamp[0], LAMP[2])), solid)
    lit = 1 - 0.55 * ((near < far) & (far > 0)).float()
    distance = (x * x + y * y) / (solid.radius * solid.radius)
    floor[:, rows, columns] *= lit * (1 - 0.45 / (1 + distance * distance))


def _light_solid(
    eye: tuple, rays: tuple, solid: Solid, view: View, others: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Light (n, h, w) that the solid's colour scatters, and that it mirrors; `others` become 0 behind the solid."""
    rows, columns = view.solid
    ray = tuple(d[..., rows, columns] for d in rays)
    near, far, top = _meet(eye, ray, solid)
    hit = near < far
    normal = _normal(eye, ray, near, top, solid)
    lamp = [component / math.hypot(*LAMP) for component in LAMP]
    facing = sum(n * l for n, l in zip(normal, lamp, strict=True))
    height = (eye[2] + near * ray[2]) / solid.scale
    sky, ground = 0.5 + 0.5 * normal[2], 0.5 - 0.5 * normal[2]
    scattered = 0.70 * facing.clamp(min=0) + (0.26 * sky + 0.16 * ground) * _crevice(height.clamp(min=0), 0.3)
    length = (ray[0] * ray[0] + ray[1] * ray[1] + ray[2] * ray[2]).sqrt()
    # Blinn and Phong: mirrored light is bright where the normal is half way between lamp and eye.
    half = [l - d / length for l, d in zip(lamp, ray, strict=True)]
    aligned = sum(n * h for n, h in zip(normal, half, strict=True)).clamp(min=0).square()
    aligned = aligned / sum(h * h for h in half)
    for _ in range(5):
        aligned = aligned * aligned
    body, shine = (torch.zeros_like(others[0]) for _ in range(2))
    body[:, rows, columns] = torch.where(hit, scattered, 0)
    shine[:, rows, columns] = torch.where(hit & (facing > 0), 0.30 * aligned, 0)
    for light in others:
        light[:, rows, columns] *= ~hit
    return body, shine


# ------------------------------------------------------------------ rays and solids


def _meet(origin: tuple, ray: tuple, solid: Solid) -> tuple[Tensor, Tensor, Tensor]:
    """Where lines enter and leave the solid, in ray lengths (near ≥ far for a miss), and which axis they enter along.

    A cube is where a line is inside three slabs; a cylinder where it is inside a round tube and a slab; a capsule
    is a cylinder and two balls. The axis: 0 and 1 for the sides of a cube, 2 for its top and a cylinder's, 3 for
    round surfaces.
    """
    ox, oy, oz = origin
    x, y, z = ray
    ball, cube = solid.shape >= 2, solid.shape == 0
    slab_near, slab_far = _slab(oz, z, solid.low, solid.high)
    a, b, c = x * x + y * y, ox * x + oy * y, ox * ox + oy * oy
    tube_near, tube_far = _quadratic(a, b, c - solid.radius * solid.radius)
    near, far = torch.maximum(tube_near, slab_near), torch.minimum(tube_far, slab_far)
    axis = torch.where(ball, 3, torch.where(slab_near > tube_near, 2, 3))
    miss = near >= far
    near, far = torch.where(miss, math.inf, near), torch.where(miss, -math.inf, far)
    square = torch.where(ball, solid.radius * solid.radius, -1e6)  # a ball that no line meets, for the others
    for centre in (solid.low, solid.high):
        up = oz - centre
        ball_near, ball_far = _quadratic(a + z * z, b + up * z, c + up * up - square)
        near, far = torch.minimum(near, ball_near), torch.maximum(far, ball_far)
    x_near, x_far = _slab(ox, x, -solid.radius, solid.radius)
    y_near, y_far = _slab(oy, y, -solid.radius, solid.radius)
    sides = torch.maximum(x_near, y_near)
    cube_near = torch.maximum(sides, slab_near)
    cube_far = torch.minimum(torch.minimum(x_far, y_far), slab_far)
    cube_axis = torch.where(slab_near > sides, 2, torch.where(x_near > y_near, 0, 1))
    return (
        torch.where(cube, cube_near, near),
        torch.where(cube, cube_far, far),
        torch.where(cube, cube_axis, axis),
    )


def _slab(origin, ray: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Where origin + t · ray is between low and high: from t, to t."""
    inverse = 1 / ray
    a, b = (low - origin) * inverse, (high - origin) * inverse
    return torch.minimum(a, b), torch.maximum(a, b)


def _quadratic(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Where a t² + 2 b t + c < 0: from t, to t; from ∞ to -∞ where it never is."""
    square = b * b - a * c
    root = square.clamp(min=0).sqrt()
    miss = square <= 0
    return torch.where(miss, math.inf, (-b - root) / a), torch.where(miss, -math.inf, (-b + root) / a)


def _normal(origin: tuple, ray: tuple, near: Tensor, axis: Tensor, solid: Solid) -> tuple[Tensor, ...]:
    """The unit vector that stands on the surface where lines meet it: x, y and z."""
    x, y, z = (o + near * d for o, d in zip(origin, ray, strict=True))
    round_, on_axis = axis == 3, torch.minimum(torch.maximum(z, solid.low), solid.high)
    return (
        torch.where(round_, x / solid.radius, (axis == 0) * -ray[0].sign()),
        torch.where(round_, y / solid.radius, (axis == 1) * -ray[1].sign()),
        torch.where(round_, (z - on_axis) / solid.radius, (axis == 2).float()),
    )


# ------------------------------------------------------------------ light and colour


def _pixels(light: Tensor) -> Tensor:
    """The mean over the rays of each pixel, (n, h, w) to (n, S, S), in one order whatever the batch."""
    for axis in (1, 2):
        light = sum(light.unflatten(axis, (-1, RAYS)).unbind(axis + 1)) / RAYS
    return light


def _colour(hue: Tensor) -> Tensor:
    """Hues (…) in [0, 1], red, yellow, green, cyan, blue, magenta and red again, to linear colours (…, 3)."""
    corner = torch.stack([hue * 6 + shift for shift in (0.0, 4.0, 2.0)], dim=-1) % 6
    return 0.02 + 0.95 * ((corner - 3).abs() - 1).clamp(0, 1).square()


def _check_size(size: int) -> None:
    if type(size) is not int or size < 1:
        raise ValueError(f"size: expected a positive integer number of pixels, got {size!r}")


def _check_latents(latents: Tensor) -> None:
    if not isinstance(latents, Tensor):
        raise TypeError(f"latents: expected a torch.Tensor, got {type(latents).__name__}")
    if not latents.is_floating_point():
        raise TypeError(f"latents: expected a floating dtype, got {latents.dtype}; convert with .float()")
    if latents.ndim != 2 or latents.shape[1] != len(NAMES):
        raise ValueError(f"latents: expected shape (N, 6), columns {NAMES}, got {tuple(latents.shape)}")
    if latents.device.type != "cpu":
        return
    hues, (scale, shape, degrees) = latents[:, :3], latents[:, 3:].unbind(1)
    low, high = SCALES
    rules = {
        "hues in [0, 1]": ((hues >= 0) & (hues <= 1)).all(1),
        f"scale in [{low}, {high}]": (scale >= low) & (scale <= high),
        "shape 0 (cube), 1 (cylinder), 2 (sphere) or 3 (capsule)": (shape == shape.round())
        & (shape >= 0)
        & (shape <= 3),
        "orientation in degrees, -30 to 30": degrees.abs() <= 30,
    }
    for rule, holds in rules.items():
        if not holds.all():
            row = int((~holds).nonzero()[0, 0])
            raise ValueError(f"latents: expected {rule}, but row {row} is {latents[row].tolist()}")


# ------------------------------------------------------------------ the data set


class Geometries:
    """The light of the grid's geometries, all combinations of scale, shape and orientation, for one size and device.

    Kept in memory while the process lives: 24 bytes for each pixel of each geometry, 47 MB for 480 of 64x64.
    On a CPU a geometry is drawn when it is first asked for, so that a few pictures cost a few; elsewhere all at
    first, since the host would have to wait in order to learn which are needed.
    """

    def __init__(self, size: int, device: torch.device):
        grid, values = _complete_grid()
        self.grid, _ = grid.restrict(dict.fromkeys(NAMES[:3], 0))
        self._values = [column.to(device) for column in values[3:]]
        self._light = torch.empty(len(self.grid), 6, size, size, device=device)
        self._missing = torch.ones(len(self.grid), dtype=torch.bool)
        if device.type != "cpu":
            self._draw(torch.arange(len(self.grid), device=device))

    def _draw(self, index: Tensor) -> None:
        size = self._light.shape[-1]
        for rows in index.split(_chunk(index.device, (size * RAYS) ** 2)):
            columns = zip(self._values, self.grid.factors(rows).unbind(1), strict=True)
            geometry = torch.stack([values[column] for values, column in columns], dim=1)
            self._light.index_copy_(0, rows, _light(geometry, size))

    @torch.no_grad()
    def images(self, factors: Tensor, hues: Tensor) -> Tensor:
        """Images (N, 3, size, size) of the geometries with factors (N, 3) in hues (N, 3) from 0 to 1."""
        index = self.grid.index(factors)
        if index.device.type == "cpu" and self._missing[index].any():
            self._draw(index[self._missing[index]].unique())
            self._missing[index] = False
        size = self._light.shape[-1]
        images = torch.empty(len(index), 3, size, size, device=index.device)
        colours, chunk = _colour(hues), _chunk(index.device, 6 * size**2)
        for rows, colour, canvas in zip(*(x.split(chunk) for x in (index, colours, images)), strict=True):
            _paint(self._light.index_select(0, rows), colour, canvas)
        return images


_geometries = lru_cache(maxsize=4)(Geometries)


class Shapes3D:
    """Shapes3D: 10 floor x 10 wall x 10 object hues x 8 scales x 4 shapes x 15 orientations, 480,000 images.

    only: a part of the grid, by factor. An integer holds the factor at that index and takes it out of the grid;
        a range or list keeps those indices, renumbered from 0 (see `Sprites`).
    path: the original 3dshapes.h5, or a smaller file in its format, read instead of drawn (needs h5py). What `only`
        keeps is held in memory: 5.9 GB for all of it.
    device: where images, latents and sampled factors are.
    """

    def __init__(
        self,
        size: int = 64,
        only: dict[str, int | Sequence[int]] | None = None,
        path: str | Path | None = None,
        device: torch.device | str = "cpu",
    ):
        _check_size(size)
        self.size, self.device, self._stored = size, torch.device(device), None
        if path is None:
            complete, values = _complete_grid()
            self.grid, kept = complete.restrict(only or {})
        else:
            self.grid, values, kept, stored = read_shapes3d(path, size, only or {})
            self._stored = stored.to(self.device)
        self._values = [column[k].to(self.device) for column, k in zip(values, kept, strict=True)]
        self._kept = [torch.tensor(k, device=self.device) for k in kept]

    def __len__(self) -> int:
        return len(self.grid)

    def latents(self, factors: Tensor) -> Tensor:
        """The float32 arguments of `render`, (N, 6), of the grid's int64 factors (N, K)."""
        return self._look_up(self._values, factors)

    def _look_up(self, tables: list[Tensor], factors: Tensor) -> Tensor:
        """What the table of each of the six factors says for factors (N, K), (N, 6)."""
        self.grid.check(factors)
        varying = dict(zip(self.grid.names, factors.to(self.device).unbind(1), strict=True))
        columns = [
            table[varying[name]] if name in varying else table.expand(len(factors))
            for name, table in zip(NAMES, tables, strict=True)
        ]
        return torch.stack(columns, dim=1)

    def images(self, factors: Tensor) -> Tensor:
        """Images (N, 3, size, size) in [0, 1] of factors (N, K)."""
        if self._stored is None:
            places = self._look_up(self._kept, factors)  # in the complete grid
            return _geometries(self.size, self.device).images(places[:, 3:], self.latents(factors)[:, :3])
        return self._stored[self.grid.index(factors).to(self.device)].permute(0, 3, 1, 2) / 255

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n images (n, 3, size, size) and their factors (n, K), uniform over the grid."""
        factors = self.grid.sample(n, generator).to(self.device)
        return self.images(factors), factors

    def batches(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The whole grid once, in its order: images (n, 3, size, size) and factors (n, K), n = batch but for the last."""
        if type(batch) is not int or batch < 1:
            raise ValueError(f"batch: expected a positive integer, got {batch!r}")
        for index in torch.arange(len(self), device=self.device).split(batch):
            factors = self.grid.factors(index)
            yield self.images(factors), factors


def _complete_grid() -> tuple[FactorGrid, list[Tensor]]:
    """The original grid and the latent values of each factor."""
    hues = torch.arange(10, dtype=torch.float64) / 10
    scales, turns = (torch.linspace(*ends, dtype=torch.float64) for ends in ((*SCALES, 8), (-30, 30, 15)))
    values = [column.float() for column in (hues, hues, hues, scales, torch.arange(4), turns)]
    return FactorGrid(NAMES, tuple(map(len, values))), values
