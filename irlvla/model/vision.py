"""Camera pictures to image tokens: what a policy sees of a moment, and a small convolutional encoder that trains fast on a CPU.

A picture is cut into 4 x 4 patches, which one matrix product embeds (no convolution over three channels, no gradient to
the picture); two strided stages with residual blocks follow. Channels last, bfloat16 under autocast.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from irlvla.types import Features

PATCH = 4
PER_VIEW = ("images", "intrinsics", "distortion", "ego_from_camera", "valid")
"""Fields of a sight that have a value for each view."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a batch of moments looks like: pictures, and how their cameras see (as in `irlvla.types.Rig`).

    Any number of cameras in any order; a view that is not valid has no say, whatever its pixels and calibration are.
    `ego_from_camera` takes camera points (x right, y down, z forward) to the ego frame (m); intrinsics are fx, fy, cx, cy as shares of the picture's
    width and height; distortion is OpenCV's k1 k2 p1 p2 k3. `raw`, if there, is what a frozen encoder's backbone made of the
    pictures, which then need not be there.
    """

    images: UInt8[Tensor, "scenes views height width 3"]
    intrinsics: Float[Tensor, "scenes views 4"]
    distortion: Float[Tensor, "scenes views 5"]
    ego_from_camera: Float[Tensor, "scenes views 3 4"]
    valid: Bool[Tensor, "scenes views"]
    raw: tuple[Float[Tensor, "scenes views _ _ _"], ...] | None = None


def sight_of(features: Features, device: torch.device | str = "cpu") -> Sight:
    """Features as the vision part wants them; those of one moment become a batch of one."""
    rig = features.rig

    def tensor(values: np.ndarray, axes: int) -> Tensor:
        values = np.ascontiguousarray(values)
        return torch.from_numpy(values if values.ndim == axes else values[None]).to(device)

    return Sight(
        images=tensor(features.images, 5),
        intrinsics=tensor(rig.intrinsics, 3).float(),
        distortion=tensor(rig.distortion, 3).float(),
        ego_from_camera=tensor(rig.ego_from_camera, 4).float(),
        valid=tensor(rig.valid, 2),
    )


def sight_rows(sights: Sequence[Sight], rows: Int[np.ndarray, "rows"]) -> Sight:
    """Moments of several sights put one after the other, in the order of `rows`."""
    chosen = torch.from_numpy(rows).to(sights[0].images.device)
    joined = {name: torch.cat([getattr(sight, name) for sight in sights])[chosen] for name in PER_VIEW}
    raws = [sight.raw for sight in sights if sight.raw is not None]
    raw = tuple(torch.cat(maps)[chosen] for maps in zip(*raws, strict=True)) if raws else None
    return Sight(**joined, raw=raw)


def on_device(sight: Sight, device: torch.device | str) -> Sight:
    """The same sight, its tensors on a device."""
    raw = None if sight.raw is None else tuple(values.to(device) for values in sight.raw)
    return Sight(**{name: getattr(sight, name).to(device) for name in PER_VIEW}, raw=raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """The image encoder: its name (`irlvla.model.backbones.ENCODERS`, or "hf:" and a model's name), and widths of its stem, fine and coarse maps.

    `frozen` keeps a pretrained backbone as it is, so that what it makes of every picture is computed once. `blocks` is the small encoder's depth.
    """

    encoder: str = "small"
    frozen: bool = False
    widths: tuple[int, int, int] = (32, 64, 128)
    blocks: tuple[int, int] = (1, 1)


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
        self, sight: Sight, gain: Float[Tensor, "scenes 3"] | None = None, bias: Float[Tensor, "scenes 3"] | None = None
    ) -> ImageFeatures:
        """Feature maps of every picture. `gain` and `bias` change the colours of a scene's pictures (augmentation)."""
        images, scene = pictures_of(sight)
        count, height, width = images.shape[:3]
        rows, columns = height // PATCH, width // PATCH
        patches = images.view(count, rows, PATCH, columns, PATCH, 3).transpose(2, 3).contiguous()
        values = patches.to(torch.bfloat16).view(count, rows * columns, PATCH * PATCH * 3)
        # (picture / 64 - 2) * gain + bias is linear in the picture: it goes into one stem a scene, not over every pixel.
        weight, gain = self.stem.weight, torch.ones(sight.valid.shape[0], 3, device=images.device) if gain is None else gain
        bias = -2.0 * gain if bias is None else bias - 2.0 * gain
        offsets = self.stem.bias + bias.repeat(1, PATCH * PATCH) @ weight.T
        weights = (weight * (gain / 64).repeat(1, PATCH * PATCH)[:, None]).transpose(1, 2)
        with torch.autocast(images.device.type, torch.bfloat16):
            values = torch.baddbmm(offsets[scene, None].to(torch.bfloat16), values, weights[scene].to(torch.bfloat16))
            values = functional.relu(values).view(count, rows, columns, self.stem.out_features).permute(0, 3, 1, 2)
            fine = self.stages[0](functional.relu(self.norms[0](self.down[0](values))))
            coarse = self.stages[1](functional.relu(self.norms[1](self.down[1](fine))))
            fine = fine + functional.interpolate(self.lateral(coarse), size=fine.shape[2:], mode="nearest")
        return ImageFeatures(by_view(fine, sight.valid), by_view(coarse, sight.valid))


def pictures_of(sight: Sight) -> tuple[UInt8[Tensor, "pictures height width 3"], Tensor]:
    """All valid pictures, and the number of the scene of each. The others must not even enter a batch norm's statistics."""
    if torch.compiler.is_compiling():  # an exported policy has all of its cameras, for no graph knows how many there are
        scenes, views = sight.valid.shape
        return sight.images.flatten(0, 1), torch.arange(scenes * views, device=sight.images.device) // views
    scene = torch.nonzero(sight.valid)[:, 0]
    if len(scene) == sight.valid.numel():
        return sight.images.flatten(0, 1), scene
    return sight.images[sight.valid], scene


def by_view(
    maps: Float[Tensor, "pictures width rows columns"], valid: Bool[Tensor, "scenes views"]
) -> Float[Tensor, "scenes views width rows columns"]:
    """Maps of the valid pictures in their places, 0 for the others."""
    if maps.shape[0] == valid.numel():
        return maps.unflatten(0, tuple(valid.shape))
    # Channels stay last, as convolutions want them.
    found = maps.new_zeros(*valid.shape, *maps.shape[2:], maps.shape[1])
    return found.index_put((valid,), maps.permute(0, 2, 3, 1)).permute(0, 1, 4, 2, 3)
