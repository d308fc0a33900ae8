import dataclasses

import pytest
import torch

from irlvla.model.bev import BirdsEyeConfig
from irlvla.model.elements import ElementConfig
from irlvla.model.language import LanguageConfig
from irlvla.model.perception import Perception, PerceptionConfig, prompt_ids
from irlvla.model.vision import VisionConfig

from ..sights import noise, sight
from ..stand_in import VISION

WHOLE = PerceptionConfig(vision=VISION, elements=ElementConfig(detections=5, lines=6), language=LanguageConfig(count=3))


def status(scenes=2):
    history = torch.zeros(scenes, 4, 7)
    history[:, -1, 3] = torch.arange(scenes) * 5.0
    return history, torch.eye(4)[:scenes]


def perceived(config, reason=True):
    torch.manual_seed(0)
    return Perception(config).eval()(sight(noise()), *status(), reason=reason)


def test_every_part_adds_tokens_of_its_own_and_changes_none_of_the_others():
    bare = perceived(dataclasses.replace(WHOLE, elements=None, language=None))
    count = bare.scene.tokens.shape[1]
    assert count == bare.view.cells.shape[1] + bare.view.images.shape[1] + bare.view.answers.shape[1]
    assert bare.found is None and bare.semantics is None
    with_elements, whole, silent = perceived(dataclasses.replace(WHOLE, language=None)), perceived(WHOLE), perceived(WHOLE, reason=False)
    assert with_elements.scene.tokens.shape[1] == count + 5 + 6 and len(with_elements.found) == 2
    assert whole.scene.tokens.shape[1] == count + 5 + 6 + 3
    assert torch.equal(whole.scene.tokens[:, :-3], silent.scene.tokens) and silent.semantics is None
    # What is read: pictures, answers and objects; of the map and the cells only what objects know of them.
    assert whole.read.shape[1] == count - bare.view.cells.shape[1] + 5


def test_only_the_language_model_is_told_of_ego_status_and_command():
    torch.manual_seed(0)
    perception = Perception(WHOLE).eval()
    history, command = status()
    first, other = perception(sight(noise()), history, command), perception(sight(noise()), history + 3.0, command.flip(0))
    assert torch.equal(first.scene.tokens[:, :-3], other.scene.tokens[:, :-3]) and not torch.equal(first.prompt, other.prompt)
    assert not torch.equal(first.scene.tokens[:, -3:], other.scene.tokens[:, -3:])


def test_prompts_differ_in_command_and_speed_alone():
    ids = prompt_ids(*status())
    assert ids.shape[0] == 2 and int((ids[0] != ids[1]).sum()) == 2


@pytest.mark.parametrize("part", ["elements", "language", "kinds"])
def test_every_part_learns_from_its_tokens(part):
    torch.manual_seed(0)
    perception = Perception(WHOLE)
    seen = perception(sight(noise()), *status())
    seen.scene.tokens[..., :3].square().sum().backward()
    found = getattr(perception, part)
    gradients = [found.grad] if isinstance(found, torch.nn.Parameter) else [value.grad for value in found.parameters()]
    assert any(value is not None and bool(value.any()) for value in gradients)


def test_pictures_alone_give_image_tokens_and_an_empty_grid():
    flat = dataclasses.replace(WHOLE, birds_eye=BirdsEyeConfig(lift=False, front_views=4), elements=None)
    seen = perceived(flat)
    assert seen.view.cells.shape[1] == 0 and not seen.scene.grid.any()
    assert seen.scene.tokens.shape[1] == seen.view.images.shape[1] + seen.view.answers.shape[1] + 3
    with pytest.raises(ValueError, match="lift is False: there is none"):
        dataclasses.replace(WHOLE, birds_eye=BirdsEyeConfig(lift=False))
    with pytest.raises(ValueError, match="lamps are looked for in pictures"):
        dataclasses.replace(WHOLE, vision=VisionConfig(encoder="dinov2-s", frozen=True), birds_eye=BirdsEyeConfig(lamps=True))
