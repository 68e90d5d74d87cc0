"""The valid inputs that are mutated: a tiny teacher, a run of it, its exports, figures, videos and texts."""

from __future__ import annotations

import json
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from shutil import copy, copytree
from typing import Any

import numpy as np
import yaml
from PIL import Image

from fewstep.commands.run_stages import follow_stages
from fewstep.distill.checkpoint import save_state
from fewstep.distill.recipe import read_recipe
from fewstep.eval.results import write_results
from fewstep.student.export.write_export import write_export
from fewstep.student.load_student import load_student
from fewstep.teacher.load_teacher import load_teacher
from tests.distill.one_stage import Case
from tests.teacher.films import film
from tests.tiny_pipelines import save_tiny_wan

WORDS = ("ring", "cross", "square", "star")


def make_material(root: Path) -> None:
    """Everything, each in a folder of its own below `root`; where it is there already, nothing is done."""
    if (root / "whole").exists():
        return
    root.mkdir(parents=True, exist_ok=True)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        _texts(root / "texts")
        save_tiny_wan(root / "teacher")
        _recipes(root)
        _run(root)
        _checkpoint(root)
        write_export(load_student(root / "run" / "stages" / "full", device="cpu"), "diffusers", root / "export")
    _videos(root / "videos")
    _figures(root)
    _reported(root)
    (root / "whole").touch()


def recipe_of(root: Path) -> dict[str, Any]:
    """A recipe of two stages, one of each objective, with most settings said."""
    adversarial = {"kind": "adversarial", "warmup": 1, "noise": {"kind": "uniform"}, "probe": 0, "balance": None}
    stage = {"teacher_steps": 4, "student_steps": 2, "steps": 2, "batch": 4, "lr": 1e-3, "warmup": 1}
    return {
        "teacher": str(root / "teacher"), "seed": 0, "out": str(root / "new"), "precision": "float32", "device": "cpu",
        "size": {"num_frames": 9, "height": 16, "width": 16}, "shift": None,
        "data": {"kind": "rollouts", "prompts": str(root / "texts" / "prompts.txt"), "steps": 4, "guidance": 3},
        "student": {"train": "full", "lora": {"rank": 4, "alpha": 4}}, "watch": {"every": 25, "motion": [0.7, 1.4]},
        "logging": {"tracker": "none", "every": 1, "samples_every": 500, "prompts": ["a ring", "a star"]},
        "stages": [
            stage | {"name": "full", "guidance": "3@0.3-0.93", "objective": {"kind": "progressive", "loss": "mse"}},
            stage | {"name": "lora", "start": "base", "train": "lora", "guidance": 3, "ema": 0.99,
                     "gate": {"metric": "endpoint_error", "at_most": 1000}, "objective": adversarial},
        ],
    }  # fmt: skip


def _recipes(root: Path) -> None:
    text = yaml.safe_dump(recipe_of(root), sort_keys=False)
    (root / "recipes").mkdir()
    (root / "recipes" / "recipe.yaml").write_text(text)
    members = [
        {"name": "a", "model": "shapes"},
        {"name": "b", "model": "shapes-image", "given": {"first": "LAST_FRAME"}},
    ]
    chain = {"out": str(root / "chain"), "chain": members}
    (root / "recipes" / "chain.yaml").write_text(yaml.safe_dump(chain, sort_keys=False))
    packaged = Path(__file__).parents[2] / "recipes"
    for name in ("shapes-teacher", "shapes-teacher-image"):
        (root / "recipes" / f"{name}.yaml").write_text((packaged / f"{name}.yaml").read_text())


def _run(root: Path) -> None:
    """`root/run`, of which everything but a checkpoint is left."""
    follow_stages(read_recipe(root / "recipes" / "recipe.yaml", [f"out={root}/run"]))


def _checkpoint(root: Path) -> None:
    """`root/checkpoint/state.pt`, in the middle of the stage `s` of `Case`."""
    folder = root / "checkpoint"
    folder.mkdir()
    trainer = stage_case(root, folder).trainer()
    for _ in range(2):
        trainer.one_step()
    save_state(folder, trainer._numbers() | trainer.trained.tensors())


def stage_case(root: Path, folder: Path) -> Case:
    """The stage whose checkpoint lies in `folder`."""
    return Case(load_teacher(root / "teacher", device="cpu"), root / "run" / "data", folder)


def _texts(folder: Path) -> None:
    folder.mkdir()
    (folder / "prompts.txt").write_text("".join(f"a {word} circles over a dark background\n" for word in WORDS))
    rows = [{"prompt": f"a {word} moves", "first": f"{word}.png"} for word in WORDS]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for word in WORDS:
        Image.new("RGB", (16, 16), "red").save(folder / f"{word}.png")


def _videos(folder: Path) -> None:
    """Videos, and each kind of captions for them."""
    folder.mkdir()
    (folder / "deeper").mkdir()
    files = [f"{word}.mp4" for word in WORDS[:-1]] + ["deeper/star.mp4"]
    rows = [{"file": file, "caption": f"a {Path(file).stem} moves"} for file in files]
    for number, file in enumerate(files):
        frames = np.full((12, 32, 32, 3), 40 * number, np.uint8)
        frames[:, 8:16, 8:16] = np.arange(12, dtype=np.uint8)[:, None, None, None] * 20
        film(folder / file, frames, rate=8)
        (folder / file).with_suffix(".txt").write_text(rows[number]["caption"])
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "captions.json").write_text(json.dumps(rows))
    lines = "".join(f'{row["file"]},"{row["caption"]}"\n' for row in rows)
    (folder / "captions.csv").write_text(f"file,caption\n{lines}")


def _figures(root: Path) -> None:
    """Files of evaluations, benchmarks and tables, and a few clips."""
    figure = {"value": 51.3, "low": 49.0, "high": 54.0, "floor": 3.2, "num": 512, "unit": "", "better": "lower"}
    metrics = {"shapes-fd": figure, "prompt-accuracy": figure | {"value": 0.9, "low": 0.88, "high": 0.92}}
    folder, run = root / "evaluation", str(root / "run")
    rows = [
        {"model": model, "source": source, "role": role, "steps": steps, "evaluations": steps, "guidance": guidance,
         "videos": f"videos/{model}", "metrics": metrics, "warnings": ["it may have become static"]}
        for model, source, role, steps, guidance in (
            ("teacher", str(root / "teacher"), "teacher", 4, "3@0.3-0.93"),
            ("full", f"{run}/stages/full", "student", 2, 1), ("lora", f"{run}/stages/lora", "student", 2, 1),
        )
    ]  # fmt: skip
    protocol = {"num": 512, "seed": 0, "dtype": "float32", "metrics": {"shapes-fd": {"version": 1}}, "left_out": {}}
    differences = [{"model": "full", "other": "teacher", "metrics": {"shapes-fd": figure}}]
    facts = {"command": "fewstep evaluate", "protocol": protocol, "rows": rows, "differences": differences,
            "prompts": [f"a {word}" for word in WORDS[:2]]}  # fmt: skip
    for model in ("teacher", "full", "lora"):
        (folder / "videos" / model).mkdir(parents=True)
        for prompt in range(2):
            frames = np.full((9, 16, 16, 3), 60 * prompt, np.uint8)
            film(folder / "videos" / model / f"{prompt:05d}.mp4", frames, rate=8)
    (folder / "results.json").write_text(json.dumps(facts, indent=1))
    (root / "tables").mkdir()
    write = partial(json.dumps, indent=1)
    (root / "benchmark.json").write_text(write(_benchmark(rows)))
    (root / "tables" / "vbench.json").write_text(write({"subject_consistency": [0.9, [{"video_results": 0.9}] * 3]}))
    table = [{"model": row["model"], "steps": row["steps"], "shapes_fd": 51.3, "seconds": 0.1} for row in rows]
    write_results(root / "tables" / "table.json", "fewstep shapes teacher", table)


def _benchmark(rows: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = {"text_seconds": 0.004, "denoise_seconds": 0.1, "decode_seconds": 0.009, "total_seconds": 0.2,
               "total_seconds_p95": 0.22, "peak_gib": 0.31, "speedup": 3.1, "denoise_speedup": 4.0,
               "ideal_speedup": 4, "repetitions": 5, "split_gap": 0.01}  # fmt: skip
    timed = [{name: row[name] for name in ("model", "source", "steps", "evaluations")} | seconds for row in rows]
    fit = {"fixed_seconds": 0.013, "seconds_per_evaluation": 0.006}
    return {"command": "fewstep benchmark", "protocol": {"batch": 1}, "rows": timed, "fit": fit, "failed": {"x": "why"}}


def _reported(root: Path) -> None:
    """`root/report`: a run with all that a page is made from."""
    copytree(root / "run", root / "report")
    copytree(root / "evaluation", root / "report" / "evaluation")
    copy(root / "benchmark.json", root / "report")
