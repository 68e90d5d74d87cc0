"""`make memory-table`: the memory of training steps as the dry run counts it, next to what real steps took, as a table.

Real sizes are counted from their public configs; only the embedded teacher's steps are run, a process each.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accelerate.state import AcceleratorState

from fewstep.distill.recipe import Recipe, read_recipe
from fewstep.distill.step_cost import StepCounter
from fewstep.eval.results import write_tables
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.families import FAMILIES
from fewstep.teacher.outline import outline_teacher
from fewstep.teacher.pipelines.empty_parts import outlined
from tests.memory.models import MODELS, write_configs
from tests.memory.resident import resident_gib

DEVICES = (24, 48, 80, 141)  # GiB of an RTX 4090, an L40S, an H100 and an H200
LIBRARIES = 1.0  # GiB of a GPU that torch does not allocate, and of fragments
SIZES = {"480p": VideoSize(81, 480, 832), "720p": VideoSize(81, 704, 1280)}  # sides that all divide
PROMPT = "a red ball rolls slowly across a wooden table"  # of the steps that are run
NUM_TOKENS = 120  # of a long prompt
RECIPES = {"lora": "wan2.1-t2v-1.3b-lora-4step", "full": "wan2.1-t2v-1.3b-4step"}
LAYOUTS = {"1 process": (1, "ddp"), "fsdp, 8 processes": (8, "fsdp")}
STAGES = ("4-step", "4-step-conditional")
RECOMPUTE = ("true", "selective", "false")
EMBEDDED = ("8-step", "4-step-conditional")
COLUMNS = {
    "model": "model",
    "train": "train",
    "objective": "objective",
    "size": "size",
    "layout": "layout",
    "device": "device",
    "recompute": "gradient checkpointing",
    "between_steps_gib": "GiB between steps",
    "predicted_gib": "GiB of a step, predicted",
    "measured_gib": "measured",
    "ratio": "predicted / measured",
    "fits": "fits, GiB of a GPU",
    "tflop_per_step": "TFLOP / step",
}


def main() -> None:
    """Writes the table; a row is printed as soon as it is there."""
    parser = argparse.ArgumentParser(prog="python -m tests.memory", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results/memory.json"))
    parser.add_argument("--recompute", action="store_true", help="with each gradient_checkpointing, a table of its own")
    parser.add_argument("--models", default=",".join(MODELS), help="of the real sizes, with commas between")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    command, rows = shlex.join(["python", "-m", "tests.memory", *sys.argv[1:]]), list[dict[str, Any]]()
    models = [name for name in arguments.models.split(",") if name]
    for row in recompute_rows(models) if arguments.recompute else chain(embedded_rows(), real_rows(models)):
        print(row, flush=True)
        rows.append(row)
        write_tables(arguments.out, command, rows, COLUMNS)


def embedded_rows() -> Iterator[dict[str, Any]]:
    """The embedded teacher, counted and measured on the CPU, in float32."""
    for train in ("full", "lora"):
        recipe = read_recipe("shapes-4step", [f"student.train={train}", "precision=float32"], needs_files=False)
        for name in EMBEDDED:
            index = [stage.name for stage in recipe.stages].index(name)
            teacher = outline_teacher("shapes").teacher
            size = teacher.default_size()
            assert size is not None
            measured = resident_gib(train, name)
            row = _row("shapes", recipe, index, teacher, size, "float32") | {"device": "CPU", "measured_gib": measured}
            yield row | {"ratio": round(row["predicted_gib"] / measured, 3)}


def real_rows(names: list[str]) -> Iterator[dict[str, Any]]:
    """Real sizes, in bfloat16, one clip at a time on each GPU, activations computed again; none of them is run here."""
    AcceleratorState._reset_state(reset_partial_state=True)  # which knows one precision
    for name in names:
        with TemporaryDirectory() as folder:
            kind = write_configs(Path(folder), name)
            for layout, train, size_name, stage in product(LAYOUTS, RECIPES, SIZES, STAGES):
                size, (num_processes, parallel) = SIZES[size_name], LAYOUTS[layout]
                shared = [f"stages.{stage}.{name}=32" for name in ("batch", "accumulate")]  # by any of these layouts
                recipe = read_recipe(RECIPES[train], [f"parallel.kind={parallel}", *shared], needs_files=False)
                index = [one.name for one in recipe.stages].index(stage)
                teacher = outlined(FAMILIES[kind], Path(folder), kind, weights=False)
                row = _row(name, recipe, index, teacher, size, "bfloat16", num_processes)
                row |= {"size": size_name, "layout": layout}
                fits = next((gib for gib in DEVICES if row["predicted_gib"] + LIBRARIES <= gib), None)
                yield row | {"device": "GPU, not run", "measured_gib": None, "fits": fits or f"none of {DEVICES}"}


def recompute_rows(names: list[str]) -> Iterator[dict[str, Any]]:
    """LoRA's regression of real sizes on one GPU, one clip, with everything, all but attention and nothing computed
    again."""
    AcceleratorState._reset_state(reset_partial_state=True)  # which knows one precision
    for name in names:
        with TemporaryDirectory() as folder:
            kind = write_configs(Path(folder), name)
            for size, again in product(SIZES.values(), RECOMPUTE):
                changes = [f"gradient_checkpointing={again}", "stages.4-step.batch=1", "stages.4-step.accumulate=1"]
                recipe = read_recipe(RECIPES["lora"], changes, needs_files=False)
                index = [stage.name for stage in recipe.stages].index("4-step")
                teacher = outlined(FAMILIES[kind], Path(folder), kind, weights=False)
                yield _row(name, recipe, index, teacher, size, "bfloat16") | {"device": "GPU, not run"}


def _row(
    name: str, recipe: Recipe, index: int, teacher: Teacher, size: VideoSize, precision: Any, num_processes: int = 1
) -> dict[str, Any]:
    teacher.use_size(size)
    num_tokens = teacher.count_tokens([PROMPT])[0] if name == "shapes" else NUM_TOKENS
    cost = StepCounter(teacher, size, precision, num_tokens, num_processes).cost(recipe, index)
    return {
        "model": name,
        "train": recipe.train_of(index),
        "objective": recipe.stages[index].objective.kind,
        "size": "x".join(map(str, size)),
        "layout": "1 process",
        "recompute": str(recipe.gradient_checkpointing).lower(),
        "between_steps_gib": round(cost.held, 3),
        "predicted_gib": round(cost.peak, 3),
        "tflop_per_step": float(f"{cost.flops / 1e12:.4g}"),
    }


if __name__ == "__main__":
    main()
