"""Camera pictures to image tokens: a small convolutional encoder that trains fast on a CPU.

A picture is cut into 4 x 4 patches, which one matrix product embeds (no convolution over three channels, no gradient to
the picture); two strided stages with residual blocks follow. Channels last, bfloat16 under autocast.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

PATCH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One picture of a moment: a pinhole camera's nominal place and opening.

    `tangent_x` and `tangent_y` are the tangents of half the horizontal and vertical field of view; yaw in rad, left
    positive; place in the ego frame in m, z above the ground.
    """

    yaw: float
    tangent_x: float
    tangent_y: float
    place: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """The image encoder. `views` in the order of the store's pictures: F0, the middle half of F0, L0, R0."""

    views: tuple[View, ...] = (
        View(yaw=0.0, tangent_x=0.6249, tangent_y=0.3515, place=(1.65, 0.0, 1.6)),
        View(yaw=0.0, tangent_x=0.3124, tangent_y=0.1757, place=(1.65, 0.0, 1.6)),
        View(yaw=0.9599, tangent_x=0.7813, tangent_y=0.4395, place=(1.55, 0.5, 1.6)),
        View(yaw=-0.9599, tangent_x=0.7813, tangent_y=0.4395, place=(1.55, -0.5, 1.6)),
    )
    picture_height: int = 96
    picture_width: int = 176
    widths: tuple[int, int, int] = (32, 64, 128)
    blocks: tuple[int, int] = (1, 1)

    @property
    def token_rows(self) -> int:
        return self.picture_height // (4 * PATCH)

    @property
    def token_columns(self) -> int:
        return self.picture_width // (4 * PATCH)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions that start as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, values: Float[Tensor, "pictures width rows columns"]) -> Float[Tensor, "pictures width rows columns"]:
        return values + self.second(functional.relu(self.norm(self.first(values))))


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """Feature maps of every picture: `fine` at 1/8 of its resolution (it has seen `coarse` too), `coarse` at 1/16."""

    fine: Float[Tensor, "scenes views fine_width fine_rows fine_columns"]
    coarse: Float[Tensor, "scenes views coarse_width coarse_rows coarse_columns"]


class ImageEncoder(nn.Module):
    """Pictures to feature maps at 1/8 and 1/16 of their resolution."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        first, second, third = config.widths
        self.stem = nn.Linear(PATCH * PATCH * 3, first)
        self.down = nn.ModuleList([nn.Conv2d(first, second, 3, stride=2, padding=1), nn.Conv2d(second, third, 3, stride=2, padding=1)])
        self.stages = nn.ModuleList(
            nn.Sequential(*[ResidualBlock(width) for _ in range(count)])
            for width, count in zip(config.widths[1:], config.blocks, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in config.widths[1:])
        self.lateral = nn.Conv2d(third, second, 1)
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        images: UInt8[Tensor, "scenes views height width 3"],
        gain: Float[Tensor, "scenes 3"] | None = None,
        bias: Float[Tensor, "scenes 3"] | None = None,
    ) -> ImageFeatures:
        """Feature maps of every picture. `gain` and `bias` change the colours of a scene's pictures (augmentation)."""
        scenes, views, height, width = images.shape[:4]
        rows, columns = height // PATCH, width // PATCH
        patches = images.view(scenes * views, rows, PATCH, columns, PATCH, 3).transpose(2, 3).contiguous()
        values = patches.to(torch.bfloat16).view(scenes, views * rows * columns, PATCH * PATCH * 3)
        # (picture / 64 - 2) * gain + bias is linear in the picture: it goes into one stem a scene, not over every pixel.
        weight, gain = self.stem.weight, torch.ones(scenes, 3, device=images.device) if gain is None else gain
        bias = -2.0 * gain if bias is None else bias - 2.0 * gain
        offsets = self.stem.bias + bias.repeat(1, PATCH * PATCH) @ weight.T
        weights = (weight * (gain / 64).repeat(1, PATCH * PATCH)[:, None]).transpose(1, 2)
        with torch.autocast(images.device.type, torch.bfloat16):
            values = torch.baddbmm(offsets[:, None].to(torch.bfloat16), values, weights.to(torch.bfloat16))
            values = functional.relu(values).view(scenes * views, rows, columns, -1).permute(0, 3, 1, 2)
            fine = self.stages[0](functional.relu(self.norms[0](self.down[0](values))))
            coarse = self.stages[1](functional.relu(self.norms[1](self.down[1](fine))))
            fine = fine + functional.interpolate(self.lateral(coarse), size=fine.shape[2:], mode="nearest")
        return ImageFeatures(fine.unflatten(0, (scenes, views)), coarse.unflatten(0, (scenes, views)))


def token_rays(config: VisionConfig) -> Float[Tensor, "tokens features"]:
    """Where each image token looks: sines of where its ray meets the ground, of its azimuth and of its elevation.

    Rays at or above the horizon meet the "ground" at 80 m. The camera's place beside the ego's middle is left out.
    """
    features = []
    rows, columns = config.token_rows, config.token_columns
    for view in config.views:
        right = ((torch.arange(columns) + 0.5) / columns * 2 - 1) * view.tangent_x
        down = ((torch.arange(rows) + 0.5) / rows * 2 - 1) * view.tangent_y
        down, right = torch.meshgrid(down, right, indexing="ij")
        azimuth = view.yaw - torch.atan(right)
        elevation = torch.atan2(-down, torch.hypot(torch.ones_like(right), right))
        distance = torch.where(elevation < -0.02, view.place[2] / torch.tan(-elevation).clamp(min=0.02), torch.tensor(80.0)).clamp(max=80.0)
        features.append(place_features(distance, azimuth, elevation).flatten(0, 1))
    return torch.cat(features)


def projected(view: View, points: Float[Tensor, "points 3"]) -> tuple[Float[Tensor, "points 2"], Bool[Tensor, "points"]]:
    """Where points of the ego frame (m) appear in a view: x right and y down in [-1, 1], and which of them do at all."""
    offset = points - torch.tensor(view.place)
    forward = offset[:, 0] * math.cos(view.yaw) + offset[:, 1] * math.sin(view.yaw)
    left = offset[:, 1] * math.cos(view.yaw) - offset[:, 0] * math.sin(view.yaw)
    depth = forward.clamp(min=0.1)
    place = torch.stack([-left / depth / view.tangent_x, -offset[:, 2] / depth / view.tangent_y], dim=1)
    return place, (forward > 0.5) & (place.abs() <= 1).all(1)


def place_features(
    distance: Float[Tensor, "*places"], azimuth: Float[Tensor, "*places"], elevation: Float[Tensor, "*places"]
) -> Float[Tensor, "*places features"]:
    """Sines and cosines of a place's polar coordinates around the ego: the shared language of rays and bird's-eye cells."""
    scaled = [torch.log1p(distance) / 4.4, azimuth / 3.2, elevation]
    waves = [
        function(torch.pi * frequency * value) for value in scaled[:2] for frequency in (1, 2, 4, 8) for function in (torch.sin, torch.cos)
    ]
    return torch.stack([*waves, *scaled], dim=-1)
