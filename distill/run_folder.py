"""The folder of a run: recipe.yaml, data/, state.pt while a stage trains, and stages/<name>/ for what is finished."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.distill.checkpoint import FILE_NAME as STATE
from fewstep.distill.checkpoint import forget_state
from fewstep.distill.overrides import load_yaml
from fewstep.distill.recipe import Recipe
from fewstep.student.contract import FILE_NAME as CONTRACT
from fewstep.teacher.atomic import naming_full_disk

# What a run may be gone on with though it was begun with another: nothing of it changes what is learned. The data's
# manifest sees to it that files which moved still say the same.
_FREE = ("out", "device", "logging", "gradient_checkpointing", "data.prompts", "data.captions", "data.batch")


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what."""

    path: Path

    @property
    def data(self) -> Path:
        """The dataset the run made for itself."""
        return self.path / "data"

    @property
    def samples(self) -> Path:
        """Clips made while training."""
        return self.path / "samples"

    def stage(self, name: str) -> Path:
        """A stage's weights, contract and result; there once it is finished."""
        return self.path / "stages" / name

    def finished(self, name: str) -> bool:
        """Whether a stage is done."""
        return (self.stage(name) / CONTRACT).is_file()

    def result(self, name: str) -> dict[str, Any]:
        """What a finished stage measured."""
        found: dict[str, Any] = json.loads((self.stage(name) / "result.json").read_text("utf-8"))
        return found

    def begin(self, recipe: Recipe, again: str | None = None) -> None:
        """Keeps the resolved recipe. Raises ValueError when another one was begun here.

        Further stages at the end are no other recipe: a run may be gone on with. Nor are other settings of the stage
        `again` and of those that stand on it: then what is there of them goes, and they are trained again. With the
        same settings it all stays, so that the same command goes on after a stop.
        """
        standing = [] if again is None else recipe.standing_on(again)
        kept = self.path / "recipe.yaml"
        if kept.exists():
            changed = _differences(load_yaml(kept.read_text("utf-8")), recipe.model_dump(mode="json"))
            refused = [name for name in changed if not _is_of(name, standing)]
            if refused:
                raise ValueError(
                    f"{self.path} was begun with another {', '.join(refused)}: run it with the same recipe, choose "
                    "another folder with --set out=DIR, or train a stage again with --again STAGE"
                )
            if changed:  # before the recipe is kept: killed in between, no old student stands beside new settings
                for index in standing:
                    shutil.rmtree(self.stage(recipe.stages[index].name), ignore_errors=True)
                    forget_state(self.path, recipe.stages[index].name)
        self.path.mkdir(parents=True, exist_ok=True)
        recipe.save(kept)

    def finish(self, name: str, write: Callable[[Path], None], result: Mapping[str, Any]) -> Path:
        """A stage's folder appears whole: `write` fills it, `result` is kept beside; then its checkpoint may go."""
        folder = self.stage(name)
        part = folder.with_name(f".{name}.part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            with naming_full_disk(folder):
                part.mkdir(parents=True)
                write(part)
                (part / "result.json").write_text(json.dumps(dict(result), indent=1) + "\n", "utf-8")
                os.replace(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        (self.path / STATE).unlink(missing_ok=True)
        return folder


def _is_of(setting: str, stages: Sequence[int]) -> bool:
    """Whether a dotted setting is of one of these stages, and not its name."""
    return any(setting.startswith(f"stages.{i}.") and setting != f"stages.{i}.name" for i in stages)


def _differences(begun: Any, now: Any, above: str = "") -> list[str]:
    """Dotted names of the settings that differ and may not."""
    if isinstance(begun, dict) and isinstance(now, dict):
        free = ("gate",) if above.startswith("stages.") and above.count(".") == 2 else ()
        keys = [key for key in {**begun, **now} if above + key not in _FREE and key not in free]
        return [name for key in keys for name in _differences(begun.get(key), now.get(key), f"{above}{key}.")]
    if isinstance(begun, list) and isinstance(now, list):
        grown = above == "stages." and len(begun) < len(now)
        if grown or len(begun) == len(now):
            pairs = enumerate(zip(begun, now, strict=False))
            return [name for i, (a, b) in pairs for name in _differences(a, b, f"{above}{i}.")]
    return [] if begun == now else [above.rstrip(".")]
