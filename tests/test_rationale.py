"""Facts as text and back, prompts, words and the grammar of texts."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irlvla import rationale as text_of
from irlvla.data.facts import FACT_NAMES
from irlvla.rationale import (
    END,
    END_ID,
    FIELDS,
    LONGEST,
    PAD_ID,
    PHRASES,
    PROMPT_LENGTH,
    VOCABULARY,
    decoded,
    encoded,
    grammar,
    parsed,
    prompts,
    rationale,
    rationale_ids,
    stated,
    word_weights,
    words,
)


def consistent(facts):
    return (facts[0] == 0) == (facts[1] == 0)


EVERY = [np.array(row) for row in itertools.product(*[range(len(phrases)) for phrases in PHRASES.values()]) if consistent(row)]


def history(speed=0.0, acceleration=0.0, yaw_rate=0.0):
    values = np.zeros((1, 4, 7))
    values[0, :, 3], values[0, -1, 5], values[0, 2, 2] = speed, acceleration, -0.5 * yaw_rate
    return values


def test_every_fact_has_one_text_that_says_it_back():
    texts = [rationale(facts) for facts in EVERY]
    assert len(set(texts)) == len(EVERY) == 6240
    for facts, text in zip(EVERY, texts, strict=True):
        assert np.array_equal(parsed(text), facts)
        assert len(words(text)) + 1 <= LONGEST and set(words(text)) <= set(VOCABULARY)


def test_a_text_worked_by_hand():
    facts = {"lead": 1, "lead_motion": 1, "light": 1, "pedestrian": 0, "turn": 1, "lateral": 1, "longitudinal": 0}
    text = "vehicle ahead near, stopped; red light near; turn left; lateral left, longitudinal stop"
    assert rationale(np.array([facts[name] for name in FIELDS])) == text


def test_a_free_road_is_said_where_nothing_is_in_the_way_even_before_a_turn():
    assert rationale(np.array([0, 0, 0, 0, 2, 2, 1])) == "free road; turn right; lateral right, longitudinal slow"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "free road",
        "free road; red light near; lateral keep, longitudinal stop",
        "lateral keep, longitudinal keep",
        "free road; longitudinal keep, lateral keep",
        "free road; lateral keep, longitudinal keep.",
        "free road; lateral keep, longitudinal keep; turn left",
        "free road; free road; lateral keep, longitudinal keep",
        "free road;  lateral keep, longitudinal keep",
        "free road; lateral keep",
        "free road; lateral keep, longitudinal keep, longitudinal stop",
        "vehicle ahead near; lateral keep, longitudinal stop",
        "stopped; lateral keep, longitudinal stop",
        "vehicle ahead near, vehicle ahead far; lateral keep, longitudinal stop",
        "red light near; vehicle ahead near, stopped; lateral keep, longitudinal stop",
        "red light near; red light far; lateral keep, longitudinal stop",
        "turn left; turn right; lateral keep, longitudinal stop",
        "turn left; lateral keep, longitudinal stop",
        "free road; lateral keep, longitudinal fly",
    ],
)
def test_malformed_and_contradictory_texts_say_nothing(text):
    assert parsed(text) is None


@given(st.lists(st.sampled_from(VOCABULARY[3:]), max_size=LONGEST))
def test_any_heap_of_words_is_refused_or_is_exactly_a_text(heap):
    text = " ".join(heap).replace(" ,", ",").replace(" ;", ";")
    facts = parsed(text)
    assert facts is None or rationale(facts) == text


def test_unknown_impossible_and_contradictory_facts_have_no_text():
    with pytest.raises(ValueError, match="3 facts, 7 are needed"):
        rationale(np.array([0, 0, 0]))
    with pytest.raises(ValueError, match="fact light is -1, it can be 0 to 3"):
        rationale(np.array([0, 0, -1, 0, 0, 0, 0]))
    with pytest.raises(ValueError, match="fact turn is 3, it can be 0 to 2"):
        rationale(np.array([0, 0, 0, 0, 3, 0, 0]))
    with pytest.raises(ValueError, match="contradict each other: lead 0, lead_motion 2"):
        rationale(np.array([0, 2, 0, 0, 0, 0, 0]))


@pytest.mark.parametrize(
    "ego,command,text",
    [
        (history(), 3, "command unknown, speed 0, steady, straight-on"),
        (history(speed=12.4, acceleration=-0.6), 1, "command straight, speed 12, braking, straight-on"),
        (history(speed=55.0, acceleration=2.5, yaw_rate=0.5), 0, "command left, speed 30, accelerating-hard, turning-left-hard"),
        (history(speed=3.0, acceleration=-4.0, yaw_rate=-0.1), 2, "command right, speed 3, braking-hard, turning-right"),
    ],
)
def test_prompts_say_command_speed_acceleration_and_yaw_rate(ego, command, text):
    assert prompts(ego, np.eye(4)[[command]]) == [text]


@given(st.floats(-60, 60), st.floats(-20, 20), st.floats(-2, 2), st.integers(0, 3))
def test_every_prompt_has_as_many_words_all_known(speed, acceleration, yaw_rate, command):
    text = prompts(history(speed, acceleration, yaw_rate), np.eye(4)[[command]])
    ids = encoded(text, VOCABULARY, PROMPT_LENGTH)
    assert (ids != PAD_ID).all() and decoded(ids[0], VOCABULARY) == text[0]


def test_unknown_words_and_long_texts_are_errors():
    with pytest.raises(ValueError, match="does not know 'sky'"):
        encoded(["red light near", "red sky"], VOCABULARY, 9)
    with pytest.raises(ValueError, match="has 5 words, at most 4 fit"):
        encoded(["lateral keep, longitudinal stop"], VOCABULARY, 4)
    with pytest.raises(ValueError, match="vocabulary of 4 words lacks"):
        grammar(VOCABULARY[:4])


def test_ids_of_facts_end_where_the_text_does_and_are_padding_where_facts_are_unknown():
    ids = rationale_ids(np.array([[0, 0, 0, 0, 0, 0, 2], [-1] * 7]), VOCABULARY)
    assert decoded(ids[0], VOCABULARY) == "free road; lateral keep, longitudinal keep"
    assert ids[0].tolist().count(END_ID) == 1 and (ids[0, 9:] == PAD_ID).all() and ids[0, 8] == END_ID
    assert (ids[1] == PAD_ID).all()


def test_words_weigh_more_the_rarer_they_are_within_bounds():
    facts = np.array([EVERY[row] for row in np.random.default_rng(0).integers(len(EVERY), size=200)] + [[-1] * 7])
    weights = word_weights(facts, VOCABULARY)
    assert weights.min() == 1.0 and weights.max() == 8.0 and weights[END_ID] == 1.0
    assert weights[VOCABULARY.index("change-left")] > weights[VOCABULARY.index("keep")]
    assert (word_weights(facts, VOCABULARY, power=0.0) == 1.0).all()
    assert np.isfinite(word_weights(facts[-1:], VOCABULARY)).all()


def test_what_was_written_is_stated_only_if_it_is_well_formed_and_ended():
    good = rationale_ids(np.array([EVERY[777]]), VOCABULARY)[0]
    unended = np.where(good == END_ID, PAD_ID, good)
    swapped = good.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    found = stated(np.stack([good, unended, swapped, np.zeros_like(good)]), VOCABULARY)
    assert np.array_equal(found[0], EVERY[777]) and (found[1:] == -1).all()
    assert stated(np.zeros((0, LONGEST), int), VOCABULARY).shape == (0, 7)


def test_the_grammar_is_that_of_all_texts_and_of_no_other():
    table = grammar(VOCABULARY)

    def texts_from(state):
        following = np.nonzero(table[state] >= 0)[0]
        return sum(1 if word == END_ID else texts_from(table[state, word]) for word in following)

    assert texts_from(0) == len(EVERY)
    for facts in EVERY[::37]:
        state = 0
        for word in encoded([f"{rationale(facts)} {END}"], VOCABULARY, LONGEST)[0]:
            state = table[state, word]
            assert state >= 0


def test_fields_and_values_are_those_of_the_facts():
    assert list(FACT_NAMES) == list(FIELDS)
    for name, values in FACT_NAMES.items():
        assert len(values) == len(PHRASES[name])
        for value, phrase in zip(values, PHRASES[name], strict=True):
            assert phrase.endswith(value.replace("lane_change_", "change-")) or (value, phrase) in [("none", ""), ("same", "same speed")]


def test_the_clauses_speak_of_every_field_once():
    assert [name for names in text_of.CLAUSES for name in names] == list(FIELDS)
