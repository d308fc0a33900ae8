"""The hacking gap, drawn: what a reward says of a policy less what is true, over PPO's iterations, for several runs beside each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irlvla.files import json_mapping
from irlvla.run import metrics

COLOURS = ("#145fd7", "#d7631b", "#2a9d5c", "#8b4fc0", "#b0a21b", "#c2355a", "#1c1e21", "#12a3b4", "#8a5a33", "#7f868e")
LINES = ("-", "--", ":")
"""Each colour is used with the first kind of line, then with the next."""
FIELDS = {"gap": "predicted - true EPDMS on val (points)", "epdms": "true EPDMS on val (points)"}
"""Measure of a probe -> what its axis says."""
ENDINGS = ("start", "val", "refit")
"""Kinds of probe in the order in which those of one iteration are made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What the probes of a PPO run said: (iterations made, value) of each of FIELDS, and whether the run was stopped early."""

    gap: Sequence[tuple[int, float]]
    epdms: Sequence[tuple[int, float]]
    stopped: bool


def curve_of(folder: Path) -> Curve:
    """The curve of a PPO stage from its `metrics.csv`, which an unfinished run has too."""
    probes = folder / "probes.json"
    return Curve(**probed(folder), stopped=probes.exists() and json_mapping(probes).get("stopped") is not None)


def curve_of_probes(report: Mapping[str, Any]) -> Curve:
    """The curve that a finished run's `probes.json` holds."""
    pairs = {name: [(probe["step"] + 1, probe[name]) for probe in report["probes"]] for name in FIELDS}
    return Curve(**pairs, stopped=report["stopped"] is not None)


def gap_stages(run: Path) -> dict[str, Path]:
    """The folders of a run's PPO stages by name, `ppo` first: those that recorded what their reward said of a probed policy."""
    found = sorted((path.parent for path in run.glob("*/metrics.csv")), key=lambda folder: (folder.name != "ppo", folder.name))
    return {folder.name: folder for folder in found if len(probed(folder)["gap"]) > 1}


def probed(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Each of FIELDS over the iterations made, from a PPO stage's `metrics.csv`, which an unfinished run has too.

    The reward world model's answer to the same policy changes where it is refitted: such an iteration has two values of `gap`.
    """
    found: dict[str, list[tuple[int, int, float]]] = {name: [] for name in FIELDS}
    for step, name, value in metrics(folder / "metrics.csv"):
        kind, _, measure = name.partition("/")
        if kind in ENDINGS and measure in FIELDS:
            # A probe on val comes after its iteration, the others before theirs.
            found[measure].append((step + (kind == "val"), ENDINGS.index(kind), value))
    return {name: [(iteration, value) for iteration, _, value in sorted(rows)] for name, rows in found.items()}


def gap_figure(curves: Mapping[str, Curve]) -> Any:
    """A figure of both FIELDS; a cross ends the curve of a run that was stopped early.

    Args:
        curves: by their names in the legend.

    Raises:
        ValueError: there is no curve, or one without a gap.
    """
    from matplotlib.figure import Figure

    without = [name for name, curve in curves.items() if not curve.gap]
    if without or not curves:
        raise ValueError(f"no gap is recorded in {without[0] if without else 'any run'}: only stages of PPO have one")
    figure = Figure(figsize=(12.4, 4.6), dpi=110, layout="constrained")
    for place, (measure, label) in enumerate(FIELDS.items()):
        axes = figure.add_subplot(1, len(FIELDS), place + 1)
        if measure == "gap":
            axes.axhline(0.0, color="#b0b4ba", linewidth=0.8)
        for index, (name, curve) in enumerate(curves.items()):
            iterations, numbers = zip(*getattr(curve, measure), strict=True)
            style = {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index // len(COLOURS) % len(LINES)]}
            axes.plot(iterations, numbers, marker="o", markersize=3, linewidth=1.2, label=name, **style)
            if curve.stopped:
                axes.plot(iterations[-1], numbers[-1], "x", color=style["color"], markersize=9, markeredgewidth=2)
        axes.set_xlabel("PPO iterations", fontsize=9)
        axes.set_ylabel(label, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    note = "\n(x: stopped early)" if any(curve.stopped for curve in curves.values()) else ""
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False, title=f"PPO run{note}")
    return figure


def write_gap(path: Path, stages: Mapping[str, Path]) -> None:
    """Draws `gap_figure` of some PPO stages, the folder of each by its name in the legend, as a PNG."""
    gap_figure({name: curve_of(folder) for name, folder in stages.items()}).savefig(path)
