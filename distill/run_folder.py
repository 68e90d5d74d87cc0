"""The run directory: recipe.yaml, data/, state.pt while a stage trains, and stages/<name>/ for what is finished."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import yaml

from fewstep.distill.checkpoint import (
    forget_checkpoints,
    forget_state,
    has_checkpoint,
    is_unfinished,
    unfinished_parts,
)
from fewstep.distill.data_recipe import DataRecipe
from fewstep.distill.recipe import Recipe
from fewstep.distill.settings import VideoData, conversion_name
from fewstep.student.contract import CONTRACT_FILE
from fewstep.teacher.dataset.buckets import BUCKETS_FILE
from fewstep.teacher.dataset.manifest import MANIFEST_FILE
from fewstep.teacher.files.atomic import (
    check_unlocked,
    check_writable,
    disk_full_as_oserror,
    only_writer,
    sync_folder,
    sync_tree,
)
from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.files.yaml_text import load_yaml
from fewstep.teacher.precision import Precision

RECIPE = "recipe.yaml"
OPTION = "--set out=DIR"  # of `fewstep run`, by which another folder is chosen

FOLDERS = ("data", "stages", "samples", "curves", "tensorboard", "pairs", "decoder")
# Settings that may change when a run is resumed: nothing of them changes what is learned. The data's
# manifest sees to it that files which moved still say the same.
_FREE = (
    "out", "device", "logging", "gradient_checkpointing", "data.prompts", "data.captions", "data.batch",
    "data.min_usable", "watch", "parallel", "average",
)  # fmt: skip
_SINCE = {"optimizer": "adamw"}  # what recipes of versions before did not say, and meant


def may_change(setting: str) -> bool:
    """Whether a run may be resumed with another value of this setting, named as --set names it."""
    return any(setting == free or setting.startswith(f"{free}.") for free in _FREE)


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what. `option` is how the command that runs takes another folder."""

    path: Path
    option: str = OPTION
    base: int = 0  # whose data is meant, where there are several base models: the teacher's own is 0

    def of_base(self, number: int) -> RunFolder:
        """The same folder, where `data` is that of another base model."""
        return replace(self, base=number)

    @property
    def elsewhere(self) -> str:
        """What a user may do about a folder that cannot be used."""
        return f"choose another folder with {self.option}"

    @property
    def data(self) -> Path:
        """The dataset the run made for itself."""
        return self.path / (f"data-{self.base}" if self.base else "data")

    @property
    def samples(self) -> Path:
        """Clips made while training."""
        return self.path / "samples"

    def stage(self, name: str) -> Path:
        """A stage's weights, contract and result; there once it is finished."""
        return self.path / "stages" / name

    def finished(self, name: str) -> bool:
        """Whether a stage is done."""
        return (self.stage(name) / CONTRACT_FILE).is_file()

    def result(self, name: str) -> dict[str, Any]:
        """What a finished stage measured; not all need be finite. Raises ValueError for no table of numbers."""
        path = self.stage(name) / "result.json"
        try:
            metrics = dict(parse_json(path.read_text("utf-8")))
            odd = [key for key, value in metrics.items() if type(value) not in (int, float)]
            if odd:
                raise ValueError(f"{odd[0][:80]} is not a number")
            return metrics
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{path} is missing or no JSON object ({error}): restore it, or delete {path.parent} to train the "
                "stage again"
            ) from error

    def check(self, recipe: DataRecipe, again: Sequence[str] = ()) -> list[str]:
        """The stages whose students `begin` would delete, to train them again. Changes nothing.

        Raises ValueError when there is no stage of a name in `again`, the folder cannot be written, or another recipe
        was begun here.
        """
        for part in ("", *FOLDERS):
            check_writable(self.path / part, self.elsewhere)
        if not self._recipe.exists():
            if isinstance(recipe, Recipe):
                recipe.dependent_stages(again)  # raises for a name that none has
            return []
        settings, begun = recipe.model_dump(mode="json"), self._begun()
        # recipes of older versions lack some settings, and meant these values
        unsaid = {name: value for name, value in _SINCE.items() if name in settings}
        unbegun = self._drop_unbegun_end(begun)
        changed = [name for name in _differences(unsaid | begun, settings) if not _is_place(name, recipe)]
        standing = _dependent(recipe, begun, again) if isinstance(recipe, Recipe) else []
        # stages that have not begun may change, and those that are trained again with what depends on them; no others
        refused = [name for name in changed if not _is_of(name, [*standing, *unbegun])]
        if refused:
            raise ValueError(
                f"{self.path} was begun with another {', '.join(refused)}: run it with the same settings, or "
                f"{self.elsewhere}{_again(recipe, self.option)}"
            )
        if not isinstance(recipe, Recipe):
            return []
        # a stage without changes stays, unless it builds on one that has some
        with_changes = [recipe.stages[i].name for i in standing if any(_is_of(name, [i]) for name in changed)]
        return [recipe.stages[index].name for index in _dependent(recipe, begun, with_changes)]

    def _drop_unbegun_end(self, begun: dict[str, Any]) -> list[int]:
        """Drops the stages behind the last one that began from recorded settings: they may go, and have other names.
        Returns which of the rest have not begun."""
        stages = begun.get("stages")
        if not isinstance(stages, list):
            return []
        try:
            parts = unfinished_parts(self.path)
        except ValueError:
            return []  # a broken checkpoint may be of any stage
        names = [stage.get("name") if isinstance(stage, dict) else None for stage in stages]
        unbegun = [
            index
            for index, name in enumerate(names)
            if isinstance(name, str) and not (self.finished(name) or is_unfinished(name, parts))
        ]
        while unbegun and unbegun[-1] == len(stages) - 1:
            del stages[unbegun.pop()]
        return unbegun

    def recorded_precision(self, section: str | None = None) -> str | None:
        """The precision that the run here was begun in, or that of a section of its recipe; None where none was."""
        begun = self._begun() if self._recipe.exists() else {}
        precision = (begun if section is None else begun.get(section, {})).get("precision")
        return precision if precision in get_args(Precision) else None

    def begin(self, recipe: DataRecipe, again: Sequence[str] = ()) -> list[str]:
        """Keeps the resolved recipe, and says which stages are trained again. Raises ValueError as `check`.

        Further stages at the end are no other recipe: a run may be extended. Nor are other settings of stages that have
        not begun, or of the stages `again` and of those that stand on them: then what is there of a stage with other
        settings goes, with all that stands on it, and is trained again. With the same settings it all stays, so that
        the same command resumes after a stop.
        """
        trained_again = self.check(recipe, again)
        for name in trained_again:
            # before the recipe is kept: killed in between, no old student is left with new settings
            shutil.rmtree(self.stage(name), ignore_errors=True)
            for part in (name, conversion_name(name)):
                forget_state(self.path, part)
                (self.path / "curves" / f"{part}.jsonl").unlink(missing_ok=True)
        self.path.mkdir(parents=True, exist_ok=True)
        recipe.save(self._recipe)
        return trained_again

    def check_unlocked(self) -> None:
        """Raises ValueError when another run is in the folder."""
        check_unlocked(self.path, self.elsewhere)

    @contextmanager
    def locked(self, is_main_process: bool = True) -> Iterator[None]:
        """Keeps other runs out of the folder; of several processes of one run, the main one does.

        Raises ValueError when another run is in it.
        """
        if not is_main_process:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with only_writer(self.path, self.elsewhere):
            yield

    @property
    def _recipe(self) -> Path:
        return self.path / RECIPE

    def _begun(self) -> dict[str, Any]:
        """The settings of the recipe that was begun here. Raises ValueError when its file cannot be read."""
        try:
            return dict(load_yaml(self._recipe.read_text("utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self._recipe} cannot be read ({' '.join(str(error).split())}), so nothing says what was started "
                f"here: restore it, or {self.elsewhere}"
            ) from error

    def finish(self, name: str, write: Callable[[Path], None], result: Mapping[str, Any]) -> Path:
        """A stage's folder appears whole: `write` fills it, `result` is kept with it; then its checkpoint may go."""
        folder = self.stage(name)
        part = folder.with_name(f".{name}.part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            with disk_full_as_oserror(folder):
                part.mkdir(parents=True)
                write(part)
                (part / "result.json").write_text(json.dumps(dict(result), indent=1) + "\n", "utf-8")
                # a power cut must not leave a finished stage of empty files, whose checkpoint is gone
                sync_tree(part)
                os.replace(part, folder)
                sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        # only now: until the stage has its folder, its checkpoint is all there is of it
        forget_checkpoints(self.path)
        return folder


def _again(recipe: DataRecipe, option: str) -> str:
    return ", or train stages again with --again STAGE,STAGE" if isinstance(recipe, Recipe) and option == OPTION else ""


def enclosing_run(path: Path) -> Path | None:
    """The run whose folder a path is, or lies in; None outside of runs."""
    whole = path.resolve()
    return next((folder for folder in (whole, *whole.parents) if _is_run(folder)), None)


def _is_run(folder: Path) -> bool:
    """Whether a run began here; a recipe of the user's own that is called recipe.yaml makes no run."""
    run = RunFolder(folder)
    if has_checkpoint(folder) or any((folder / "stages").glob(f"*/{CONTRACT_FILE}")):
        return True
    if not (folder / "recipe.yaml").is_file():
        return False
    if (folder / "stages").is_dir() or any((run.data / name).is_file() for name in (MANIFEST_FILE, BUCKETS_FILE)):
        return True
    try:
        recipe = load_yaml((folder / "recipe.yaml").read_text("utf-8"))
    except (yaml.YAMLError, ValueError, OSError):
        return False
    # a recipe of the user's own says where its run will be, which is seldom the folder that it lies in
    return isinstance(recipe, dict) and bool(out := recipe.get("out")) and Path(str(out)).name == folder.name


def _dependent(recipe: Recipe, begun: Mapping[str, Any], names: Sequence[str]) -> list[int]:
    """The stages of these names, and those that stand on them by this recipe, or did by the one that was begun: who
    supervises a stage may follow from step counts."""
    dependent = {recipe.stages[index].name for index in recipe.dependent_stages(names)}
    try:
        before = Recipe.model_validate(begun)
    except ValueError:  # of an older version
        before = recipe
    known = [stage.name for stage in before.stages]
    dependent |= {known[index] for index in before.dependent_stages([name for name in names if name in known])}
    return [index for index, stage in enumerate(recipe.stages) if stage.name in dependent]


def _is_place(setting: str, recipe: DataRecipe) -> bool:
    """Whether it says where something lies that may have moved: the data's manifest says whether it is the same."""
    is_model = setting == "teacher" or setting.startswith("bases.")
    return is_model or (setting == "data.folder" and isinstance(recipe.data, VideoData))


def _is_of(setting: str, stages: Sequence[int]) -> bool:
    """Whether a dotted setting is of one of these stages, and not its name."""
    return any(setting.startswith(f"stages.{i}.") and setting != f"stages.{i}.name" for i in stages)


def _differences(begun: Any, now: Any, above: str = "") -> list[str]:
    """Dotted names of the settings that differ and may not."""
    if isinstance(begun, dict) and isinstance(now, dict):
        # a gate decides whether a run continues, and changes nothing that is learned
        free = ("gate",) if above.startswith("stages.") and above.count(".") == 2 else ()
        keys = [key for key in {**begun, **now} if above + key not in _FREE and key not in free]
        return [name for key in keys for name in _differences(begun.get(key), now.get(key), f"{above}{key}.")]
    if isinstance(begun, list) and isinstance(now, list):
        # a run may be extended by further stages
        grown = above == "stages." and len(begun) < len(now)
        if grown or len(begun) == len(now):
            pairs = enumerate(zip(begun, now, strict=False))
            return [name for i, (a, b) in pairs for name in _differences(a, b, f"{above}{i}.")]
    return [] if begun == now else [above.rstrip(".")]
