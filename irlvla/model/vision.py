"""Camera pictures to image tokens: a small convolutional encoder that trains fast on a CPU.

A picture is cut into 4 x 4 patches, which one matrix product embeds (no convolution over three channels, no gradient to
the picture); two strided stages with residual blocks follow. Channels last, bfloat16 under autocast.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

PATCH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One picture of a moment: a pinhole camera's nominal place and opening.

    `tangent_x` and `tangent_y` are the tangents of half the horizontal and vertical field of view; yaw in rad, left
    positive; height above the ground in m. Only position embeddings use these, so nominal values do.
    """

    yaw: float
    tangent_x: float
    tangent_y: float
    height: float = 1.6


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """The image encoder. `views` in the order of the store's pictures: F0, the middle half of F0, L0, R0."""

    views: tuple[View, ...] = (
        View(yaw=0.0, tangent_x=0.625, tangent_y=0.35),
        View(yaw=0.0, tangent_x=0.3125, tangent_y=0.175),
        View(yaw=0.96, tangent_x=0.73, tangent_y=0.41),
        View(yaw=-0.96, tangent_x=0.73, tangent_y=0.41),
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


class ImageEncoder(nn.Module):
    """Pictures to feature maps at 1/16 of their resolution."""

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
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        images: UInt8[Tensor, "scenes views height width 3"],
        gain: Float[Tensor, "scenes 3"] | None = None,
        bias: Float[Tensor, "scenes 3"] | None = None,
    ) -> Float[Tensor, "scenes views channels rows columns"]:
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
            for down, norm, stage in zip(self.down, self.norms, self.stages, strict=True):
                values = stage(functional.relu(norm(down(values))))
        return values.reshape(scenes, views, *values.shape[1:])


def token_rays(config: VisionConfig) -> Float[Tensor, "tokens features"]:
    """Where each image token looks: sines of where its ray meets the ground, of its azimuth and of its elevation.

    Rays at or above the horizon meet the "ground" at 80 m.
    """
    features = []
    rows, columns = config.token_rows, config.token_columns
    for view in config.views:
        right = ((torch.arange(columns) + 0.5) / columns * 2 - 1) * view.tangent_x
        down = ((torch.arange(rows) + 0.5) / rows * 2 - 1) * view.tangent_y
        down, right = torch.meshgrid(down, right, indexing="ij")
        azimuth = view.yaw - torch.atan(right)
        elevation = torch.atan2(-down, torch.hypot(torch.ones_like(right), right))
        distance = torch.where(elevation < -0.02, view.height / torch.tan(-elevation).clamp(min=0.02), torch.tensor(80.0)).clamp(max=80.0)
        features.append(place_features(distance, azimuth, elevation).flatten(0, 1))
    return torch.cat(features)


def place_features(
    distance: Float[Tensor, "*places"], azimuth: Float[Tensor, "*places"], elevation: Float[Tensor, "*places"]
) -> Float[Tensor, "*places features"]:
    """Sines and cosines of a place's polar coordinates around the ego: the shared language of rays and bird's-eye cells."""
    scaled = [torch.log1p(distance) / 4.4, azimuth / 3.2, elevation]
    waves = [
        function(torch.pi * frequency * value) for value in scaled[:2] for frequency in (1, 2, 4, 8) for function in (torch.sin, torch.cos)
    ]
    return torch.stack([*waves, *scaled], dim=-1)
