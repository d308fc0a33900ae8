"""Image tokens to a bird's-eye view: 3D reasoning, supervised by the log's annotations.

Each cell of a coarse grid asks the image tokens what lies there. Keys know where their ray meets the ground and queries
where their cell lies, in the same coordinates, so attention starts close to geometry.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from irlvla.model.attention import GRID_BACK, GRID_SIDE, GRID_SIZE
from irlvla.model.vision import VisionConfig, place_features, token_rays

TARGET_CHANNELS = 4
"""Drivable area, lanes of the route, objects, red-light area."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BirdsEyeConfig:
    """The lift to the bird's-eye view: `cells` queries a side, `layers` of attention, `channels` of the fine grid."""

    width: int = 96
    cells: int = 16
    layers: int = 2
    heads: int = 8
    channels: int = 24


@dataclass(frozen=True, slots=True)
class SceneTokens:
    """What the vision part says about a moment: all that planner and reward world model see of the pictures.

    `tokens`: coarse bird's-eye cells, then pooled front-view image tokens. `grid`: fine bird's-eye features; its first
    TARGET_CHANNELS channels are the logits of the supervised maps.
    """

    tokens: Float[Tensor, "scenes tokens width"]
    grid: Float[Tensor, "scenes channels 32 32"]


class GroundAttention(nn.Module):
    """Cells attend to image tokens by geometry alone: one attention map for all scenes, learned from rays and places.

    Where a cell's contents appear in the pictures depends on the cameras, not on the scene, so the map costs nothing per
    scene; what the tokens say is told apart by heads and by the layers after.
    """

    def __init__(self, width: int, heads: int, rays: Float[Tensor, "tokens features"], places: Float[Tensor, "cells features"]) -> None:
        super().__init__()
        self.heads = heads
        self.register_buffer("rays", rays, persistent=False)
        self.register_buffer("places", places, persistent=False)
        self.ray = nn.Linear(rays.shape[1], heads * 32)
        self.place = nn.Linear(rays.shape[1], heads * 32)
        self.place.load_state_dict(self.ray.state_dict())
        self.ray_free = nn.Parameter(torch.zeros(len(rays), heads * 32))
        self.place_free = nn.Parameter(torch.zeros(len(places), heads * 32))
        self.sharpness = nn.Parameter(torch.linspace(2.0, 4.0, heads))
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, image: Float[Tensor, "scenes tokens width"]) -> Float[Tensor, "scenes cells width"]:
        keys = functional.normalize((self.ray(self.rays) + self.ray_free).unflatten(1, (self.heads, 32)).float(), dim=2)
        queries = functional.normalize((self.place(self.places) + self.place_free).unflatten(1, (self.heads, 32)).float(), dim=2)
        logits = torch.einsum("chd,thd->hct", queries, keys) * self.sharpness.exp()[:, None, None]
        values = self.value(image).unflatten(2, (self.heads, -1)).permute(2, 1, 0, 3)
        attended = torch.softmax(logits, dim=-1).to(values.dtype) @ values.flatten(2)
        return self.out(attended.unflatten(2, (len(image), -1)).permute(2, 1, 0, 3).flatten(2))


class BirdsEye(nn.Module):
    """Image tokens to scene tokens and the fine grid."""

    def __init__(self, config: BirdsEyeConfig, vision: VisionConfig) -> None:
        super().__init__()
        self.config = config
        rays, places = token_rays(vision), cell_places(config.cells)
        self.register_buffer("rays", rays, persistent=False)
        self.register_buffer("places", places, persistent=False)
        self.image = nn.Linear(vision.widths[-1], config.width)
        self.image_norm = nn.LayerNorm(config.width)
        self.ray = nn.Linear(rays.shape[1], config.width)
        self.ray_free = nn.Parameter(torch.zeros(len(rays), config.width))
        self.place = nn.Linear(rays.shape[1], config.width)
        self.place_free = nn.Parameter(torch.zeros(len(places), config.width))
        self.ground = nn.ModuleList(GroundAttention(config.width, config.heads, rays, places) for _ in range(config.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(config.layers))
        self.neighbours = nn.ModuleList(nn.Conv2d(config.width, config.width, 3, padding=1) for _ in range(config.layers))
        self.mixers = nn.ModuleList(nn.Conv2d(config.width, config.width, 1) for _ in range(config.layers))
        self.upsample = nn.Linear(config.width, 4 * config.channels)
        self.smooth = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        self.maps = nn.Conv2d(config.channels, config.channels, 1)
        self.front_views = 2
        self.rows, self.columns = vision.token_rows, vision.token_columns

    def forward(self, features: Float[Tensor, "scenes views channels rows columns"]) -> SceneTokens:
        """Scene tokens from the encoder's feature maps."""
        side = self.config.cells
        with torch.autocast(features.device.type, torch.bfloat16):
            image = self.image_norm(self.image(features.flatten(3).permute(0, 1, 3, 2).flatten(1, 2)))
            image = image + self.ray(self.rays) + self.ray_free
            cells = self.place(self.places) + self.place_free
            for ground, norm, neighbour, mixer in zip(self.ground, self.norms, self.neighbours, self.mixers, strict=True):
                cells = cells + ground(image)
                near = norm(cells).transpose(1, 2).unflatten(2, (side, side))
                cells = cells + mixer(functional.relu(neighbour(near))).flatten(2).transpose(1, 2)
            fine = functional.pixel_shuffle(self.upsample(cells).transpose(1, 2).unflatten(2, (side, side)), 2)
            grid = self.maps(functional.relu(fine + self.smooth(fine)))
            coarse = functional.avg_pool2d(cells.transpose(1, 2).unflatten(2, (side, side)), 2).flatten(2).transpose(1, 2)
            front = image[:, : self.front_views * self.rows * self.columns]
            front = front.transpose(1, 2).unflatten(2, (self.front_views * self.rows, self.columns))
            front = (
                functional.adaptive_avg_pool2d(front, (self.front_views * self.rows // 2, (self.columns + 1) // 2))
                .flatten(2)
                .transpose(1, 2)
            )
        return SceneTokens(torch.cat([coarse, front], dim=1).float(), grid.float())


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
