"""Mutations of checkpoints and of Parquet files, whose forms are not text."""

from __future__ import annotations

import json
import math
import os
import pickle
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import torch

from fewstep.teacher.files.checksums import sha256
from tests.fuzz.mutations import PLANTED, mutate_bytes, mutate_tree


class _Payload:
    """A pickle that runs a command where it is read by plain pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {PLANTED}",)


def mutate_state(random: Random, content: bytes) -> bytes:
    """Of a torch checkpoint: its bytes, its numbers, its tensors, or a program in its place."""
    match random.randrange(8):
        case 0 | 1:
            return mutate_bytes(random, content)
        case 2:
            return pickle.dumps(_Payload())
        case 3:
            state = _load(content)
            state[random.choice(list(state))] = _Payload()
            return _saved(state)
        case 4:
            return _saved(_with_an_odd_tensor(random, _load(content)))
        case 5:
            state = _load(content)
            state[random.choice(("step", "drawn", "seconds", "rate"))] = random.choice(
                (None, -5, math.nan, math.inf, 10**9, 10**30, 0.5, "1", True, [1], -0.0, 1e308)
            )
            return _saved(state)
    return _saved(mutate_tree(random, _load(content)))


def mutate_shard(random: Random, path: Path) -> None:
    """Of a Parquet file; now and then its manifest agrees, as if somebody else had written both."""
    path.write_bytes(mutate_bytes(random, path.read_bytes()))
    manifest = path.with_name("manifest.json")
    if random.random() < 0.7:
        text = json.loads(manifest.read_text())
        for shard in (*text["shards"], text["unconditional"]):
            if shard["name"] == path.name:
                shard["sha256"] = sha256(path)
        manifest.write_text(json.dumps(text))


def _load(content: bytes) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(BytesIO(content), weights_only=True)
    return state


def _saved(state: object) -> bytes:
    buffer = BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _with_an_odd_tensor(random: Random, state: dict[str, Any]) -> dict[str, Any]:
    part = state[random.choice(("student", "average"))]
    name = random.choice(list(part))
    tensor = part[name].clone()
    match random.randrange(5):
        case 0:
            tensor.view(-1)[0] = random.choice((math.nan, math.inf, -math.inf))
        case 1:
            tensor = tensor[..., None]
        case 2:
            tensor = tensor.to(random.choice((torch.int64, torch.complex64, torch.float64, torch.bool)))
        case 3:
            tensor = torch.zeros(0)
        case _:
            tensor = tensor.to_sparse()
    part[name] = tensor
    return state
