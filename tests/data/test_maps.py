import json
import pickle

import numpy as np
import pytest
import shapely

from irlvla.data.maps import Maps, city_map, map_path
from irlvla.lanes import near
from irlvla.score.prepared import prepared
from irlvla.types import LINE_NAMES

from .. import tiny


def changed(layer, **columns):
    """The tiny city's layers with other columns in one of them; None takes the column away."""
    layers = tiny.table()
    kind, fids, shapes, table = layers[layer]
    table = {name: values for name, values in (table | columns).items() if values is not None}
    return layers | {layer: (kind, fids, shapes, table)}


def test_a_map_file_gives_the_lanes_and_the_graph_that_were_put_in(tmp_path):
    tiny.write_maps(tmp_path)
    found, expected = city_map(tmp_path, tiny.CITY), tiny.city(motion=(*tiny.ORIGIN, 0.0))
    assert list(found.lanes) == list(expected.lanes) and list(found.roadblocks) == list(expected.roadblocks)
    for name, lane in expected.lanes.items():
        other = found.lanes[name]
        assert (other.incoming, other.outgoing, other.roadblock_id) == (lane.incoming, lane.outgoing, lane.roadblock_id)
        np.testing.assert_allclose(other.baseline, lane.baseline, atol=1e-5)
    for name, block in expected.roadblocks.items():
        other = found.roadblocks[name]
        assert (other.incoming, other.outgoing, other.lane_ids) == (block.incoming, block.outgoing, block.lane_ids)
        assert shapely.hausdorff_distance(other.polygon, block.polygon) < 1e-5


def test_a_null_speed_limit_is_none(tmp_path):
    tiny.write_maps(tmp_path)
    assert [lane.speed_limit for lane in city_map(tmp_path, tiny.CITY).lanes.values()] == [None, 13.4, 13.4, None, None]


def drawn(path):
    """Kind of line -> its lines, in local metres."""
    lines = city_map(path, tiny.CITY).drawn
    found = {name: [] for name in LINE_NAMES}
    for place, kind in enumerate(lines.kinds):
        found[LINE_NAMES[kind]].append(lines.vertices[lines.line_start[place] : lines.line_start[place + 1]] - tiny.ORIGIN)
    return found, lines.lacking


def test_a_city_is_drawn_with_centres_edges_crosswalks_and_stop_lines(tmp_path):
    pair = shapely.MultiPolygon([shapely.box(50, -2, 52, 2), shapely.box(58, -2, 60, 2)])
    tiny.write_maps(tmp_path, tiny.table(crosswalks=[shapely.box(0, 0, 3, 10), pair], stops=[shapely.box(48, -2, 49, 2)]))
    found, lacking = drawn(tmp_path)
    assert {name: len(lines) for name, lines in found.items()} == {"centre": 5, "boundary": 6, "crossing": 3, "stop": 1} and not lacking
    assert sorted(line[0, 1].round(3) for line in found["boundary"]) == [-2, -2, -2, 2, 2, 2]
    np.testing.assert_allclose(np.sort(found["stop"][0], axis=0), [(48.5, -2), (48.5, 2)], atol=1e-4)
    assert [len(ring) for ring in found["crossing"]] == [4, 4, 4]


def test_edges_of_connectors_are_drawn_where_nobody_knows_whose_they_are(tmp_path):
    tiny.write_maps(tmp_path, changed("lanes_polygons", left_boundary_fid=None))
    found, lacking = drawn(tmp_path)
    assert len(found["boundary"]) == 10 and "lanes_polygons lacks the column left_boundary_fid" in lacking[0]


def test_ids_of_edges_may_have_a_point(tmp_path):
    tiny.write_maps(
        tmp_path, changed("lanes_polygons", left_boundary_fid=[201.0, np.nan, 203.0], right_boundary_fid=["301.0", "302.0", None])
    )
    assert len(drawn(tmp_path)[0]["boundary"]) == 4


def test_without_boundaries_the_long_edges_of_lanes_are_drawn(tmp_path):
    kind, _, _, columns = tiny.table()["boundaries"]
    tiny.write_maps(tmp_path, tiny.table() | {"boundaries": (kind, [], [], columns)})
    found, lacking = drawn(tmp_path)
    ends = [line[[0, -1]].round(2).tolist() for line in found["boundary"]]
    assert len(ends) == 6 and not lacking and sorted(ends)[0] in ([[0, -2], [50, -2]], [[0, 2], [50, 2]])


@pytest.mark.parametrize("layer", ["crosswalks", "stop_polygons", "boundaries"])
def test_a_map_whose_lines_cannot_be_read_is_one_without_them(tmp_path, layer):
    kind, _, _, columns = tiny.table()[layer]
    broken = {layer: (kind, [1], [shapely.Polygon() if kind == "Unknown" else shapely.LineString()], columns)}
    tiny.write_maps(tmp_path, tiny.table(crosswalks=[shapely.box(0, 0, 3, 10)], stops=[shapely.box(48, -2, 49, 2)]) | broken)
    found, lacking = drawn(tmp_path)
    assert f"map.gpkg: layer {layer}, fid 1 has no geometry" in lacking[0] and len(found["centre"]) == 5
    assert (
        len(found["boundary"]) == 6
        and len(found["crossing"]) == (layer != "crosswalks")
        and len(found["stop"]) == (layer != "stop_polygons")
    )


def test_a_map_without_crosswalks_is_one(tmp_path):
    tiny.write_maps(tmp_path, {name: values for name, values in tiny.table().items() if name != "crosswalks"})
    found, lacking = drawn(tmp_path)
    assert not found["crossing"] and lacking[0].endswith("map.gpkg: lacks the layers crosswalks")


def test_odd_areas_are_drawn_as_far_as_they_can_be(tmp_path):
    sliver = shapely.Polygon([(0, 0), (5, 0), (10, 0), (0, 0)])
    bow = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
    tiny.write_maps(tmp_path, tiny.table(crosswalks=[bow, sliver], stops=[sliver, bow]))
    found, lacking = drawn(tmp_path)
    assert not lacking and len(found["stop"]) == 2 and len(found["crossing"]) == 2


@pytest.mark.parametrize("kind", [float, str])
def test_ids_may_be_stored_as_numbers_with_a_point_or_as_text(tmp_path, kind):
    layers = changed("lanes_polygons", lane_group_fid=[kind(value) for value in (1, 2, 3)])
    tiny.write_maps(tmp_path, layers)
    assert city_map(tmp_path, tiny.CITY).roadblocks["2"].lane_ids == ("102",)


def test_a_file_in_another_projection_is_brought_to_the_one_that_meta_names(tmp_path):
    tiny.write_maps(tmp_path, geographic="EPSG:32612")
    np.testing.assert_allclose(city_map(tmp_path, tiny.CITY).lanes["101"].baseline[0, :2], tiny.ORIGIN, atol=1e-4)


def test_holes_and_several_parts_stay_as_rings(tmp_path):
    ring = shapely.box(0, 0, 20, 20).difference(shapely.box(5, 5, 10, 10))
    pair = shapely.MultiPolygon([shapely.box(30, 0, 40, 10), shapely.box(50, 0, 60, 10)])
    tiny.write_maps(tmp_path, tiny.table(intersections=[ring], carparks=[pair]))
    areas = city_map(tmp_path, tiny.CITY).areas
    counts = np.diff(areas.polygons.polygon_start)
    assert counts[-2:].tolist() == [2, 2] and (counts[:-2] == 1).all()
    assert areas.layers[-2:].tolist() == [3, 4]


def test_an_old_name_of_las_vegas_is_known(tmp_path):
    path = tiny.write_maps(tmp_path)
    assert map_path(tmp_path, "las_vegas") == path


def test_a_map_is_read_once(tmp_path):
    tiny.write_maps(tmp_path)
    maps = Maps(tmp_path)
    assert maps[tiny.CITY] is maps[tiny.CITY]


def test_a_map_survives_a_trip_to_another_process(tmp_path):
    found = pickle.loads(pickle.dumps(tiny.city()))  # noqa: S301
    assert list(found.lanes) == list(tiny.city().lanes)


def test_bounds_find_what_a_square_meets():
    found = near(np.array([[0.0, 0.0, 1.0, 1.0], [5.0, 0.0, 6.0, 1.0]]), 3.0, 0.5, 2.0)
    assert found.tolist() == [0, 1] and near(np.zeros((0, 4)), 0.0, 0.0, 1.0).tolist() == []


@pytest.mark.parametrize(
    ("index", "name", "message"),
    [
        (None, tiny.CITY, "is no NUPLAN_MAPS_ROOT"),
        ("{", tiny.CITY, "not JSON"),
        ("[]", tiny.CITY, "holds no mapping"),
        ("{}", tiny.CITY, "no map 'us-nv-las-vegas-strip'"),
        (json.dumps({tiny.CITY: {}}), tiny.CITY, "has no version"),
        (json.dumps({tiny.CITY: {"version": "7"}}), tiny.CITY, "does not exist"),
    ],
)
def test_a_broken_index_is_named(tmp_path, index, name, message):
    if index is not None:
        (tmp_path / "nuplan-maps-v1.0.json").write_text(index)
    with pytest.raises(ValueError, match=message):
        city_map(tmp_path, name)


@pytest.mark.parametrize("layer", ["lanes_polygons", "boundaries", "carpark_areas"])
def test_a_missing_layer_is_named(tmp_path, layer):
    tiny.write_maps(tmp_path, {name: values for name, values in tiny.table().items() if name != layer})
    with pytest.raises(ValueError, match=f"map.gpkg: lacks the layers {layer}"):
        city_map(tmp_path, tiny.CITY)


def test_a_missing_column_is_named(tmp_path):
    tiny.write_maps(tmp_path, changed("lane_connectors", entry_lane_fid=None))
    with pytest.raises(ValueError, match="layer lane_connectors lacks the column entry_lane_fid"):
        city_map(tmp_path, tiny.CITY)


def prepared_at(path, x, route=("1", "11", "2")):
    """Prepare a scene of the map with the ego at local `x` on the straight road."""
    lanes = city_map(path, tiny.CITY)
    return prepared(tiny.scene(lanes, start=(tiny.ORIGIN[0] + x, tiny.ORIGIN[1], 0.0), route=route))


@pytest.mark.parametrize("lines", [[101.0, 102.0, np.nan, np.nan, np.nan], [101.0, 102.0, 103.0, 103.0, np.nan]])
def test_a_lane_without_a_line_or_with_two_stops_only_the_scenes_that_need_it(tmp_path, lines):
    tiny.write_maps(tmp_path, changed("baseline_paths", lane_fid=lines))
    prepared_at(tmp_path, 10.0)
    with pytest.raises(ValueError, match="cannot be prepared: lane 103 of map .* has no baseline, or several"):
        prepared_at(tmp_path, 10.0, ("1", "11", "2", "12", "3"))


@pytest.mark.parametrize("owners", [[111, 999], [112, 112]])
def test_a_connector_without_a_polygon_or_with_two_stops_only_the_scenes_around_it(tmp_path, owners):
    roads = {**tiny.ROADS, "4": ((400.0, 0.0), (450.0, 0.0)), "5": ((460.0, 0.0), (500.0, 0.0))}
    layers = tiny.table(roads, {"12": ("2", "3"), "11": ("4", "5")})
    kind, fids, shapes, _ = layers["gen_lane_connectors_scaled_width_polygons"]
    tiny.write_maps(tmp_path, layers | {"gen_lane_connectors_scaled_width_polygons": (kind, fids, shapes, {"lane_connector_fid": owners})})
    if owners == [111, 999]:
        prepared_at(tmp_path, 410.0, ("4", "11", "5"))
    with pytest.raises(ValueError, match="cannot be prepared: lane_connector 112 of map .* has no polygon, or several"):
        prepared_at(tmp_path, 70.0, ("2", "12", "3"))


def test_one_gap_in_a_column_of_ids_makes_them_numbers_with_a_point_which_match_nothing(tmp_path):
    """The devkit writes such ids as "11.0": the centerline does not find its last roadblock, a connector leads nowhere."""
    tiny.write_maps(tmp_path, changed("lane_connectors", lane_group_connector_fid=[11.0, np.nan], entry_lane_fid=[102.0, np.nan]))
    found = city_map(tmp_path, tiny.CITY)
    assert found.lanes["111"].roadblock_id == "11.0" and found.lanes["112"].roadblock_id == "None"
    assert found.roadblocks["11"].lane_ids == ("111",) and found.roadblocks["12"].lane_ids == ()
    assert found.lanes["111"].outgoing == ("102.0",) and found.lanes["102"].incoming == ("111",)
    assert prepared_at(tmp_path, 10.0).centerline[-1, 0] - tiny.ORIGIN[0] == pytest.approx(60.0, abs=1e-4)


def test_a_feature_without_geometry_is_named(tmp_path):
    layers = tiny.table(carparks=[shapely.Polygon()])
    tiny.write_maps(tmp_path, layers)
    with pytest.raises(ValueError, match="layer carpark_areas, fid 950 has no geometry"):
        city_map(tmp_path, tiny.CITY)


def test_two_roadblocks_with_one_id_are_refused(tmp_path):
    layers = tiny.table()
    kind, _, shapes, columns = layers["lane_group_connectors"]
    tiny.write_maps(tmp_path, layers | {"lane_group_connectors": (kind, [1, 12], shapes, columns)})
    with pytest.raises(ValueError, match="two roadblocks or their connectors have the id 1"):
        city_map(tmp_path, tiny.CITY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"projection": "EPSG:0"}, "'EPSG:0' is unknown"), ({"key": "other"}, "has no key projectedCoordSystem")],
)
def test_an_unknown_projection_is_named(tmp_path, changes, message):
    tiny.write_maps(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        city_map(tmp_path, tiny.CITY)


def test_a_file_that_is_no_geopackage_is_named(tmp_path):
    tiny.write_maps(tmp_path).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="map.gpkg: not a readable GeoPackage"):
        city_map(tmp_path, tiny.CITY)
