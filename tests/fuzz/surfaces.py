"""The places where fewstep reads what others wrote: what lies there, how it is mutated, and who is asked to read it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz import asked
from tests.fuzz.asked import Asker
from tests.fuzz.mutations import (
    HTML,
    misplaced,
    mutate_bytes,
    mutate_json,
    mutate_lines,
    mutate_safetensors,
    mutate_text,
    mutate_yaml,
)
from tests.fuzz.states import mutate_shard, mutate_state

Mutate = Callable[[Random, bytes], bytes]
_BY_SUFFIX: dict[str, Mutate] = {
    ".yaml": mutate_yaml,
    ".json": mutate_json,
    ".jsonl": mutate_lines,
    ".safetensors": mutate_safetensors,
    ".pt": mutate_state,
    ".txt": mutate_text,
    ".csv": mutate_text,
}


@dataclass(frozen=True)
class Surface:
    """`ask(folder)` reads a copy of `template`, a folder or file of the material, in which one of `targets` is mutated.

    `also`: what else may be done to the folder, instead of that.
    """

    name: str
    template: str
    targets: Sequence[str]
    ask: Callable[[Asker, Path], None]
    also: Sequence[Callable[[Random, Path], None]] = field(default_factory=tuple)

    def copy(self, root: Path, folder: Path) -> None:
        """Puts a copy as it is into `folder`, which is new; files are links to the material's own."""
        shutil.copytree(
            root / self.template, folder, copy_function=_link, ignore=shutil.ignore_patterns(".lock", "log.txt")
        )

    def write(self, random: Random, root: Path, folder: Path) -> str:
        """Puts a mutated copy into `folder`, which is new; says what was mutated."""
        self.copy(root, folder)
        if not self.targets:
            return "as it is"
        if self.also and random.random() < 0.3:
            chosen = random.choice(self.also)
            chosen(random, folder)
            return getattr(chosen, "__name__", str(chosen))
        target = random.choice(self.targets)
        path = folder / target
        if random.random() < 0.04:
            misplaced(random, path)
            return f"{target} misplaced"
        content = _BY_SUFFIX.get(path.suffix, mutate_bytes)(random, path.read_bytes())
        path.unlink()  # it is linked to the material's own
        path.write_bytes(content)
        return target


def _link(source: str, target: str) -> None:
    os.link(source, target)


def _shard_outside(random: Random, folder: Path) -> None:
    """A shard's name that leads out of the dataset, to one that is whole."""
    path = folder / "manifest.json"
    text = json.loads(path.read_text())
    shard = random.choice((text["shards"][0], text["unconditional"]))
    here = f"{folder.name}/{shard['name']}"
    shard["name"] = random.choice((f"../{here}", str(folder / shard["name"]), f"x/../../{here}", f"./{shard['name']}"))
    (folder / "x").mkdir()
    path.unlink()
    path.write_text(json.dumps(text))


def _broken_shard(random: Random, folder: Path) -> None:
    for name in ("manifest.json", "shard-00000.parquet", "unconditional.parquet"):
        _own(folder / name)
    mutate_shard(random, folder / random.choice(("shard-00000.parquet", "unconditional.parquet")))


def _loops(random: Random, folder: Path) -> None:
    """Links that lead to themselves or out of the folder, of files and of folders."""
    name = random.choice(("loop.mp4", "loop", "deeper/loop.mp4", "deeper/loop.txt", "ring.mp4.txt"))
    target = random.choice((Path(name).name, ".", "..", "/", "nowhere", "deeper", "../" * 40 + "etc/passwd"))
    (folder / name).symlink_to(target)


def _html(random: Random, folder: Path) -> None:
    """HTML in place of several texts of a report's sources."""
    name = random.choice(("evaluation/results.json", "benchmark.json", "run", "recipe.yaml"))
    path = folder / ("recipe.yaml" if name == "run" else name)
    text = path.read_text()
    words = [word for word in ("full", "lora", "teacher", "ring", "star", "static", "shapes-fd", "progressive", "why",
                               "evaluate", "benchmark", "x", "float32") if word in text]  # fmt: skip
    for word in random.sample(words, min(len(words), random.choice((1, 2, 3)))):
        text = text.replace(word, json.dumps(HTML)[1:-1])
    path.unlink()
    path.write_text(text)


def _own(path: Path) -> None:
    """A copy of its own in place of a link."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


_CONFIGS = ("model_index.json", "transformer/config.json", "scheduler/scheduler_config.json", "fewstep.json",
            "vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json")  # fmt: skip
_OF_TEACHERS = ("shapes-teacher.yaml", "shapes-teacher-image.yaml")
_HELD = ("transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors")

SURFACES = (
    Surface("recipes", "recipes", ("recipe.yaml",), asked.dry_run),
    Surface("overrides", "recipes", (), asked.dry_run_with_override),
    Surface("recipes of chains", "recipes", ("chain.yaml",), asked.chain),
    Surface("recipes of teachers", "recipes", _OF_TEACHERS, asked.teacher_recipe),
    Surface("manifests", "run/data", ("manifest.json", "items.jsonl"), asked.dataset, (_shard_outside,)),
    Surface("shards", "run/data", ("shard-00000.parquet",), asked.dataset, (_broken_shard,) * 9),
    Surface("contracts", "run/stages/full", ("contract.json",), asked.student),
    Surface("weights of students", "run/stages/full", ("diffusion_pytorch_model.safetensors",), asked.student),
    Surface("adapters", "run/stages/lora", ("adapter.safetensors",), asked.student),
    Surface("checkpoints", "checkpoint", ("state.pt",), asked.checkpoint),
    Surface("captions", "videos", ("captions.csv", "captions.jsonl", "captions.json", "ring.txt"), asked.captions),
    Surface("prompts", "texts", ("prompts.txt", "prompts.jsonl"), asked.prompts),
    Surface("given images", "texts", ("ring.png", "cross.png"), asked.pictures),
    Surface("videos", "videos", ("ring.mp4", "cross.mp4", "deeper/star.mp4"), asked.videos, (_loops,)),
    Surface("evaluations", "report", ("evaluation/results.json",), asked.evaluation),
    Surface("benchmarks", "report", ("benchmark.json",), asked.benchmark),
    Surface(
        "reports", "report",
        ("recipe.yaml", "evaluation/results.json", "benchmark.json", "stages/full/result.json", "curves/full.jsonl",
         "curves/lora.jsonl"),
        asked.report, (_html, _html),
    ),
    Surface("runs", "run", ("recipe.yaml", "stages/full/result.json", "stages/lora/contract.json"), asked.resumed),
    Surface("teachers' configs", "teacher", _CONFIGS, asked.teacher),
    Surface("teachers' weights", "teacher", _HELD, asked.teacher),
    Surface("exports", "export", ("contract.json", "export.json", *_CONFIGS), asked.student),
    Surface("tables", "tables", ("table.json", "vbench.json"), asked.table),
)  # fmt: skip
BY_NAME = {surface.name: surface for surface in SURFACES}


def written(name: str, seed: int, number: int, root: Path, folder: Path) -> tuple[str, Random]:
    """Input `number` of a surface, written into `folder`, in words; and what else about it is random."""
    random = Random(f"{seed} {name} {number}")
    return BY_NAME[name].write(random, root, folder), random
