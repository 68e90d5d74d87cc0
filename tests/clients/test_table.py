"""What docs/results/clients.json says, and how rows are judged."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import torch

from tests.clients.row import Row, compared, said

TABLE = Path(__file__).parents[2] / "docs" / "results" / "clients.json"


def test_every_row_was_run_and_is_as_it_should_be() -> None:
    rows = json.loads(TABLE.read_text())
    assert all(list(row) == [field.name for field in fields(Row)] for row in rows)
    assert all(row["ok"] and "not run" not in row["result"] for row in rows)
    assert {"diffusers", "ComfyUI", "peft", "GGUFReader", "onnxruntime"} <= {row["client"] for row in rows}


def test_a_row_is_judged_by_its_latents() -> None:
    own, where = torch.ones(4), ("tool", "1", "lora")
    assert compared(where, "same", own, own * 1.000001).ok and not compared(where, "other", own, own * 1.1).ok
    assert not compared(where, "none", own, own * float("nan")).ok
    assert said(where, "refused", "a sentence", ok=False).relative_error is None
