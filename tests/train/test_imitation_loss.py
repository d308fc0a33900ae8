"""The loss of a lesson: what rounds, what recomputes, and that shares add up."""

import dataclasses

import numpy as np
import pytest
import torch

from irlvla.model.elements import ElementConfig
from irlvla.model.language import LanguageConfig
from irlvla.train.imitation import fresh_policy
from irlvla.train.imitation_loss import Lesson, Teacher, chance_of, part_of, shifted, summed
from irlvla.train.moments import ego_status, elements_around, humans, pictures, rationales
from irlvla.train.recompute import recompute

from ..stand_in import IMITATION, POLICY, MemoryStore

BLIND = dataclasses.replace(IMITATION, policy=dataclasses.replace(POLICY, perception=None))
STORE = MemoryStore()
PAIRS = np.array([[0, 0], [1, 0], [2, 0], [4, 1]])


SEES_ALL = dataclasses.replace(
    POLICY.perception, elements=ElementConfig(detections=6, lines=6), language=LanguageConfig(width=32, inner=32, count=2)
)
WHOLE = dataclasses.replace(IMITATION, policy=dataclasses.replace(POLICY, perception=SEES_ALL), reason_every=1)


def a_policy(config=IMITATION):
    return fresh_policy(config.policy, STORE.human(np.arange(24)), 0).train()


def lesson(policy, config=IMITATION, rows=slice(0, 4)):
    """Scenes of a batch of four."""
    chance = chance_of(config, policy, 4, 0, 0 if config.policy.perception is None else 4)
    sight, maps = pictures(STORE, PAIRS[rows]) if config.policy.perception is not None else (None, None)
    ego_history, command = (torch.from_numpy(values[rows]).float() for values in ego_status(STORE, PAIRS))
    human, share = torch.from_numpy(humans(STORE, PAIRS)[rows]), (rows.stop - rows.start) / 4
    part, known = part_of(chance, rows, torch.device("cpu")), np.ones(rows.stop - rows.start, bool)
    around = written = None
    if config.policy.perception is not None and config.policy.perception.language is not None:
        around, written = elements_around(STORE, PAIRS[rows], torch.device("cpu")), rationales(STORE, PAIRS[rows])
    return Lesson(
        sight=sight, maps=maps, around=around, written=written, annotated=known, scene=None,
        ego_history=ego_history, command=command, human=human, chance=part,
        share=share, annotated_share=share,
    )  # fmt: skip


def gradients(teacher, given):
    loss, parts = teacher(given)
    loss.backward()
    return loss.detach(), parts, {name: value.grad for name, value in teacher.named_parameters() if value.grad is not None}


def test_recomputed_activations_change_nothing():
    plain, saving = a_policy(), a_policy()
    assert recompute(saving) >= 2
    found = [gradients(Teacher(IMITATION, policy), lesson(policy)) for policy in (plain, saving)]
    assert torch.equal(found[0][0], found[1][0]) and found[0][2].keys() == found[1][2].keys()
    assert all(torch.equal(value, found[1][2][name]) for name, value in found[0][2].items())
    assert all(torch.equal(value, saving.state_dict()[name]) for name, value in plain.state_dict().items())


def test_a_planner_in_bfloat16_rounds_the_loss():
    policy = a_policy(BLIND)
    (full, *_), (rounded, _, learned) = (
        gradients(Teacher(dataclasses.replace(BLIND, bfloat16=bfloat16), policy), lesson(policy, BLIND)) for bfloat16 in (False, True)
    )
    assert rounded != full and float(rounded) == pytest.approx(float(full), rel=0.02)
    assert all(value.dtype == torch.float32 for value in learned.values())


def test_losses_and_gradients_of_parts_add_up_to_those_of_the_batch():
    policy = a_policy(BLIND)
    whole, parts, expected = gradients(Teacher(BLIND, policy), lesson(policy, BLIND))
    teacher = Teacher(BLIND, a_policy(BLIND))
    first, second = (gradients(teacher, lesson(policy, BLIND, rows)) for rows in (slice(0, 1), slice(1, 4)))
    torch.testing.assert_close(first[0] + second[0], whole)
    torch.testing.assert_close(summed(first[1], second[1]), parts)
    for name, value in expected.items():
        torch.testing.assert_close(second[2][name], value, rtol=1e-4, atol=1e-6)


def test_shifted_pictures_repeat_their_edges():
    images = torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3, 1).expand(-1, -1, -1, -1, 3)
    assert shifted(images, (1, -1))[0, 0, :, :, 0].tolist() == [[3, 3, 4], [3, 3, 4]]
    assert torch.equal(shifted(images, (0, 0)), images)


def test_boxes_lines_and_words_are_taught_beside_the_plan_and_every_part_learns():
    policy = a_policy(WHOLE)
    for layer in policy.layers:
        torch.nn.init.normal_(layer.attention.out.weight, std=0.1)
        torch.nn.init.normal_(layer.residual.weight, std=0.1)
    _, parts, learned = gradients(Teacher(WHOLE, policy), lesson(policy, WHOLE))
    assert {"maps", "ahead", "elements", "class", "box", "kind", "line", "rationale", "word_accuracy"} < parts.keys()
    for part in ("elements.layers", "language.layers", "language.reader", "birds_eye.maps", "encoder.stem"):
        assert any(name.startswith(f"policy.perception.{part}") and bool(value.any()) for name, value in learned.items()), part


def test_a_lesson_without_annotations_teaches_the_plan_alone():
    policy = a_policy(WHOLE)
    given = lesson(policy, WHOLE)
    nothing = dataclasses.replace(given.around, annotated=torch.zeros(4, dtype=torch.bool))
    bare = dataclasses.replace(
        given, annotated=np.zeros(4, bool), annotated_share=0.0, around=nothing, written=torch.zeros_like(given.written)
    )
    loss, parts, _ = gradients(Teacher(WHOLE, policy), bare)
    torch.testing.assert_close(loss, parts["loss"])
    assert float(parts["elements"]) == float(parts["rationale"]) == float(parts["maps"]) == 0.0


def test_the_language_model_writes_at_every_so_many_th_step():
    config, policy = dataclasses.replace(WHOLE, reason_every=3), a_policy(WHOLE)
    assert [chance_of(config, policy, 2, step, 4).reason for step in range(6)] == [False, False, True, False, False, True]
