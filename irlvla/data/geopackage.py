"""GeoPackage files -> layers, through SQLite and shapely: a damaged or hostile file ends in an error and in nothing else.

GDAL reads the same values, but opens whatever format a file's content claims to be, some of which name further files and addresses.
Here a layer is a plain table; views, virtual tables, functions and generated columns are refused, rows and bytes cannot be more than
the file can hold, and the shape of each geometry's bytes is checked before GEOS sees them.

Source: OGC 12-128r18 (GeoPackage 1.3), 2.1.3 (geometry's bytes), table 5 and 6; OGC 06-103r4, 8.2 (WKB).
"""

import sqlite3
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

LINES, POLYGONS = (2, 5), (3, 6)
"""WKB's numbers of the geometry types, the single one and the one of many."""
GEOGRAPHIC = "EPSG:4326"
_ENVELOPES = (0, 32, 48, 48, 64)
_ALLOWED = {sqlite3.SQLITE_READ, sqlite3.SQLITE_SELECT, sqlite3.SQLITE_PRAGMA}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer: feature ids, geometries (none if they were not asked for), columns by name, and the code of its reference system."""

    ids: list[str]
    geometries: np.ndarray
    columns: dict[str, np.ndarray]
    projection: str


def geopackage_layers(
    path: Path, present: Sequence[str], read: Mapping[str, tuple[Sequence[str], Sequence[int] | None]]
) -> dict[str, Layer]:
    """Some layers of a GeoPackage, features in order of their ids.

    Args:
        path: The file.
        present: Layers that have to be there.
        read: Layer -> the columns to read and the WKB types of its geometries (None: geometries are not read).

    Returns:
        Layer by name. Columns hold None, int, float, str or bytes, as the file does.

    Raises:
        ValueError: The file is no GeoPackage or damaged, a layer or column is missing, or a geometry is absent, broken or of another
            type; the message names it.
    """
    try:
        size = path.stat().st_size
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as file:
            file.execute("PRAGMA trusted_schema = OFF")
            file.execute("PRAGMA mmap_size = 0")
            file.set_authorizer(_verdict)
            tables = {
                name for name, root, sql in _rows(file, size, "SELECT name, rootpage, sql FROM sqlite_master WHERE type = 'table'")
                if isinstance(name, str) and isinstance(root, int) and root > 0 and str(sql).upper().startswith("CREATE TABLE")
            }  # fmt: skip
            missing = [layer for layer in present if layer not in tables]
            if missing:
                raise ValueError(f"lacks the layers {', '.join(missing)}")
            return {layer: _layer(file, size, layer, *wanted) for layer, wanted in read.items()}
    except (sqlite3.Error, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path}: not a readable GeoPackage ({error})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _verdict(action: int, _first: str | None, _second: str | None, _database: str | None, inside: str | None) -> int:
    """Reading of tables is allowed, except from within a view."""
    return sqlite3.SQLITE_OK if action in _ALLOWED and inside is None else sqlite3.SQLITE_DENY


def _rows(file: sqlite3.Connection, size: int, query: str, *values: object) -> Iterator[tuple]:
    """Rows of a query, stopped when they hold more than a file of this size can (pages of a damaged file may be met again and again)."""
    left = size
    for row in file.execute(query, values):
        left -= 4 + sum(len(value) for value in row if isinstance(value, str | bytes))
        if left < 0:
            raise ValueError(f"damaged: a table holds more than the file's {size} bytes")
        yield row


def _layer(file: sqlite3.Connection, size: int, layer: str, columns: Sequence[str], kinds: Sequence[int] | None) -> Layer:
    # Column 6 of table_xinfo is 0 for what is stored as it is, else the column is computed.
    stored = {row[1].lower() for row in _rows(file, size, f'PRAGMA table_xinfo("{layer}")') if row[6] == 0}
    for column in columns:
        if column.lower() not in stored:
            raise ValueError(f"layer {layer} lacks the column {column}")
    shape, projection = ("", GEOGRAPHIC) if kinds is None else _geometry_column(file, size, layer)
    if kinds is not None and shape.lower() not in stored:
        raise ValueError(f"layer {layer} lacks the geometry column {shape!r}")
    names = ["rowid", *columns, *([shape] if kinds is not None else [])]
    chosen = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
    rows = list(_rows(file, size, f'SELECT {chosen} FROM "{layer}" NOT INDEXED ORDER BY rowid'))
    ids = [str(row[0]) for row in rows]
    table = {column: np.empty(len(rows), dtype=object) for column in columns}
    for place, column in enumerate(columns, 1):
        table[column][:] = [row[place] for row in rows]
    geometries = np.zeros(0, object) if kinds is None else _geometries(layer, ids, [row[-1] for row in rows], kinds)
    return Layer(ids=ids, geometries=geometries, columns=table, projection=projection)


def _geometry_column(file: sqlite3.Connection, size: int, layer: str) -> tuple[str, str]:
    """Name of a layer's geometry column and the code of its reference system; what is undefined is taken for longitude and latitude."""
    rows = list(_rows(file, size, "SELECT column_name, srs_id FROM gpkg_geometry_columns WHERE table_name = ?", layer))
    if len(rows) != 1 or not isinstance(rows[0][0], str) or not isinstance(rows[0][1], int):
        raise ValueError(f"layer {layer} has no geometry column")
    name, system = rows[0]
    if system <= 0:
        return name, GEOGRAPHIC
    query = "SELECT organization, organization_coordsys_id FROM gpkg_spatial_ref_sys WHERE srs_id = ?"
    known = list(_rows(file, size, query, system))
    if len(known) != 1:
        raise ValueError(f"layer {layer}: the reference system {system} is not in the file")
    return name, f"{str(known[0][0])[:20].upper()}:{str(known[0][1])[:20]}"


def _geometries(layer: str, ids: list[str], blobs: list[Any], kinds: Sequence[int]) -> np.ndarray:
    contents = np.empty(len(blobs), dtype=object)
    for place, blob in enumerate(blobs):
        try:
            contents[place] = _well_known_binary(blob, kinds)
        except (ValueError, struct.error, IndexError) as error:
            raise ValueError(f"layer {layer}, fid {ids[place]} has no geometry that can be read ({error})") from error
    try:
        return shapely.force_2d(shapely.from_wkb(contents))
    except shapely.errors.GEOSException:
        for place, content in enumerate(contents):
            try:
                shapely.from_wkb(content)
            except shapely.errors.GEOSException as error:
                raise ValueError(f"layer {layer}, fid {ids[place]} has no geometry that can be read ({error})") from error
        raise


def _well_known_binary(blob: Any, kinds: Sequence[int]) -> bytes:
    """The WKB inside a GeoPackage's geometry, once its types, counts and length are right."""
    if blob is None:
        raise ValueError("there is none")
    if not isinstance(blob, bytes) or blob[:2] != b"GP":
        raise ValueError(f"it is {type(blob).__name__}, not a GeoPackage's geometry")
    flags = blob[3]
    envelope = flags >> 1 & 7
    if flags & 0x20 or envelope >= len(_ENVELOPES):
        raise ValueError(f"its flags are {flags:#04x}")
    if flags & 0x10:
        raise ValueError("it is empty")
    content = blob[8 + _ENVELOPES[envelope] :]
    _end(content, 0, kinds)
    return content


def _end(content: bytes, start: int, kinds: Sequence[int]) -> int:
    """Where a line, polygon, or (in the outermost place only) several of them end in the bytes."""
    order = {0: ">", 1: "<"}.get(content[start])
    if order is None:
        raise ValueError(f"its byte order is {content[start]}")
    (code,) = struct.unpack_from(f"{order}I", content, start + 1)
    kind, dimensions = code % 1000, code // 1000
    if code & 0xE0000000:
        # Z and M of extended WKB; a reference system inside is not allowed in a GeoPackage.
        kind, dimensions = code & 0xFF, {0x8: 1, 0x4: 2, 0xC: 3}.get(code >> 28, 9)
    if kind not in kinds or dimensions > 3:
        raise ValueError(f"its type is {code}")
    point = 8 * (2, 3, 3, 4)[dimensions]
    (count,) = struct.unpack_from(f"{order}I", content, start + 5)
    end = start + 9
    if count == 0:
        raise ValueError("it is empty")
    if kind in (5, 6):
        for _ in range(count):
            end = _end(content, end, (kind - 3,))
    elif kind == 2:
        end += count * point
    else:
        for _ in range(count):
            (points,) = struct.unpack_from(f"{order}I", content, end)
            end += 4 + points * point
    if end > len(content):
        raise ValueError(f"{len(content)} bytes hold {end}")
    return end
