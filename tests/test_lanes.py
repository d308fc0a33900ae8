import numpy as np
import pytest
import shapely

from irlvla.lanes import baseline, driving_command, flat_polygons, lane_map, selected_polygons
from irlvla.types import COMMAND_NAMES

from . import tiny


def test_a_point_of_a_baseline_looks_to_the_next_one():
    found = baseline(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]]))
    np.testing.assert_allclose(found[:, 2], [0.0, np.pi / 2, np.pi / 2])


def test_flat_polygons_keep_holes_and_parts_and_their_order():
    ring = shapely.box(0, 0, 9, 9).difference(shapely.box(2, 2, 4, 4))
    pair = shapely.MultiPolygon([shapely.box(20, 0, 21, 1), shapely.box(30, 0, 31, 1)])
    triangle = shapely.Polygon([(50, 0), (51, 0), (50, 1)])
    flat = flat_polygons([ring, pair, triangle])
    assert flat.polygon_start.tolist() == [0, 2, 4, 5] and np.diff(flat.ring_start).tolist() == [4, 4, 4, 4, 3]
    chosen = selected_polygons(flat, np.array([2, 0, 2]))
    assert len(chosen) == 3 and np.diff(chosen.ring_start).tolist() == [3, 4, 4, 3]
    np.testing.assert_array_equal(chosen.vertices[:3], flat.vertices[-3:])
    np.testing.assert_array_equal(chosen.vertices[3:11], flat.vertices[:8])


def test_no_polygons_are_legal():
    assert len(flat_polygons([])) == 0
    assert len(selected_polygons(flat_polygons([shapely.box(0, 0, 1, 1)]), np.zeros(0, np.int64))) == 0
    empty = lane_map("empty", [], [], [], [])
    assert len(empty.areas.polygons) == 0 and len(empty.drawn.kinds) == 0 and len(empty.drawn.index.query(shapely.box(0, 0, 1, 1))) == 0


def test_areas_come_layer_by_layer_and_leave_out_connectors_of_roadblocks():
    found = tiny.city(intersections=[("900", shapely.box(0, 0, 1, 1))], carparks=[("950", shapely.box(5, 5, 6, 6))])
    assert found.areas.layers.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 4]
    assert found.areas.ids == ("101", "102", "103", "111", "112", "1", "2", "3", "900", "950")
    assert all(found.areas.ids[place] == fid for (_, fid), place in found.area_index.items())


def test_two_lanes_with_one_id_are_refused():
    lanes = list(tiny.city().lanes.values())
    with pytest.raises(ValueError, match="map tiny: two lanes or their connectors have the id 101"):
        lane_map("tiny", [*lanes, lanes[0]], [], [], [])


@pytest.mark.parametrize(
    ("end", "command"),
    [((40.0, 0.0), "straight"), ((40.0, 12.0), "left"), ((40.0, -12.0), "right"), ((40.0, 3.0), "straight")],
)
@pytest.mark.parametrize("motion", [(0.0, 0.0, 0.0), (500.0, -30.0, 2.5)])
def test_the_command_is_where_the_route_lies_twenty_metres_ahead(end, command, motion):
    way = tiny.placed(np.vstack([tiny.line(((0.0, 0.0), (10.0, 0.0))), tiny.line(((10.0, 0.0), end))[1:]]), motion)
    pose = np.array((*tiny.placed(np.array([[5.0, 0.5]]), motion)[0], motion[2]))
    assert COMMAND_NAMES[int(driving_command(way, pose).argmax())] == command


def test_the_command_is_unknown_without_a_route():
    assert driving_command(np.zeros((2, 2)), np.zeros(3)).tolist() == [0, 0, 0, 1]
