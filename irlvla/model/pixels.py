"""Pictures as the vision-language models of transformers want them: pixel values and where their image tokens stand.

The models' own processors need torchvision, and what they do to a picture is little: resize, normalise, for some cut into patches.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the models of one type see: mean and standard deviation of the colours, and the words that stand around a picture's tokens.

    `content_list`: their chat template takes a message's content as a list of parts, not as text.
    """

    colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    content_list: bool = True


FAMILIES = {
    "llava": Family(colours=IMAGENET, content_list=False),
    "qwen2_vl": Family(colours=CLIP, before=("<|vision_start|>",), after=("<|vision_end|>",)),
    "qwen2_5_vl": Family(colours=CLIP, before=("<|vision_start|>",), after=("<|vision_end|>",)),
    "qwen3_vl": Family(colours=HALF, before=("<|vision_start|>",), after=("<|vision_end|>",)),
    "internvl": Family(colours=IMAGENET, before=("<img>",), after=("</img>",)),
    "smolvlm": Family(colours=HALF, before=("<fake_token_around_image>", "<global-img>"), after=("<fake_token_around_image>",)),
}
"""Models by their config's `model_type`. Source: preprocessor configs and processors of Qwen2-VL, Qwen2.5-VL, Qwen3-VL, InternVL3-hf and
SmolVLM2; ours for "llava", whose eyes are DINOv2."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """What a model gets of a batch's pictures: arguments of its forward, and how many image tokens each picture becomes."""

    arguments: dict[str, Tensor]
    tokens: int


def pixels(images: UInt8[Tensor, "scenes views height width 3"], config: Any, height: int, width: int) -> Pixels:
    """Pictures as a model's arguments.

    Args:
        images: of a batch; views that are missing are black.
        config: the model's config, from transformers.
        height: that pictures are resized to before they are seen, rounded to whole tokens; models with pictures of one size resize to that.
        width: as `height`.

    Raises:
        ValueError: the model's type is not one of FAMILIES.
    """
    kind = config.model_type
    if kind not in FAMILIES:
        raise ValueError(f"models of type {kind!r} are not known, only {', '.join(FAMILIES)}")
    vision = config.vision_config
    scenes, views = images.shape[:2]
    if kind.startswith("qwen"):
        patch, merge = vision.patch_size, vision.spatial_merge_size
        rows, columns = (max(1, round(size / (patch * merge))) * merge for size in (height, width))
        pictures = normalised(images.flatten(0, 1), FAMILIES[kind], rows * patch, columns * patch)
        grid = torch.tensor([[1, rows, columns]], device=images.device).expand(scenes * views, 3)
        values = patches(pictures, patch, merge, vision.temporal_patch_size)
        return Pixels({"pixel_values": values, "image_grid_thw": grid}, rows * columns // merge**2)
    if kind == "llava":
        cell = 2 * vision.patch_size
        rows, columns = (max(1, round(size / cell)) for size in (height, width))
        return Pixels({"pixel_values": normalised(images.flatten(0, 1), FAMILIES[kind], rows * cell, columns * cell)}, rows * columns)
    size = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    pictures = normalised(images.flatten(0, 1), FAMILIES[kind], size, size)
    if kind == "internvl":
        return Pixels({"pixel_values": pictures}, round((size // patch * config.downsample_ratio) ** 2))
    return Pixels({"pixel_values": pictures.unflatten(0, (scenes, views))}, (size // patch // config.scale_factor) ** 2)


def normalised(
    pictures: UInt8[Tensor, "pictures height width 3"], family: Family, height: int, width: int
) -> Float[Tensor, "pictures 3 new_height new_width"]:
    """Pictures resized and with their colours normalised, channels first."""
    values = pictures.permute(0, 3, 1, 2).float() / 255
    if values.shape[2:] != (height, width):
        values = functional.interpolate(values, (height, width), mode="bilinear", antialias=True)
    mean, deviation = (torch.tensor(row, device=values.device).view(3, 1, 1) for row in family.colours)
    return (values - mean) / deviation


def patches(
    pictures: Float[Tensor, "pictures 3 height width"], patch: int, merge: int, frames: int
) -> Float[Tensor, "patches patch_values"]:
    """Pictures cut into patches as Qwen's vision models want them: patches that are merged into one token stand together.

    Args:
        pictures: normalised, their sides multiples of `patch * merge`.
        patch: side of a patch.
        merge: patches a side that become one token.
        frames: how often a still picture is repeated in time.

    Source: `Qwen2VLImageProcessor` of transformers.
    """
    count, _, height, width = pictures.shape
    rows, columns = height // patch, width // patch
    cut = pictures.view(count, 3, rows // merge, merge, patch, columns // merge, merge, patch).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return cut.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, frames, -1, -1).reshape(count * rows * columns, -1)


def image_words(tokenizer: Any, config: Any, tokens: int) -> Int[Tensor, "words"]:
    """The ids that stand for one picture in a model's text.

    Args:
        tokenizer: the model's.
        config: the model's.
        tokens: image tokens of a picture (`Pixels.tokens`).

    Raises:
        ValueError: the tokenizer does not know a word that the model's family puts around pictures.
    """
    family = FAMILIES[config.model_type]
    around = []
    for words in (family.before, family.after):
        ids = [tokenizer.get_vocab().get(word) for word in words]
        if None in ids:
            raise ValueError(f"the tokenizer of this {config.model_type} model does not know {words[ids.index(None)]!r}")
        around.append(ids)
    return torch.tensor(around[0] + [config.image_token_id] * tokens + around[1])
