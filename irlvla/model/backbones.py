"""Image encoders by name: the small one, and backbones that others pretrained, each with a neck of its own.

A backbone makes a few maps of a picture; the neck, always trained here, makes of them what every encoder gives: `ImageFeatures`.
A frozen backbone's maps never change, so that they can be computed once for all pictures and kept (`irlvla.feature_cache`).
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from irlvla.model.lite0 import TAKEN, EfficientNetLite0, lite0_state
from irlvla.model.vision import ImageEncoder, ImageFeatures, ResidualBlock, Sight, VisionConfig, by_view, pictures_of
from irlvla.model.weights import EXTRA, dinov2_weights, lite0_weights

FINE, COARSE = 8, 16
"""Pixels of a picture that one of a fine or coarse map stands for, each way."""
STRIDES = (8, 16, 32)
"""Of a backbone's maps those that are of use."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Weights = Mapping[str, Tensor]


class Neck(nn.Module):
    """A backbone's maps, whatever their sizes and widths, to one fine and one coarse map."""

    def __init__(self, strides: tuple[int, ...], inputs: tuple[int, ...], fine: int, coarse: int) -> None:
        super().__init__()
        self.strides = strides
        self.taken = nn.ModuleList(nn.ModuleList(nn.Conv2d(width, out, 1, bias=False) for width in inputs) for out in (fine, coarse))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (fine, coarse))
        self.blocks = nn.ModuleList(ResidualBlock(width) for width in (fine, coarse))

    def forward(self, maps: list[Float[Tensor, "pictures _ _ _"]]) -> list[Float[Tensor, "pictures _ _ _"]]:
        found = []
        for stride, taken, norm, block in zip((FINE, COARSE), self.taken, self.norms, self.blocks, strict=True):
            nearest = min(range(len(maps)), key=lambda index: abs(self.strides[index] - stride))
            size = [side * self.strides[nearest] // stride for side in maps[nearest].shape[2:]]
            parts = [_resized(one(values), size) for one, values in zip(taken, maps, strict=True)]
            found.append(block(functional.relu(norm(torch.stack(parts).sum(0)))))
        return found


def _resized(maps: Float[Tensor, "pictures width rows columns"], size: list[int]) -> Float[Tensor, "pictures width _ _"]:
    if list(maps.shape[2:]) == size:
        return maps
    if maps.shape[2] > size[0]:
        return functional.adaptive_avg_pool2d(maps, size)
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


class PretrainedEncoder(nn.Module):
    """A pretrained backbone and its neck.

    Args:
        config: widths of the maps, and whether the backbone is frozen.
        backbone: normalised pictures to a list of maps, with `strides` and `widths` of them.
        colours: mean and standard deviation of colours (of 0 .. 1) that the backbone was trained with.
        weights: gives the backbone's pretrained weights; called by `load_pretrained` only, so that a checkpoint, which holds them, needs no
            package.
    """

    def __init__(
        self,
        config: VisionConfig,
        backbone: nn.Module,
        colours: tuple[tuple[float, ...], tuple[float, ...]],
        weights: Callable[[], Weights],
    ) -> None:
        super().__init__()
        self.config, self.weights = config, weights
        self.backbone = backbone.requires_grad_(not config.frozen)
        self.neck = Neck(backbone.strides, backbone.widths, *config.widths[1:])
        self.register_buffer("mean", torch.tensor(colours[0]), persistent=False)
        self.register_buffer("std", torch.tensor(colours[1]), persistent=False)
        self.to(memory_format=torch.channels_last)
        self.train()

    def train(self, mode: bool = True) -> "PretrainedEncoder":
        """As usual, but a frozen backbone does not even move its batch norms' averages."""
        super().train(mode)
        if self.config.frozen:
            self.backbone.eval()
        return self

    def raw(
        self, sight: Sight, gain: Float[Tensor, "scenes 3"] | None = None, bias: Float[Tensor, "scenes 3"] | None = None
    ) -> tuple[Float[Tensor, "scenes views _ _ _"], ...]:
        """The backbone's maps of every picture; `gain` and `bias` change colours as they do in `ImageEncoder`."""
        images, scene = pictures_of(sight)
        pictures = images.permute(0, 3, 1, 2).float()
        if gain is not None:
            # The small encoder's unit of colour is 64, its middle 128.
            shift = 0.0 if bias is None else 64 * bias[scene, :, None, None]
            pictures = (pictures - 128) * gain[scene, :, None, None] + shift + 128
        pictures = (pictures / 255 - self.mean[:, None, None]) / self.std[:, None, None]
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16), torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen):
            maps = self.backbone(pictures)
        return tuple(by_view(values, sight.valid) for values in maps)

    def forward(
        self, sight: Sight, gain: Float[Tensor, "scenes 3"] | None = None, bias: Float[Tensor, "scenes 3"] | None = None
    ) -> ImageFeatures:
        """Feature maps of every picture, from `sight.raw` where that is there: colours then stay as they are."""
        raw = self.raw(sight, gain, bias) if sight.raw is None else sight.raw
        scenes, views = sight.valid.shape
        whole = bool(sight.valid.all())
        with torch.autocast(sight.valid.device.type, torch.bfloat16):
            fine, coarse = self.neck([(values.flatten(0, 1) if whole else values[sight.valid]) for values in raw])
        return ImageFeatures(by_view(fine, sight.valid), by_view(coarse, sight.valid))


class Lite0Backbone(nn.Module):
    """EfficientNet-Lite0's maps at 1/8, 1/16 and 1/32."""

    strides, widths = STRIDES, tuple(width for _, width in TAKEN)

    def __init__(self) -> None:
        super().__init__()
        self.model = EfficientNetLite0()

    def forward(self, pictures: Float[Tensor, "pictures 3 height width"]) -> list[Float[Tensor, "pictures _ _ _"]]:
        return self.model(pictures)


class TransformersBackbone(nn.Module):
    """A vision model of the transformers library: maps of a convolutional network, or a vision transformer's tokens as one map.

    A transformer gets pictures resized such that each patch stands for 16 x 16 pixels of the original, whatever its own patches
    measure: its tokens are then the coarse map.

    Raises:
        ValueError: the model gives neither maps nor one token a patch.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name
        # Some models fit their places to other sizes of pictures only when asked to.
        asked = "interpolate_pos_encoding"
        self.options = {asked: True} if asked in inspect.signature(model.forward).parameters else {}
        with torch.no_grad():
            probe = torch.zeros(1, 3, 64, 96)
            hidden = model.eval()(probe, output_hidden_states=True, **self.options).hidden_states
            self.patch = None if hidden[-1].ndim == 4 else int(getattr(model.config, "patch_size", COARSE))
            maps = self(probe)
        if not maps:
            raise ValueError(f"{name}: no maps at 1/8, 1/16 or 1/32, only {[tuple(values.shape[2:]) for values in hidden]} of 64 x 96")
        self.strides = tuple(64 // values.shape[2] for values in maps)
        self.widths = tuple(values.shape[1] for values in maps)

    def forward(self, pictures: Float[Tensor, "pictures 3 height width"]) -> list[Float[Tensor, "pictures _ _ _"]]:
        height, width = pictures.shape[2:]
        if self.patch is None:
            hidden = self.model(pictures, output_hidden_states=True, **self.options).hidden_states
            # The last of each size, sizes between 1/8 and 1/32; a side may be rounded either way.
            last = {round(height / values.shape[2]): values for values in hidden}
            return [last[stride] for stride in STRIDES if stride in last]
        rows, columns = height // COARSE, width // COARSE
        size = (rows * self.patch, columns * self.patch)
        if size != (height, width):
            pictures = functional.interpolate(pictures, size=size, mode="bilinear", align_corners=False, antialias=size < (height, width))
        tokens = self.model(pictures, **self.options).last_hidden_state
        # Class and register tokens come first.
        if tokens.ndim != 3 or not 0 <= tokens.shape[1] - rows * columns < 32:
            raise ValueError(f"{self.name}: {tuple(tokens.shape)} is not one token for each of {rows} x {columns} patches")
        return [tokens[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))]


def transformers() -> Any:
    """The transformers library.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ValueError(f"this encoder needs the transformers library ({error}): {EXTRA}") from error
    return transformers


def _lite0(config: VisionConfig) -> PretrainedEncoder:
    def weights() -> Weights:
        return {f"model.{name}": value for name, value in lite0_state(lite0_weights()).items()}

    return PretrainedEncoder(config, Lite0Backbone(), ((0.5,) * 3, (0.5,) * 3), weights)


def _dinov2(config: VisionConfig) -> PretrainedEncoder:
    library = transformers()
    model = library.Dinov2Model(
        library.Dinov2Config(
            hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14, use_mask_token=False
        )
    )

    def weights() -> Weights:
        found = dinov2_weights()
        if "encoder.layer.0.attention.q_proj.weight" in model.state_dict():
            for old, new in (
                ("attention.query", "q_proj"),
                ("attention.key", "k_proj"),
                ("attention.value", "v_proj"),
                ("output.dense", "o_proj"),
            ):
                found = {name.replace(f"attention.{old}.", f"attention.{new}."): value for name, value in found.items()}
        return {f"model.{name}": value for name, value in found.items()}

    return PretrainedEncoder(config, TransformersBackbone(model, config.encoder), (IMAGENET_MEAN, IMAGENET_STD), weights)


def _of_transformers(config: VisionConfig) -> PretrainedEncoder:
    library, name = transformers(), config.encoder.removeprefix("hf:")
    settings = library.AutoConfig.from_pretrained(name)
    # Of a model of pictures and text only the picture's half is wanted.
    model = _vision_half(library.AutoModel.from_config(settings)).float()

    def weights() -> Weights:
        whole = library.AutoModel.from_pretrained(name)
        return {f"model.{key}": value for key, value in _vision_half(whole).state_dict().items()}

    return PretrainedEncoder(config, TransformersBackbone(model, config.encoder), _colours(library, name), weights)


def _vision_half(model: nn.Module) -> nn.Module:
    return model.vision_model if hasattr(model.config, "text_config") else model


def _colours(library: Any, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that a model's own preprocessing says, ImageNet's if it says nothing."""
    try:
        said, _ = library.ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        said = {}
    return tuple(said.get("image_mean", IMAGENET_MEAN)), tuple(said.get("image_std", IMAGENET_STD))


ENCODERS: dict[str, Callable[[VisionConfig], nn.Module]] = {"small": ImageEncoder, "efficientnet-lite0": _lite0, "dinov2-s": _dinov2}
"""Encoders by name; any vision backbone of the transformers library is "hf:" and its name on the hub, or a folder."""


def image_encoder(config: VisionConfig) -> nn.Module:
    """The encoder that a config names, with random weights.

    Raises:
        ValueError: there is no encoder of that name, or what it needs is not installed; or the small one, which nobody trained, is to be frozen.
    """
    if config.encoder.startswith("hf:"):
        return _of_transformers(config)
    if config.encoder not in ENCODERS:
        raise ValueError(f"unknown encoder {config.encoder!r}; known: {', '.join(ENCODERS)}, hf:<model>")
    if config.encoder == "small" and config.frozen:
        raise ValueError("the small encoder has no pretrained weights: it cannot be frozen")
    return ENCODERS[config.encoder](config)


def freeze(encoder: nn.Module) -> None:
    """Freezes what an encoder's config says is frozen: after all of a policy was told to learn."""
    if isinstance(encoder, PretrainedEncoder) and encoder.config.frozen:
        encoder.backbone.requires_grad_(False)


def load_pretrained(encoder: nn.Module) -> None:
    """Puts pretrained weights into an encoder that has such, every one of them; the neck stays as it is.

    Raises:
        ValueError: the package that carries them is not installed.
    """
    if isinstance(encoder, PretrainedEncoder):
        encoder.backbone.load_state_dict(encoder.weights(), strict=True)
