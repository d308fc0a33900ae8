import numpy as np
import pytest
import shapely

from irlvla.world.streets import SHAPES, smallest_radius, street_plan, write_net
from irlvla.world.town import read_town, resampled, shifted


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    folder = tmp_path_factory.mktemp("town")
    return read_town(write_net(street_plan("town", "scattered", 5), folder), "town", "us-ma-boston", np.array((1000.0, 2000.0)), 500)


def test_a_line_shifted_to_the_left_of_an_eastward_one_lies_north_of_it():
    line = np.array([(0.0, 0.0), (1.0, 0.0), (2.0, 0.0)])
    assert shifted(line, 1.5)[:, 1].tolist() == [1.5, 1.5, 1.5]


def test_resampling_keeps_both_ends_and_refuses_a_line_of_no_length():
    line = resampled(np.array([(0.0, 0.0), (0.0, 0.0), (0.0, 2.5)]), 1.0)
    assert len(line) == 4 and line[-1].tolist() == [0.0, 2.5]
    with pytest.raises(ValueError, match="no length"):
        resampled(np.zeros((2, 2)), 1.0)


def test_the_smallest_radius_of_a_circle_is_its_radius():
    angle = np.linspace(0, np.pi, 200)
    assert smallest_radius(40 * np.stack((np.cos(angle), np.sin(angle)), -1)) == pytest.approx(40, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_plans_repeat_with_their_seed_and_bend_gently(shape):
    first, again, other = (street_plan("x", shape, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first.lines, again.lines, strict=True))
    assert first.speeds != other.speeds
    assert {*first.lane_counts} <= {1, 2, 3}
    assert min(smallest_radius(line) for line in first.lines) > 18


def test_ids_are_unique_and_start_where_they_were_told_to(town):
    areas = (*town.intersections, *town.stop_lines, *town.crosswalks, *town.walkways, *town.parking)
    fids = [thing.fid for thing in (*town.lanes, *town.connectors, *town.blocks, *town.block_connectors, *areas)]
    assert len(set(fids)) == len(fids) and min(fids) == 500


def test_connectors_join_the_end_of_a_lane_to_the_start_of_another(town):
    for link in town.connectors:
        assert np.allclose(link.line[0], town.lanes[link.before].line[-1])
        assert np.allclose(link.line[-1], town.lanes[link.after].line[0])
        block = town.block_connectors[link.block]
        assert (town.lanes[link.before].block, town.lanes[link.after].block) == (block.before, block.after)


def test_every_way_through_town_is_drivable(town):
    ground = shapely.union_all([area.polygon for area in (*town.blocks, *town.intersections)])
    shapely.prepare(ground)
    for lane in (*town.lanes, *town.connectors):
        assert ground.contains(shapely.LineString(lane.line).buffer(1.15, cap_style="flat")), lane.fid


def test_polygons_are_valid_and_connectors_lie_in_intersections(town):
    ground = shapely.union_all([area.polygon for area in town.intersections])
    assert all(thing.polygon.is_valid for thing in (*town.lanes, *town.connectors, *town.blocks, *town.intersections))
    assert all(ground.contains(link.polygon) for link in town.connectors)


def test_lights_stand_at_some_junctions_and_each_of_their_connectors_has_a_stop_line(town):
    lit = [link for link in town.connectors if link.signal >= 0]
    assert 0 < len(lit) < len(town.connectors)
    assert all(link.stop_line >= 0 and link.link < len(town.signals[link.signal].states[0]) for link in lit)
