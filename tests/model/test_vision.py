import dataclasses

import numpy as np
import pytest
import torch

from irlvla.model.vision import ImageEncoder, VisionConfig, on_device, sight_of, sight_rows
from irlvla.types import Features

from .. import tiny
from ..sights import noise, sight

SMALL = VisionConfig(widths=(8, 8, 8))


def encoder():
    torch.manual_seed(0)
    return ImageEncoder(SMALL)


def test_the_default_image_encoder_has_at_most_600_000_parameters():
    assert sum(parameter.numel() for parameter in ImageEncoder(VisionConfig()).parameters()) <= 600_000


def test_maps_are_an_eighth_and_a_sixteenth_of_the_picture():
    found = encoder()(sight(noise()))
    assert found.fine.shape == (2, 4, 8, 4, 6) and found.coarse.shape == (2, 4, 8, 2, 3)


def test_colours_changed_in_the_stem_are_colours_changed_in_the_picture():
    images, model = noise() % 30 + 30, encoder().eval()
    gain, bias = torch.full((2, 3), 2.0), torch.full((2, 3), 2.0)
    torch.testing.assert_close(model(sight(images), gain, bias).coarse, model(sight(images * 2)).coarse, rtol=0.1, atol=0.1)


def test_a_scenes_colours_change_its_own_pictures_only():
    seen, model = sight(noise()), encoder().eval()
    seen.valid[0, 1] = False
    gain = torch.tensor([[1.0] * 3, [1.5] * 3])
    plain, changed = model(seen), model(seen, gain, torch.zeros(2, 3))
    assert torch.equal(plain.fine[0], changed.fine[0]) and not torch.equal(plain.fine[1], changed.fine[1])


@pytest.mark.parametrize("training", [True, False])
def test_pictures_that_are_not_valid_change_nothing_and_give_zeros(training):
    seen = sight(noise())
    seen.valid[0, 2] = seen.valid[1, 0] = False
    garbage = dataclasses.replace(seen, images=torch.where(seen.valid[..., None, None, None], seen.images, noise(seed=1)))
    found, same = encoder().train(training)(seen), encoder().train(training)(garbage)
    assert torch.equal(found.fine, same.fine) and torch.equal(found.coarse, same.coarse)
    assert not found.fine[0, 2].any() and not found.coarse[1, 0].any() and found.fine[0, 1].any()


def test_views_are_encoded_alone():
    seen, model = sight(noise()), encoder().eval()
    whole, alone = model(seen), model(sight(seen.images[:, 2:3]))
    torch.testing.assert_close(whole.fine[:, 2:3], alone.fine, rtol=0.02, atol=0.02)


def features(*batch):
    images = np.arange(np.prod(batch, dtype=int) * 2 * 4 * 5 * 3, dtype=np.int64).astype(np.uint8).reshape(*batch, 2, 4, 5, 3)
    return Features(images=images, rig=tiny.rig(*batch, views=2), ego_history=np.zeros((*batch, 4, 7)), command=np.ones((*batch, 4)))


def test_features_of_one_moment_are_a_batch_of_one():
    one, many = sight_of(features()), sight_of(features(1))
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(many, field.name)
        assert left is right is None or torch.equal(left, right)
    assert one.images.shape == (1, 2, 4, 5, 3) and one.intrinsics.dtype == torch.float32 and one.valid.all()


def test_rows_of_several_sights_come_in_the_order_asked_for():
    first, second = sight(noise(2)), sight(noise(1, seed=1))
    both = sight_rows([first, second], np.array([2, 0, 1]))
    assert torch.equal(both.images, torch.cat([second.images, first.images])) and both.raw is None
    maps = (torch.zeros(2, 4, 3, 1, 1),), (torch.ones(1, 4, 3, 1, 1),)
    raw = sight_rows([dataclasses.replace(one, raw=raw) for one, raw in zip((first, second), maps, strict=True)], np.array([2, 0, 1])).raw
    assert raw[0][:, 0, 0, 0, 0].tolist() == [1.0, 0.0, 0.0]


def test_a_sight_moves_with_all_its_tensors():
    seen = dataclasses.replace(sight(noise()), raw=(torch.zeros(2, 4, 3, 1, 1),))
    assert on_device(seen, "meta").raw[0].device.type == on_device(seen, "meta").valid.device.type == "meta"
