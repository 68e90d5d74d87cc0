"""Run by every process of a group: what a real step of a sharded stage takes of this process's memory, in bytes.

python sharded_memory.py RECIPE.json PROMPT OUT.json, with what torch's allocator holds between steps, and within one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fewstep.distill.meta_step import plain_tensors
from fewstep.distill.parallel import Layout
from fewstep.distill.recipe import Recipe
from fewstep.distill.trainer import Trainer
from fewstep.distill.untrained import untrained_trainer
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.ranks import join_processes

STEPS = 8  # threads free what was gathered sooner or later: at most is what the highest of several steps takes


def held_bytes(trainer: Trainer) -> int:
    """Weights, moments and averages, each tensor once; of sharded ones the part that is here."""
    roles = trainer.roles
    networks = (roles.student, roles.supervisor, roles.backbone, *trainer.modules.values())
    states = [state for group in trainer.optimizer_groups.values() for state in group.optimizer.state.values()]
    tensors: list[Tensor] = [x for net in networks for x in (*net.parameters(), *net.buffers())]
    tensors += [*roles.average.values(), *(x for state in states for x in state.values())]
    local = {id(x): x.to_local() if hasattr(x, "to_local") else x for x in tensors}
    return sum(part.nbytes for x in local.values() for part in plain_tensors(x))


def highest_bytes(work: Callable[[], object]) -> int:
    """What some work, such as a step, allocates besides what is there, at its highest."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    now = highest = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    return highest


def main() -> None:
    torch.set_num_threads(1)
    recipe_file, prompt, out = sys.argv[1:]
    join_processes(cpu=True)
    accelerator = Accelerator(cpu=True)
    recipe = Recipe.model_validate(json.loads(Path(recipe_file).read_text()))
    teacher = load_teacher(recipe.teacher, device="cpu")
    size = teacher.default_size()
    assert size is not None
    teacher.use_size(size)
    conditions = teacher.conditions_of_any([prompt], "", size)
    layout = Layout(recipe.parallel, accelerator)
    layout.prepare(teacher)
    place = layout.placing(teacher)
    trainer = untrained_trainer(recipe, 0, teacher, conditions, size, accelerator, 1 + STEPS, place)
    trainer.one_step()
    measured = held_bytes(trainer), max(highest_bytes(trainer.one_step) for _ in range(STEPS))
    if accelerator.is_main_process:
        Path(out).write_text(json.dumps(measured))
    accelerator.end_training()


if __name__ == "__main__":
    main()
