"""A scene that is known exactly, seen from many places."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairlead.data.columns import Source
from fairlead.data.groups import band_codes, band_levels
from fairlead.data.views import views_source

Array = NDArray[np.float64]
LIGHT = np.array([0.48, 0.36, 0.8])
"""Direction to the sun; of length 1."""
AMBIENT, GLOSS, SHARPNESS = 0.35, 0.3, 20
RADIUS = 4.0
"""How far each camera is from the origin."""
FOCAL_SHARE = 1.2
"""Focal length over the width of the picture."""
NEAR, FAR = 2.0, 6.0
ELEVATION_EDGES = (30.0,)
_TOUCH = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Ball:
    """A ball of one colour, 0 to 1 each of red, green and blue."""

    centre: tuple[float, float, float]
    radius: float
    colour: tuple[float, float, float]

    def hits(self, origins: Array, directions: Array) -> tuple[Array, Array]:
        """Distance along each ray, shape (n,), infinite where it misses; the direction off the surface, (n, 3)."""
        away = origins - np.array(self.centre)
        half = (away * directions).sum(axis=1)
        under = half**2 - (away**2).sum(axis=1) + self.radius**2
        distances = -half - np.sqrt(np.maximum(under, 0))
        distances = np.where((under > 0) & (distances > _TOUCH), distances, np.inf)
        reached = np.where(np.isfinite(distances), distances, 0)
        return distances, (away + reached[:, None] * directions) / self.radius


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A box along the axes, of one colour."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    colour: tuple[float, float, float]

    def hits(self, origins: Array, directions: Array) -> tuple[Array, Array]:
        """As of a ball; from inside a box there is no hit."""
        with np.errstate(divide="ignore", invalid="ignore"):  # a ray along a face: 0 / 0 is no hit
            planes = (np.stack([self.low, self.high])[:, None] - origins) / directions
        enters, leaves = planes.min(axis=0), planes.max(axis=0)
        distances = enters.max(axis=1)
        is_hit = (distances < leaves.min(axis=1)) & (distances > _TOUCH)
        normals = np.zeros_like(directions)
        places = np.arange(len(directions)), enters.argmax(axis=1)
        normals[places] = -np.sign(directions[places])
        return np.where(is_hit, distances, np.inf), normals


SCENE = (
    Box(low=(-1.3, -1.3, -0.75), high=(1.3, 1.3, -0.6), colour=(0.75, 0.7, 0.6)),
    Ball(centre=(-0.45, -0.35, 0.0), radius=0.6, colour=(0.85, 0.2, 0.15)),
    Ball(centre=(0.65, -0.6, -0.25), radius=0.35, colour=(0.15, 0.35, 0.85)),
    Box(low=(0.1, 0.25, -0.6), high=(0.9, 1.05, 0.35), colour=(0.2, 0.65, 0.3)),
)


def ray_traced_scene(*, seed: int = 0, views: int = 100, size: int = 32) -> Source:
    """Two balls and a box on a slab before white, ``views`` square pictures of ``size`` pixels a side.

    The cameras are 4 from the origin, look at it, and are drawn evenly by area from the sphere's part between 10 and 70
    degrees above the horizon: azimuth ``2 pi u`` and sine of the elevation even between the two sines, z upward. Where
    a ray first meets a surface of colour c and outward direction n, with l towards the sun and r the ray mirrored, it
    shows ``c (0.35 + 0.65 s max(0, n.l)) + 0.3 s max(0, r.l)**20``, at most 1, with s = 0 where another surface is
    before the sun, else 1. A pixel is the mean of 4 rays. ``elevation`` is ``<30`` or ``>=30``, in degrees.
    """
    random = np.random.RandomState(seed)
    azimuths, heights = 2 * np.pi * random.random_sample(views), random.random_sample(views)
    low, high = np.sin(np.radians([10.0, 70.0]))
    elevations = np.arcsin(low + (high - low) * heights)
    poses = np.stack([looking_at_origin(*place) for place in zip(azimuths, elevations, strict=True)])
    focal = FOCAL_SHARE * size
    pictures = np.stack([_picture(pose, size=size, focal=focal) for pose in poses])
    codes = band_codes(np.degrees(elevations), ELEVATION_EDGES)
    return views_source(
        "builtin://ray_traced_scene",
        (255 * pictures).astype(np.float32),
        poses.astype(np.float32),
        focal=focal,
        near=NEAR,
        far=FAR,
        columns={"elevation": np.array(band_levels(ELEVATION_EDGES), dtype=object)[codes]},
        level_order={"elevation": band_levels(ELEVATION_EDGES)},
    )


def looking_at_origin(azimuth: float, elevation: float, *, radius: float = RADIUS) -> Array:
    """The pose, shape (3, 4), of a camera at these angles, in radians, with z upward in its picture."""
    flat = np.cos(elevation)
    backward = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    return np.column_stack([right, np.cross(backward, right), backward, radius * backward])


def _picture(pose: Array, *, size: int, focal: float) -> Array:
    """Shape (3, size, size), 0 to 1."""
    steps = (np.arange(2 * size) + 0.5) / 2 - size / 2
    across, down = np.meshgrid(steps, steps)
    directions = np.stack([across / focal, -down / focal, -np.ones_like(down)], axis=-1).reshape(-1, 3) @ pose[:, :3].T
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    colours = trace(np.broadcast_to(pose[:, 3], directions.shape), directions)
    return np.moveaxis(colours.reshape(size, 2, size, 2, 3).mean(axis=(1, 3)), 2, 0)


def trace(origins: Array, directions: Array) -> Array:
    """The colour that each ray shows, 0 to 1, shape (n, 3); white where it meets nothing. Directions of length 1."""
    distances, normals, colours = _first_hits(origins, directions)
    is_hit = np.isfinite(distances)
    shown = np.ones_like(directions)
    normal, ray = normals[is_hit], directions[is_hit]
    points = origins[is_hit] + distances[is_hit, None] * ray
    shadows, _, _ = _first_hits(points, np.broadcast_to(LIGHT, points.shape))
    is_lit = np.isinf(shadows)[:, None]
    mirrored = ray - 2 * (ray * normal).sum(axis=1, keepdims=True) * normal
    diffuse = AMBIENT + (1 - AMBIENT) * is_lit * np.maximum(normal @ LIGHT, 0)[:, None]
    gloss = GLOSS * is_lit * np.maximum(mirrored @ LIGHT, 0)[:, None] ** SHARPNESS
    shown[is_hit] = np.minimum(colours[is_hit] * diffuse + gloss, 1)
    return shown


def _first_hits(origins: Array, directions: Array) -> tuple[Array, Array, Array]:
    """Distance, outward direction and colour of what each ray meets first."""
    found = [thing.hits(origins, directions) for thing in SCENE]
    distances = np.stack([distance for distance, _ in found])
    first, rays = distances.argmin(axis=0), np.arange(len(directions))
    normals = np.stack([normal for _, normal in found])[first, rays]
    return distances[first, rays], normals, np.array([thing.colour for thing in SCENE])[first]
