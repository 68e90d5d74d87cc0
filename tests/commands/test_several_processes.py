"""Commands of two processes: the same bytes as of one, resumed by another number of them, and ended together."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fewstep.teacher.interrupts import RESUME
from tests.cases.child_commands import appears, wait_until
from tests.cases.pair import Pair
from tests.commands.test_data import film
from tests.commands.typed import fewstep

LEFT_ALONE = "exit 2: another process of this run has ended, and its own message, if it left one, says why"
BROKEN = "exit 2: process 1: the disk of node 1 is broken"


def contents(folder: Path) -> dict[str, bytes]:
    """All files but those that say when and by whom they were written."""
    own = ("log.txt", ".lock", "results.json")
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in own]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def rollouts(tmp_path: Path, tiny_wan_folder: Path) -> list[object]:
    """A command without its --out: 11 clips in 4 shards, the last one shorter, in batches that do not fill a shard."""
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {i}\n" for i in range(11)))
    words = ["--rows-per-shard", 3, "--batch", 2, "--dtype", "float32", "--keep-noise"]
    return ["data", "rollouts", tmp_path / "prompts.txt", "--teacher", tiny_wan_folder, "--steps", 2, *words]


def test_rollouts_are_those_of_one_process(rollouts: list[object], tmp_path: Path) -> None:
    assert fewstep(*rollouts, "--out", tmp_path / "one")[0] == 0
    ends = Pair(tmp_path, *rollouts, "--out", tmp_path / "two").ends()
    assert ends == [f"exit 0: 11 clips in 4 shards: {tmp_path / 'two'}", "exit 0: "]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert "rollouts: clip 11/11" in (tmp_path / "two" / "log.txt").read_text()


def test_videos_are_those_of_one_process(tmp_path: Path, tiny_wan_folder: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for i in range(6):
        film(videos / f"{i}.mp4").with_suffix(".txt").write_text(f"clip {i}")
    (videos / "2.mp4").write_bytes(b"words and no film")
    (videos / "5.txt").unlink()
    (videos / "stray.txt").write_text("of no video")
    command = ["data", "videos", videos, "--teacher", tiny_wan_folder, "--rows-per-shard", 2, "--dtype", "float32"]
    assert fewstep(*command, "--out", tmp_path / "one")[0] == 3
    first, second = Pair(tmp_path, *command, "--out", tmp_path / "two").ends()
    assert first.startswith("exit 3: ") and second == "exit 0: "
    files = contents(tmp_path / "one")
    assert contents(tmp_path / "two") == files and files["skipped.jsonl"].count(b"\n") == 3


def before_rollouts(work: Callable[[int], None]) -> None:
    """work(n) comes before the batch n of this process."""
    from fewstep.teacher.dataset import sources as dataset_sources

    rollout, batches = getattr(dataset_sources, "rollout"), itertools.count()  # noqa: B009

    def later(*arguments: Any) -> Any:
        work(next(batches))
        return rollout(*arguments)

    setattr(dataset_sources, "rollout", later)  # noqa: B010


def slow(begun: Path) -> None:
    """Each batch takes a while in this process; the file is there once its first has begun."""

    def work(n: int) -> None:
        begun.touch()
        time.sleep(5)

    before_rollouts(work)


def test_two_processes_that_were_stopped_are_gone_on_from_by_one(rollouts: list[object], tmp_path: Path) -> None:
    """Shards that the first has not listed yet, as one before them is not whole, are not made again."""
    out, begun = tmp_path / "two", tmp_path / "begun"
    pair = Pair(tmp_path, *rollouts, "--out", out, broken=partial(slow, begun))
    made = appears(out, "shard-*.parquet", 2)
    wait_until(lambda: made() and begun.exists(), lambda: pair.run)  # the first may be done before the second begins
    pair.send(signal.SIGTERM, 1)
    for end, who in zip(pair.ends(), ("", "process 1: "), strict=True):
        assert end.startswith(f"exit 143: {who}stopped by SIGTERM; ")
        assert end.endswith(f" of the 11 items of {out} are done; {RESUME}")
    before = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.parquet")}
    assert fewstep(*rollouts, "--out", out)[0] == 0 and before
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert fewstep(*rollouts, "--out", tmp_path / "one")[0] == 0
    assert contents(out) == contents(tmp_path / "one")


def waiting(begun: Path, seconds: float = 60) -> None:
    """This process leaves something to do for the other."""
    before_rollouts(lambda n: wait_until(begun.exists, lambda: True, seconds))


def no_rollouts(begun: Path) -> None:
    """The second batch of this process fails; the file is there once its first has begun."""

    def fail(n: int) -> None:
        begun.touch()
        if n == 1:
            raise ValueError("the disk of node 1 is broken")

    before_rollouts(fail)


def elsewhere(begun: Path) -> None:
    """This process has a disk of its own."""
    from fewstep.teacher.files import shared_folder

    shared_folder._SEEN_SECONDS = 0.5
    os.chdir("another disk")


def frozen() -> None:
    """This process makes nothing, as one that waits for a disk."""
    before_rollouts(lambda n: time.sleep(100))


@pytest.mark.parametrize("broken", [no_rollouts, elsewhere])
def test_one_that_fails_ends_both(
    rollouts: list[object], tmp_path: Path, broken: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "another disk").mkdir()
    monkeypatch.chdir(tmp_path)
    begun = tmp_path / "begun"
    seconds = 60 if broken is no_rollouts else 3  # elsewhere nothing is begun
    how = {"first": partial(waiting, begun, seconds), "broken": partial(broken, begun)}
    first, second = Pair(tmp_path, *rollouts, "--out", "two", **how).ends()
    assert first.startswith(LEFT_ALONE) and first.endswith(RESUME)
    if broken is no_rollouts:
        assert second == BROKEN
    else:
        assert (
            second
            == "exit 2: process 1: two does not show what the other processes write there: "
            + "put it on a disk that all processes share"
        )


def test_one_that_is_killed_ends_the_other(rollouts: list[object], tmp_path: Path) -> None:
    out = tmp_path / "two"
    pair = Pair(tmp_path, *rollouts, "--out", out, broken=frozen)
    wait_until(appears(out, "shard-*.parquet", 3), lambda: pair.run)
    pair.send(signal.SIGKILL, 1)
    began = time.monotonic()
    first, second = pair.ends()
    assert time.monotonic() - began < 10 and second == "exit -9: "
    assert first.startswith(LEFT_ALONE) and first.endswith(RESUME)


def no_evaluation() -> None:
    """Nothing that this process finds can be kept."""
    from fewstep.eval.clip_store import ClipStore

    def fail(*arguments: Any) -> None:
        raise ValueError("the disk of node 1 is broken")

    setattr(ClipStore, "add", fail)  # noqa: B010


def test_an_evaluation_is_that_of_one_process(tmp_path: Path, tiny_wan_folder: Path) -> None:
    """Also when one of two has failed, and two others go on."""
    (tmp_path / "prompts.txt").write_text("a ring\na cross\na box\n")
    models = [f"teacher={tiny_wan_folder}@2", f"fewer={tiny_wan_folder}@1"]
    command = ["evaluate", *models, "--prompts", tmp_path / "prompts.txt", "--num", 5, "--batch", 2]
    command += ["--dtype", "float32", "--metrics", "psnr,motion,diversity-rms"]
    assert fewstep(*command, "--out", tmp_path / "one")[0] == 0
    first, second = Pair(tmp_path, *command, "--out", tmp_path / "two", broken=no_evaluation).ends()
    assert first.startswith(LEFT_ALONE) and second == BROKEN
    ends = Pair(tmp_path, *command, "--out", tmp_path / "two").ends()
    assert ends == [f"exit 0: figures {tmp_path / 'two/results.json'}, clips {tmp_path / 'two/videos'}", "exit 0: "]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    one, two = (json.loads((tmp_path / out / "results.json").read_text()) for out in ("one", "two"))
    assert one["rows"] and one | {"command": ""} == two | {"command": ""}


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["benchmark", "shapes"], "benchmark"),
        (["sample", "shapes", "--prompt", "a ring", "--out", "x.mp4"], "sample"),
        (["export", "run", "--to", "diffusers", "--out", "x"], "export"),
        (["report", "run"], "report"),
        (["data", "show", "x"], "data show"),
        (["vbench", "read", "x.json", "--name", "x", "--into", "x"], "vbench read"),
    ],
)
def test_what_one_process_does_is_refused(words: list[object], command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, output = fewstep(*words)
    assert code == 2 and output == (
        f"`fewstep {command}` runs in one process, and 2 were started: start it without a launcher; data rollouts, "
        "data videos, evaluate, run and vbench videos share their work between processes\n"
    )


def test_an_evaluation_keeps_others_out(tmp_path: Path, tiny_wan_folder: Path) -> None:
    from fewstep.teacher.files.atomic import only_writer

    (tmp_path / "prompts.txt").write_text("a ring\n")
    prompts = ["--prompts", tmp_path / "prompts.txt"]
    out = tmp_path / "out"
    out.mkdir()
    with only_writer(out):
        for command in ("evaluate", "vbench videos"):
            code, output = fewstep(*command.split(), tiny_wan_folder, *prompts, "--out", out)
            assert code == 2 and f"another process is writing {out}: wait for process {os.getpid()}" in output
