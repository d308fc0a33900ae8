"""Is this machine fit, and is the data of some splits all there: one list of findings, printed or as JSON."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from irlvla.inventory import Look, inventory
from irlvla.machine import Finding, machine_findings
from irlvla.origin import commit, machine, package_version, versions


def examination(look: Look, run: Path) -> list[Finding]:
    """All findings: first the machine's, then those of the data that `look` names.

    Args:
        look: Logs, maps and splits (each may be missing), and how closely to look.
        run: Where runs shall lie.
    """
    places = {"run": run} | {name: place for name, place in (("logs", look.logs), ("maps", look.maps)) if place is not None}
    found = machine_findings(places) + inventory(look)
    if look.logs is None:
        found.append(Finding(name="logs", level="note", seen="not looked for: pass --logs or set OPENSCENE_DATA_ROOT"))
    if look.maps is None:
        found.append(Finding(name="maps", level="note", seen="not looked for: pass --maps or set NUPLAN_MAPS_ROOT"))
    return found


def printed(found: Sequence[Finding], most: int | None = None) -> str:
    """The findings as text, a line each, with what is missing below; at most so many of each kind."""
    lines = []
    for one in found:
        lines.append(f"{one.level:4} {one.name}: {one.seen}")
        lines += [f"       {entry}" for entry in one.missing[:most]]
        if most is not None and len(one.missing) > most:
            lines.append(f"       ... and {len(one.missing) - most} more (--all prints them, --out FILE.json keeps them)")
    counts = Counter(one.level for one in found)
    lines.append(f"{counts['ok']} ok, {counts['note']} notes, {counts['BAD']} BAD")
    return "\n".join(lines)


def write_findings(path: Path, found: Sequence[Finding]) -> None:
    """Write the findings as JSON, with everything that is missing."""
    about = {"irlvla": package_version(), "commit": commit(), "machine": machine() | versions()}
    values = {"fit": all(one.level != "BAD" for one in found), **about, "findings": [asdict(one) for one in found]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1) + "\n")
