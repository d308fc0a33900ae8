import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from irlvla.score.route import WINDOW, _nearest_block, centerline, corrected_route, route_blocks, route_lanes, starting_lane

from .. import tiny

SIDE = {**tiny.ROADS, "4": ((60.0, 40.0), (110.0, 40.0)), "5": ((-60.0, 0.0), (-10.0, 0.0))}
SIDE_LINKS = {**tiny.LINKS, "13": ("4", "3"), "14": ("5", "1")}
"""Road 4 runs beside road 2 and merges into road 3; road 5 leads to road 1."""


def corrected(lanes, route, x=10.0, y=0.0, heading=0.0):
    return corrected_route(lanes, route_blocks(lanes, route), np.array((x, y, heading)))


def start(lanes, route, x, y=0.0, heading=0.0):
    pose = np.array((x, y, heading))
    center = pose[:2] + 1.461 * np.array((np.cos(heading), np.sin(heading)))
    footprint = shapely.box(-2.588, -1.1485, 2.588, 1.1485)
    footprint = shapely.transform(footprint, lambda points: tiny.placed(points, (*center, heading)))
    return starting_lane(lanes, route_lanes(lanes, route), pose, center, footprint)


def test_a_whole_route_stays_as_it_is_with_its_doublets_gone():
    assert corrected(tiny.city(), ("1", "11", "11", "2", "12", "3", "1")) == ["1", "11", "2", "12", "3"]


def test_a_route_may_begin_with_a_connector():
    lanes = tiny.city()
    assert corrected(lanes, ("11", "2"), x=52.0) == ["11", "2"]
    assert start(lanes, ["11", "2"], 52.0).id == "111"


def test_an_unknown_roadblock_and_an_empty_route_are_named():
    with pytest.raises(ValueError, match="roadblock 99 of the route is not in map tiny"):
        route_blocks(tiny.city(), ("1", "99"))
    with pytest.raises(ValueError, match="the route is empty"):
        route_blocks(tiny.city(), ())


def test_a_route_that_begins_ahead_is_led_back_to_the_ego():
    assert corrected(tiny.city(SIDE, SIDE_LINKS), ("2", "12", "3"), x=-30.0) == ["5", "14", "1", "11", "2", "12", "3"]


def test_a_route_whose_start_cannot_be_reached_is_joined_ahead():
    lanes = tiny.city(SIDE, SIDE_LINKS)
    assert corrected(lanes, ("2", "12", "3"), x=70.0, y=40.0) == ["4", "13", "3"]


def test_only_the_first_three_roadblocks_are_joined_ahead():
    roads = {**SIDE, "6": ((180.0, 0.0), (230.0, 0.0))}
    links = {"11": ("1", "2"), "12": ("2", "3"), "15": ("3", "6"), "16": ("4", "6")}
    route = ("1", "11", "2", "12", "3", "15", "6")
    assert corrected(tiny.city(roads, links), route, x=70.0, y=40.0) == list(route)


def test_the_way_back_is_searched_fifteen_roadblocks_deep():
    roads = {str(k): ((60.0 * k, 0.0), (60.0 * k + 50.0, 0.0)) for k in range(1, 12)}
    links = {str(50 + k): (str(k), str(k + 1)) for k in range(1, 11)}
    lanes = tiny.city(roads, links)
    near = corrected(lanes, ("9", "59", "10"), x=60.0 * 2 + 10)
    assert near[0] == "2" and len(near) == 14 + 3
    assert corrected(lanes, ("10", "60", "11"), x=60.0 * 2 + 10)[0] == "2", "joined by the way ahead, 30 deep"


def test_a_start_in_the_wrong_direction_is_off_the_route():
    roads = {**tiny.ROADS, "7": ((50.0, 1.5), (0.0, 1.5))}
    lanes = tiny.city(roads, tiny.LINKS)
    assert corrected(lanes, ("1", "11", "2"), x=20.0, y=0.5) == ["1", "11", "2"]
    assert corrected(lanes, ("1", "11", "2"), x=20.0, y=0.5, heading=np.pi) == ["1", "11", "2"], "no way from road 7 to the route"


def test_a_block_of_the_route_is_preferred_to_a_nearer_one():
    roads = {**tiny.ROADS, "7": ((0.0, 1.0), (50.0, 1.0))}
    assert corrected(tiny.city(roads, tiny.LINKS), ("1", "11", "2"), x=20.0, y=0.9) == ["1", "11", "2"]


def test_an_ego_in_no_roadblock_starts_from_the_nearest_roadblock_or_connector_whichever_is_met_first():
    lanes = tiny.city(SIDE, SIDE_LINKS)
    assert corrected(lanes, ("2", "12", "3"), x=-40.0, y=15.0) == ["14", "1", "11", "2", "12", "3"]
    assert corrected(tiny.city(without_lanes=("1",)), ("2", "12", "3"), x=10.0, y=30.0)[-3:] == ["2", "12", "3"]


@settings(max_examples=30, deadline=None)
@given(st.floats(-3000.0, 3000.0), st.floats(-3000.0, 3000.0), st.booleans())
def test_the_nearest_roadblock_is_the_nearest_of_all(x, y, is_connector):
    lanes = tiny.city(SIDE, SIDE_LINKS)
    distances = [shapely.distance(b.polygon, shapely.Point(x, y)) for b in lanes.roadblocks.values() if b.is_connector == is_connector]
    found = _nearest_block(lanes, np.array((x, y, 0.0)), is_connector)
    assert found.is_connector == is_connector and shapely.distance(found.polygon, shapely.Point(x, y)) == min(distances)


def test_a_map_may_lack_connectors_but_not_roadblocks():
    assert corrected(tiny.city(links={}), ("1",), x=10.0, y=400.0) == ["1"]
    with pytest.raises(ValueError, match="map tiny has no roadblock"):
        corrected_route(tiny.city({}, {}), [], np.zeros(3))


def test_missing_links_are_filled_in():
    assert corrected(tiny.city(), ("1", "3")) == ["1", "11", "2", "12", "3"]


def test_a_link_that_does_not_exist_stays_missing():
    assert corrected(tiny.city(SIDE, SIDE_LINKS), ("1", "4")) == ["1", "4"]


def test_the_shortest_of_two_ways_fills_a_gap():
    roads = {**tiny.ROADS, "8": ((60.0, 20.0), (80.0, 20.0)), "9": ((90.0, 20.0), (110.0, 20.0))}
    links = {"15": ("1", "8"), "16": ("8", "9"), "17": ("9", "3"), **tiny.LINKS}
    assert corrected(tiny.city(roads, links), ("1", "3")) == ["1", "11", "2", "12", "3"]


def test_a_route_that_crosses_itself_is_cut_at_the_crossing():
    roads = {
        "1": ((-60.0, 0.0), (-10.0, 0.0)),
        "2": ((10.0, 0.0), (60.0, 0.0)),
        "3": ((0.0, -60.0), (0.0, -10.0)),
        "4": ((0.0, 10.0), (0.0, 60.0)),
    }
    links = {"11": ("1", "2"), "12": ("2", "3"), "13": ("3", "4")}
    ways = tiny.lines(roads, links)
    assert tiny.strip(ways["11"]).intersection(tiny.strip(ways["13"])).area > 1.0
    assert corrected(tiny.city(roads, links), ("1", "11", "2", "12", "3", "13", "4"), x=-30.0) == ["1", "11", "2", "12", "3"]


@pytest.mark.parametrize(("gap", "route"), [(3.8, ["1", "11", "2", "12", "3"]), (3.95, ["1", "11", "2", "12", "3", "13", "4"])])
def test_connectors_that_overlap_by_a_square_metre_at_most_are_no_loop(gap, route):
    roads = {
        "1": ((0.0, 0.0), (10.0, 0.0)),
        "2": ((20.0, 0.0), (30.0, 0.0)),
        "3": ((30.0, gap), (20.0, gap)),
        "4": ((10.0, gap), (0.0, gap)),
    }
    lanes = tiny.city(roads, {"11": ("1", "2"), "12": ("2", "3"), "13": ("3", "4")})
    assert corrected(lanes, ("1", "11", "2", "12", "3", "13", "4"), x=3.0) == route


def test_the_start_is_the_lane_under_the_rear_axle_with_the_best_heading():
    roads = {"1": ((0.0, 0.0), (50.0, 0.0)), "2": ((0.0, -10.0), (30.0, 20.0))}
    lanes = tiny.city(roads, {})
    assert start(lanes, ["1", "2"], 10.0, heading=0.1).id == "101"
    assert start(lanes, ["1", "2"], 10.0, heading=0.7).id == "102"


def test_of_lanes_with_the_same_heading_the_devkits_search_tree_decides():
    """Lanes 2 m apart and 4 m wide: every place is in two of them, all as well aligned."""
    roads = {str(k): ((0.0, 2.0 * k), (50.0, 2.0 * k)) for k in (8, 3, 11, 2, 14, 6, 1, 9, 13, 5, 12, 4, 10, 7)}
    lanes = tiny.city(roads, {})
    areas = [*lanes.roadblocks.values(), *lanes.lanes.values()]
    tree, first = shapely.STRtree([area.polygon for area in areas], 10), []
    for y in np.arange(3.5, 27.0, 2.0):
        under = [areas[place].id for place in tree.query(shapely.Point(10.0, y), predicate="intersects")]
        found = start(lanes, list(roads), 10.0, y).id
        assert found == next(name for name in under if name in lanes.lanes)
        first.append(found == next(name for name in lanes.lanes if name in under))
    assert 0 < sum(first) < len(first), "it is not simply the first of the route"


def test_else_it_is_the_first_lane_that_holds_the_centre_and_else_the_nearest():
    lanes = tiny.city()
    assert start(lanes, ["1", "11", "2"], -1.0).id == "101"
    assert start(lanes, ["1", "11", "2"], 70.0, y=30.0).id == "102"


def test_a_roadblock_without_lanes_adds_none_and_alone_is_an_error():
    lanes = tiny.city(without_lanes=("11",))
    assert route_lanes(lanes, ["1", "11", "2"]) == ["101", "102"]
    assert corrected(lanes, ("1", "11", "2")) == ["1", "11", "2"]
    with pytest.raises(ValueError, match="the route has no lane in map tiny"):
        start(lanes, ["11"], 55.0)


def along(lanes, route, x):
    blocks = corrected(lanes, route, x=x)
    inside = route_lanes(lanes, blocks)
    return centerline(lanes, blocks, inside, start(lanes, blocks, x))


def test_the_centerline_joins_the_baselines_from_the_start_to_the_last_roadblock():
    lanes = tiny.city()
    found = along(lanes, ("1", "11", "2"), 10.0)
    np.testing.assert_array_equal(found, np.concatenate([lanes.lanes[name].baseline for name in ("101", "111", "102")]))
    assert along(lanes, ("1", "11", "2", "12", "3"), 70.0)[0, 0] == 60.0, "it begins with the lane that the ego is on"


def test_the_centerline_ends_where_the_graph_does():
    lanes = tiny.city(without_lanes=("12",))
    assert along(lanes, ("1", "11", "2", "12", "3"), 10.0)[-1, 0] == 110.0


def test_the_centerline_takes_the_shorter_of_two_branches_even_if_the_longer_one_is_seen_last():
    roads = {
        "1": ((0.0, 0.0), (50.0, 0.0)),
        "2": ((60.0, 0.0), (110.0, 0.0)),
        "4": ((60.0, 10.0), (110.0, 10.0)),
        "3": ((120.0, 0.0), (170.0, 0.0)),
    }
    links = {"11": ("1", "2"), "13": ("1", "4"), "12": ("2", "3"), "14": ("4", "3")}
    lanes = tiny.city(roads, links)
    found = centerline(lanes, ["1", "11", "2", "13", "4", "12", "14", "3"], route_lanes(lanes, list(lanes.roadblocks)), lanes.lanes["101"])
    assert np.abs(found[:, 1]).max() == 0.0 and found[-1, 0] == 170.0


def test_the_centerline_stops_after_thirty_roadblocks():
    roads = {str(k): ((20.0 * k, 0.0), (20.0 * k + 10.0, 0.0)) for k in range(1, 20)}
    links = {str(50 + k): (str(k), str(k + 1)) for k in range(1, 19)}
    lanes = tiny.city(roads, links)
    route = [block for k in range(1, 19) for block in (str(k), str(50 + k))] + ["19"]
    last = lanes.lanes[tiny.lane_of(route[WINDOW - 1])].baseline[-1, 0]
    assert len(route) > WINDOW and along(lanes, tuple(route), 22.0)[-1, 0] == last


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5), st.floats(-3.1, 3.1)), st.floats(-50.0, 160.0), st.floats(-3.0, 41.0))
def test_moving_and_turning_the_world_changes_no_route(motion, x, y):
    lanes = tiny.city(SIDE, SIDE_LINKS)
    reach = shapely.distance(np.array([block.polygon for block in lanes.roadblocks.values()]), shapely.Point(x, y))
    assume(not ((reach > 0.99) & (reach < 1.42)).any())  # the square around the ego does not turn
    assume(np.diff(np.sort(reach[reach > 0.0])[:3]).min() > 1e-6 if (reach > 1.0).all() else True)
    found = [corrected(lanes, ("1", "11", "2", "12", "3"), x, y)]
    turned = tiny.city(SIDE, SIDE_LINKS, motion=motion)
    found.append(corrected(turned, ("1", "11", "2", "12", "3"), *tiny.placed(np.array([[x, y]]), motion)[0], motion[2]))
    assert found[0] == found[1]
