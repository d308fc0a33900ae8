import numpy as np
import pyogrio
import pytest

from irlvla.data.maps import city_map
from irlvla.world.mapfile import CITIES, EMPTY_LAYERS, write_city, write_index
from irlvla.world.town import make_town


def test_a_city_file_has_all_layers_and_the_same_bytes_each_time(tmp_path):
    town = make_town(tmp_path / "work", "town", "us-ma-boston", "rings", 2, np.array((328500.0, 4689000.0)), 1000)
    first = write_city(tmp_path / "a", "us-ma-boston", [town]).read_bytes()
    path = write_city(tmp_path / "b", "us-ma-boston", [town])
    assert path.read_bytes() == first
    layers = {str(name) for name, _ in pyogrio.list_layers(path)}
    assert layers == {*EMPTY_LAYERS, "meta"}
    assert pyogrio.read_info(path, layer="lanes_polygons")["features"] == len(town.lanes)


def test_the_reader_finds_the_town_where_it_was_put(tmp_path):
    town = make_town(tmp_path / "work", "town", "us-ma-boston", "bent", 2, np.array((328500.0, 4689000.0)), 1000)
    for city in sorted(CITIES):
        write_city(tmp_path, city, [town] if city == town.city else [])
    write_index(tmp_path)
    lanes = city_map(tmp_path, "us-ma-boston").lanes
    assert len(lanes) == len(town.lanes) + len(town.connectors)
    for lane in (*town.lanes, *town.connectors):
        assert np.allclose(lanes[str(lane.fid)].baseline[:, :2], lane.line + town.origin, atol=1e-5)


def test_a_map_that_gdal_cannot_write_is_named(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise pyogrio.errors.DataSourceError("At least one of the required GeoPackage tables is missing")

    monkeypatch.setattr(pyogrio.raw, "write", full)
    with pytest.raises(OSError, match="GDAL cannot write it, is the disk full.* tables is missing.*map.gpkg"):
        write_city(tmp_path, "us-ma-boston", [])
