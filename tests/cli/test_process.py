"""The command as a process: Ctrl-C, closed pipes, terminals, speed of the start."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

import pytest

from hogwild.trace import read_trace
from hogwild.transcript import fold

LIMIT = 120  # seconds; a busy machine takes many for a start
SCRIPTED = [sys.executable, "-m", "tests.cli.scripted", "--pause", "0.02"]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and terminals")


def start(*arguments: str, **settings) -> subprocess.Popen[bytes]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings}
    return subprocess.Popen([*SCRIPTED, *arguments], **pipes)


def wait_for_passes(trace, count: int, process) -> None:
    """Until the trace holds so many passes."""
    limit = time.monotonic() + LIMIT
    while time.monotonic() < limit and process.poll() is None:
        if trace.exists() and trace.read_bytes().count(b'"event": "pass"') >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {count} passes: {process.communicate()}")


def test_ctrl_c_keeps_what_was_written(tmp_path):
    trace = tmp_path / "t.jsonl"
    process = start("generate", "x", "--max-passes", "100000", "--max-tokens", "100000", "--trace", str(trace))
    wait_for_passes(trace, 20, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert b"stopped by the user" in out
    assert b"Alice 1 " in out
    transcript = fold(read_trace(trace))
    assert transcript.reason == "cancelled"
    assert transcript.num_passes >= 20
    again = subprocess.run([*SCRIPTED, "replay", str(trace)], capture_output=True, check=True)
    assert again.stdout == out


def test_ctrl_c_gives_json_too(tmp_path):
    trace = tmp_path / "t.jsonl"
    process = start("generate", "x", "--max-passes", "9999", "--json", "--trace", str(trace))
    wait_for_passes(trace, 5, process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert b'"reason": "cancelled"' in out


def test_a_killed_run_leaves_a_readable_trace(tmp_path):
    trace = tmp_path / "t.jsonl"
    process = start("generate", "x", "--max-passes", "9999", "--trace", str(trace))
    wait_for_passes(trace, 10, process)
    process.kill()
    process.communicate()
    result = subprocess.run([*SCRIPTED, "replay", str(trace)], capture_output=True, check=False)
    assert result.returncode in (0, 2)  # the kill may have torn the last line
    assert b"cut off" in result.stdout
    assert b"Traceback" not in result.stderr


def test_a_closed_pipe_is_quiet():
    process = start("generate", "x", "--max-passes", "9999")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert b"Traceback" not in err
    assert b"BrokenPipe" not in err


def test_output_that_cannot_say_a_character_replaces_it():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    process = start("generate", "x", "--max-passes", "40", env=environment)
    out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, b"Traceback" in err) == (0, False)
    assert b"??? " in out


def on_a_terminal(*arguments: str, columns: int = 90, lines: int = 24, environment=()) -> tuple[int, str]:
    """Run on a terminal of its own; returns the exit code and everything that was drawn."""
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": "", **dict(environment)}
    process = start(*arguments, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    drawn = bytearray()
    with contextlib.suppress(OSError):  # the end of a terminal
        while select.select([master], [], [], LIMIT)[0] and (part := os.read(master, 65536)):
            drawn += part
    os.close(master)
    return process.wait(timeout=LIMIT), drawn.decode(errors="replace")


def test_a_terminal_gets_panes_and_then_the_whole_text(tmp_path):
    trace = str(tmp_path / "t.jsonl")
    code, drawn = on_a_terminal("generate", "x", "--max-passes", "30", "--trace", trace)
    assert code == 0
    live, after = drawn.split("\x1b[?1049h")[1].split("\x1b[?1049l")
    assert "Alice: step" in live
    assert "pass 30/30" in live
    assert live.count("tok/s") > 6  # several frames
    assert "limit of passes" in after
    assert "\x1b[31mnot red" not in drawn
    code, again = on_a_terminal("replay", trace, "--speed", "4")
    assert code == 0
    assert again.split("\x1b[?1049l")[1] == after
    assert "pass 30/30" in again.split("\x1b[?1049l")[0]


@pytest.mark.parametrize(
    ("arguments", "environment"), [(["--no-live"], {}), ([], {"TERM": "dumb"})], ids=["no-live", "dumb"]
)
def test_no_panes_where_they_are_not_wanted(arguments, environment):
    code, drawn = on_a_terminal("generate", "x", "--max-passes", "10", *arguments, environment=environment)
    assert code == 0
    assert "\x1b[?1049h" not in drawn
    assert "limit of passes" in drawn


def test_help_starts_fast():
    def seconds() -> float:  # of the processor, whatever else runs
        before = os.times()
        subprocess.run([sys.executable, "-m", "hogwild", "--help"], capture_output=True, check=True)
        after = os.times()
        return after.children_user - before.children_user + after.children_system - before.children_system

    assert min(seconds() for _ in range(4)) < 1.0  # 0.3 s where this was written
    code = "import sys, hogwild.cli.app; sys.exit(bool({'numpy', 'torch', 'mlx', 'tokenizers'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
