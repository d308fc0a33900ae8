"""Pictures as vision-language models want them, without any such model."""

from types import SimpleNamespace

import pytest
import torch

from irlvla.model.pixels import FAMILIES, image_words, normalised, patches, pixels

IMAGES = torch.arange(2 * 3 * 40 * 60 * 3).view(2, 3, 40, 60, 3).remainder(251).byte()


def config(kind, **vision):
    return SimpleNamespace(model_type=kind, vision_config=SimpleNamespace(**vision), image_token_id=9, downsample_ratio=0.5, scale_factor=4)


def test_colours_are_normalised_by_the_familys_own_numbers():
    white = torch.full((1, 4, 4, 3), 255, dtype=torch.uint8)
    assert torch.allclose(normalised(white, FAMILIES["smolvlm"], 4, 4), torch.ones(1, 3, 4, 4))
    assert normalised(white, FAMILIES["internvl"], 2, 6)[0, 0].flatten() == pytest.approx([(1 - 0.485) / 0.229] * 12)


def test_any_size_is_rounded_to_whole_tokens():
    qwen = pixels(IMAGES, config("qwen2_5_vl", patch_size=14, spatial_merge_size=2, temporal_patch_size=2), 100, 180)
    assert qwen.arguments["image_grid_thw"].tolist() == [[1, 8, 12]] * 6 and qwen.tokens == 24
    assert qwen.arguments["pixel_values"].shape == (6 * 96, 3 * 2 * 14 * 14)
    ours = pixels(IMAGES, config("llava", patch_size=14), 100, 180)
    assert ours.arguments["pixel_values"].shape == (6, 3, 112, 168) and ours.tokens == 24


def test_models_with_one_size_get_it():
    intern = pixels(IMAGES, config("internvl", patch_size=(14, 14), image_size=(448, 448)), 100, 180)
    assert intern.arguments["pixel_values"].shape == (6, 3, 448, 448) and intern.tokens == 256
    smol = pixels(IMAGES, config("smolvlm", patch_size=16, image_size=512), 100, 180)
    assert smol.arguments["pixel_values"].shape == (2, 3, 3, 512, 512) and smol.tokens == 64


def test_patches_that_become_one_token_stand_together():
    picture = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    cut = patches(picture, patch=1, merge=2, frames=2)
    assert cut.shape == (16, 6) and torch.equal(cut[:, 0], cut[:, 5])
    assert cut[:, 0].tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


def test_a_pictures_tokens_stand_between_the_familys_words():
    tokenizer = SimpleNamespace(get_vocab=lambda: {"<fake_token_around_image>": 4, "<global-img>": 5})
    assert image_words(tokenizer, config("smolvlm"), 3).tolist() == [4, 5, 9, 9, 9, 4]
    assert image_words(tokenizer, config("llava"), 2).tolist() == [9, 9]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="models of type 'blip' are not known, only llava, qwen2_vl"):
        pixels(IMAGES, config("blip"), 100, 180)
    with pytest.raises(ValueError, match="the tokenizer of this internvl model does not know '<img>'"):
        image_words(SimpleNamespace(get_vocab=dict), config("internvl"), 3)
