"""Where journals lie: folders that cannot be written are found when a log service starts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from service.log.place import LogPlace
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import InvalidError
from tests.support.firn import environment, firn, program


def place(journals: Path | None, lake: Path | None = None) -> LogPlace:
    return LogPlace(MemoryBlobs(SystemClock()), "log", lake, journals)


def test_folders_of_journals_are_made_and_left_empty(tmp_path: Path) -> None:
    place(tmp_path / "a" / "b").check_journals([0, 1])
    assert not list((tmp_path / "a" / "b").iterdir())
    place(None, tmp_path / "lake").check_journals([0, 1])
    assert {each.name for each in (tmp_path / "lake" / "_firnline" / "log").iterdir()} == {"0", "1"}


def test_a_log_without_a_journal_needs_no_folder() -> None:
    place(None).check_journals([0])


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidError, match=rf"--data-dir.* folder={tmp_path}/file/inside reason=") as refused:
        place(tmp_path / "file" / "inside").check_journals([0])
    assert refused.value.facts["reason"] == "Not a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="NOT TESTED: root may write everywhere")
def test_a_folder_or_journal_of_another_user_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidError, match=f"folder={tmp_path} "):
        place(tmp_path).check_journals([0])
    tmp_path.chmod(0o700)
    (tmp_path / "log-1.journal").touch(mode=0o400)
    place(tmp_path).check_journals([0])
    with pytest.raises(InvalidError, match=f"journal={tmp_path}/log-1.journal"):
        place(tmp_path).check_journals([1])


@pytest.mark.parametrize("ack", ["fsync", "object"])
def test_the_log_service_ends_at_once_and_names_the_folder(tmp_path: Path, ack: str) -> None:
    (tmp_path / "file").write_text("")
    data = str(tmp_path / "file" / "data")
    done = firn("wal", "--lake", str(tmp_path / "lake"), "--data-dir", data, "--ack", ack, "--port", "0")
    assert done.returncode == 1
    assert b"listening" not in done.stdout
    assert f"folder={data}".encode() in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_second_log_service_waits_beside_the_first_one(tmp_path: Path) -> None:
    command = [program(), "wal", "--lake", str(tmp_path / "lake"), "--data-dir", str(tmp_path / "data"), "--port", "0"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) for _ in range(2)]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("listening on ")
    finally:
        for process in started:
            process.terminate()
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()
