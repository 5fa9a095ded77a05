"""Events survive their way through JSON, and nothing else passes for one."""

from __future__ import annotations

import json
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogwild.core import events as ev
from hogwild.errors import TraceError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
_TUPLES = st.floats(allow_nan=False)
for _ in range(3):
    _TUPLES = st.lists(_TUPLES, max_size=2).map(tuple)
FIELDS = {
    "seconds": st.floats(allow_nan=False),  # which is not equal to itself
    "shares": _TUPLES,
    "options": st.dictionaries(st.text(), JSON_VALUES, max_size=3),
    "usage": st.lists(st.dictionaries(st.text(), st.integers(), max_size=3), max_size=3).map(tuple),
}


def event_of(kind: type[ev.Event]) -> st.SearchStrategy[ev.Event]:
    hints = get_type_hints(kind)
    return st.builds(kind, **{name: FIELDS.get(name, st.from_type(hint)) for name, hint in hints.items()})


any_event = st.one_of([event_of(kind) for kind in ev.KINDS.values()])


@given(any_event)
def test_an_event_comes_back_equal(event):
    assert ev.event_from_dict(json.loads(json.dumps(ev.event_to_dict(event)))) == event


@given(JSON_VALUES)
def test_anything_else_is_refused(data):
    with pytest.raises(TraceError):
        ev.event_from_dict(data)


@given(any_event, st.data())
def test_a_spoilt_field_is_refused_or_still_of_its_type(event, data):
    spoilt = ev.event_to_dict(event)
    name = data.draw(st.sampled_from(sorted(spoilt)))
    spoilt[name] = data.draw(JSON_VALUES)
    try:
        again = ev.event_from_dict(spoilt)
    except TraceError:
        return
    assert ev.event_to_dict(again)["event"] == spoilt["event"]


def test_missing_and_extra_fields_are_refused():
    good = ev.event_to_dict(ev.WorkerJoined(0, 0, 0, "A"))
    for bad in ({**good, "more": 1}, {key: value for key, value in good.items() if key != "name"}):
        with pytest.raises(TraceError, match="wrong fields"):
            ev.event_from_dict(bad)
