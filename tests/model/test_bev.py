import dataclasses

import pytest
import torch

from irlvla.model.bev import LAMP_WIDTHS, BirdsEye, BirdsEyeConfig, Lamps, lamp_loss
from irlvla.model.perception import Perception, PerceptionConfig
from irlvla.model.vision import ImageEncoder, VisionConfig

from ..sights import noise, sight

VISION = VisionConfig(widths=(8, 16, 16))


@pytest.fixture(scope="module")
def see():
    torch.manual_seed(0)
    perception = Perception(PerceptionConfig(vision=VISION)).eval()
    torch.nn.init.normal_(perception.birds_eye.answer.out.weight, std=0.1)
    return lambda seen: perception(seen, *status(len(seen.images)))


def status(scenes):
    return torch.zeros(scenes, 4, 7), torch.eye(4)[:1].expand(scenes, -1)


def views(seen, order):
    names = ("images", "intrinsics", "distortion", "ego_from_camera", "valid")
    return dataclasses.replace(seen, **{name: getattr(seen, name)[:, order] for name in names})


def same(left, right, rtol=0.02, atol=0.02):
    torch.testing.assert_close(left.scene.grid, right.scene.grid, rtol=rtol, atol=atol)
    torch.testing.assert_close(left.scene.tokens, right.scene.tokens, rtol=rtol, atol=atol)
    torch.testing.assert_close(left.view.ahead, right.view.ahead, rtol=rtol, atol=atol)


@pytest.mark.parametrize("order", [[3, 1, 0, 2], [1, 0, 2, 3], [2, 3, 1, 0]])
def test_the_order_of_cameras_does_not_matter(see, order):
    seen = sight(noise())
    seen.valid[1, 0] = False
    same(see(seen), see(views(seen, order)))


def test_a_camera_that_is_not_valid_has_no_say_whatever_it_shows_and_however_it_is_calibrated(see):
    seen = sight(noise())
    seen.valid[0, 2] = seen.valid[1, 0] = False
    garbage = sight(noise(seed=1), yaws=(2.0, 1.0, 0.0, -0.5), intrinsics=((0.0,) * 4, (9.0,) * 4, (0.3,) * 4, (1.0,) * 4))
    garbage = {
        name: torch.where(seen.valid.view(2, 4, *[1] * (getattr(seen, name).ndim - 2)), getattr(seen, name), getattr(garbage, name))
        for name in ("images", "intrinsics", "distortion", "ego_from_camera")
    }
    same(see(seen), see(dataclasses.replace(seen, **garbage)), rtol=0, atol=0)


def test_a_camera_that_is_not_valid_is_as_good_as_none(see):
    seen = sight(noise())
    seen.valid[:, 3] = False
    same(see(seen), see(views(seen, [0, 1, 2])))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_any_number_of_cameras_gives_as_many_tokens(see, count):
    yaws = (0.0, 0.96, -0.96, 1.8, -1.8, 2.5, -2.5, 3.14)
    found = see(sight(noise(views=count), yaws, ((0.8, 1.42, 0.5, 0.5),) * 8))
    assert found.scene.tokens.shape == (2, 64 + 2 * 2 + 4, 96) and found.scene.grid.shape == (2, 24, 32, 32)


def test_without_any_valid_camera_a_scene_is_still_finite_and_knows_no_picture(see):
    seen = sight(noise())
    blind = dataclasses.replace(seen, valid=torch.zeros_like(seen.valid))
    found, other = see(blind), see(dataclasses.replace(blind, images=noise(seed=1)))
    assert bool(torch.isfinite(found.scene.tokens).all()) and torch.equal(found.scene.tokens, other.scene.tokens)


def test_scenes_with_other_cameras_do_not_influence_each_other(see):
    seen = sight(noise())
    seen.intrinsics[1, :, :2] *= 1.3
    seen.ego_from_camera[1, :, 2, 3] += 0.4
    alone = dataclasses.replace(
        seen, **{name: getattr(seen, name)[1:] for name in ("images", "intrinsics", "distortion", "ego_from_camera", "valid")}
    )
    torch.testing.assert_close(see(seen).scene.grid[1:], see(alone).scene.grid, rtol=0.02, atol=0.02)
    assert not torch.allclose(see(seen).scene.grid[1], see(sight(noise())).scene.grid[1], rtol=0.05, atol=0.05)


def test_cells_that_no_camera_shows_do_not_depend_on_the_pictures():
    torch.manual_seed(0)
    encoder, birds_eye = ImageEncoder(VISION).eval(), BirdsEye(BirdsEyeConfig(), VISION).eval()
    one, other = (sight(noise(1, 1, seed=seed), yaws=(0.0,)) for seed in (0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        first, second = (birds_eye._lifted(encoder(seen).fine, seen) for seen in (one, other))
    differs = (first != second).any(1)[0]
    assert not differs[:5].any() and differs[10, 16]


def test_every_weight_of_the_vision_part_learns():
    torch.manual_seed(0)
    perception = Perception(PerceptionConfig(vision=VISION))
    encoder, birds_eye = perception.encoder, perception.birds_eye
    for started_at_zero in (birds_eye.answer.out, *(stage[0].second for stage in encoder.stages)):
        torch.nn.init.normal_(started_at_zero.weight, std=0.1)
    seen = sight(noise())
    seen.valid[0, 0] = seen.valid[0, 2] = seen.valid[0, 3] = False
    found = perception(seen, *status(2))
    (found.scene.tokens[..., :3].square().sum() + found.scene.grid.square().sum() + found.view.ahead.square().sum()).backward()
    for part in (encoder, birds_eye):
        silent = [name for name, value in part.named_parameters() if value.grad is None or not value.grad.any()]
        assert not silent


def with_lamps(red, generator):
    """Grey noise of two views, and in one place of the scenes that are red a red square as large as a patch, in the others a green one."""
    images = torch.randint(90, 110, (len(red), 2, 32, 64, 3), generator=generator, dtype=torch.uint8)
    for scene, is_red in enumerate(red.tolist()):
        view, row, column = (int(torch.randint(0, high, (), generator=generator)) for high in (2, 8, 16))
        colour = torch.tensor([250, 0, 0] if is_red else [0, 250, 0], dtype=torch.uint8)
        images[scene, view, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = colour
    return sight(images)


def test_lamps_find_the_one_place_that_tells_wherever_it_is():
    torch.manual_seed(0)
    lamps, random = Lamps(19, 8), torch.Generator().manual_seed(0)
    optimiser, views = torch.optim.Adam(lamps.parameters(), lr=0.003), torch.arange(2).expand(32, -1)
    red = torch.arange(32) % 2 == 0

    def found(seen):
        with torch.autocast("cpu", torch.bfloat16):
            fine, valid = lamps.look(seen, views)
            return lamps(fine, valid, torch.zeros(*fine.shape[:4], 19))

    for _ in range(60):
        _, logit = found(with_lamps(red, random))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, red.float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    lamps.eval()
    unseen = with_lamps(red, random)
    token, logit = found(unseen)
    assert float(((logit > 0) == red).float().mean()) > 0.9 and token.shape == (32, 8)
    # What is not valid has no say.
    _, blind = found(dataclasses.replace(unseen, valid=torch.zeros_like(unseen.valid)))
    assert bool((blind < -20).all())
    # A place says where it is.
    fine, directions = torch.zeros(2, 2, 4, 5, LAMP_WIDTHS[1]), torch.randn(2, 2, 4, 5, 19)
    lamps.hidden.weight.data.zero_()
    lamps.hidden.weight.data[0, 0], lamps.score.weight.data[:] = 1.0, 1.0
    fine[0, 1, 2, 3, 0] = 60.0
    token, logit = lamps(fine, torch.ones(2, 2, dtype=torch.bool), directions)
    expected = lamps.seen(fine[0, 1, 2, 3]) + lamps.place(directions[0, 1, 2, 3]) + lamps.answer(logit[:1] / 4)
    torch.testing.assert_close(token[0], expected, rtol=1e-3, atol=1e-3)


def test_the_lamps_token_is_one_more_answer_and_its_loss_falls_on_the_red_scenes():
    torch.manual_seed(0)
    perception = Perception(PerceptionConfig(vision=VISION, birds_eye=BirdsEyeConfig(lamps=True))).eval()
    seen = perception(sight(noise()), *status(2))
    assert seen.view.answers.shape[1] == BirdsEyeConfig().queries + 1 and seen.view.lamp.shape == (2,)
    targets = torch.zeros(2, 4, 32, 32)
    targets[0, 3, 10, 16] = 1
    by_hand = (4 * -torch.nn.functional.logsigmoid(seen.view.lamp[0]) - torch.nn.functional.logsigmoid(-seen.view.lamp[1])) / 2
    torch.testing.assert_close(lamp_loss(seen.view.lamp, targets), by_hand)
