import pickle

import numpy as np
import pytest

from irlvla.data.pickles import BAD_PICKLE, Made, arguments_of, state_of, unpickled

from ..devkit import class_of

NAME = "nuplan.some.Thing"


@pytest.fixture
def thing(monkeypatch):
    return class_of(monkeypatch, "nuplan.some", "Thing")


@pytest.mark.parametrize("protocol", range(6))
def test_an_object_of_a_listed_class_comes_out_as_what_it_was_made_with_and_its_state(thing, protocol):
    given = thing(1, "two")
    given.__dict__.update(x=3.0, values=np.arange(3.0), inner=thing())
    found = unpickled(pickle.dumps([given, given], protocol), (NAME,))
    assert found[0] is found[1] and isinstance(found[0], Made) and (found[0].name, found[0].arguments) == (NAME, (1, "two"))
    assert found[0].state["x"] == 3.0 and isinstance(found[0].state["inner"], Made)
    np.testing.assert_array_equal(found[0].state["values"], np.arange(3.0))


def test_attributes_in_slots_are_found_too():
    made = unpickled(pickle.dumps(None))
    assert made is None
    content = b"\x80\x04cnuplan.some\nThing\n)\x81N}(\x8c\x01xK\x01u\x86b."
    assert state_of(unpickled(content, (NAME,)), "Thing") == {"x": 1}


def test_an_array_of_such_objects_is_read(thing):
    values = np.empty(2, dtype=object)
    values[:] = [thing(1), thing(2)]
    assert [one.arguments for one in unpickled(pickle.dumps(values, 4), (NAME,))] == [(1,), (2,)]


def test_a_class_that_is_not_listed_is_refused(thing):
    for content in (pickle.dumps(thing()), pickle.dumps(thing)):
        with pytest.raises(pickle.UnpicklingError, match="class nuplan.some.Thing is not allowed"):
            unpickled(content, ("nuplan.some.Other",))


def test_a_class_itself_takes_no_state():
    with pytest.raises(pickle.UnpicklingError, match="a call of, or a state for, what is not listed"):
        unpickled(b"cnuplan.some\nThing\n}b.", (NAME,))


def test_an_object_is_made_only_by_a_class_out_of_a_tuple():
    for content in (b"]\x81.", b"cnuplan.some\nThing\n]\x81.", b"K\x01)\x81.", b"\x81."):
        with pytest.raises(pickle.UnpicklingError, match="not listed|empty stack"):
            unpickled(content, (NAME,))
    with pytest.raises(BAD_PICKLE):
        unpickled(b"c_codecs\nencode\n)\x81.", (NAME,))


def test_what_is_of_another_class_is_named(thing):
    made = unpickled(pickle.dumps(thing(1)), (NAME,))
    with pytest.raises(ValueError, match="Thing stands where a Box belongs"):
        state_of(made, "Box")
    with pytest.raises(ValueError, match="3 stands where a Box belongs"):
        arguments_of(3, "Box", 1)
    with pytest.raises(ValueError, match="a Thing is made of 1 values, not 2"):
        arguments_of(made, "Thing", 2)
    with pytest.raises(ValueError, match="a Thing has no attributes"):
        state_of(unpickled(b"cnuplan.some\nThing\n)\x81.", (NAME,)), "Thing")
