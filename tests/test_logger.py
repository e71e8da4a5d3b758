"""Logger: what is printed goes to the console and into the file, whatever happens."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SOURCE
from engine.logger import Logger


def test_stdout_and_stderr_reach_the_console_and_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Logger(tmp_path / "log.txt"):
        print("to stdout é")
        print("to stderr", file=sys.stderr)
    assert (tmp_path / "log.txt").read_text("utf-8") == "to stdout é\nto stderr\n"
    assert capsys.readouterr() == ("to stdout é\n", "to stderr\n")


def test_the_streams_are_given_back_also_after_an_exception(tmp_path: Path) -> None:
    streams = sys.stdout, sys.stderr
    with pytest.raises(RuntimeError), Logger(tmp_path / "log.txt"):
        raise RuntimeError("the reason")
    assert (sys.stdout, sys.stderr) == streams
    text = (tmp_path / "log.txt").read_text("utf-8")
    assert "Traceback" in text and text.endswith("RuntimeError: the reason\n")


def test_it_is_a_stream_like_the_console(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    console = io.TextIOWrapper((tmp_path / "console").open("wb"), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", console)
    with Logger(tmp_path / "log.txt") as logger:
        assert logger.isatty() is False
        assert logger.fileno() == console.fileno()
        assert logger.encoding == "latin-1"
        assert logger.write("four") == 4
        logger.flush()
        assert (tmp_path / "console").read_text() == (tmp_path / "log.txt").read_text() == "four"


def test_a_file_that_exists_is_continued_and_clean_empties_it(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    for line in ("first", "second"):
        with Logger(path):
            print(line)
    assert path.read_text() == "first\nsecond\n"
    with Logger(path) as logger:
        logger.clean()
        print("third")
    assert path.read_text() == "third\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_under_the_console_ends_nothing_and_the_file_has_every_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w", buffering=1))  # noqa: SIM115 (the console of the test)
    with Logger(tmp_path / "log.txt"):
        print("first")
        print("second", flush=True)
    text = (tmp_path / "log.txt").read_text()
    assert "first\n" in text and "second\n" in text
    assert text.count("the console lacks lines from here on") == 1


def test_a_reader_that_has_gone_is_not_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "stdout", os.fdopen(write, "w", buffering=1))
    with pytest.raises(BrokenPipeError), Logger(tmp_path / "log.txt"):
        print("into `head`, which has seen enough")
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_the_last_line_survives_a_kill(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from engine.logger import Logger\n"
        "with Logger(sys.argv[1]):\n    print('the last line')\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "log.txt"
    done = subprocess.run([sys.executable, "-B", "-c", script, str(path)], cwd=SOURCE, capture_output=True)
    assert done.returncode != 0
    assert path.read_text() == "the last line\n"
