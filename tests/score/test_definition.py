"""docs/epdms.md names functions and tests; they exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "epdms.md").read_text()


def defined(path, name):
    return path.exists() and re.search(rf"^(def|class) {name}\b", path.read_text(), re.MULTILINE)


def test_every_test_that_the_definition_names_exists():
    file, missing = "", []
    for named, test in re.findall(r"`((?:\w+/)*test_\w+\.py)?::(test_\w+)`", DOCUMENT):
        file = named or file
        if not defined(ROOT / "tests" / file, test):
            missing.append(f"{file}::{test}")
    assert not missing


def test_every_function_of_ours_that_the_definition_names_exists():
    rows = [row.split("|")[2] for row in DOCUMENT.splitlines() if re.match(r"\| [^|]+ \| `(score/|vehicle)[^|]+\| ", row)]
    assert len(rows) > 10
    missing = []
    for cell in rows:
        file = ""
        for named, function in re.findall(r"`(?:([\w/]+\.py):)?(\w+)`", cell):
            file = named or file
            if not defined(ROOT / "irlvla" / file, function):
                missing.append(f"{file}:{function}")
    assert not missing
