"""How large a world is: its configuration, and what each of its simulated runs has to give."""

from dataclasses import dataclass, replace

DEFAULT_CAMERAS = ("CAM_F0", "CAM_L0", "CAM_R0")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """How large a world is. The split of logs follows the numbers of scenes."""

    seed: int = 0
    cameras: tuple[str, ...] = DEFAULT_CAMERAS
    known_towns: int = 12
    unseen_towns: int = 4
    train_scenes: int = 3780
    train_logs: int = 630
    val_scenes: int = 360
    val_logs: int = 60
    test_scenes: int = 1650
    test_logs: int = 300
    log_frames: int = 50
    shortest_log: int = 24
    most_scenes_a_log: int = 8
    processes: int = 2
    follow_ups: int = 0
    """Pairs of synthetic scenes that follow a scene of each test log, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One simulated run: its town, and how many logs and scenes of which splits it has to give."""

    town: int
    name: str
    quotas: tuple[tuple[str, int, int], ...]
    """Split, logs, scenes."""


def scaled(config: WorldConfig, logs: int) -> WorldConfig:
    """The same world cut down to `logs` logs in all: a quarter of them test, at least one each of train, val and test."""
    if logs < 3:
        raise ValueError(f"a world needs at least 3 logs (train, val, test), not {logs}")
    share = logs / (config.train_logs + config.val_logs + config.test_logs)
    test, val = max(1, round(share * config.test_logs)), max(1, round(share * config.val_logs))
    train = logs - test - val
    return replace(
        config,
        known_towns=min(config.known_towns, max(1, logs // 24)),
        unseen_towns=min(config.unseen_towns, 1 if logs < 60 else 2, test),
        train_logs=train,
        train_scenes=train * config.train_scenes // config.train_logs,
        val_logs=val,
        val_scenes=val * config.val_scenes // config.val_logs,
        test_logs=test,
        test_scenes=test * config.test_scenes // config.test_logs,
    )


def _shares(total: int, parts: int) -> list[int]:
    return [total * (part + 1) // parts - total * part // parts for part in range(parts)]


def tasks(config: WorldConfig) -> list[Task]:
    """All runs of a world. Logs of train never share a run with val or test; unseen towns give test logs only."""
    known, unseen = config.known_towns, config.unseen_towns
    train = list(zip(_shares(config.train_logs, known), _shares(config.train_scenes, known), strict=True))
    val = list(zip(_shares(config.val_logs, known), _shares(config.val_scenes, known), strict=True))
    half, half_scenes = config.test_logs // 2, config.test_scenes * (config.test_logs // 2) // config.test_logs
    test = list(zip(_shares(half, known), _shares(half_scenes, known), strict=True))
    new = list(zip(_shares(config.test_logs - half, unseen), _shares(config.test_scenes - half_scenes, unseen), strict=True))
    found = [Task(town=town, name="train", quotas=(("train", *train[town]),)) for town in range(known)]
    found += [Task(town=town, name="other", quotas=(("val", *val[town]), ("test", *test[town]))) for town in range(known)]
    found += [Task(town=known + town, name="unseen", quotas=(("test", *new[town]),)) for town in range(unseen)]
    return [task for task in found if any(logs for _, logs, _ in task.quotas)]


def with_test_logs(config: WorldConfig, logs: int) -> WorldConfig:
    """The same world with `logs` test logs in all, and more scenes and unseen towns in proportion."""
    if logs < config.test_logs:
        raise ValueError(f"a world of this size has {config.test_logs} test logs, {logs} are fewer: ask for a smaller world instead")
    scenes, towns = config.test_scenes * logs // config.test_logs, -(-config.unseen_towns * logs // config.test_logs)
    return replace(config, test_logs=logs, test_scenes=scenes, unseen_towns=towns)


def further_tasks(config: WorldConfig, larger: WorldConfig) -> list[Task]:
    """Runs for further test logs, half in known towns and half in further unseen ones; all that there is without them stays as it is."""
    known, unseen = config.known_towns, larger.unseen_towns - config.unseen_towns
    logs, scenes = larger.test_logs - config.test_logs, larger.test_scenes - config.test_scenes
    half, half_scenes = logs // 2, scenes // 2
    test = list(zip(_shares(half, known), _shares(half_scenes, known), strict=True))
    new = list(zip(_shares(logs - half, unseen), _shares(scenes - half_scenes, unseen), strict=True))
    found = [Task(town=town, name="further", quotas=(("test", *test[town]),)) for town in range(known)]
    found += [Task(town=known + config.unseen_towns + town, name="unseen", quotas=(("test", *new[town]),)) for town in range(unseen)]
    return [task for task in found if any(logs for _, logs, _ in task.quotas)]
