import dataclasses

import pytest

from irlvla.data.facts import FACT_NAMES, Facts


def test_names_and_fields_are_the_same():
    assert list(FACT_NAMES) == [field.name for field in dataclasses.fields(Facts)]
    assert all(len(set(names)) == len(names) for names in FACT_NAMES.values())


FREE = Facts(lead=0, lead_motion=0, light=0, pedestrian=0, turn=0, lateral=0, longitudinal=2)


@pytest.mark.parametrize(("name", "value"), [("lead", 4), ("turn", -1), ("longitudinal", 4)])
def test_a_fact_that_has_no_name_is_refused(name, value):
    with pytest.raises(ValueError, match=f"facts: {name} is {value}, not 0 .. "):
        dataclasses.replace(FREE, **{name: value})


@pytest.mark.parametrize(("lead", "motion"), [(1, 0), (0, 2)])
def test_a_lead_vehicle_and_its_motion_go_together(lead, motion):
    with pytest.raises(ValueError, match="facts: lead is .*, but lead_motion"):
        dataclasses.replace(FREE, lead=lead, lead_motion=motion)
