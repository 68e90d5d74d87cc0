"""A tiny recipe with all that belongs to it, and ways to break such a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fewstep.teacher.videos.writing import write_video

Change = Callable[[Path], list[str]]  # breaks something in the folder, and says what is set for it

RECIPE: dict[str, Any] = {
    "data": {"kind": "rollouts", "prompts": "prompts.txt", "steps": 2},
    "logging": {"tracker": "none"},
    "device": "cpu",
    "student": {"lora": {"rank": 2, "alpha": 2}},
    "stages": [
        {"teacher_steps": 4, "student_steps": 2, "steps": 1, "batch": 2, "objective": {"kind": "progressive"}},
        {"teacher_steps": 2, "student_steps": 1, "steps": 1, "batch": 2, "objective": {"kind": "progressive"}},
    ],
}
VIDEOS = ["data={kind: videos, folder: videos}"]


def write_recipe(folder: Path, teacher: Path) -> None:
    """A recipe of a tiny teacher, prompts and captioned videos for it, in the folder."""
    (folder / "prompts.txt").write_text("a ring\na cross\na box\n")
    (folder / "videos").mkdir()
    for name in ("a", "b", "c"):
        frames = np.full((24, 16, 16, 3), len(name), np.uint8)
        write_video(folder / "videos" / f"{name}.mp4", frames, 8)
        (folder / "videos" / f"{name}.txt").write_text(f"a video called {name}")
    recipe = RECIPE | {"teacher": str(teacher), "out": str(folder / "run")}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))


def sets(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def listing(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def forbid_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test when weights of a pipeline are loaded."""
    from diffusers import DiffusionPipeline

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("a teacher was loaded"))


def given(*settings: str) -> Change:
    """Nothing is broken, but these are set."""
    return lambda _: list(settings)


def written(name: str, content: str | bytes, *settings: str) -> Change:
    def change(folder: Path) -> list[str]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return list(settings)

    return change


def removed(name: str, *settings: str) -> Change:
    def change(folder: Path) -> list[str]:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
        return list(settings)

    return change


def emptied(name: str, *settings: str) -> Change:
    def change(folder: Path) -> list[str]:
        removed(name)(folder)
        (folder / name).mkdir()
        return list(settings)

    return change


def edited(name: str, *settings: str, **changes: Any) -> Change:
    """A JSON file with other values; None deletes one."""

    def change(folder: Path) -> list[str]:
        values = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
        return list(settings)

    return change


def flipped(name: str) -> Change:
    """One bit of a file is another one."""

    def change(folder: Path) -> list[str]:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        return []

    return change


def halved(name: str) -> Change:
    def change(folder: Path) -> list[str]:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        return []

    return change


def linked(name: str, target: str, *settings: str) -> Change:
    def change(folder: Path) -> list[str]:
        (folder / name).symlink_to(target)
        return list(settings)

    return change
