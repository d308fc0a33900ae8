"""A large model is taught and asked: which scenes, what counts as right, and what is said where it cannot be had."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from irlvla.rationale import FIELDS, rationale

from .stand_in import MemoryStore
from .test_proof import benchmark

lora = benchmark("lora")


def store_in(scenes=24):
    store = MemoryStore(scenes)
    store.folder = Path("store")
    return store


def lessons(facts):
    texts = [rationale(row) for row in facts]
    return lora.Lessons(seen=torch.zeros(len(facts), 1), prompts=texts, texts=texts, facts=facts, log_names=["log"] * len(facts))


def test_scenes_to_learn_from_and_others_have_no_log_in_common_and_are_annotated():
    store = store_in()
    store.annotated = np.arange(24) % 4 != 0
    taught, asked = lora.scenes_of(store, 8, 4, seed=1)
    assert len(set(taught)) == 8 and len(set(asked)) == 4 and store.annotated[[*taught, *asked]].all()
    assert not {store.log_names[row] for row in taught} & {store.log_names[row] for row in asked}
    assert all(np.array_equal(*pair) for pair in zip(lora.scenes_of(store, 8, 4, seed=1), (taught, asked)))
    with pytest.raises(ValueError, match="store: 12 annotated scenes to learn from, 40 are asked for"):
        lora.scenes_of(store, 40, 20, seed=1)
    # One scene a log, but for the first one, which is among those to learn from.
    store.annotated = (np.arange(24) % 3 == 0) | (np.arange(24) < 3)
    with pytest.raises(ValueError, match="store: 4 annotated scenes of other logs, 5 are asked for"):
        lora.scenes_of(store, 5, 5, seed=0)


def test_what_is_right_is_counted_by_field():
    logged = np.array([[0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 2], [1, 1, 0, 0, 0, 0, 2]])
    stated = np.array([[0, 0, 2, 0, 0, 0, 0], [-1] * 7, [1, 1, 0, 0, 0, 0, 3]])
    found = lora.right(stated, logged)
    assert list(found) == list(FIELDS)
    assert found["lead"] == found["turn"] == pytest.approx(2 / 3) and found["light"] == found["longitudinal"] == pytest.approx(1 / 3)
    # Of the three most have no vehicle ahead, no red light, and go on as they do.
    assert lora.likeliest(lessons(logged), lessons(logged[[1, 1, 2, 0]]))["longitudinal"] == 0.75


class Parrot:
    """Says the same of every scene."""

    def __init__(self, *texts):
        self.said = texts

    def loss(self, seen, prompts, texts):
        return torch.tensor(float(len(texts))), {}

    def write(self, seen, prompts):
        return len(prompts)

    def texts(self, count):
        return [self.said[number % len(self.said)] for number in range(count)]


def test_answers_are_judged_and_malformed_ones_state_nothing():
    logged = np.array([[0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 2]] * 2)
    found = lora.answers(Parrot("red light near; lateral keep, longitudinal stop", "who knows?"), lessons(logged), seed=0)
    assert found["loss"] == 4.0 and found["right"] == dict.fromkeys(FIELDS, 0.5)
    assert found["quality"]["malformed"]["value"] == found["quality"]["exact"]["value"] == 0.5
    assert found["examples"][1] == {"written": "who knows?", "right": "free road; lateral keep, longitudinal keep"}


def test_what_lacks_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(lora, "Store", lambda path: store_in())
    monkeypatch.setattr(sys, "argv", ["lora.py", "store", "--scenes", "8", "--others", "4", "--model", "nobody"])
    with pytest.raises(SystemExit, match="unknown vision-language model 'nobody'"):
        lora.main()
    monkeypatch.setattr(sys, "argv", ["lora.py"])
    with pytest.raises(SystemExit):
        lora.main()
