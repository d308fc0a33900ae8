"""A table of scores in one page: means with intervals, ADE and FDE, what failed, and where the numbers come from."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from irlvla import origin
from irlvla.definitions import DEFINITIONS
from irlvla.intervals import interval_of_sums
from irlvla.score_parts import NAMES, ScoredScene, replaced

METRES = ("ade", "fde")


def summary(definition: str, scenes: Sequence[ScoredScene], failures: Mapping[str, str]) -> dict[str, Any]:
    """What the summary file holds beside its inputs.

    Means run over trajectories; intervals (95 %) resample logs. Scores are 0-100, distances in m; a column that is nowhere
    defined (EC without plans of the frame before) has None.

    Args:
        definition: Of the score.
        scenes: All that were scored.
        failures: Scene token (or log) -> reason.
    """
    return {
        "definition": definition,
        "meaning": DEFINITIONS[definition],
        "scenes": len(scenes),
        "logs": len({scene.log_name for scene in scenes}),
        "trajectories": sum(scene.rows for scene in scenes),
        "failed": dict(failures),
        "columns": _columns(scenes),
        "commit": origin.commit(),
        "version": origin.package_version(),
        "command": origin.command(),
        "machine": origin.machine(),
    }


def _columns(scenes: Sequence[ScoredScene]) -> dict[str, dict[str, Any]]:
    if not scenes:
        return {name: {"mean": None, "ci95": None, "trajectories": 0} for name in NAMES}
    _, log = np.unique([scene.log_name for scene in scenes], return_inverse=True)
    sums = np.array([scene.sums for scene in scenes])
    found = {}
    for column, name in enumerate(NAMES):
        rows = np.array([scene.rows_with_ec if name == "ec" else scene.rows for scene in scenes])
        total, count = np.bincount(log, weights=sums[:, column]), np.bincount(log, weights=rows)
        total, count = total[count > 0], count[count > 0]
        scale = 1 if name in METRES else 100
        mean, ends = None, None
        if len(count):
            mean, ends = scale * float(total.sum() / count.sum()), [scale * end for end in interval_of_sums(total, count)]
        found[name] = {"mean": mean, "ci95": ends, "trajectories": int(count.sum())}
    return found


def write_summary(path: Path, found: Mapping[str, Any]) -> None:
    """Writes the summary as JSON; the file appears whole or not at all."""
    with replaced(path) as beside:
        beside.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


def summary_text(found: Mapping[str, Any]) -> str:
    """The summary as it is printed."""
    lines = [
        f"{found['trajectories']} trajectories of {found['scenes']} scenes of {found['logs']} logs in {found['seconds']:.1f} s",
        f"{found['definition']}: {found['meaning']}",
        f"{'':8s}{'mean':>8s}   95 % (logs resampled)",
    ]
    for name, about in found["columns"].items():
        if about["mean"] is not None:
            unit, digits = (" m", 2) if name in METRES else ("", 1)
            low, high = about["ci95"]
            lines.append(f"{name.upper():8s}{about['mean']:8.{digits}f}   {low:.{digits}f} .. {high:.{digits}f}{unit}")
    return "\n".join(lines)
