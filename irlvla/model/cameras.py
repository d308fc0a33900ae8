"""Geometry of calibrated cameras: where a point of the ego frame appears in a picture, and where a place of a picture looks.

Intrinsics are fx, fy, cx, cy as shares of the picture's width (fx, cx) and height (fy, cy), so that they hold at any size. Camera
points are x right, y down, z forward; the ego frame is x forward, y left, z up from the ground.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NEAREST = 0.5
"""Points less far ahead of a camera than this (m) count as not shown."""
FARTHEST_GROUND = 80.0
"""Rays at or above the horizon, or that meet the ground farther away, meet the "ground" here (m)."""


def distorted(places: Float[Tensor, "cameras points 2"], distortion: Float[Tensor, "cameras 5"]) -> Float[Tensor, "cameras points 2"]:
    """Where the lens puts what a pinhole would show at x/z, y/z.

    Source: OpenCV, calib3d, "Detailed Description": k1 k2 p1 p2 k3.
    """
    first, second, p1, p2, third = (value[:, None] for value in distortion.unbind(1))
    x, y = places.unbind(2)
    square = x * x + y * y
    radial = 1 + square * (first + square * (second + square * third))
    product = 2 * x * y
    x_lens = x * radial + p1 * product + p2 * (square + 2 * x * x)
    y_lens = y * radial + p2 * product + p1 * (square + 2 * y * y)
    return torch.stack([x_lens, y_lens], dim=2)


def undistorted(
    places: Float[Tensor, "cameras points 2"], distortion: Float[Tensor, "cameras 5"], rounds: int = 20
) -> Float[Tensor, "cameras points 2"]:
    """The inverse of `distorted`, by fixed-point iteration; exact enough for real lenses, up to their `widest` radius."""
    first, second, p1, p2, third = (value[:, None] for value in distortion.unbind(1))
    x, y = places.unbind(2)
    for _ in range(rounds if bool(distortion.any()) else 0):
        square = x * x + y * y
        radial = (1 + square * (first + square * (second + square * third))).clamp(min=0.1)
        product = 2 * x * y
        shift_x, shift_y = p1 * product + p2 * (square + 2 * x * x), p2 * product + p1 * (square + 2 * y * y)
        x, y = (places[..., 0] - shift_x) / radial, (places[..., 1] - shift_y) / radial
    return torch.stack([x, y], dim=2)


def widest(distortion: Float[Tensor, "cameras 5"]) -> Float[Tensor, "cameras"]:
    """Radius sqrt(x^2 + y^2)/z up to which a lens model holds, at most 8: beyond, its polynomial folds outer points back into the picture."""
    radius = torch.linspace(0.0, 8.0, 801, device=distortion.device)
    square = radius * radius
    first, second, _, _, third = (value[:, None] for value in distortion.unbind(1))
    slope = 1 + square * (3 * first + square * (5 * second + square * 7 * third))
    growing = (slope > 0).long().cumprod(1).sum(1)
    return radius[(growing - 1).clamp(min=0)]


def projected(
    points: Float[Tensor, "points 3"],
    intrinsics: Float[Tensor, "cameras 4"],
    distortion: Float[Tensor, "cameras 5"],
    ego_from_camera: Float[Tensor, "cameras 3 4"],
) -> tuple[Float[Tensor, "cameras points 2"], Float[Tensor, "cameras points"], Bool[Tensor, "cameras points"]]:
    """Where points of the ego frame (m) appear in each camera's picture.

    Returns:
        x right and y down as shares of the picture's width and height, depth along the optical axis (m), and which points the
        picture shows; places of the others mean nothing.
    """
    turn, place = ego_from_camera[:, :, :3], ego_from_camera[:, :, 3]
    inside = torch.einsum("cij,cpi->cpj", turn, points - place[:, None])
    depth = inside[..., 2]
    flat = inside[..., :2] / depth.clamp(min=0.1)[..., None]
    holds = (flat * flat).sum(2) < widest(distortion)[:, None] ** 2
    shares = distorted(flat, distortion) * intrinsics[:, None, :2] + intrinsics[:, None, 2:]
    return shares, depth, (depth > NEAREST) & holds & ((shares >= 0) & (shares <= 1)).all(2)


def rays(
    rows: int,
    columns: int,
    intrinsics: Float[Tensor, "cameras 4"],
    distortion: Float[Tensor, "cameras 5"],
    ego_from_camera: Float[Tensor, "cameras 3 4"],
) -> Float[Tensor, "cameras places 3"]:
    """Directions in the ego frame (length 1) in which the centres of a picture's rows x columns look, row by row."""
    down = (torch.arange(rows, device=intrinsics.device) + 0.5) / rows
    right = (torch.arange(columns, device=intrinsics.device) + 0.5) / columns
    down, right = torch.meshgrid(down, right, indexing="ij")
    shares = torch.stack([right.flatten(), down.flatten()], dim=1)
    # A camera that is not there has no focal length: its rays mean nothing, but stay finite.
    flat = undistorted((shares - intrinsics[:, None, 2:]) / intrinsics[:, None, :2].clamp(min=1e-3), distortion).clamp(-50, 50)
    directions = torch.einsum("cij,cpj->cpi", ego_from_camera[:, :, :3], torch.cat([flat, torch.ones_like(flat[..., :1])], dim=2))
    return torch.nn.functional.normalize(directions, dim=2)


def ray_features(
    directions: Float[Tensor, "cameras places 3"], ego_from_camera: Float[Tensor, "cameras 3 4"]
) -> Float[Tensor, "cameras places features"]:
    """Where rays look, in the language of `place_features`: the point around the ego where they meet the ground, and their elevation."""
    place = ego_from_camera[:, None, :, 3]
    level = directions[..., :2].norm(dim=2)
    elevation = torch.atan2(directions[..., 2], level)
    steep = torch.tan(-elevation).clamp(min=1e-3)
    away = torch.where(elevation < 0, place[..., 2] / steep, torch.full_like(steep, FARTHEST_GROUND)).clamp(max=FARTHEST_GROUND)
    ground = place[..., :2] + directions[..., :2] / level.clamp(min=1e-6)[..., None] * away[..., None]
    distance = ground.norm(dim=2).clamp(max=FARTHEST_GROUND)
    return place_features(distance, torch.atan2(ground[..., 1], ground[..., 0]), elevation)


def place_features(
    distance: Float[Tensor, "*places"], azimuth: Float[Tensor, "*places"], elevation: Float[Tensor, "*places"]
) -> Float[Tensor, "*places features"]:
    """Sines and cosines of a place's polar coordinates around the ego: the shared language of rays and bird's-eye cells."""
    scaled = [torch.log1p(distance) / 4.4, azimuth / 3.2, elevation]
    waves = [
        function(torch.pi * frequency * value) for value in scaled[:2] for frequency in (1, 2, 4, 8) for function in (torch.sin, torch.cos)
    ]
    return torch.stack([*waves, *scaled], dim=-1)
