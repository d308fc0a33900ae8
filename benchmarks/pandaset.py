"""Real pictures: policies on a PandaSet sequence, how far their plans are from what was driven, drawn into the pictures.

python benchmarks/pandaset.py SEQUENCE [--run RUN ...] [--out runs/pandaset] [--page docs/pandaset.md]

The sequence becomes logs that hold cameras only (`irlvla pandaset`), these a store, and policies see no more than features from it. Rows:
baselines of the ego's motion; untrained policies of several seeds; policies of runs that were trained in the embedded world, each with the
pictures and with black ones. The same policies on their own world's val split say what is lost. One sequence is one drive of 8 s: the
numbers describe it and are no estimate of anything larger.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

from tables import use_one_thread

use_one_thread()

import numpy as np  # noqa: E402  (after the thread settings)
import torch  # noqa: E402
import tyro  # noqa: E402
from PIL import Image  # noqa: E402

from irlvla import origin  # noqa: E402
from irlvla.data import navsim  # noqa: E402
from irlvla.data.features import SensorConfig  # noqa: E402
from irlvla.data.store import Store  # noqa: E402
from irlvla.displacement import Proposed, baseline_poses, displacements, proposed, untrained_policy  # noqa: E402
from irlvla.learned import checkpoint_of, trained  # noqa: E402
from irlvla.model.policy import Policy  # noqa: E402
from irlvla.observed import observed  # noqa: E402
from irlvla.pandaset import PHASES, drive, frame_token, write_pandaset  # noqa: E402
from irlvla.prepare import prepare, scene_filter_of  # noqa: E402
from irlvla.recipes import kept_recipe  # noqa: E402
from irlvla.rollout import ego_plans, load_ego_mlp, load_policy  # noqa: E402
from irlvla.run import write_json  # noqa: E402
from irlvla.run_data import data_of  # noqa: E402
from irlvla.types import HISTORY, Scene  # noqa: E402
from irlvla.viewer.box_pictures import box_sheet  # noqa: E402
from irlvla.viewer.plan_pictures import contact_sheet, shown_scene  # noqa: E402
from irlvla.viewer.plan_pictures import page as scene_page  # noqa: E402

POLICIES = ("ego_mlp", "no_camera", "imitation_main", "imitation", "ppo")
DRAWN_POLICIES = ("imitation", "ppo")
BLACK = " (black pictures)"
BEGIN, END = "<!-- table: begin (benchmarks/pandaset.py --page) -->", "<!-- table: end -->"
TICKS = (0.2, 0.5, 1, 2, 5, 10, 20, 50)
DRAWN = 6
"""Scenes on a sheet."""


def baseline_rows(seed: str, store: Store) -> list[dict]:
    """Rows of the baselines."""
    every = np.arange(len(store))
    driven = store.human(every)
    return [{"row": name, "seed": seed, **displacements(poses, driven)} for name, poses in baseline_poses(store, every).items()]


def policy_rows(name: str, seed: str, policy: Policy, store: Store, is_trained: bool = True) -> tuple[list[dict], Proposed]:
    """Rows of one policy: with the pictures and, if it was trained to look at them, with black ones.

    An untrained planner begins as one that does not look: its attention and its look-ups of the grid are 0.
    """
    every = np.arange(len(store))
    driven = store.human(every)
    found = proposed(policy, store, every)
    best = np.linalg.norm(found.proposals[..., :2] - driven[:, None, :, :2], axis=-1).mean(axis=2).min(axis=1)
    rows = [{"row": name, "seed": seed, **displacements(found.plans, driven), "best_proposal_ade_4s": best}]
    if found.looks and is_trained:
        dark = proposed(policy, store, every, black=True)
        # How far the plan itself moves when the pictures go black, whatever is right.
        moved = displacements(dark.plans, found.plans)["ade_4s"]
        rows.append({"row": name + BLACK, "seed": seed, **displacements(dark.plans, driven), "moved_ade_4s": moved})
    return rows, found


def run_rows(run: Path, names: tuple[str, ...], store: Store) -> tuple[list[dict], dict[str, Proposed]]:
    """Rows of a run's policies, and what imitation and PPO propose."""
    rows, found, every = [], {}, np.arange(len(store))
    for name in [name for name in names if name in trained(run)]:
        if name == "ego_mlp":
            plans = ego_plans(load_ego_mlp(checkpoint_of(run, name)), store, every)
            rows.append({"row": name, "seed": run.name, **displacements(plans, store.human(every))})
            continue
        more, found[name] = policy_rows(name, run.name, load_policy(checkpoint_of(run, name)), store)
        rows += more
    return rows, {name: one for name, one in found.items() if name in DRAWN_POLICIES}


def table(rows: list[dict]) -> list[dict]:
    """Rows of one name together: mean over scenes and seeds, least and most of the seeds' means."""
    answer = []
    for name in dict.fromkeys(row["row"] for row in rows):
        own = [row for row in rows if row["row"] == name]
        measures = [key for key in own[0] if key not in ("row", "seed")]
        means = {key: [float(np.mean(row[key])) for row in own] for key in measures}
        answer.append(
            {"row": name, "seeds": [row["seed"] for row in own]}
            | {
                key: {"mean": round(float(np.mean(values)), 3), "least": round(min(values), 3), "most": round(max(values), 3)}
                for key, values in means.items()
            }
        )
    return answer


def print_table(title: str, rows: list[dict]) -> None:
    """The table as text, m: where the plan ends (ahead, left), `best` of the proposals, how far it `moved` from that with pictures."""
    names = {f"{kind}_{horizon}s": f"{kind}_{horizon}s" for kind in ("ade", "fde") for horizon in (1, 2, 3, 4)}
    names |= {"ahead_4s": "ahead", "left_4s": "left", "best_proposal_ade_4s": "best", "moved_ade_4s": "moved"}
    print(f"\n{title}\n{'':28s}" + "".join(f"{short:>8s}" for short in names.values()) + "   ade_4s by seed")
    for row in rows:
        spread = "" if len(row["seeds"]) < 2 else f"   {row['ade_4s']['least']:.2f} .. {row['ade_4s']['most']:.2f}"
        print(f"{row['row']:28s}" + "".join(f"{row[name]['mean']:8.2f}" if name in row else f"{'':8s}" for name in names) + spread)


def write_page(page_file: Path, values: dict, sheet: Path) -> None:
    """Puts the tables between the markers of a page, JSON and the sheet of pictures (as JPEG) beside it."""
    names = [f"{kind}_{horizon}s" for kind in ("ade", "fde") for horizon in (1, 2, 3, 4)]
    lines = []
    for title, scenes in (
        ("pandaset", f"sequence {values['sequence']}, {values['scenes']} scenes"),
        ("world", "val splits of the runs' own worlds"),
    ):
        if values[title]:
            lines += [f"| {scenes} | seeds | {' | '.join(names)} | ade_4s by seed |", "|---|---:|" + "---:|" * (len(names) + 1)]
        for row in values[title]:
            spread = "" if len(row["seeds"]) < 2 else f"{row['ade_4s']['least']:.2f} .. {row['ade_4s']['most']:.2f}"
            means = " | ".join(f"{row[name]['mean']:.2f}" for name in names)
            lines.append(f"| {row['row']} | {len(row['seeds'])} | {means} | {spread} |")
        lines.append("")
    before, _, rest = page_file.read_text().partition(BEGIN)
    page_file.write_text(before + BEGIN + "\n" + "\n".join(lines) + END + rest.partition(END)[2])
    write_json(page_file.with_suffix(".json"), values)
    with Image.open(sheet) as picture:
        picture.convert("RGB").resize((1200, round(1200 * picture.height / picture.width)), Image.Resampling.LANCZOS).save(
            page_file.with_suffix(".jpg"), quality=80
        )


def figure(path: Path, rows: list[dict]) -> None:
    """Distance to the driven path over time, a line a row; rows of black pictures are dashed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    from irlvla.viewer.gap import COLOURS

    drawing = Figure(figsize=(8.4, 4.6), dpi=130, layout="constrained")
    axes = drawing.add_subplot()
    names = list(dict.fromkeys(row["row"].removesuffix(BLACK) for row in rows))
    for row in rows:
        values = [row[f"fde_{horizon}s"] for horizon in (1, 2, 3, 4)]
        colour = COLOURS[names.index(row["row"].removesuffix(BLACK)) % len(COLOURS)]
        dark = row["row"].endswith(BLACK)
        axes.plot(
            (1, 2, 3, 4),
            [value["mean"] for value in values],
            "--" if dark else "-",
            color=colour,
            marker="o",
            markersize=3,
            label=row["row"],
        )
        if not dark and len(row["seeds"]) > 1:
            axes.fill_between(
                (1, 2, 3, 4), *([value[end] for value in values] for end in ("least", "most")), color=colour, alpha=0.12, linewidth=0
            )
    axes.set_xticks((1, 2, 3, 4))
    axes.set_xlabel("s")
    axes.set_ylabel("distance to the driven path (m)")
    axes.set_yscale("log")
    axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=7, frameon=False, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path)


def cuboids(sequence: Path) -> dict[int, tuple[np.ndarray, np.ndarray]] | None:
    """Annotated boxes of each frame in its ego frame (see `irlvla.types.Objects`) and which of them move; None where there are none.

    `cuboids.parquet` has PandaSet's cuboids of all frames: x is their width, y their length, yaw turns y away from the global y.
    """
    path = sequence / "cuboids.parquet"
    if not path.exists():
        return None
    import pyarrow.parquet

    values = {name: np.array(column) for name, column in pyarrow.parquet.read_table(path).to_pydict().items()}
    poses, found = drive(sequence).global_from_ego, {}
    for frame, pose in enumerate(poses):
        # Cuboids that two LiDARs see are there twice.
        own = (values["frame"] == frame) & (values["cuboids.sensor_id"] != 1)
        centre = np.stack([values[f"position.{axis}"][own] for axis in "xyz"], axis=1)
        size = np.stack([values[f"dimensions.{axis}"][own] for axis in "yxz"], axis=1)
        heading = values["yaw"][own] + np.pi / 2 - np.arctan2(pose[1, 0], pose[0, 0])
        found[frame] = np.column_stack([(centre - pose[:3, 3]) @ pose[:3, :3], size, heading]), ~values["stationary"][own].astype(bool)
    return found


def frame_of(scene: Scene) -> int:
    """The sequence's frame that is a converted scene's current one."""
    phase, first = int(scene.log_name.rsplit("-", 1)[1]), scene.frame_tokens[0]
    numbers = range(phase, 10_000, PHASES)
    return next(number for number in numbers if frame_token(scene.log_name, number) == first) + PHASES * (HISTORY - 1)


def draw(
    out: Path, name: str, scenes: list[Scene], store: Store, found: dict[str, Proposed], looking: Policy | None, around: dict | None = None
) -> None:
    """A sheet and one page of the scenes with all policies' plans, the first one's proposals and what `looking` says that it sees."""
    proposals = next(iter(found.values()))
    shown = []
    for scene in scenes:
        row = store.tokens.index(scene.token)
        plans = {policy: one.plans[row] for policy, one in found.items()}
        errors = ", ".join(
            f"{policy} ADE {displacements(plan[None], store.human([row]))['ade_4s'][0]:.1f} m" for policy, plan in plans.items()
        )
        one = shown_scene(
            scene,
            plans,
            proposals.proposals[row],
            proposals.confidences[row],
            seen=None if looking is None else observed(looking, store, [row])[0],
            note=errors,
        )
        if around is not None:
            one = replace(one, boxes=around[frame_of(scene)][0][:, [0, 1, 6, 3, 4]])
        shown.append(one)
    contact_sheet(shown).save(out / f"{name}-sheet.png")
    scene_page(shown[len(shown) // 2]).save(out / f"{name}-page.png")


def eyes_of(run: Path) -> Policy | None:
    """The run's imitation policy, if there is one."""
    return load_policy(checkpoint_of(run, "imitation")) if "imitation" in trained(run) else None


def draw_pandaset(sequence: Path, out: Path, store: Store, found: dict[str, Proposed], looking: Policy | None) -> None:
    """Scenes of the sequence spread over time, and the cuboids in all pictures of the last one, where there are any."""
    chosen, around = scene_filter_of("pandaset"), cuboids(sequence)
    scenes = sorted(navsim.scenes(out / "logs", out / "logs" / "maps", chosen, "pandaset"), key=lambda scene: scene.time_us[HISTORY - 1])
    draw(out, "pandaset", scenes[:: max(1, len(scenes) // DRAWN)][:DRAWN], store, found, looking, around)
    if around is not None:
        by_name = {camera.name: camera for camera in scenes[-1].cameras[HISTORY - 1]}
        order = [by_name[name] for name in ("CAM_L0", "CAM_F0", "CAM_R0", "CAM_L1", "CAM_B0", "CAM_R1")]
        box_sheet(order, *around[frame_of(scenes[-1])]).save(out / "pandaset-boxes.png")


def home_rows(run: Path, names: tuple[str, ...], out: Path, sensors: SensorConfig, with_drawing: bool) -> list[dict]:
    """Rows of a run's policies on the val split of the world that it was trained in."""
    data = data_of(run)
    store = prepare(Path(data["logs"]), Path(data["maps"]), Path(data["val"]), out / f"val-{run.name}", sensors, processes=1)
    rows, found = run_rows(run, names, store)
    if with_drawing and found:
        tokens = store.tokens[:: max(1, len(store) // DRAWN)][:DRAWN]
        draw(out, "world", navsim.scenes_of_tokens(Path(data["logs"]), Path(data["maps"]), data["val"], tokens), store, found, eyes_of(run))
    return baseline_rows(run.name, store) + rows


def main(
    sequence: Annotated[Path, tyro.conf.Positional],
    run: tyro.conf.UseAppendAction[tuple[Path, ...]] = (),
    policy: tuple[str, ...] = POLICIES,
    untrained: int = 20,
    out: Path = Path("runs/pandaset"),
    world: bool = True,
    page: Path | None = None,
) -> None:
    """Compares policies on a PandaSet sequence: pandaset.json, pandaset.png, sheets of pictures.

    Args:
        sequence: PandaSet's folder of one sequence.
        run: folders of runs that were trained in the embedded world; may be repeated.
        policy: which of their policies; what a run lacks is left out.
        untrained: seeds of policies with random weights; they have the first run's architecture and anchors.
        out: where everything goes.
        world: whether the runs' policies are also compared on the val split of their own worlds.
        page: docs/pandaset.md, to be brought up to date.
    """
    torch.set_num_threads(1)
    (out / "logs" / "maps").mkdir(parents=True, exist_ok=True)
    sensors = [kept_recipe(one)[1] for one in run] or [SensorConfig()]
    if any(other != sensors[0] for other in sensors):
        raise ValueError(f"{run[0]} and another run see other pictures: compare them one at a time")
    write_pandaset(sequence, out / "logs")
    store = prepare(out / "logs", out / "logs" / "maps", "pandaset", out / "store", sensors[0], processes=1)
    rows, drawn = baseline_rows("", store), {}
    for seed in range(untrained):
        random = untrained_policy(seed, run[0] if run else None)
        more, guessed = policy_rows("untrained", str(seed), random, store, is_trained=False)
        rows, drawn = rows + more, drawn or {"untrained": guessed}
    for number, place in enumerate(run):
        more, own = run_rows(place, policy, store)
        rows, drawn = rows + more, own if number == 0 and own else drawn
    draw_pandaset(sequence, out, store, drawn, eyes_of(run[0]) if run else None)
    at_home = [row for place in run if world for row in home_rows(place, policy, out, sensors[0], with_drawing=place == run[0])]
    tables = {"pandaset": table(rows), "world": table(at_home)}
    for title, one in tables.items():
        if one:
            print_table(f"{title}: distance to the driven path, m", one)
    figure(out / "pandaset.png", tables["pandaset"])
    about = {"sequence": sequence.resolve().name, "scenes": len(store), "runs": [one.name for one in run], "sensors": asdict(sensors[0])}
    about |= {"commit": origin.commit(), "changed": origin.changed_since_commit(), "machine": origin.machine()}
    write_json(out / "pandaset.json", about | tables)
    if page is not None:
        write_page(page, about | tables, out / "pandaset-sheet.png")
    print(f"\n{out / 'pandaset.json'}, {out / 'pandaset.png'}, sheets and pages beside them")


if __name__ == "__main__":
    tyro.cli(main)
