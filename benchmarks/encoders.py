"""Image encoders, and the bird's-eye view's lift, on one thread: pictures a second, parameters.

python benchmarks/encoders.py [--pictures 64] [--repeats 5] [--out build/encoders.json]

Weights are random, which changes nothing about speed. What needs packages that are not installed is named and left out. Seconds are the
thread's own, so that other work on the machine counts little; the least of the repeats counts.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from time import thread_time

from tables import row, use_one_thread, write

use_one_thread()

import torch  # noqa: E402  (after the thread settings)

from irlvla.model.backbones import ENCODERS, image_encoder  # noqa: E402
from irlvla.model.bev import BirdsEye, BirdsEyeConfig  # noqa: E402
from irlvla.model.lift import lookup  # noqa: E402
from irlvla.model.vision import Sight, VisionConfig  # noqa: E402

VIEWS = 4


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=64, help="in a batch")
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--width", type=int, default=176)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--encoders", nargs="*", default=list(ENCODERS))
    parser.add_argument("--out", type=Path, default=Path("build/encoders.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, left_out = [], {}
    sight = seen(options.pictures // VIEWS, options.height, options.width)
    count = sight.valid.numel()
    for name in options.encoders:
        try:
            encoder = image_encoder(VisionConfig(encoder=name)).eval()
        except ValueError as error:
            left_out[name] = str(error)
            print(f"{name} is left out: {error}")
            continue
        row(rows, f"{name}, parameters", sum(value.numel() for value in encoder.parameters()) / 1e6, "million")
        with torch.inference_mode():
            row(rows, f"{name}, forward", count / least(lambda e=encoder: e(sight), options.repeats), "pictures/s")
        encoder.train()

        def learn(encoder: torch.nn.Module = encoder) -> None:
            found = encoder(sight)
            (found.fine.float().square().mean() + found.coarse.float().square().mean()).backward()

        row(rows, f"{name}, forward and backward", count / least(learn, options.repeats), "pictures/s")
    vision, config = VisionConfig(), BirdsEyeConfig()
    encoder, birds_eye = image_encoder(vision).train(), BirdsEye(config, vision).train()
    maps = options.height // 8, options.width // 8
    found = least(lambda: lookup(sight, *maps, config.cells, config.heights), options.repeats)
    row(rows, f"where cells appear, {len(sight.valid)} scenes of the same cameras", 1e3 * found, "ms")
    others = seen(len(sight.valid), options.height, options.width, different=True)
    found = least(lambda: lookup(others, *maps, config.cells, config.heights), options.repeats)
    row(rows, f"where cells appear, {len(sight.valid)} scenes of different cameras", 1e3 * found, "ms")

    def whole() -> None:
        view = birds_eye(encoder(sight), sight)
        (view.cells.square().mean() + view.grid.square().mean() + view.answers.square().mean()).backward()

    row(
        rows,
        f"small encoder and bird's-eye view, {len(sight.valid)} scenes, forward and backward",
        1e3 * least(whole, options.repeats),
        "ms",
    )
    write(options.out, rows, pictures=count, height=options.height, width=options.width, left_out=left_out)


def least(work: Callable[[], object], repeats: int) -> float:
    """Seconds of this thread that a call takes, the least of some calls after a first one."""
    work()
    spent = []
    for _ in range(repeats):
        begin = thread_time()
        work()
        spent.append(thread_time() - begin)
    return min(spent)


def seen(scenes: int, height: int, width: int, different: bool = False) -> Sight:
    """Scenes of four cameras: front, its middle half, left, right; `different` ones differ from scene to scene."""
    yaw, focal = torch.tensor([0.0, 0.0, 0.96, -0.96]), torch.tensor([0.8, 1.6, 0.64, 0.64])
    pose = torch.zeros(scenes, VIEWS, 3, 4)
    pose[..., 0, 0], pose[..., 0, 2] = torch.sin(yaw), torch.cos(yaw)
    pose[..., 1, 0], pose[..., 1, 2] = -torch.cos(yaw), torch.sin(yaw)
    pose[..., 2, 1], pose[..., 2, 3] = -1.0, 1.6
    pose[..., 0, 3] = 1.65
    if different:
        pose[..., 2, 3] += torch.linspace(0.0, 0.3, scenes)[:, None]
    intrinsics = torch.stack([focal, focal * width / height, *[torch.full_like(focal, 0.5)] * 2], dim=1).expand(scenes, -1, -1)
    return Sight(
        images=torch.randint(0, 255, (scenes, VIEWS, height, width, 3), dtype=torch.uint8),
        intrinsics=intrinsics,
        distortion=torch.zeros(scenes, VIEWS, 5),
        ego_from_camera=pose,
        valid=torch.ones(scenes, VIEWS, dtype=torch.bool),
    )


if __name__ == "__main__":
    main()
