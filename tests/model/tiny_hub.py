"""Tiny random vision-language models of every known family, saved to a folder as a hub would hold them."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Dinov2Config,
    Dinov2Model,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from irlvla.model.pixels import FAMILIES
from irlvla.model.vision_language import IMAGE_WORD
from irlvla.rationale import VOCABULARY

AROUND = sorted({word for family in FAMILIES.values() for word in family.before + family.after})
PLAIN = [*"What matters on the road and what will the car do user assistant".split(), *VOCABULARY[3:]]
WORDS = ["<unknown>", "<end>", IMAGE_WORD, *AROUND, *",;.?: \n", *PLAIN, *(f" {word}" for word in PLAIN)]
TEXT = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": None,
    "tie_word_embeddings": True,
}
LIST_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}{{ part['text'] }}{% endfor %}\n{% endfor %}assistant:"
)
TEXT_TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}assistant:"


def tokenizer(template=None):
    """Word by word, over the words of texts and prompts; a word and the space before it are one token."""
    words = {word: index for index, word in enumerate(dict.fromkeys(WORDS))}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[^\s,;.?:]+|[,;.?:\s]"), "isolated")
    inner.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", unk_token="<unknown>")
    made.chat_template = template
    return made


def eyes():
    return Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=14))


def language():
    return LlamaForCausalLM(LlamaConfig(**TEXT))


def qwen2_5():
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32, "patch_size": 14}
    vision |= {"spatial_merge_size": 2, "window_size": 56, "fullatt_block_indexes": [1], "temporal_patch_size": 2}
    text = TEXT | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(vision_config=vision, text_config=text, image_token_id=2))


def qwen3():
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32, "patch_size": 16}
    vision |= {"spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    text = TEXT | {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(vision_config=vision, text_config=text, image_token_id=2))


def internvl():
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    return InternVLForConditionalGeneration(
        InternVLConfig(vision_config=vision, text_config=TEXT | {"model_type": "qwen2"}, image_token_id=2, downsample_ratio=0.5)
    )


def smolvlm():
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    return SmolVLMForConditionalGeneration(
        SmolVLMConfig(vision_config=vision, text_config=TEXT | {"model_type": "llama"}, image_token_id=2, scale_factor=2)
    )


HUB = {"qwen2_5_vl": qwen2_5, "qwen3_vl": qwen3, "internvl": internvl, "smolvlm": smolvlm}
