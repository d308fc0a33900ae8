"""docs/speed.md from what the benchmarks wrote: python benchmarks/page.py [--from build] [--out docs/speed.md]

`make bench` runs scorer.py, preparation.py, split.py and labelling.py and then this. The JSON files are kept beside the page, in
docs/speed/.
"""

import argparse
import json
import shutil
from pathlib import Path

PARTS = {
    "scorer": "Scoring, scenes prepared, one thread",
    "preparation": "Preparing a scene",
    "split": "A split, one plan a scene, two processes",
    "labelling": "Labelling a vocabulary, two threads",
}
HEAD = """# How fast the score is

Written by `make bench` (`benchmarks/page.py`) from the JSON files in [speed/](speed). Rates are those of the fastest repetition.
What the scorer's profile calls the arithmetic is the multiply-adds and elementary functions that a trajectory cannot do without,
priced by loops of nothing else in the same run (`benchmarks/scorer.py` says how they are counted).

For comparison: the official devkit scores about 150 trajectories a second with 256 proposals in one call and 16 a second one by one,
and prepares a dense scene in 490 ms. These figures were measured on another machine (AMD EPYC, one thread, numpy 1.23), not side by
side with ours.
"""


def section(title: str, found: dict) -> str:
    """A table of one benchmark's rows."""
    machine = found["machine"]
    about = [f"commit `{found['commit'][:7]}`", machine["cpu"], f"{machine['cores']} cores", f"load {machine['load']:.2f} at the end"]
    lines = [f"## {title}", "", f"`{found['command']}`: {', '.join(about)}.", "", "| | | |", "|---|---:|---|"]
    for row in found["rows"]:
        value = row["value"]
        number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        bar = f" (bar {row['bar']:,g}{'' if row['met'] else ', MISSED'})" if "bar" in row else ""
        lines.append(f"| {row['what'].strip()} | {number} | {' '.join(row['unit'].split())}{bar} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the page and keeps the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folder", type=Path, default=Path("build"))
    parser.add_argument("--out", type=Path, default=Path("docs/speed.md"))
    options = parser.parse_args()
    kept = options.out.parent / "speed"
    kept.mkdir(parents=True, exist_ok=True)
    pieces = [HEAD]
    for name, title in PARTS.items():
        source = options.folder / f"{name}.json"
        if source.exists():
            shutil.copyfile(source, kept / source.name)
        if (kept / source.name).exists():
            pieces.append(section(title, json.loads((kept / source.name).read_text())))
    options.out.write_text("\n".join(pieces))
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
