"""Ways to damage files: bytes, opcodes and values of pickles, cells and schemas of SQLite files, arrays; all follows from the generator."""

import copy
import io
import pickle
import pickletools
import sqlite3
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np

NUMBERS = (0, 1, 7, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
EVIL_OPCODES = (
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\nexec\n", b"c__builtin__\ngetattr\n", b"csubprocess\nPopen\n", b"cbuiltins\nbytearray\n",
    b"cbuiltins\nlist\n", b"cbuiltins\nrange\n", b"ccopyreg\n_reconstructor\n", b"cnumpy\nload\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n",
    b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy._core.multiarray\nscalar\n", b"cnumpy._core.numeric\n_frombuffer\n", b"c_codecs\nencode\n",
    b"cirlvla.data.pickles\nunpickled\n", b"S'touch /tmp/never'\n", b"X\x0a\x00\x00\x00echo never", b"\x8c\x02os\x8c\x06system\x93", b"R", b"b",
    b"o",
    b"i", b"\x81", b"\x92", b"\x82\x01", b"\x83\x01\x00", b"P1\n", b"Q", b"0", b"1", b"2", b"(", b"t", b"l", b"d", b"a", b"e", b"s", b"u", b"}",
    b"]",
    b")", b"\x85", b"\x86", b"\x87", b"\x8f", b"\x90", b"\x91", b"\x94", b"\x97", b"\x98", b"N", b"K\x00", b"K\x05", b"J\xff\xff\xff\x7f", b"\x88",
    b"r\xff\xff\xff\x7f", b"r\xff\xff\xff\x00", b"j\xff\xff\xff\x7f", b"q\x00", b"h\x00", b"h\x01", b"p99999999\n", b"g0\n", b"\x80\x05",
    b"\x80\xff",
    b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8e\xff\xff\xff\xff\x00\x00\x00\x00", b"\x96\xff\xff\xff\x7f\x00\x00\x00\x00", b"B\xff\xff\xff\x7f",
    b"X\xff\xff\xff\xff", b"\x8b\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\xff", b"L999999999999999999999L\n", b"I01\n", b"Fnan\n", b"F1e999\n",
    b"]2a", b"(h\x00h\x00t",
    b"2\x86" * 40, b"]q\x00h\x00a", b"]" * 3000, b"(" * 3000, b"\x85" * 3000, b".",
)  # fmt: skip


def spoiled(random, seed: bytes, others=(), tokens=()) -> bytes:
    """Bytes with up to eight changes: bits, numbers, pieces taken out, doubled or from elsewhere, an end cut off."""
    content = bytearray(seed)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        place = random.randrange(len(content) + 1)
        size = min(random.choice((1, 1, 2, 4, 8, 16, 64, 1024)), len(content) - place)
        change = random.randrange(9)
        if change == 0 and place < len(content):
            content[place] ^= 1 << random.randrange(8)
        elif change == 1:
            content[place : place + size] = random.randbytes(size)
        elif change == 2:
            form = random.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
            number = struct.pack(form, random.choice(NUMBERS) % 256 ** struct.calcsize(form))
            content[place : place + len(number)] = number
        elif change == 3:
            del content[place : place + size]
        elif change == 4:
            content[place:place] = content[place : place + size] * random.choice((1, 2, 50))
        elif change == 5 and others:
            other = random.choice(others)
            start = random.randrange(len(other) + 1)
            content[place : place + size] = other[start : start + size]
        elif change == 6 and tokens:
            content[place : place + random.choice((0, size))] = random.choice(tokens)
        elif change == 7 and random.random() < 0.2:
            del content[place:]
        elif place < len(content):
            content[place] = random.choice((0, 1, 9, 10, 32, 127, 128, 254, 255))
    return bytes(content)


def opcodes(content: bytes) -> list[bytes]:
    """A pickle cut into its opcodes, each with its argument; frames are left out."""
    places = [(place, code.name) for code, _, place in pickletools.genops(content)]
    ends = [place for place, _ in places[1:]] + [len(content)]
    return [content[start:end] for (start, name), end in zip(places, ends) if name != "FRAME"]


def reordered(random, codes: list[bytes]) -> bytes:
    """A pickle whose opcodes are exchanged, doubled, taken out, or joined by ones that no log has."""
    codes = list(codes)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        place = random.randrange(len(codes) + 1)
        size = random.choice((1, 1, 2, 3, 10, 100))
        change = random.randrange(6)
        if change == 0:
            del codes[place : place + size]
        elif change == 1:
            codes[place:place] = codes[place : place + size]
        elif change == 2:
            start = random.randrange(len(codes) + 1)
            codes[place:place] = codes[start : start + size]
        elif change == 3 and place < len(codes):
            codes[place] = spoiled(random, codes[place])
        else:
            codes[place : place + random.choice((0, 1))] = [random.choice(EVIL_OPCODES) for _ in range(random.choice((1, 1, 2, 5)))]
    return b"".join(codes)


def evil_value(random):
    """A value that some place in a frame cannot have."""
    endless = []
    endless += [endless, endless]
    wide = [0.0, 1.0]
    for _ in range(60):
        wide = [wide, wide]
    values = (
        None, True, False, 0, -1, 1, 2**31, 2**63, 2**200, -(2**5000), 0.0, -0.0, 1e-320, 1.5, 1e9, -1e9, 1e300, -1e300, float("nan"),
        float("inf"), -float("inf"),
        "", "0", "nan", "a" * 300, "a" * 100_000, "\0", "\ud800", "../../etc/passwd", "/dev/zero", "vehicle", "us-ma-boston", "las_vegas", b"",
        b"ab", [], (), {},
        [[]], [None], [1.0], [1.0, 2.0, 3.0, 4.0], [0.0] * 4, [0] * 7, ["1"] * 4, [2**2000] * 4, [float("nan")] * 4, ["1"], [("1", True)], [(1,)],
        [(1, 2, 3)], [("1", "red")],
        {"a": 1}, {1: 2}, endless, wide, tuple(wide), [wide] * 4, [[1.0] * 7], [[1.0] * 7, [1.0]], [[1e9] * 7], [[-5.0] * 7], [[wide] * 7],
        np.zeros(0), np.zeros((0, 7)), np.zeros((1, 7)), np.full((1, 7), 1e6), np.full((1, 7), np.nan), np.zeros((2, 7), np.float32),
        np.zeros((7, 1)), np.zeros((1, 3)), np.zeros((1, 9)),
        np.zeros(3), np.full(3, 1e9), np.full(3, np.inf), np.zeros(4), np.eye(4)[1], np.eye(3), np.zeros((3, 3)), np.zeros((1,) * 8),
        np.array(1.0), np.float64("nan"), np.int8(3),
        np.uint64(2**64 - 1), np.bool_(True), np.array(["vehicle"]), np.array(["tram"]), np.array([b"vehicle"]),
        np.array(["1", None], dtype=object), np.array([1, "a"], dtype=object),
        np.array([True, False]), np.array([1j]), np.zeros(1, "f2"), np.zeros(3, ">f8"), np.zeros(3, "datetime64[s]"), np.zeros(2, [("a", "i4")]),
        np.str_("vehicle"), 3j, range(4), {1, 2},
    )  # fmt: skip
    return random.choice(values)


def _steps(value, path=()):
    """Paths to all values in nested dictionaries."""
    found = [path] if path else []
    for key in value if isinstance(value, dict) else ():
        found += _steps(value[key], (*path, key))
    return found


def other_frames(random, frames: list[dict]) -> bytes:
    """A pickle of frames of which some values are exchanged, missing, or of another frame."""
    whole, frames = frames, copy.deepcopy(frames)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        place = random.randrange(len(frames))
        change = random.randrange(12)
        steps = random.choice(_steps(whole[place]))
        holder = frames[place]
        for step in steps[:-1]:
            holder = holder[step] if isinstance(holder, dict) and step in holder else None
        if not isinstance(holder, dict) or steps[-1] not in holder:
            continue
        if change == 0:
            frames[place] = random.choice((frames[0], frames[-1], copy.deepcopy(frames[0]), evil_value(random), {}))
            break
        if change == 1:
            frames = random.choice((frames[place:], frames[:place], frames[::-1], frames + frames, tuple(frames), {"frames": frames}))
            break  # frames may be no list now
        if change == 2:
            del holder[steps[-1]]
        elif change == 3 and isinstance(holder[steps[-1]], np.ndarray) and holder[steps[-1]].dtype.kind == "f":
            array = holder[steps[-1]] = np.array(holder[steps[-1]])
            array.flat[random.randrange(array.size)] = random.choice((np.nan, np.inf, -1.0, 0.0, 1e4, -1e4, 1e7, 1e30))
        elif change == 4 and isinstance(holder[steps[-1]], np.ndarray) and holder[steps[-1]].dtype.kind in "fi":
            holder[steps[-1]] = holder[steps[-1]].astype(random.choice(("f2", "f4", ">f8", "i8", "u1", "U8", "O", "?", "c16")))
        elif change == 5 and isinstance(holder[steps[-1]], list):
            holder[steps[-1]] = holder[steps[-1]] * random.choice((0, 2, 100))
        elif change == 6 and isinstance(holder[steps[-1]], list) and holder[steps[-1]]:
            holder[steps[-1]] = [evil_value(random), *holder[steps[-1]][1:]]
        else:
            holder[steps[-1]] = evil_value(random)
    return pickle.dumps(frames, random.randrange(6))


EVIL_CELLS = (
    None, 0, 1, -1, 7, 101, 111, 1, 11, 2**63 - 1, -(2**63), 0.5, 1e300, float("inf"), "", "101", "abc", "x" * 1000, b"", b"GP",
    b"GP\0\x01" + b"\0" * 4, b"\xff" * 40,
    "EPSG:4326", "EPSG:32611", "EPSG:3857", "EPSG:4978", "EPSG:5773", "+proj=utm +zone=11 +nadgrids=/etc/passwd", "http://localhost/crs",
    "projectedCoordSystem", "geom", "polygon",
)  # fmt: skip
SCHEMA = (
    'DROP TABLE "{table}"', 'ALTER TABLE "{table}" RENAME TO other', 'ALTER TABLE "{table}" RENAME COLUMN "{column}" TO other',
    'DELETE FROM "{table}"',
    'DROP TABLE "{table}"; CREATE VIEW "{table}" AS WITH RECURSIVE c(fid) AS (SELECT 1 UNION ALL SELECT fid + 1 FROM c) SELECT * FROM c',
    'ALTER TABLE "{table}" RENAME TO other; CREATE VIEW "{table}" AS SELECT * FROM other',
    'ALTER TABLE "{table}" RENAME TO other; CREATE TABLE "{table}" AS SELECT * FROM other',
    'DROP TABLE "{table}"; CREATE TABLE "{table}" (fid INTEGER PRIMARY KEY, geom BLOB AS (zeroblob(1000000000)), "{column}" INTEGER)',
    'DROP TABLE "{table}"; CREATE TABLE "{table}" (fid TEXT PRIMARY KEY, geom BLOB, "{column}" TEXT) WITHOUT ROWID',
    'DROP TABLE "{table}"; CREATE VIRTUAL TABLE "{table}" USING rtree(fid, a, b)',
    'DROP TABLE "{table}"; CREATE VIRTUAL TABLE "{table}" USING fts5(geom)',
    'CREATE TRIGGER t AFTER INSERT ON "{table}" BEGIN DELETE FROM "{table}"; END', 'INSERT INTO "{table}" DEFAULT VALUES',
    'UPDATE gpkg_geometry_columns SET srs_id = 32612 WHERE table_name = "{table}"', 'DELETE FROM gpkg_geometry_columns',
    'DELETE FROM gpkg_spatial_ref_sys',
    "UPDATE gpkg_geometry_columns SET column_name = 'fid'",
    "UPDATE gpkg_spatial_ref_sys SET organization = 'http://x', organization_coordsys_id = 1",
    "PRAGMA writable_schema = 1; UPDATE sqlite_master SET rootpage = {page} WHERE name = '{table}'",
    "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = 'CREATE VIEW \"{table}\" AS SELECT 1 AS fid' WHERE name = '{table}'",
    "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = NULL WHERE name = '{table}'", "PRAGMA journal_mode = WAL",
    "PRAGMA encoding = 'UTF-16'", "VACUUM",
)  # fmt: skip


def other_cells(random, path: Path, tables: dict[str, list[str]]) -> None:
    """Exchanges some cells, tables or definitions of an SQLite file."""
    file = sqlite3.connect(path, isolation_level=None)
    file.execute("PRAGMA synchronous = OFF")
    file.execute("PRAGMA journal_mode = MEMORY")
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        table = random.choice(list(tables))
        column = random.choice(tables[table])
        try:
            place = random.choice([row[0] for row in file.execute(f'SELECT rowid FROM "{table}" LIMIT 1000')] or [1])
            if random.random() < 0.3:
                file.executescript(random.choice(SCHEMA).format(table=table, column=column, page=random.choice((0, 1, 2, 5, 20, 9999))))
            elif column == "geom" and random.random() < 0.8:
                (shape,) = file.execute(f'SELECT geom FROM "{table}" WHERE rowid = ?', (place,)).fetchone() or (b"",)
                shape = other_shape(random, shape if isinstance(shape, bytes) else b"")
                file.execute(f'UPDATE "{table}" SET geom = ? WHERE rowid = ?', (shape, place))
            elif random.random() < 0.1:
                file.execute(f'DELETE FROM "{table}" WHERE rowid = ?', (place,))
            else:
                value = random.choice(EVIL_CELLS)
                file.execute(f'UPDATE "{table}" SET "{column}" = ? {random.choice(("", f"WHERE rowid = {place}"))}', (value,))
        except sqlite3.Error:
            continue
    file.close()


def other_shape(random, shape: bytes) -> bytes:
    """A GeoPackage's geometry with other bytes behind its header, some of them a geometry of another type."""
    points = [(-115.0, 36.0), (-115.0, 36.001), (-114.999, 36.001), (-115.0, 36.0)]
    spots = b"".join(struct.pack("<dd", *point) for point in points)
    bow = b"".join(struct.pack("<dd", *points[place]) for place in (0, 2, 1, 0, 2, 0))
    kinds = (
        struct.pack("<BIdd", 1, 1, -115.0, 36.0), struct.pack("<BII", 1, 2, 4) + spots, struct.pack("<BIII", 1, 3, 1, 4) + spots,
        struct.pack("<BIII", 1, 3, 1, 6) + bow,
        struct.pack("<BII", 1, 6, 1) + struct.pack("<BIII", 1, 3, 1, 4) + spots,
        struct.pack("<BII", 1, 5, 1) + struct.pack("<BII", 1, 2, 4) + spots,
        struct.pack("<BIII", 1, 3, 1, 3) + spots[:48], struct.pack("<BII", 1, 2, 1) + spots[:16], struct.pack("<BII", 1, 3, 0),
        struct.pack("<BIII", 1, 3, 1, 2**31) + spots,
        struct.pack("<BII", 1, 7, 1) * 5000, struct.pack("<BII", 1, 6, 1) * 5000, struct.pack("<BIdddd", 1, 2, 2.0, np.nan, np.inf, 1e300),
        struct.pack("<BII", 1, 1002, 2) + spots[:48],
        struct.pack("<BII", 1, 2, 2) + struct.pack("<dddd", np.nan, np.inf, 1e300, -1e300),
        struct.pack("<BIII", 1, 3, 1, 4) + struct.pack("<8d", *[1e300, 0.0] * 4),
    )  # fmt: skip
    if shape and random.random() < 0.6:
        return spoiled(random, shape)
    return b"GP\0" + bytes([random.choice((1, 1, 1, 3, 0x11, 0x21, 9))]) + struct.pack("<i", 4326) + random.choice(kinds)


def other_archive(random, arrays: dict[str, np.ndarray]) -> bytes:
    """An npz file with members that are no arrays, larger than they say, of objects, or packed in other ways."""
    stream = io.BytesIO()
    with zipfile.ZipFile(
        stream, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    ) as archive:
        for name, values in arrays.items():
            form, fortran = (
                random.choice(("<f8", "<f4", "<i8", "<c16", "|O", "<U8", "|V8", "<M8[s]", "<f9", "|S999999999")),
                random.choice((False, False, True, None)),
            )
            shape = random.choice(
                (
                    (10**12, 8, 3),
                    (10**7, 8, 3),
                    (2, 8, 3),
                    (0, 8, 3),
                    (-1, 8, 3),
                    (2, 40, 3),
                    (2**62, 2**62, 3),
                    (True, 8, 3),
                    5,
                    ("a",),
                    (1,) * 40,
                )
            )
            header = f"{{'descr': {form!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
            header = random.choice((header, header, b"(" * 300 + b")" * 300, b"__import__('os').system('touch /tmp/never')", b"{" * 9000))
            false = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * random.choice((0, 24, 192, 384, 10**6))
            true = io.BytesIO()
            np.save(
                true,
                random.choice(
                    (values, values, values * np.nan, values * 1e300, values[:0], values[:, :1], values.astype("O"), values.astype("i4"))
                ),
                allow_pickle=True,
            )
            true = true.getvalue()
            content = random.choice((true, true, false, spoiled(random, true), pickle.dumps([1]), b""))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # two members of one name
                archive.writestr(
                    random.choice((f"{name}.npy", f"{name}.npy", name, "../" + name, f"{name}.npy\0x", "é_poses.npy")), content
                )
    return stream.getvalue()
