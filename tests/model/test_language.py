"""The tiny language model: it learns, writes what it read, and keeps malformed text and the future away from the planner."""

import dataclasses

import numpy as np
import pytest
import torch

from irlvla.model.language import LanguageConfig, TinyLanguageModel, rationale_loss, words_read
from irlvla.rationale import LONGEST, PAD_ID, PHRASES, PROMPT_LENGTH, VOCABULARY, encoded, prompts, rationale_ids

SMALL = LanguageConfig(inputs=16, width=32, inner=64, heads=2, count=3, token_width=8)


def made_up(scenes, seed=0):
    """Facts, and image tokens that show them: a token a field, a random vector a value."""
    random = np.random.default_rng(seed)
    facts = np.stack([random.integers(len(phrases), size=scenes) for phrases in PHRASES.values()], axis=1)
    facts[:, 1] = np.where(facts[:, 0] > 0, np.maximum(facts[:, 1], 1), 0)
    looks = [np.random.default_rng(7 + field).normal(size=(5, 16)) for field in range(7)]
    images = np.stack([look[facts[:, field]] for field, look in enumerate(looks)], axis=1)
    history, command = random.normal(size=(scenes, 4, 7)) * 4, np.eye(4)[random.integers(4, size=scenes)]
    prompt = encoded(prompts(history, command), VOCABULARY, PROMPT_LENGTH)
    return facts, torch.from_numpy(images).float(), torch.from_numpy(prompt), torch.from_numpy(rationale_ids(facts, VOCABULARY))


def model(config=SMALL, seed=0):
    torch.manual_seed(seed)
    made = TinyLanguageModel(config).eval()
    with torch.no_grad():
        # Words apart, so that an untrained model writes something.
        made.word.weight.normal_()
    return made


@pytest.fixture(scope="module")
def learned():
    torch.manual_seed(0)
    made = TinyLanguageModel(dataclasses.replace(SMALL, width=64, inner=128, heads=4))
    _, images, prompt, text = made_up(64)
    optimiser = torch.optim.AdamW(made.parameters(), 5e-3)
    for step in range(150):
        rows = torch.randperm(64, generator=torch.Generator().manual_seed(step))[:16]
        loss, parts = rationale_loss(made(images[rows], prompt[rows], text[rows]).logits, text[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert parts["word_accuracy"] > 0.99
    return made.eval()


def test_it_learns_to_write_what_the_pictures_show(learned):
    facts, images, prompt, text = made_up(64)
    found = learned.semantics(images, prompt)
    assert (found.facts.numpy() == facts).all(axis=1).mean() > 0.95
    assert (found.ids == text).all(dim=1).float().mean() > 0.95
    # It read it off the pictures: other pictures, another text.
    others = learned.semantics(images.roll(1, 0), prompt)
    assert (others.facts.numpy() == np.roll(facts, 1, axis=0)).all(axis=1).mean() > 0.95


@pytest.mark.parametrize("constrained", [False, True])
def test_writing_with_cached_keys_gives_the_states_of_teacher_forcing(constrained):
    made = model(dataclasses.replace(SMALL, constrained=constrained))
    _, images, prompt, _ = made_up(6, seed=1)
    ids, written = made.write(images, prompt)
    read = made(images, prompt, ids)
    told = words_read(ids)
    assert torch.allclose(written.prompt, read.prompt, atol=1e-5)
    assert torch.allclose(written.text[told], read.text[told], atol=1e-5)
    assert torch.allclose(written.logits[told], read.logits[told], atol=1e-4)
    assert constrained or torch.equal(read.logits.argmax(-1)[told], ids[told])


def test_writing_is_bounded_deterministic_and_the_same_alone_or_in_company():
    made = model()
    _, images, prompt, _ = made_up(5, seed=2)
    ids, _ = made.write(images, prompt)
    assert ids.shape == (5, LONGEST) and torch.equal(made.write(images, prompt)[0], ids)
    assert torch.equal(made.write(images[3:4], prompt[3:4])[0], ids[3:4])


def test_the_order_of_image_tokens_says_nothing():
    made = model()
    _, images, prompt, text = made_up(3, seed=3)
    turned = made(images.flip(1), prompt, text)
    assert torch.allclose(turned.logits, made(images, prompt, text).logits, atol=1e-4)


def test_a_word_is_foreseen_from_those_before_it_alone():
    made = model()
    _, images, prompt, text = made_up(3, seed=4)
    changed = text.clone()
    changed[:, 6:] = 5
    before, after = made(images, prompt, text), made(images, prompt, changed)
    assert torch.allclose(before.logits[:, :7], after.logits[:, :7], atol=1e-5) and torch.allclose(before.prompt, after.prompt, atol=1e-5)
    assert not torch.allclose(before.logits[:, 7], after.logits[:, 7], atol=1e-3)


def test_an_untrained_model_writes_nonsense_of_which_nothing_reaches_the_planner():
    made = model()
    _, images, prompt, _ = made_up(4, seed=5)
    found = made.semantics(images, prompt)
    assert (found.facts == -1).all() and (found.ids[:, 0] != PAD_ID).all()
    silent = TinyLanguageModel(dataclasses.replace(SMALL, write=False)).eval()
    silent.load_state_dict(made.state_dict())
    alone = silent.semantics(images, prompt)
    assert torch.allclose(found.tokens, alone.tokens, atol=1e-5) and (alone.ids == PAD_ID).all() and (alone.facts == -1).all()


def test_constrained_writing_is_always_well_formed():
    made = model(dataclasses.replace(SMALL, constrained=True))
    _, images, prompt, _ = made_up(32, seed=6)
    assert (made.semantics(images, prompt).facts >= 0).all()


def test_what_was_written_reaches_the_planner(learned):
    _, images, prompt, _ = (part[:8] for part in made_up(64))
    found = learned.semantics(images, prompt)
    silent = TinyLanguageModel(dataclasses.replace(learned.config, write=False)).eval()
    silent.load_state_dict(learned.state_dict())
    assert (found.facts >= 0).all() and not torch.allclose(found.tokens, silent.semantics(images, prompt).tokens, atol=1e-3)
    assert found.tokens.shape == silent.semantics(images, prompt).tokens.shape == (8, 3, 8)


def test_tokens_are_the_same_with_and_without_gradients(learned):
    _, images, prompt, _ = (part[:8] for part in made_up(64))
    with torch.no_grad():
        kept = learned.semantics(images, prompt).tokens
    fresh = learned.semantics(images.requires_grad_(), prompt).tokens
    assert torch.allclose(kept, fresh, atol=1e-4)
    fresh.square().mean().backward()
    assert images.grad is not None and learned.reader.questions.grad is not None


def test_the_control_gives_an_embedding_of_the_written_meta_action_alone(learned):
    facts, images, prompt, _ = made_up(64)
    made = TinyLanguageModel(dataclasses.replace(learned.config, hidden="meta")).eval()
    made.load_state_dict(learned.state_dict(), strict=False)
    found = made.semantics(images, prompt)
    right = (found.facts.numpy() == facts).all(axis=1)
    actions = [tuple(row) for row in facts[:, -2:]]
    for first in range(8):
        for second in range(first):
            if right[first] and right[second]:
                same = torch.equal(found.tokens[first], found.tokens[second])
                assert same == (actions[first] == actions[second])


def test_the_control_gives_one_token_for_every_malformed_text():
    made = model(dataclasses.replace(SMALL, hidden="meta"))
    _, images, prompt, _ = made_up(3, seed=8)
    found = made.semantics(images, prompt)
    assert (found.facts == -1).all() and torch.equal(found.tokens[0], found.tokens[2]) and found.tokens.shape == (3, 3, 8)


def test_scenes_without_facts_teach_nothing():
    made = model()
    _, images, prompt, text = made_up(4, seed=9)
    some = text.clone()
    some[2:] = PAD_ID
    alone, _ = rationale_loss(made(images[:2], prompt[:2], text[:2]).logits, text[:2])
    together, _ = rationale_loss(made(images, prompt, some).logits, some)
    assert torch.allclose(alone, together, atol=1e-5)
    nothing, parts = rationale_loss(made(images, prompt, torch.zeros_like(text)).logits, torch.zeros_like(text))
    nothing.backward()
    assert float(nothing.detach()) == 0.0 == float(parts["word_accuracy"])
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in made.parameters())


def test_weighed_words_count_as_often_as_they_weigh():
    torch.manual_seed(0)
    logits, text = torch.randn(1, LONGEST, len(VOCABULARY)), torch.full((1, LONGEST), PAD_ID)
    text[0, :2] = torch.tensor([5, 9])
    weights = torch.ones(len(VOCABULARY)).index_fill(0, torch.tensor([9]), 3.0)
    each = -torch.log_softmax(logits[0, :2], dim=-1)[[0, 1], [5, 9]]
    loss, _ = rationale_loss(logits, text, weights=weights)
    assert torch.allclose(loss, (each[0] + 3 * each[1]) / 4)


def test_autocast_changes_nothing():
    made = model()
    _, images, prompt, text = made_up(2, seed=10)
    with torch.autocast("cpu", torch.bfloat16):
        cast = made.semantics(images, prompt)
        logits = made(images, prompt, text).logits
    assert torch.equal(cast.tokens, made.semantics(images, prompt).tokens) and torch.equal(logits, made(images, prompt, text).logits)


def test_impossible_configs_are_refused():
    with pytest.raises(ValueError, match="width of 33 cannot be shared by 2 heads"):
        LanguageConfig(width=33, heads=2)
    with pytest.raises(ValueError, match="without a written text there is no meta action"):
        LanguageConfig(hidden="meta", write=False)
    with pytest.raises(ValueError, match="vocabulary of 3 words lacks"):
        TinyLanguageModel(LanguageConfig(vocabulary=("a", "b", "c")))
