"""How well tables made by `irlvla score` agree with the devkit's: `python compare.py SET TABLE.csv ...`.

SET holds expected.csv (or expected.csv.gz). Sub-scores must be equal, EP and EPDMS to 1e-3; a missing row disagrees
everywhere. A table whose column `definition` says epdms_unfiltered is compared with the devkit's unfiltered sub-scores (it prints
no EPDMS of these). The column `traffic` says which of the devkit's rows are meant: log_replay, or idm, of which there are few. The
exit code is 0 if everything agrees in at least 99.9 % of the rows of each table, or 99 % with idm.
"""

import csv
import gzip
import math
import sys
from collections import Counter
from pathlib import Path

COLUMNS = ("NC", "DAC", "DDC", "TLC", "EP", "TTC", "LK", "HC", "EC", "EPDMS")
NEEDED = {"log_replay": 0.999, "idm": 0.99}


def rows_of(path):
    opened = gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="")
    with opened as file:
        return list(csv.DictReader(file))


def number(text):
    return float(text) if text != "" else math.nan


def agrees(column, expected, got):
    if math.isnan(expected) or math.isnan(got):
        return math.isnan(expected) and math.isnan(got)
    return abs(expected - got) <= (1e-3 if column in ("EP", "EPDMS") else 1e-9)


def compared(definition):
    """Column of the table -> the devkit's column."""
    if definition == "epdms":
        return {column: column for column in COLUMNS}
    return {column: column if column == "EC" else f"{column}_raw" for column in COLUMNS[:-1]}


def disagreements(folder, table):
    """Definition, traffic, rows compared, then (family, token, trajectory, column, expected, got) of every number that disagrees."""
    path = folder / "expected.csv"
    rows = rows_of(table)
    kinds = {row.get("traffic", "log_replay") for row in rows}
    traffic = kinds.pop() if len(kinds) == 1 else "log_replay"
    expected = [row for row in rows_of(path if path.exists() else folder / "expected.csv.gz") if row["traffic"] == traffic]
    definitions = {row.get("definition", "epdms") for row in rows}
    definition = definitions.pop() if len(definitions) == 1 else "epdms"
    got = {(row["token"], int(row["trajectory"])): row for row in rows}
    found = []
    for row in expected:
        key = (row["token"], int(row["trajectory"]))
        ours = got.get(key)
        for column, theirs in compared(definition).items():
            value = math.inf if ours is None else number(ours[column])
            if not agrees(column, number(row[theirs]), value):
                found.append((row.get("family", ""), *key, column, row[theirs], value))
    return definition, traffic, len(expected), found


def main(folder, *tables):
    return max((shown(Path(folder), Path(table)) for table in tables), default=1)


def shown(folder, table):
    definition, traffic, count, found = disagreements(folder, table)
    off = Counter(one[3] for one in found)
    print(f"{definition}, traffic {traffic}\n{'column':8} {'rows':>6} {'agree':>8}")
    for column in compared(definition):
        print(f"{column:8} {count:6d} {1 - off[column] / count:8.5f}")
    rows = len({one[1:3] for one in found})
    print(f"{'all':8} {count:6d} {1 - rows / count:8.5f}")
    for family, token, trajectory, column, expected, got in found[:20]:
        print(f"  {family} {token} #{trajectory} {column}: expected {expected or 'none'}, got {got:g}")
    return 0 if count and 1 - rows / count >= NEEDED[traffic] else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
