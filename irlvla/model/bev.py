"""Feature maps to a bird's-eye view: 3D reasoning, supervised by the log's annotations.

Each cell of the grid is looked up in the pictures where its ground, and the air above it, would appear (Simple-BEV,
arXiv 2206.07959): cameras are calibrated, so geometry need not be learned. Convolutions over the grid then tell road from
wall and near from far. A few queries ask the front view about what is too small for that: the light ahead, the vehicle ahead.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from irlvla.model.attention import GRID_BACK, GRID_SIDE, GRID_SIZE, CrossAttention
from irlvla.model.vision import ImageFeatures, View, VisionConfig, place_features, projected, token_rays

TARGET_CHANNELS = 4
"""Drivable area, lanes of the route, objects, red-light area."""


AHEAD_EDGES = (0.0, 6.0, 12.0, 18.0, 26.0, 36.0, 56.0)
"""Edges (m, forward) of the distance classes of the red light and of the vehicle ahead; one more class is "none"."""
FRONT_VIEWS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BirdsEyeConfig:
    """The bird's-eye view: `cells` a side, `heights` (m) looked up above each, widths of the grid, `width` of tokens."""

    width: int = 96
    cells: int = 32
    heights: tuple[float, ...] = (0.0, 1.2)
    fine_width: int = 32
    coarse_width: int = 64
    channels: int = 24
    queries: int = 4


@dataclass(frozen=True, slots=True)
class SceneTokens:
    """What the vision part says about a moment: all that planner and reward world model see of the pictures.

    `tokens`: coarse bird's-eye cells, pooled front-view image tokens, then answers to the queries. `grid`: fine bird's-eye
    features; its first TARGET_CHANNELS channels are the logits of the supervised maps.
    """

    tokens: Float[Tensor, "scenes tokens width"]
    grid: Float[Tensor, "scenes channels 32 32"]


@dataclass(frozen=True, slots=True)
class Seen:
    """Scene tokens, and the supervised distance classes: of the red light ahead and of the object ahead."""

    scene: SceneTokens
    ahead: Float[Tensor, "scenes 2 classes"]


class BirdsEye(nn.Module):
    """Feature maps to scene tokens and the fine grid."""

    def __init__(self, config: BirdsEyeConfig, vision: VisionConfig) -> None:
        super().__init__()
        self.config = config
        fine, coarse = config.fine_width, config.coarse_width
        rays = token_rays(vision)[: FRONT_VIEWS * vision.token_rows * vision.token_columns]
        self.register_buffer("rays", rays, persistent=False)
        self.register_buffer("places", cell_places(config.cells), persistent=False)
        for index, view in enumerate(vision.views):
            cells, weights = visible_cells(view, config, 2 * vision.token_rows, 2 * vision.token_columns)
            self.register_buffer(f"cells{index}", cells, persistent=False)
            self.register_buffer(f"weights{index}", weights, persistent=False)
        self.lift = nn.ModuleList(nn.Linear(len(config.heights) * vision.widths[1], fine) for _ in vision.views)
        self.place = nn.Linear(self.places.shape[1], fine)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (fine, coarse, coarse, fine))
        self.first = nn.Conv2d(fine, fine, 3, padding=1)
        self.down = nn.Conv2d(fine, coarse, 3, stride=2, padding=1)
        self.context = nn.Conv2d(coarse, coarse, 3, padding=2, dilation=2)
        self.wider = nn.Conv2d(coarse, coarse, 3, padding=4, dilation=4)
        self.up = nn.Conv2d(coarse, fine, 1)
        self.last = nn.Conv2d(fine, fine, 3, padding=1)
        self.maps = nn.Conv2d(fine, config.channels, 1)
        self.cell_token = nn.Linear(coarse, config.width)
        self.image = nn.Linear(vision.widths[2], config.width)
        self.image_norm = nn.LayerNorm(config.width)
        self.ray = nn.Linear(rays.shape[1], config.width)
        self.questions = nn.Parameter(torch.randn(config.queries, config.width) * 0.5)
        self.answer = CrossAttention(config.width, config.width)
        self.ahead = nn.ModuleList(nn.Linear(config.width, len(AHEAD_EDGES)) for _ in range(2))
        self.rows, self.columns = vision.token_rows, vision.token_columns

    def forward(self, features: ImageFeatures) -> Seen:
        """Scene tokens from the encoder's feature maps."""
        with torch.autocast(features.fine.device.type, torch.bfloat16):
            cells = self._lifted(features.fine)
            fine = cells + self.first(functional.relu(self.norms[0](cells)))
            coarse = self.down(functional.relu(fine))
            coarse = coarse + self.context(functional.relu(self.norms[1](coarse)))
            coarse = coarse + self.wider(functional.relu(self.norms[2](coarse)))
            fine = fine + functional.interpolate(self.up(coarse), scale_factor=2, mode="nearest")
            fine = functional.relu(fine + self.last(functional.relu(self.norms[3](fine))))
            grid = self.maps(fine)
            below = self.cell_token(functional.avg_pool2d(coarse, 2).flatten(2).transpose(1, 2))
            front = features.coarse[:, :FRONT_VIEWS].flatten(3).permute(0, 1, 3, 2).flatten(1, 2)
            front = self.image_norm(self.image(front)) + self.ray(self.rays)
            answers = self.answer(self.questions.expand(len(front), -1, -1), front)
            ahead = torch.stack([head(answers[:, index]) for index, head in enumerate(self.ahead)], dim=1)
            pooled = front.transpose(1, 2).unflatten(2, (FRONT_VIEWS * self.rows, self.columns))
            pooled = (
                functional.adaptive_avg_pool2d(pooled, (FRONT_VIEWS * self.rows // 2, (self.columns + 1) // 2)).flatten(2).transpose(1, 2)
            )
        tokens = torch.cat([below.float(), pooled.float(), answers.float()], dim=1)
        return Seen(SceneTokens(functional.layer_norm(tokens, tokens.shape[-1:]), grid.float()), ahead.float())

    def _lifted(self, fine: Float[Tensor, "scenes views width rows columns"]) -> Float[Tensor, "scenes fine_width cells cells"]:
        """Pictures looked up at the grid's cells, summed over the views that show them."""
        scenes, side, heights = len(fine), self.config.cells, len(self.config.heights)
        # Pixels first, scenes next: one matrix product a view looks all scenes up.
        pixels = fine.permute(1, 3, 4, 0, 2).flatten(1, 2).flatten(2).unbind(0)
        cells = self.place(self.places)[:, None].expand(-1, scenes, -1)
        for index, lift in enumerate(self.lift):
            chosen, weights = getattr(self, f"cells{index}"), getattr(self, f"weights{index}")
            found = (weights.to(fine.dtype) @ pixels[index]).view(heights, len(chosen) * scenes, -1)
            lifted = torch.cat(found.unbind(0), dim=1) if heights > 1 else found[0]
            cells = cells.index_add(0, chosen, lift(lifted).view(len(chosen), scenes, -1).to(cells.dtype))
        return cells.permute(1, 2, 0).unflatten(2, (side, side)).contiguous(memory_format=torch.channels_last)


def visible_cells(
    view: View, config: BirdsEyeConfig, rows: int, columns: int
) -> tuple[Int[Tensor, "cells"], Float[Tensor, "heights_cells pixels"]]:
    """Cells that a view shows, and for their points at each height the bilinear weights of the feature map's pixels.

    The weights never change, and as a matrix they are several times faster than a lookup.
    """
    centres = (torch.arange(config.cells) + 0.5) / config.cells * GRID_SIZE
    x, y = torch.meshgrid(centres + GRID_BACK, centres + GRID_SIDE, indexing="ij")
    flat = torch.stack([x.flatten(), y.flatten()], dim=1)
    places, shown = [], torch.zeros(len(flat), dtype=torch.bool)
    for height in config.heights:
        place, inside = projected(view, torch.cat([flat, torch.full((len(flat), 1), height)], dim=1))
        places.append(place.clamp(-2, 2))
        shown |= inside
    chosen = torch.nonzero(shown)[:, 0]
    points = torch.stack(places)[:, chosen].flatten(0, 1)
    identity = torch.eye(rows * columns).view(1, rows * columns, rows, columns)
    return chosen, functional.grid_sample(identity, points[None, :, None], align_corners=False)[0, :, :, 0].T.contiguous()


def cell_places(cells: int) -> Float[Tensor, "cells features"]:
    """Place features of the cells' centres, in the order of the grid (x first, y fastest)."""
    centres = (torch.arange(cells) + 0.5) / cells * GRID_SIZE
    x, y = torch.meshgrid(centres + GRID_BACK, centres + GRID_SIDE, indexing="ij")
    distance = torch.hypot(x, y).clamp(max=80.0)
    elevation = -torch.atan2(torch.full_like(distance, 1.6), distance)
    return place_features(distance, torch.atan2(y, x), elevation).flatten(0, 1)


def map_loss(
    grid: Float[Tensor, "scenes channels 32 32"], targets: Float[Tensor, "scenes 4 32 32"], weights: tuple[float, float, float, float]
) -> Float[Tensor, ""]:
    """Binary cross-entropy of the supervised maps; `weights` of their positive cells balance rare ones."""
    positive = torch.tensor(weights, device=grid.device).view(1, -1, 1, 1)
    return functional.binary_cross_entropy_with_logits(grid[:, :TARGET_CHANNELS], targets, pos_weight=positive)


def ahead_classes(targets: Float[Tensor, "scenes 4 32 32"]) -> Int[Tensor, "scenes 2"]:
    """Distance classes that follow from the bird's-eye targets: nearest red-light area, nearest object on the route ahead."""
    red = targets[:, 3] > 0
    lead = (targets[:, 2] > 0) & (targets[:, 1] > 0)
    distance = GRID_BACK + (torch.arange(32, device=targets.device) + 0.5) * 2
    edges = torch.tensor(AHEAD_EDGES[1:-1], device=targets.device)
    classes = []
    for area in (red, lead):
        row = area.any(2) & (distance > 4.0)
        nearest = torch.where(row, distance, torch.tensor(1e3, device=targets.device)).amin(1)
        classes.append(torch.where(nearest > 100, len(AHEAD_EDGES) - 1, torch.bucketize(nearest, edges)))
    return torch.stack(classes, dim=1)


def ahead_loss(ahead: Float[Tensor, "scenes 2 classes"], targets: Float[Tensor, "scenes 4 32 32"]) -> Float[Tensor, ""]:
    """Cross-entropy of the distance classes."""
    return functional.cross_entropy(ahead.flatten(0, 1), ahead_classes(targets).flatten())
