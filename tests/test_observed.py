import dataclasses

import numpy as np
import pytest
import torch

from irlvla.model.elements import ElementConfig
from irlvla.model.language import LanguageConfig
from irlvla.model.perception import PerceptionConfig
from irlvla.model.vision import sight_of
from irlvla.observed import observed
from irlvla.rationale import parsed
from irlvla.train.imitation import fresh_policy

from .stand_in import POLICY, VISION, MemoryStore

EVERY = np.arange(9)
WHOLE = PerceptionConfig(vision=VISION, elements=ElementConfig(detections=5, lines=6), language=LanguageConfig(count=3, constrained=True))


def policy(perception):
    config = dataclasses.replace(POLICY, perception=perception)
    return fresh_policy(config, MemoryStore(9).human(EVERY).astype(np.float32), seed=0).eval()


def test_what_is_likelier_there_than_not_is_handed_on_in_the_drawing_s_order():
    store, whole = MemoryStore(9), policy(WHOLE)
    features = store.features(EVERY)
    status = (torch.from_numpy(values).float() for values in (features.ego_history, features.command))
    with torch.inference_mode():
        last = whole.see(sight_of(features, "cpu"), *status).found[-1]
    found = observed(whole, store, EVERY)
    for row, one in enumerate(found):
        there = np.flatnonzero(last.class_logits[row].argmax(1).numpy() < 4)
        assert one.boxes == pytest.approx(last.boxes[row].numpy()[there][:, [0, 1, 4, 2, 3]], abs=1e-4)
        kinds = last.kind_logits[row].argmax(1).numpy()
        assert one.kinds.tolist() == kinds[kinds < 4].tolist() and len(one.lines) == len(one.kinds)
    assert sum(len(one.boxes) for one in found) + sum(len(one.lines) for one in found) > 0


def test_the_text_is_what_its_facts_say():
    # An untrained model writes anything, but only well-formed texts where it is held to the grammar.
    texts = [one.text for one in observed(policy(WHOLE), MemoryStore(9), EVERY)]
    assert all(parsed(text) is not None for text in texts if text) and any(texts)


def test_batches_do_not_matter():
    store, whole = MemoryStore(9), policy(WHOLE)
    for alone, together in zip(observed(whole, store, EVERY, batch=2), observed(whole, store, EVERY)):
        assert alone.text == together.text and alone.boxes == pytest.approx(together.boxes, abs=0.05)


@pytest.mark.parametrize("perception", [None, PerceptionConfig(vision=VISION)])
def test_a_policy_without_such_parts_says_nothing(perception):
    found = observed(policy(perception), MemoryStore(9), EVERY)
    assert len(found) == 9
    assert all(one.text == "" and not len(one.boxes) and not len(one.lines) and not len(one.kinds) for one in found)
