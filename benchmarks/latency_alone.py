"""One line of `latency.py`, in a process of its own: how long a model takes by part, and the most memory that the process held.

python benchmarks/latency_alone.py MODEL [--views 3] [--batch 1] [--repeats 100] [--seconds 20]

The last line printed is JSON. Models: keys of POLICIES, a name that `irlvla.model.vision_language` knows (ending in PROMPT_ONLY: without
writing), "pictures" (from JPEG files to what a policy sees), "nothing" (the packages alone).
"""

import argparse
import json
import os
import resource
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

from tables import use_one_thread

use_one_thread()

import numpy as np  # noqa: E402  (after the thread settings)
import torch  # noqa: E402
from encoders import seen  # noqa: E402
from PIL import Image  # noqa: E402

from irlvla.data.features import SensorConfig, pictures  # noqa: E402
from irlvla.displacement import arcs  # noqa: E402
from irlvla.model.policy import Policy, PolicyConfig  # noqa: E402
from irlvla.model.vision import Sight  # noqa: E402
from irlvla.model.vision_language import VisionLanguageConfig, vision_language_model  # noqa: E402
from irlvla.rationale import END_ID, LONGEST, PAD_ID, prompts  # noqa: E402
from irlvla.recipes import default, vla  # noqa: E402
from irlvla.train.imitation import fresh_policy  # noqa: E402
from irlvla.types import HISTORY, Camera, Scene  # noqa: E402

POLICIES = ("default", "vla", "vla, text off", "vla, no language")
PROMPT_ONLY = ", text off"
WARM_UP, WARM_UP_SECONDS = 5, 10.0
"""Calls before anything counts, fewer if they take longer."""
LEAST_REPEATS = 3
SIZES = {"the embedded world's": ((384, 216), (192, 108), (192, 108)), "NAVSIM's": ((1920, 1080),) * 3}
"""Width and height of the pictures on disk, front, left, right. Source: `irlvla.world.camera.LENSES`, nuPlan's cameras."""

Spent = dict[str, float]


def policy_of(name: str) -> tuple[Policy, bool]:
    """One of POLICIES with random weights, and whether its language model is asked.

    Where it writes, words that end a text are never the likeliest: every text has LONGEST words, the most that there can be.
    """
    recipe = default() if name == "default" else vla()
    config: PolicyConfig = recipe.imitation.policy
    if name.endswith(PROMPT_ONLY):
        perception = replace(config.perception, language=replace(config.perception.language, write=False))
        config = replace(config, perception=perception)
    policy = fresh_policy(config, arcs(), 0).eval().requires_grad_(False)
    if policy.perception.language is not None:
        policy.perception.language.word.weight[[PAD_ID, END_ID]] = 0.0
    return policy, name != "vla, no language"


def watch(spent: Spent, part: str, owner: Any, method: str) -> None:
    """Lets every call of a method add its seconds of the processor to a part's."""
    plain = getattr(owner, method)

    def timed(*arguments: Any, **named: Any) -> Any:
        begin = thread_time()
        answer = plain(*arguments, **named)
        spent[part] = spent.get(part, 0.0) + thread_time() - begin
        return answer

    setattr(owner, method, timed)


def planning(name: str, sight: Sight, spent: Spent) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A call that plans the moments of a sight, and what is to be said about the policy."""
    policy, reason = policy_of(name)
    ego_history, command = status(len(sight.valid))
    perception = policy.perception
    watch(spent, "encoder", perception.encoder, "forward")
    watch(spent, "bird's-eye view", perception.birds_eye, "forward")
    if perception.elements is not None:
        watch(spent, "elements", perception.elements, "forward")
    if perception.language is not None:
        watch(spent, "language", perception.language, "semantics")
    watch(spent, "planner", policy, "remember")
    watch(spent, "planner", policy, "plan")

    def plan() -> Any:
        with torch.inference_mode():
            found = policy.see(sight, ego_history, command, reason=reason)
            policy.plan(policy.remember(found.scene, ego_history, command))
            return found.semantics

    semantics = plan()
    words = 0 if semantics is None else int((semantics.ids != PAD_ID).sum(1).max())
    return plan, {"parameters": parameters(policy), "words": words, "most_words": LONGEST}


def reading(name: str, sight: Sight, spent: Spent) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A call that gives a large model's hidden states of the moments of a sight, and what is to be said about the model.

    Raises:
        ValueError: there is no such model, or the packages that it needs are not installed.
    """
    config = VisionLanguageConfig(model=name.removesuffix(PROMPT_ONLY), write=not name.endswith(PROMPT_ONLY))
    model = vision_language_model(config).requires_grad_(False)
    model.end = -1  # no text ends before its longest
    ego_history, command = status(len(sight.valid))
    told = prompts(ego_history.numpy(), command.numpy())
    inner = model.model.model
    for part, owner in (("eyes", "vision_tower"), ("connector", "multi_modal_projector"), ("decoder", "language_model")):
        if hasattr(inner, owner):
            watch(spent, part, getattr(inner, owner), "forward")
    watch(spent, "word head", model.model.lm_head, "forward")
    words = config.longest if config.write else 0
    return lambda: model.states(sight.images, told), {"parameters": parameters(model), "words": words, "most_words": config.longest}


def status(moments: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ego histories and commands: 5 m/s, straight on."""
    ego_history = torch.zeros(moments, 4, 7)
    ego_history[..., 0], ego_history[..., 3] = torch.tensor([-7.5, -5.0, -2.5, 0.0]), 5.0
    return ego_history, torch.eye(4)[torch.ones(moments, dtype=torch.int64)]


def parameters(model: torch.nn.Module) -> int:
    """Numbers that a model holds."""
    return sum(value.numel() for value in model.parameters())


def timings(call: Callable[[], Any], spent: Spent, repeats: int, most_seconds: float) -> dict[str, Any]:
    """Seconds of a call after a warm-up: median, 90th percentile and least of the repeats.

    "wall" is what a clock shows, "processor" what the thread had of the processor, which other work on the machine hardly changes; it is the
    sum of the parts.
    """
    begin = perf_counter()
    for _ in range(WARM_UP):
        call()
        if perf_counter() - begin > WARM_UP_SECONDS:
            break
    found: list[Spent] = []
    begin = perf_counter()
    while len(found) < LEAST_REPEATS or (len(found) < repeats and perf_counter() - begin < most_seconds):
        spent.clear()
        start, start_processor = perf_counter(), thread_time()
        call()
        wall, processor = perf_counter() - start, thread_time() - start_processor
        found.append({"wall": wall, "processor": processor, **spent, "rest": processor - sum(spent.values())})
    parts = {}
    for name in found[0]:
        values = [one.get(name, 0.0) for one in found]
        parts[name] = {"median": float(np.median(values)), "p90": float(np.quantile(values, 0.9)), "least": min(values)}
    return {"seconds": parts, "repeats": len(found)}


def decoding(repeats: int, most_seconds: float) -> dict[str, Any]:
    """Timings of the default sensors' pictures from JPEG files of SIZES to what a policy sees."""
    sensors, found = SensorConfig(), {}
    with tempfile.TemporaryDirectory() as folder:
        for what, sizes in SIZES.items():
            cameras = tuple(photographed(Path(folder), name, *size, seed) for seed, (name, size) in enumerate(zip(sensors.cameras, sizes)))
            scene = moment(cameras)
            found[what] = timings(lambda scene=scene: pictures(scene, sensors), {}, repeats, most_seconds)
            found[what] |= {"sizes": sizes, "bytes": [Path(camera.path).stat().st_size for camera in cameras]}
    return found


def moment(cameras: tuple[Camera, ...]) -> Scene:
    """A scene of which nothing is known but its pictures."""
    return Scene(
        token="street",
        log_name="street",
        map_name="",
        frame_tokens=("street",) * HISTORY,
        time_us=np.arange(HISTORY) * 500_000,
        ego_poses=np.zeros((HISTORY, 3)),
        ego_velocities=np.zeros((HISTORY, 2)),
        ego_accelerations=np.zeros((HISTORY, 2)),
        commands=np.tile([0, 1, 0, 0], (HISTORY, 1)),
        roadblock_ids=(),
        objects=None,
        traffic_lights=None,
        cameras=(cameras,) * HISTORY,
        previous_token=None,
        lane_map=None,
    )


def photographed(folder: Path, name: str, width: int, height: int, seed: int) -> Camera:
    """A camera whose picture is made of soft shapes and a sensor's noise, so that its file is about as large as a street's."""
    random = np.random.default_rng(seed)
    shapes = Image.fromarray(random.integers(0, 256, (18, 32, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BILINEAR)
    noisy = np.asarray(shapes, dtype=np.float64) + random.normal(0.0, 6.0, (height, width, 3))
    path = folder / f"{name}-{width}.jpg"
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path, quality=90)
    return Camera(
        name=name,
        path=str(path),
        intrinsics=np.array([[0.8 * width, 0.0, width / 2], [0.0, 0.8 * width, height / 2], [0.0, 0.0, 1.0]]),
        distortion=np.zeros(5),
        rotation=np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
        translation=np.array([1.6, 0.0, 1.6]),
        ego_from_lidar=np.eye(4),
    )


def main() -> None:
    """Measures one line and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--views", type=int, choices=(3, 4), default=3, help="3: front, left, right; 4: the front one's middle half too")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0, help="of repeats at most, but for the first three")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"model": options.model, "views": options.views, "batch": options.batch, "load": round(os.getloadavg()[0], 2)}
    found |= {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()}
    if options.model == "pictures":
        found["pictures"] = decoding(options.repeats, options.seconds)
    elif options.model != "nothing":
        sensors, spent = SensorConfig(), {}
        sight = seen(options.batch, sensors.height, sensors.width)
        if options.views == 3:
            chosen = ("images", "intrinsics", "distortion", "ego_from_camera", "valid")
            sight = Sight(**{name: getattr(sight, name)[:, [0, 2, 3]] for name in chosen})
        try:
            call, about = (planning if options.model in POLICIES else reading)(options.model, sight, spent)
        except ValueError as error:
            print(json.dumps(found | {"left_out": str(error)}))
            return
        found |= about | timings(call, spent, options.repeats, options.seconds)
    # Linux counts in KiB.
    found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main()
