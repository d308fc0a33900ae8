import dataclasses

import pytest
import torch
from torch.nn import functional

from irlvla.model.cameras import projected
from irlvla.model.lift import cell_centres, gathered, lookup

from ..sights import LENS, noise, sight

HEIGHTS = (0.0, 1.2)


def averages(seen, maps, heights=HEIGHTS, cells=32):
    """What `lookup` says of maps (scenes, views, 1, rows, columns): sum over heights and views, by cell."""
    found = lookup(seen, *maps.shape[3:], cells, heights)
    table = maps.permute(0, 1, 3, 4, 2).repeat_interleave(len(heights), dim=4).reshape(-1, 1)
    shown = gathered(table, found.pixels, found.weights)
    return torch.zeros(len(maps) * cells * cells, 1).index_add(0, found.cells, shown).view(len(maps), -1)


def slow_averages(seen, maps, heights=HEIGHTS, cells=32):
    """The same, view by view and height by height, with torch's own lookup."""
    flat, total = cell_centres(cells), torch.zeros(len(maps), cells * cells)
    for scene in range(len(maps)):
        for view in torch.nonzero(seen.valid[scene])[:, 0].tolist():
            calibration = [values[scene, view][None] for values in (seen.intrinsics, seen.distortion, seen.ego_from_camera)]
            for height in heights:
                points = torch.cat([flat, torch.full_like(flat[:, :1], height)], dim=1)
                place, _, shown = projected(points, *calibration)
                found = functional.grid_sample(maps[scene, view][None], (place * 2 - 1)[None], align_corners=False, padding_mode="border")
                total[scene] += torch.where(shown[0], found[0, 0, 0], torch.zeros(()))
    return total


@pytest.mark.parametrize("lens", [None, LENS])
def test_cells_are_looked_up_like_torchs_own_lookup_view_by_view(lens):
    seen, maps = sight(noise(3), lens=lens), torch.randn(3, 4, 1, 6, 11, generator=torch.Generator().manual_seed(0))
    seen.intrinsics[1] *= 1.1
    seen.ego_from_camera[2, :, :, 3] += torch.tensor([0.2, -0.3, 0.4])
    seen.valid[1, 2] = False
    torch.testing.assert_close(averages(seen, maps), slow_averages(seen, maps), rtol=1e-4, atol=1e-4)


def test_one_camera_straight_ahead_shows_the_ground_where_it_is():
    # a camera 1.6 m up sees the ground 10 m ahead 0.16 * fy below the middle: 0.5 + 0.227 of the height
    seen = sight(noise(1, 1), yaws=(0.0,))
    maps = torch.zeros(1, 1, 1, 22, 41)
    row = int((0.5 + 1.6 / 9.35 * 1.42) * 22)
    maps[0, 0, 0, row] = 1.0
    grid = averages(seen, maps, heights=(0.0,)).view(32, 32)
    assert int(grid[:, 16].argmax()) == 9 and float(grid[:3].abs().sum()) == 0.0


def test_gathered_has_the_gradient_of_the_plain_sum():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(7, 3, generator=generator, requires_grad=True)
    rows, weights = torch.randint(0, 7, (5, 4), generator=generator).int(), torch.rand(5, 4, generator=generator)
    weight = torch.randn(5, 3, generator=generator)
    fast = torch.autograd.grad((gathered(table, rows, weights) * weight).sum(), table)[0]
    slow = torch.autograd.grad(((table[rows.long()] * weights[..., None]).sum(1) * weight).sum(), table)[0]
    torch.testing.assert_close(fast, slow)


def test_without_a_valid_view_nothing_is_looked_up():
    seen = sight(noise(2))
    seen = dataclasses.replace(seen, valid=torch.zeros_like(seen.valid))
    assert not averages(seen, torch.ones(2, 4, 1, 6, 11)).any()
