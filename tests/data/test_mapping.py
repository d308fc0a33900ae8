import pytest

from irlvla.data.mapping import has_two_stages, two_stage_split

A, B, C, D = "a" * 16, "b" * 16, "c" * 17, "d" * 17
MAPPING = f"reactive_all_mapping:\n- - '{A}'\n  - '{B}'\n  - - - '{C}'\n      - '{D}'\n"
FILTER = f"num_future_frames: 8\nfrequent: 1\ntokens: ['{A}', '{B}']\nlog_names: [log]\nsynthetic_scene_tokens: ['{C}', '{D}']\n"


def files(folder, split, chosen=None):
    (folder / "scene_filter").mkdir(exist_ok=True)
    (folder / "two.yaml").write_text(split)
    if chosen is not None:
        (folder / "scene_filter" / "two.yaml").write_text(chosen)
    return folder / "two.yaml"


def test_a_split_and_its_filter_are_found_from_each_other(tmp_path):
    path = files(tmp_path, f"defaults:\n- scene_filter: two\ndata_split: test\n{MAPPING}", FILTER)
    split = two_stage_split(path)
    assert split == two_stage_split(tmp_path / "scene_filter" / "two.yaml")
    assert (split.chosen.tokens, split.chosen.log_names, split.chosen.num_future_frames) == ((A, B), ("log",), 8)
    assert (split.synthetic_tokens, split.data_split) == ((C, D), "test")
    [pair] = split.pairs
    assert (pair.now, pair.previous, pair.follow_ups) == (A, B, ((C, D),))


def test_one_file_may_hold_it_all(tmp_path):
    flat = two_stage_split(files(tmp_path, FILTER + MAPPING))
    nested = "".join(f"  {line}\n" for line in FILTER.splitlines())
    assert flat == two_stage_split(files(tmp_path, f"scene_filter:\n{nested}{MAPPING}"))


def test_without_tokens_the_mapping_names_the_scenes(tmp_path):
    split = two_stage_split(files(tmp_path, MAPPING))
    assert (split.chosen.tokens, split.synthetic_tokens, split.data_split) == ((A, B), (C, D), None)


def test_of_two_lists_of_synthetic_scenes_those_in_both_count(tmp_path):
    split = two_stage_split(
        files(tmp_path, f"{MAPPING}synthetic_scene_tokens: ['{C}', x]\nreactive_synthetic_initial_tokens: ['{D}', x]\n")
    )
    assert split.synthetic_tokens == ("x",)


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        ("tokens: []\n", "no reactive_all_mapping in it"),
        ("reactive_all_mapping: 3\n", "reactive_all_mapping is no list"),
        (f"reactive_all_mapping:\n- ['{A}', '{B}']\n", "entry 0 is not two tokens and a list of pairs"),
        (f"reactive_all_mapping:\n- ['{A}', 3, [['{C}', '{D}']]]\n", "entry 0 holds 3, which yaml read as a number"),
        (f"reactive_all_mapping:\n- ['{A}', '{B}', [['{C}']]]\n", "has 1 synthetic scenes where two belong together"),
        (f"reactive_all_mapping:\n- ['{A}', '{B}', []]\n", "no synthetic scene follows it"),
        (f"reactive_all_mapping:\n- ['{A}', '{B}', [['{C}', '{A}']]]\n", f"has the token {A}, which was there before"),
        (f"{MAPPING}synthetic_scene_tokens: 3\n", "a list of synthetic scenes is no list"),
        (f"defaults:\n- scene_filter: nowhere\n{MAPPING}", r"does not exist"),
    ],
)
def test_splits_that_cannot_be_used_are_named(tmp_path, split, reason):
    with pytest.raises(ValueError, match=rf"scene filter .*\.yaml.* {reason}"):
        two_stage_split(files(tmp_path, split))


def test_a_filter_without_its_split_is_named(tmp_path):
    (tmp_path / "scene_filter").mkdir()
    (tmp_path / "scene_filter" / "two.yaml").write_text(FILTER)
    with pytest.raises(ValueError, match="nor in a file of that name one folder up"):
        two_stage_split(tmp_path / "scene_filter" / "two.yaml")
    (tmp_path / "two.yaml").write_text("data_split: test\n")
    with pytest.raises(ValueError, match=r"scene filter .*two\.yaml: no reactive_all_mapping in it"):
        two_stage_split(tmp_path / "scene_filter" / "two.yaml")


def test_a_split_says_whether_it_has_two_stages(tmp_path):
    (tmp_path / "scene_filter").mkdir()
    (tmp_path / "scene_filter" / "a.yaml").write_text("tokens: ['1']\n")
    assert not has_two_stages(tmp_path / "scene_filter" / "a.yaml")
    for content, answer in (("data_split: test\n", False), ("reactive_all_mapping: []\n", True)):
        (tmp_path / "a.yaml").write_text(content)
        assert has_two_stages(tmp_path / "a.yaml") == has_two_stages(tmp_path / "scene_filter" / "a.yaml") == answer
