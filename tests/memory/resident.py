"""What a real step of the embedded teacher takes of the process's memory, as the operating system counts it."""

from __future__ import annotations

import os
import subprocess
import sys

GIB = 2**30
# every block is given back once it is freed, else the resident set says nothing of what is in use
_ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
_STEP = """
import gc, sys
import psutil, torch
from accelerate import Accelerator
from fewstep.distill.recipe import read_recipe
from fewstep.distill.untrained import untrained_trainer
from fewstep.eval.latency.peak_memory import watched_peak
from fewstep.teacher.load_teacher import load_teacher

train, name = sys.argv[1:]
recipe = read_recipe("shapes-4step", [f"student.train={train}", "precision=float32"], needs_files=False)
index = [stage.name for stage in recipe.stages].index(name)
teacher = load_teacher("shapes", device="cpu")
size = teacher.default_size()
prompts = ["a red ball rolls slowly across a wooden table"] * 4
conditions = teacher.conditions(prompts, "", size)
teacher.free_text()
teacher.free_vae()
weights = sum(tensor.nbytes for tensor in (*teacher.denoiser.parameters(), *teacher.denoiser.buffers()))
gc.collect()
before = psutil.Process().memory_info().rss - weights
trainer = untrained_trainer(recipe, index, teacher, conditions, size, Accelerator(cpu=True), 3)
trainer.one_step()
with watched_peak(torch.device("cpu")) as peak:
    trainer.one_step()
    trainer.step = recipe.stages[index].objective.period  # one with a discriminator's penalties
    trainer.one_step()
print(peak.gib * 2**30 - before)
"""


def resident_gib(train: str, stage: str) -> float:
    """GiB at its highest within a step, besides what Python and its libraries had before."""
    command = [sys.executable, "-c", _STEP, train, stage]
    done = subprocess.run(command, env=os.environ | _ALLOCATOR, capture_output=True, text=True, check=True)
    return round(float(done.stdout.split()[-1]) / GIB, 3)
