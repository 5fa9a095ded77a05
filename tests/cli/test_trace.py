"""Traces come back equal, survive being cut anywhere, and nothing else passes for one."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogwild.core import events as ev
from hogwild.errors import TraceError
from hogwild.trace import TraceWriter, read_header, read_trace
from tests.session.test_events import any_event

HEADER = b'{"trace": "hogwild", "version": 1}\n'
JOINED = [ev.WorkerJoined(0, 0, index, name) for index, name in enumerate(("A", "日本\u2028", "\ud800\x00\n"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("traces")


def write(path, events, facts=None):
    path.unlink(missing_ok=True)
    with TraceWriter(path) as writer:
        writer.write_header(facts)
        writer.write(events)
    return path


def read_all(path):
    """The events before the first error, and the error."""
    events = []
    try:
        for event in read_trace(path):
            events.append(event)
    except TraceError as error:
        return events, error
    return events, None


@given(events=st.lists(any_event, max_size=5))
def test_events_come_back_equal(folder, events):
    assert read_all(write(folder / "t.jsonl", events)) == (events, None)


@given(data=st.binary(max_size=60), starts_well=st.booleans())
def test_any_bytes_are_events_or_a_trace_error(folder, data, starts_well):
    path = folder / "bytes.jsonl"
    path.write_bytes(HEADER * starts_well + data)
    read_all(path)


@given(events=st.lists(any_event, min_size=1, max_size=3), data=st.data())
def test_a_trace_cut_anywhere_gives_what_was_whole(folder, events, data):
    path = write(folder / "cut.jsonl", events)
    whole = path.read_bytes()
    cut = data.draw(st.integers(whole.index(b"\n") + 1, len(whole)))
    path.write_bytes(whole[:cut])
    got, error = read_all(path)
    assert got == events[: len(got)]
    num_whole = whole[:cut].count(b"\n") - 1
    assert len(got) in (num_whole, num_whole + 1)
    if error is not None:
        assert "cut off" in str(error)
        assert f"line {len(got) + 2}" in str(error)
    else:
        assert cut == len(whole) or whole[cut - 1 : cut + 1].count(b"\n")


def test_the_header_holds_the_facts(folder):
    path = write(folder / "t.jsonl", JOINED, {"versions": {"numpy": "2"}})
    assert read_header(path) == {"trace": "hogwild", "version": 1, "versions": {"numpy": "2"}}
    assert read_all(path) == (JOINED, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1 .* is not JSON"),
        (b"not a trace\n", "line 1 .* is not JSON"),
        (b"\x93NUMPY\x01\x00\xff\xfe", "line 1 .* is not JSON"),
        (b'{"event": "token"}\n', "line 1 .* not a trace"),
        (b"[" * 100_000, "line 1 .* is not JSON"),
        (b'{"trace": "hogwild", "version": 2}\n', "another version"),
        (b'{"trace": "hogwild"}\n', "another version"),
        (HEADER + b"{}\n", "line 2 .* is not an event"),
        (HEADER + b"\n", "line 2 .* is not JSON"),
        (HEADER + b"\xff\n", "line 2 .* is not JSON"),
        (HEADER + b"[" * 100_000 + b"\n", "line 2 .* is not JSON"),
        (HEADER + b'{"event": "tok', "last line .* line 2, is cut off"),
        (
            HEADER
            + b'{"event": "pass", "session": 0, "pass_index": 0, "seconds": 1'
            + b"0" * 400
            + b', "num_tokens": 1, '
            b'"cache_tokens": 1, "separate_tokens": 1}\n',
            "line 2 .* is not an event",
        ),
    ],
)
def test_broken_files_are_named_by_line(folder, content, message):
    path = folder / "broken.jsonl"
    path.write_bytes(content)
    events, error = read_all(path)
    assert events == []
    assert error is not None
    with pytest.raises(TraceError, match=message):
        raise error


def test_a_missing_file_and_a_folder_are_refused(folder):
    for path in (folder / "nothing.jsonl", folder):
        with pytest.raises(TraceError, match="cannot read the trace"):
            list(read_trace(path))


def test_every_write_is_on_disk_at_once(folder):
    path = folder / "flushed.jsonl"
    with TraceWriter(path) as writer:
        writer.write_header()
        for number, event in enumerate(JOINED, start=1):
            writer.write([event])
            assert read_all(path) == (JOINED[:number], None)


def test_nothing_is_overwritten(folder):
    path = write(folder / "kept.jsonl", JOINED)
    with pytest.raises(TraceError, match="exists already"):
        TraceWriter(path)
    assert read_all(path) == (JOINED, None)


def test_an_empty_file_may_be_written_and_an_unused_one_is_removed(folder):
    empty = folder / "empty.jsonl"
    empty.touch()
    with TraceWriter(empty) as writer:
        writer.write_header()
    assert read_header(empty)["version"] == 1
    unused = folder / "unused.jsonl"
    with TraceWriter(unused):
        assert unused.exists()
    assert not unused.exists()


@pytest.mark.parametrize("name", ["no/such/folder/t.jsonl", ".", "a\0b"])
def test_a_place_that_cannot_be_written_is_refused(folder, name):
    with pytest.raises(TraceError, match="cannot write the trace"):
        TraceWriter(folder / name)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_a_trace_error():
    from pathlib import Path

    writer = TraceWriter(Path("/dev/full"))
    with pytest.raises(TraceError, match="cannot write the trace"):
        writer.write_header()
    with pytest.raises(TraceError, match="cannot write the trace"):
        writer.close()


def test_lines_are_strict_json(folder):
    path = write(folder / "strict.jsonl", JOINED)
    for line in path.read_text("ascii").split("\n")[:-1]:
        json.loads(line, parse_constant=pytest.fail)
