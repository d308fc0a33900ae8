"""Reliability plots: what reward models predicted, against what was measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from irlvla.acceptance import PREDICTED_NAMES
from irlvla.viewer.gap import COLOURS


def write_reliability(path: Path, title: str, report: Mapping[str, Any]) -> None:
    """Draws a PNG with one field a sub-score: mean truth over mean prediction of each model that predicts sub-scores.

    Args:
        path: the PNG.
        title: what the candidates are.
        report: what `irlvla.reward_quality.quality` says of them.
    """
    from matplotlib.figure import Figure

    rows = [row for row in report["rows"] if row["reliability"] and row["model"] != "exact"]
    figure = Figure(figsize=(12.4, 6.0 + 0.3 * len(rows)), dpi=110, layout="constrained")
    figure.suptitle(f"{title}: calibration error in brackets; bars: share of the first model's predictions")
    for place, name in enumerate(PREDICTED_NAMES):
        axes = figure.add_subplot(2, 4, place + 1)
        axes.plot([0, 1], [0, 1], color="#b0b4ba", linewidth=0.8)
        for row, colour in zip(rows, COLOURS * len(rows)):
            curve = {part: np.array(values, dtype=np.float64) for part, values in row["reliability"][name].items()}
            if row is rows[0]:
                axes.bar(np.arange(0.05, 1, 0.1), curve["share"], width=0.095, color="#e3e6ea")
            label = f"{row['model']} ({row[f'ece_{name}']['value']:.3f})"
            axes.plot(curve["predicted"], curve["measured"], "o-", color=colour, markersize=3, linewidth=1.1, label=label)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("predicted", fontsize=7)
        axes.set_ylabel("measured", fontsize=7)
        axes.tick_params(labelsize=7)
        if rows:  # below the field: anywhere within, some model's curve would lie under it
            axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False, labelspacing=0.3)
    figure.savefig(path)
