"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import av
import pytest
from safetensors import SafetensorError

from fewstep.teacher.files.atomic import (
    check_unlocked,
    check_writable,
    check_writable_file,
    disk_full_as_oserror,
    disk_full_errno,
    disk_full_sentence,
    only_writer,
    whole_file,
)


def test_a_file_appears_when_it_is_whole_and_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced, sync = tmp_path / "table.json", list[int](), os.fsync

    def fsync(file: int) -> None:
        synced.append(file)
        sync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with whole_file(path) as part:
        part.write_text("{}")
        assert part.suffix == ".json" and part.parent == tmp_path and not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]
    assert path.read_text() == "{}" and len(synced) == 2  # the file, then its folder


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "table.json"
    path.write_text("old")
    with pytest.raises(error), whole_file(path) as part:
        part.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    with whole_file(path) as part:
        part.write_text("whole")
    part.write_text("left by a kill")
    with whole_file(path) as part:
        part.write_text("again")
    assert path.read_text() == "again"
    assert len(list(tmp_path.iterdir())) == 1


def test_folders_that_cannot_be_written_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file"):
        check_writable(tmp_path / "file" / "out")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match=f"{tmp_path} cannot be written into"):
        check_writable(tmp_path / "new" / "deep")


def torch_error() -> RuntimeError:
    """torch.save's on a full disk: the system's error is only what was being handled."""
    try:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")  # noqa: B904
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch_error(), errno.ENOSPC),
        (SafetensorError("I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (SafetensorError("I/O error: Disk quota exceeded (os error 122)"), errno.EDQUOT),
        (av.error.FFmpegError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), errno.EDQUOT),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), errno.EFBIG),
        (RuntimeError("unexpected pos 64 vs 0"), None),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), None),
    ],
)
def test_want_of_room_is_known_in_every_guise(error: Exception, reason: int | None, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    assert disk_full_errno(error) == reason
    with pytest.raises(type(error) if reason is None else OSError) as raised, whole_file(path):
        raise error
    assert not list(tmp_path.iterdir())
    if reason is None:
        assert raised.value is error and disk_full_sentence(error) is None
    else:
        assert isinstance(raised.value, OSError)
        assert (raised.value.errno, raised.value.filename) == (reason, str(path))
        assert str(disk_full_sentence(raised.value)).startswith(f"{path} could not be written: ")


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        (errno.ENOSPC, "there is no space left on the disk; make room and run the same command again to resume"),
        (errno.EDQUOT, "the disk quota is used up; make room and run the same command again to resume"),
        (
            errno.EFBIG,
            "the file is larger than the file system or `ulimit -f` allows; raise the limit and run the same command "
            "again to resume",
        ),
    ],
)
def test_a_full_disk_is_told_with_what_to_do(reason: int, sentence: str) -> None:
    assert disk_full_sentence(OSError(reason, os.strerror(reason))) == sentence


def test_the_outermost_name_is_told(tmp_path: Path) -> None:
    """A stage's folder rather than a file in what becomes it."""
    with (
        pytest.raises(OSError) as raised,
        disk_full_as_oserror(tmp_path / "4-step"),
        whole_file(tmp_path / ".4-step.part" / "contract.json"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(disk_full_sentence(raised.value)).startswith(f"{tmp_path / '4-step'} could not be written")


def test_a_link_to_nowhere_and_a_folder_in_place_of_a_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/nowhere/at/all")
    with pytest.raises(ValueError, match="link is a link to /nowhere/at/all, which is not there: make it, or go away"):
        check_writable(tmp_path / "link" / "out", "go away")
    with pytest.raises(ValueError, match="is a folder, and a file is to be written: choose another --out"):
        check_writable_file(tmp_path, [".json"])
    with pytest.raises(ValueError, match=r"table.md does not end in .json or .html: choose another --out"):
        check_writable_file(tmp_path / "table.md", [".json", ".html"])
    check_writable_file(tmp_path / "new" / "table.json", [".json"])
    assert not (tmp_path / "new").exists()


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    check_unlocked(tmp_path / "none")
    with only_writer(tmp_path):
        for attempt in (
            lambda: check_unlocked(tmp_path, "go away"),
            lambda: only_writer(tmp_path, "go away").__enter__(),
        ):
            with pytest.raises(
                ValueError,
                match=rf"another process is writing {tmp_path}: wait for process {os.getpid()} on .*, or go away",
            ):
                attempt()
    check_unlocked(tmp_path)


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    holds = "import sys, time; from pathlib import Path; from fewstep.teacher.files.atomic import only_writer\n"
    holds += "with only_writer(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    with Popen([sys.executable, "-c", holds, tmp_path], stdout=PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=rf"wait for process {process.pid} on "):
            check_unlocked(tmp_path)
        process.kill()
        process.wait()
    check_unlocked(tmp_path)
    with only_writer(tmp_path):
        pass
