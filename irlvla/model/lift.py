"""From pictures to the bird's-eye grid: each cell is looked up where its ground, and the air above it, appears in the pictures.

Cameras are calibrated, so geometry need not be learned (Simple-BEV, arXiv 2206.07959). A batch's lookups are one sparse matrix,
found anew for every batch from each scene's own cameras; cameras that scenes share are projected once.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from irlvla.model.attention import GRID_BACK, GRID_SIDE, GRID_SIZE
from irlvla.model.cameras import place_features, projected
from irlvla.model.vision import Sight

GEOMETRY = 3
"""Numbers that say how a view shows a cell."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """Which pixels show which cells; a "showing" is one cell that one view of one scene shows.

    `pixels` number (scene, view, row, column, height) of a feature map; weights of a showing add up to at most the number of heights,
    0 where a height is outside the picture. `cells` number (scene, cell). `geometry`: how far and how large the view shows the
    cell.
    """

    pixels: Int[Tensor, "showings entries"]
    weights: Float[Tensor, "showings entries"]
    cells: Int[Tensor, "showings"]
    geometry: Float[Tensor, "showings 3"]


def cell_centres(cells: int, device: torch.device | str = "cpu") -> Float[Tensor, "cells 2"]:
    """x, y (m, ego frame) of the grid's cells, x first, y fastest."""
    centres = (torch.arange(cells, device=device) + 0.5) / cells * GRID_SIZE
    x, y = torch.meshgrid(centres + GRID_BACK, centres + GRID_SIDE, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def cell_places(cells: int) -> Float[Tensor, "cells features"]:
    """Place features of the cells' centres, in the order of the grid (x first, y fastest)."""
    x, y = cell_centres(cells).unbind(1)
    distance = torch.hypot(x, y).clamp(max=80.0)
    elevation = -torch.atan2(torch.full_like(distance, 1.6), distance)
    return place_features(distance, torch.atan2(y, x), elevation)


@torch.no_grad()
def lookup(sight: Sight, rows: int, columns: int, cells: int, heights: tuple[float, ...]) -> Lookup:
    """Bilinear lookups of every cell of the grid, at each height above its centre, in all valid views.

    Args:
        sight: for calibration and validity; pictures are not looked at.
        rows: of the feature map.
        columns: of the feature map.
        cells: a side of the grid.
        heights: above the ground, m.
    """
    scenes, views = sight.valid.shape
    calibration = torch.cat([sight.intrinsics, sight.distortion, sight.ego_from_camera.flatten(2)], dim=2).flatten(0, 1)
    cameras, camera = torch.unique(calibration, dim=0, return_inverse=True)
    intrinsics, distortion, ego_from_camera = cameras[:, :4], cameras[:, 4:9], cameras[:, 9:].unflatten(1, (3, 4))
    flat = cell_centres(cells, cameras.device)
    points = torch.cat([torch.cat([flat, torch.full_like(flat[:, :1], height)], dim=1) for height in heights])
    shares, depth, shown = projected(points, intrinsics, distortion, ego_from_camera)
    shown = shown.unflatten(1, (len(heights), -1)).transpose(1, 2)
    is_shown = shown.any(2)
    # From here on only what some camera shows: a row is a camera's cell, its columns are heights.
    of_camera, of_cell = torch.nonzero(is_shown, as_tuple=True)
    size = torch.tensor([columns, rows], device=cameras.device)
    shares = shares.unflatten(1, (len(heights), -1)).transpose(1, 2)[of_camera, of_cell]
    place = (shares.clamp(0, 1) * size - 0.5).clamp(min=0).minimum(size - 1.0)
    low = place.floor()
    share, low = place - low, low.int()
    high = (low + 1).minimum(size.int() - 1)
    pixels, weights = [], []
    for bottom in (0, 1):
        for right in (0, 1):
            row, column = (high if bottom else low)[..., 1], (high if right else low)[..., 0]
            pixels.append(row * columns + column)
            weights.append((share[..., 1] if bottom else 1 - share[..., 1]) * (share[..., 0] if right else 1 - share[..., 0]))
    level = torch.arange(len(heights), device=cameras.device, dtype=torch.int32)[:, None]
    pixel = torch.stack(pixels, dim=-1) * len(heights) + level
    weight = torch.stack(weights, dim=-1) * shown[of_camera, of_cell][..., None]
    depth = depth[:, : len(flat)][of_camera, of_cell].clamp(min=1.0)
    sharpness = torch.log(intrinsics[of_camera, 0].clamp(min=1e-3) * columns / depth)
    geometry = torch.stack([torch.log(depth) / 2 - 1, sharpness / 2, sharpness.square() / 4], dim=1)
    view, cell = torch.nonzero(is_shown[camera] & sight.valid.flatten()[:, None], as_tuple=True)
    number = is_shown.flatten().cumsum(0) - 1
    chosen = number[camera[view] * len(flat) + cell]
    first = view * (rows * columns * len(heights))
    return Lookup(
        pixels=pixel.flatten(1)[chosen] + first[:, None].int(),
        weights=weight.flatten(1)[chosen],
        cells=view // views * len(flat) + cell,
        geometry=geometry[chosen],
    )


class _Gathered(torch.autograd.Function):
    """Weighted sums of rows of a table. Its gradient is such a sum too, over the same entries sorted by row (torch's own is slower)."""

    @staticmethod
    def forward(context: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        context.save_for_backward(rows, weights)
        context.length = len(table)
        return functional.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        rows, weights = context.saved_tensors
        entries = rows.shape[1]
        sorted_rows, order = rows.flatten().sort()
        start = torch.searchsorted(sorted_rows, torch.arange(context.length, device=rows.device, dtype=rows.dtype))
        sums = (order // entries).to(rows.dtype)
        found = functional.embedding_bag(
            sums, gradient.contiguous(), start.to(rows.dtype), per_sample_weights=weights.flatten()[order], mode="sum"
        )
        return found, None, None


def gathered(
    table: Float[Tensor, "rows width"], rows: Int[Tensor, "sums entries"], weights: Float[Tensor, "sums entries"]
) -> Float[Tensor, "sums width"]:
    """Weighted sums of a table's rows; `rows` and `weights` get no gradient."""
    if not len(rows):
        return table[:0]
    return _Gathered.apply(table, rows, weights)
