"""What is known to make the readers of maps, trajectories, tables, pictures, stores and configs run code, wait, or fill the memory."""

import io
import sqlite3
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from irlvla.data.features import SensorConfig, features
from irlvla.data.maps import city_map
from irlvla.data.store import Store
from irlvla.evaluate import read_table
from irlvla.files import short
from irlvla.run import config_of
from irlvla.trajectory_file import opened, plans
from irlvla.types import Camera

from .. import tiny
from ..data import test_store
from .readers import _prepare_table


def npz(tmp_path, content, kind=zipfile.ZIP_STORED):
    path = tmp_path / "plans.npz"
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("a_poses.npy", content)
    return path


def npy(header, size=0):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * size


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 8, 3), }"), zipfile.ZIP_STORED, "more than"),
        (npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 8, 3), }", 10), zipfile.ZIP_STORED, "10 bytes for shape"),
        (npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 8, 3), }"), zipfile.ZIP_STORED, "its header is"),
        (npy(b"{'descr': '<f3', 'fortran_order': False, 'shape': (2, 8, 3), }"), zipfile.ZIP_STORED, "its header is"),
        (npy(b"{'descr': '<b8', 'fortran_order': False, 'shape': (2, 8, 3), }"), zipfile.ZIP_STORED, "its type is"),
        (npy(b"__import__('os').system('touch never')"), zipfile.ZIP_STORED, "its header is"),
        (npy(b"(" * 9000), zipfile.ZIP_STORED, "its header is"),
        (npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 8, 3), }"), zipfile.ZIP_LZMA, "compressed in another way"),
        (b"PK", zipfile.ZIP_STORED, "no npy array"),
    ],
)
def test_trajectories_that_claim_too_much_are_refused(tmp_path, silence, content, kind, message):
    with opened(npz(tmp_path, content, kind)) as archive, pytest.raises(ValueError, match=f"array a_poses cannot be used: .*{message}"):
        plans(archive, "a", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.encode() + b"\xff", "no readable CSV"),
        (lambda text: (text + "a" * 200_000).encode(), "no readable CSV"),
        (lambda text: (text + "d,log\n").encode(), "row 3 ends before"),
        (lambda text: (text + text.splitlines()[1]).encode(), "the rows 2 and 3 are of one scene, '0000000000000000'"),
        (lambda text: text.replace("0.5", "many", 1).encode(), "'many', no number"),
        (lambda text: text.replace("0.5", "inf", 1).encode(), "'inf', no number"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path, change, message):
    lines = _prepare_table(tmp_path).decode().splitlines(keepends=True)
    (tmp_path / "table.csv").write_bytes(change("".join(lines[:2]).replace("\r", "")))
    with pytest.raises(ValueError, match=f"table.csv.*{message}"):
        read_table(tmp_path / "table.csv")


def picture_scene(folder, content):
    (folder / "p.jpg").write_bytes(content)
    camera = Camera(
        name="CAM_F0", path=str(folder / "p.jpg"), intrinsics=np.eye(3), distortion=np.zeros(5), rotation=np.eye(3), translation=np.zeros(3),
        ego_from_lidar=np.eye(4),
    )  # fmt: skip
    return replace(tiny.scene(), cameras=((camera,),) * 4)


def test_a_picture_that_would_run_a_program_is_no_picture(tmp_path, silence):
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 54\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(ValueError, match="p.jpg is no readable picture"):
        features(picture_scene(tmp_path, postscript), SensorConfig(cameras=("CAM_F0",)))


def test_a_picture_of_too_many_pixels_is_not_unpacked(tmp_path):
    stream = io.BytesIO()
    Image.new("1", (9000, 9000)).save(stream, "PNG")
    with pytest.raises(ValueError, match="9000 x 9000 pixels"):
        features(picture_scene(tmp_path, stream.getvalue()), SensorConfig(cameras=("CAM_F0",)))


def test_a_changed_record_of_a_store_is_found(tmp_path):
    test_store.written(tmp_path)
    content = bytearray((tmp_path / "prepared-0000.bin").read_bytes())
    content[1000] ^= 1
    (tmp_path / "prepared-0000.bin").write_bytes(content)
    with pytest.raises(ValueError, match="scene a: .*prepared-0000.bin or record.npy is missing or damaged"):
        Store(tmp_path).prepared(0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("store.json", b"[]", "store.json is missing or damaged"),
        ("human.npy", b"", "human.npy cannot be used: it is no npy array"),
        (
            "record.npy",
            npy(b"{'descr': '<i8', 'fortran_order': False, 'shape': (99999, 4), }"),
            "record.npy cannot be used: it has the shape",
        ),
    ],
)
def test_a_damaged_file_of_a_store_is_named(tmp_path, name, content, message):
    test_store.written(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Store(tmp_path)


def test_a_config_is_of_the_types_of_its_fields():
    with pytest.raises(ValueError, match=r"SensorConfig.height is '96', no int"):
        config_of(SensorConfig, {"height": "96"})
    with pytest.raises(ValueError, match=r"SensorConfig.height is True, no int"):
        config_of(SensorConfig, {"height": True})
    with pytest.raises(ValueError, match=r"SensorConfig.cameras is 1, no"):
        config_of(SensorConfig, {"cameras": 1})
    with pytest.raises(ValueError, match="SensorConfig is list, no mapping"):
        config_of(SensorConfig, [])
    assert short(2**200) == "an integer of 201 bits" and short(np.zeros(2)) == "ndarray"


def altered(tmp_path, script):
    path = tiny.write_maps(tmp_path)
    with sqlite3.connect(path, isolation_level=None) as file:
        file.executescript(script)
    file.close()
    return path


VIEW = "AS WITH RECURSIVE c(fid) AS (SELECT 1 UNION ALL SELECT fid + 1 FROM c) SELECT fid, fid AS geom FROM c"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (f"DROP TABLE lane_groups_polygons; CREATE VIEW lane_groups_polygons {VIEW}", "lacks the layers lane_groups_polygons"),
        ("DROP TABLE carpark_areas; CREATE VIRTUAL TABLE carpark_areas USING rtree(fid, a, b)", "lacks the layers carpark_areas"),
        (
            "DROP TABLE carpark_areas; CREATE TABLE carpark_areas (fid INTEGER PRIMARY KEY, geom BLOB AS (zeroblob(1000000000)))",
            "lacks the geometry column 'geom'",
        ),
        (
            f"PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = 'CREATE VIEW intersections {VIEW}' WHERE name = 'intersections'",
            "map.gpkg",
        ),
        ("UPDATE meta SET value = '+proj=utm +zone=11 +nadgrids=/etc/passwd'", "is no code such as EPSG:32611"),
        ("UPDATE meta SET value = 'EPSG:4326'", "projectedCoordSystem 'EPSG:4326' is no projection"),
        ("UPDATE gpkg_spatial_ref_sys SET organization = 'http://x'", "reference system 'HTTP://X:4326' is no code"),
        ("UPDATE gpkg_geometry_columns SET srs_id = 7", "the reference system 7 is not in the file"),
        ("DELETE FROM gpkg_geometry_columns", "has no geometry column"),
        ("UPDATE lanes_polygons SET speed_limit_mps = 'fast'", "layer lanes_polygons, fid 101: speed_limit_mps is 'fast', no speed"),
        ("UPDATE lanes_polygons SET geom = 5", "layer lanes_polygons, fid 101 has no geometry that can be read .it is int"),
        ("UPDATE lanes_polygons SET geom = NULL", "layer lanes_polygons, fid 101 has no geometry that can be read .there is none"),
        ("UPDATE baseline_paths SET lane_fid = x'00'", "layer baseline_paths, fid 1: lane_fid"),
    ],
)
def test_a_map_that_is_more_than_tables_is_refused(tmp_path, silence, script, message):
    altered(tmp_path, script)
    with pytest.raises(ValueError, match=f"map.gpkg: .*{message}" if message != "map.gpkg" else message):
        city_map(tmp_path, tiny.CITY)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (struct.pack("<BII", 1, 6, 1) * 20_000, "its type is 6"),
        (struct.pack("<BII", 1, 7, 1) * 20_000, "its type is 7"),
        (struct.pack("<BIII", 1, 3, 1, 2**31), "14 bytes? hold|13 bytes hold"),
        (struct.pack("<BII", 1, 3, 2**32 - 1), "requires a buffer"),
        (struct.pack("<BII", 1, 3, 0), "it is empty"),
        (struct.pack("<BII", 9, 3, 1), "its byte order is 9"),
        (struct.pack("<BIII", 1, 3, 1, 2) + b"\0" * 32, "Exception"),
    ],
)
def test_a_geometry_is_what_its_bytes_can_hold(tmp_path, shape, message):
    blob = (b"GP\0\x01" + struct.pack("<i", 4326) + shape).hex()
    altered(tmp_path, f"UPDATE lanes_polygons SET geom = x'{blob}'")
    with pytest.raises(ValueError, match=f"map.gpkg: layer lanes_polygons, fid 101 has no geometry that can be read .*({message})"):
        city_map(tmp_path, tiny.CITY)


def test_a_map_is_not_opened_as_what_it_claims_to_be(tmp_path, silence):
    path = tiny.write_maps(tmp_path)
    path.write_text(
        '<OGRVRTDataSource><OGRVRTLayer name="meta"><SrcDataSource>/vsicurl/http://127.0.0.1/x</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>'
    )
    with pytest.raises(ValueError, match="map.gpkg: not a readable GeoPackage"):
        city_map(tmp_path, tiny.CITY)


@pytest.mark.parametrize("version", ["../1.0", "/etc", "1.0/..", ""])
def test_an_index_of_maps_names_folders_only(tmp_path, version):
    tiny.write_maps(tmp_path)
    (tmp_path / "nuplan-maps-v1.0.json").write_text(f'{{"{tiny.CITY}": {{"version": "{version}"}}}}')
    with pytest.raises(ValueError, match="nuplan-maps-v1.0.json: map .* no name of a folder"):
        city_map(tmp_path, tiny.CITY)
