"""The least diffusers that cards name, in a Python of its own: do snippets sample the student there?"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

from fewstep.student.contract import UNNAMED
from fewstep.student.export.card_use import least_diffusers
from fewstep.student.export.write_export import write_export
from tests.clients.libraries import PROMPT, noise_of, own_latents
from tests.clients.row import Row, compared, said
from tests.clients.students import make_student, save_teacher

OLDER = Path(__file__).with_name("older.py")


def rows(python: Path, work: Path) -> Iterator[Row]:
    """One for each point that was run."""
    save_teacher(work / "teacher")
    said_of = {"full": "full student", "lora": "LoRA student"}
    for train, to in (("full", "diffusers"), ("full", "single-file"), ("lora", "lora"), ("lora", "comfyui")):
        stage = work / f"{train}-{to}"
        student = make_student(work / "teacher", stage, "full" if train == "full" else "lora")
        folder = write_export(student, to, work / f"{to}-export").folder
        (snippet,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        until_pipe = snippet.partition("from diffusers.utils")[0].replace(UNNAMED, str(work / "teacher"))
        (stage / "snippet.py").write_text(until_pipe)
        arguments = {"prompt": PROMPT, **student.teacher.call_arguments(student.contract)}
        (stage / "arguments.json").write_text(json.dumps(arguments))
        torch.save(noise_of(student), stage / "noise.pt")
        files = [stage / name for name in ("snippet.py", "arguments.json", "noise.pt", "out.pt")]
        done = subprocess.run(
            [python, OLDER, folder, *files], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""}
        )
        least = least_diffusers(student)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["nothing said"]
            yield said(("diffusers", least, to), f"{said_of[train]}: the card's snippet", lines[-1], False)
            continue
        stored = torch.load(stage / "out.pt", weights_only=True)
        where = ("diffusers", stored["version"], to)
        yield compared(
            where, f"{said_of[train]}: the card's snippet, least version", own_latents(student), stored["latents"]
        )
