import numpy as np
import pytest

from irlvla.data.navsim import log_frames as read_log
from irlvla.types import CAMERA_NAMES, OBJECT_NAMES
from irlvla.world import export
from irlvla.world.motion import FRAME_STEPS, MARGIN, Crowd, crowd, ego_motion, route_places, standing_things
from irlvla.world.town import Signal, make_town
from irlvla.world.traffic import EGO_SIZE, TIME_STEP, Track, signal_letters, simulate


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town"), "town", "us-ma-boston", "bent", 1, np.array((328500.0, 4689000.0)), 1000)


@pytest.fixture(scope="module")
def run(town, tmp_path_factory):
    tracks = simulate(town, tmp_path_factory.mktemp("run"), 1, 30.0, 30, 15, 2)
    return export.Run(town=town, name="r", seed=1, number=0, tracks=tuple(tracks), crowd=crowd(tracks, standing_things(town, 1), 60))


def straight(speed):
    way = np.cumsum(speed) * TIME_STEP
    zeros = np.zeros(len(speed))
    return Track(
        name="v0", kind=0, size=EGO_SIZE, may_be_ego=True, first=0, x=way, y=zeros, heading=zeros, speed=speed, lanes=np.zeros(0, str),
        braking=zeros > 0, route=(),
    )  # fmt: skip


def test_the_rear_axle_follows_4_049_m_behind_a_straight_front():
    track = straight(np.full(100, 8.0))
    ego = ego_motion(track)
    inner = slice(MARGIN, -MARGIN)
    assert np.allclose(ego.x[inner], track.x[inner] - 4.049, atol=0.02)
    assert np.allclose(ego.speed[inner], 8.0, atol=0.02) and np.allclose(ego.heading, 0.0)


def test_smoothing_takes_the_jerk_out_of_a_sudden_stop_of_accelerating():
    speed = np.concatenate((np.full(30, 4.0), 4.0 + 0.2 * np.arange(30), np.full(40, 9.8)))
    ego = ego_motion(straight(speed))
    jerk = np.gradient(ego.acceleration, TIME_STEP)[MARGIN:-MARGIN]
    assert np.abs(np.diff(speed, 2)).max() / TIME_STEP**2 > 15
    assert np.abs(jerk).max() < 4


def test_a_light_goes_round_its_phases_from_its_offset():
    signal = Signal(name="s", durations=np.array((10.0, 4.0, 6.0)), states=("G", "y", "r"), offset=2.0)
    assert [signal_letters((signal,), time)[0] for time in (2.0, 11.9, 12.0, 16.0, 21.9, 22.0)] == ["G", "G", "y", "r", "r", "G"]


def test_all_kinds_of_road_users_are_there(run):
    kinds = {OBJECT_NAMES[kind] for kind in run.crowd.kinds}
    assert kinds == {"vehicle", "pedestrian", "bicycle", "traffic_cone", "barrier", "czone_sign", "generic_object"}
    assert all(np.isfinite(run.crowd.boxes).all() for _ in (0,))


def test_a_drive_follows_its_route(run):
    track = run.tracks[export.drives(run, 50, 24)[0].track]
    places = route_places(track, run.town)
    assert set(np.diff(places)) <= {0, 1}
    for step in (0, len(places) // 2, len(places) - 1):
        number = run.town.lane_numbers.get(str(track.lanes[step]))
        assert number is None or run.town.lanes[number].block == track.route[places[step]]


def test_a_log_survives_its_pickle_with_all_fields(run, tmp_path):
    drive = export.drives(run, 40, 24)[0]
    frames = export.log_frames(run, drive)
    path = tmp_path / f"{drive.log_name}.pkl"
    export.write_log(path, frames)
    assert b"numpy._core" not in path.read_bytes()
    again = read_log(path)
    assert [frame["token"] for frame in again] == [frame["token"] for frame in frames]
    first, second = again[0], again[1]
    assert len(first["token"]) == 16 and first["sample_next"] == second["token"] and second["sample_prev"] == first["token"]
    assert abs(second["timestamp"] - first["timestamp"] - 500_000) <= 300
    assert set(first["cams"]) == set(CAMERA_NAMES) and first["can_bus"].shape == (18,)
    assert first["driving_command"].sum() == 1 and first["anns"]["gt_boxes"].shape[1] == 7
    blocks = {str(block.fid) for block in (*run.town.blocks, *run.town.block_connectors)}
    assert set(first["roadblock_ids"]) <= blocks
    lights = {link.fid for link in run.town.connectors if link.signal >= 0}
    assert {fid for fid, _ in first["traffic_lights"]} <= lights


def test_annotations_are_in_the_ego_frame_and_leave_the_ego_out(run):
    drive = export.drives(run, 40, 24)[0]
    frame = export.log_frames(run, drive)[3]
    x, y = frame["ego2global_translation"][:2] - run.town.origin
    heading = 2 * np.arctan2(frame["ego2global_rotation"][3], frame["ego2global_rotation"][0])
    now = run.crowd
    rows = np.arange(now.starts[drive.first + 3], now.starts[drive.first + 4])
    tokens = [export._hex(run.seed, run.town.name, run.name, now.names[owner]) for owner in now.owners[rows]]
    own = export._hex(run.seed, run.town.name, run.name, now.names[drive.track])
    assert own in tokens and own not in frame["anns"]["track_tokens"]
    for box, token in zip(frame["anns"]["gt_boxes"], frame["anns"]["track_tokens"], strict=True):
        place = now.boxes[rows[tokens.index(token)]]
        back = (x + np.cos(heading) * box[0] - np.sin(heading) * box[1], y + np.sin(heading) * box[0] + np.cos(heading) * box[1])
        assert np.allclose(back, place[:2], atol=1e-3)
        assert np.cos(box[6] + heading - place[2]) > 1 - 1e-6


def test_the_same_seed_gives_the_same_traffic(town, tmp_path):
    first, again = (simulate(town, tmp_path / name, 4, 5.0, 15, 5, 1) for name in ("a", "b"))
    assert [track.name for track in first] == [track.name for track in again]
    assert all(np.array_equal(a.x, b.x) and np.array_equal(a.speed, b.speed) for a, b in zip(first, again, strict=True))


def test_footage_shows_the_lamps_that_the_light_systems_show(run):
    drive = export.drives(run, 40, 24)[0]
    systems = [(link.signal, link.link) for link in run.town.connectors if link.signal >= 0][:4]
    film = export.footage(run, drive, [drive.first + 3], systems)
    letters = signal_letters(run.town.signals, 20.0 + (drive.first + 3) * FRAME_STEPS * TIME_STEP)
    names = {"r": 1, "u": 1, "y": 2, "Y": 2, "g": 3, "G": 3}
    assert film.moments[0].lights.tolist() == [names[letters[signal][link]] for signal, link in systems]
    assert isinstance(run.crowd, Crowd) and film.tokens[0] == export.frame_token(run, drive, drive.first + 3)
