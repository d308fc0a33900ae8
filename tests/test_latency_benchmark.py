"""How long a plan takes: every part is timed, as many words are written as there can be, and the page says what is lacking."""

import json
import sys

import pytest
import torch

from irlvla.rationale import LONGEST

from .test_proof import benchmark

alone, latency = benchmark("latency_alone"), benchmark("latency")


def sight():
    return alone.seen(2, 32, 48)


def test_parts_add_up_to_the_whole_and_texts_are_as_long_as_they_can_be():
    spent = {}
    call, about = alone.planning("vla", sight(), spent)
    assert about["words"] == about["most_words"] == LONGEST and about["parameters"] > 1_000_000
    spent.clear()
    ids = call().ids
    assert ids.shape == (2, LONGEST) and set(spent) == set(latency.PARTS) - {"rest"}
    found = alone.timings(call, spent, repeats=1, most_seconds=0.0)
    assert found["repeats"] == alone.LEAST_REPEATS and set(found["seconds"]) == {"wall", "processor", *latency.PARTS}
    for one in found["seconds"].values():
        assert 0 <= one["least"] <= one["median"] <= one["p90"]
    parts = sum(one["median"] for name, one in found["seconds"].items() if name in latency.PARTS)
    assert parts == pytest.approx(found["seconds"]["processor"]["median"], rel=0.5)


def test_a_line_is_measured_in_a_process_of_its_own_with_its_memory(monkeypatch):
    found = latency.alone("vla, no language", ("--repeats", "1", "--seconds", "0", "--batch", "2", "--views", "4"))
    assert (found["views"], found["batch"], found["words"]) == (4, 2, 0)
    assert "language" not in found["seconds"] and found["memory"] > 50e6
    monkeypatch.setattr(latency, "ALONE", "nowhere.py")
    with pytest.raises(RuntimeError, match="nowhere.py default --views 3 ended with 2:"):
        latency.alone("default", ("--views", "3"))


def test_what_is_left_out_is_not_asked():
    assert set(alone.policy_of("default")[0].state_dict()) < set(alone.policy_of("vla")[0].state_dict())
    assert not alone.policy_of("vla, text off")[0].perception.language.config.write
    call, about = alone.planning("vla, no language", sight(), {})
    assert about["words"] == 0 and call() is None


def test_pictures_of_every_size_are_decoded():
    found = alone.decoding(1, 0.0)
    small, large = found.values()
    assert small["sizes"][1] == (192, 108) and large["sizes"][1] == (1920, 1080)
    assert sum(large["bytes"]) > 5 * sum(small["bytes"])
    assert large["seconds"]["wall"]["least"] > small["seconds"]["wall"]["least"]


def test_the_page_shows_every_line_the_bar_and_what_is_lacking(tmp_path, monkeypatch):
    def measured(model, options, environment=None):
        options = list(options)
        asked = {name: int(options[options.index(f"--{name}") + 1]) for name in ("views", "batch") if f"--{name}" in options}
        found = {"model": model, "memory": 500e6, "torch": "2", "capability": "any", "load": 1.0, **asked}
        ms = {"median": 0.02, "p90": 0.03, "least": 0.01}
        if model == "pictures":
            return found | {"pictures": {"small": {"seconds": {"wall": ms}, "sizes": [[4, 2]] * 3, "bytes": [1000] * 3}}}
        if model.startswith("hf:"):
            return found | {"left_out": "it is not installed"}
        slow = 0.07 if asked.get("views") == 4 else 0.02
        words = 0 if "text off" in model else 10
        return found | {
            "seconds": {"wall": {**ms, "median": slow}, "processor": ms, "encoder": ms, "rest": ms},
            "parameters": 2_000_000,
            "words": words,
        }

    monkeypatch.setattr(latency, "alone", measured)
    out, page = tmp_path / "latency.json", tmp_path / "latency.md"
    options = ["--models", "default", "vla", "vla, text off", "hf:none", "--batches", "1", "--out", out, "--page", page]
    monkeypatch.setattr(sys, "argv", ["latency.py", *map(str, options)])
    latency.main()
    found, told = json.loads(out.read_text()), page.read_text()
    assert {"commit", "machine", "threads", "command"} <= set(found) and len(found["lines"]) == 2 * 4 + 2
    assert [one["met"] for one in found["rows"] if "bar" in one] == [True, False]
    assert "default, 3 views, batch 1, median 20.0 ms, met; default, 4 views, batch 1, median 70.0 ms, MISSED." in told
    assert "| hf:none | 3 | 1 | left out: it is not installed |" in told and "| vla, AVX2 alone | 3 | 1 | 20.0 |" in told
    assert "has 9: " in told and "`vla` writes 10 here" in told and "| small | 4 x 2, 4 x 2, 4 x 2 | 3 |" in told
    monkeypatch.setattr(sys, "argv", ["latency.py", "--write-only", "--out", str(out), "--page", str(page)])
    page.unlink()
    latency.main()
    assert page.read_text() == told


def test_of_a_line_that_was_disturbed_the_best_try_counts(monkeypatch, capsys):
    walls = iter([0.050, 0.030, 0.021, 0.020])

    def measured(model, options, environment):
        seconds = {"wall": dict.fromkeys(("median", "p90", "least"), next(walls)), "processor": {"median": 0.020}}
        return {"model": model, "views": 3, "batch": 1, "seconds": seconds, "memory": 1.0}

    monkeypatch.setattr(latency, "alone", measured)
    rows = []
    found = latency.line(rows, "vla", 3, 1, ())
    assert found["tries"] == 3 and found["seconds"]["wall"]["median"] == 0.021
    assert rows[0]["what"] == "vla, 3 views, batch 1, median" and rows[0]["value"] == 21.0
    monkeypatch.setattr(latency, "TRIES_SECONDS", 0.0)
    walls = iter([0.050])
    assert latency.line(rows, "vla", 3, 1, ())["tries"] == 1


def test_a_word_costs_what_its_text_adds():
    def line(model, median, words):
        return {"model": model, "views": 3, "batch": 1, "arithmetic": "all", "words": words, "seconds": {"processor": {"median": median}}}

    told = latency.per_word([line("vla", 0.020, 26), line("vla, text off", 0.007, 0)])
    assert told == "A written word costs, of a batch of 1: 0.50 ms (vla, 3 views)."
    assert latency.per_word([line("vla", 0.020, 26)]) == ""


def test_large_models_that_cannot_be_had_say_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["latency_alone.py", f"hf:{tmp_path}"])
    threads = torch.get_num_threads()
    alone.main()
    torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["left_out"].startswith(("large vision-language models need", f"hf:{tmp_path} cannot be loaded"))
