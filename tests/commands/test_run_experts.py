"""`fewstep run` with a teacher of two experts: both at once, one after the other, and what becomes of the students."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fewstep.student.contract import read_contract
from fewstep.teacher.files.checksums import sha256
from fewstep.teacher.guidance import Guidance
from tests.commands.typed import fewstep

BOTH = ["4@0.875-1", "3@0-0.875"]
PROGRESSIVE = {"kind": "progressive"}
JUDGED = {"kind": "adversarial", "warmup": 1, "probe": 2, "discriminator": {"width": 8}}
STEP: dict[str, Any] = {"teacher_steps": 8, "student_steps": 4, "steps": 2, "batch": 2, "guidance": BOTH}


def write(folder: Path, teacher: Path, *stages: dict[str, Any], **more: Any) -> Path:
    (folder / "prompts.txt").write_text("".join(f"prompt {i}\n" for i in range(4)))
    values = {
        "teacher": str(teacher), "out": str(folder / "run"), "device": "cpu", "precision": "float32",
        "data": {"kind": "rollouts", "prompts": "prompts.txt", "steps": 4, "guidance": BOTH},
        "logging": {"every": 1, "tracker": "none"},
        "student": {"lora": {"rank": 4, "alpha": 4}},
        "stages": [STEP | stage for stage in stages],
    }  # fmt: skip
    path = folder / "experts.yaml"
    path.write_text(yaml.safe_dump(values | more))
    return path


def hashes(teacher: Path) -> list[str]:
    return [sha256(path) for path in sorted(teacher.rglob("*.safetensors"))]


@pytest.mark.slow  # one after the other is quicker, and a packaged recipe trains both in test_packaged_recipes.py
@pytest.mark.parametrize("train", ["full", "lora"])
def test_a_relay_of_both_is_run_sampled_and_measured(tmp_path: Path, tiny_experts_folder: Path, train: str) -> None:
    before = hashes(tiny_experts_folder)
    path = write(tmp_path, tiny_experts_folder, {"objective": PROGRESSIVE}, {"objective": JUDGED})
    code, output = fewstep("run", path, "--set", f"student.train={train}")
    assert code == 0, output
    run, last = tmp_path / "run", tmp_path / "run" / "stages" / "4-step-adversarial"
    contract = read_contract(last)
    assert [(e.name, e.nodes, e.trained) for e in contract.experts] == [("high", (0, 1), True), ("low", (2, 3), True)]
    assert contract.weights == train and contract.baked_guidance == Guidance.of("4@0.875-1,3@0-0.875")
    assert {path.name for path in last.iterdir()} == {"contract.json", "high", "low", "result.json"}
    result = json.loads((last / "result.json").read_text())
    assert {"endpoint_error", "motion", "fresh_heads", "fresh_heads_before"} <= result.keys()
    for source in (run, last):
        code, output = fewstep("sample", source, "--prompt", "a ring", "--out", tmp_path / "clip.mp4")
        assert code == 0 and (tmp_path / "clip.mp4").stat().st_size > 0, output
    code, output = fewstep("run", path, "--set", f"student.train={train}")
    assert code == 0 and "4-step-adversarial is finished" in output
    assert hashes(tiny_experts_folder) == before


@pytest.mark.usefixtures("uncounted")
def test_one_expert_after_the_other(tmp_path: Path, tiny_experts_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.distill.fresh_heads.HELD_OUT", 4)  # of 32 batches that fresh heads are measured on
    high = {"name": "high", "expert": "high", "objective": PROGRESSIVE}
    low = {"name": "low", "expert": "low", "objective": PROGRESSIVE}
    judged = {"name": "judged-low", "expert": "low", "objective": JUDGED, "starts": [0.25]}
    path, before = write(tmp_path, tiny_experts_folder, high, low, judged), hashes(tiny_experts_folder)
    code, output = fewstep("run", path, "--dry-run")
    assert code == 0, output
    assert "high trains high: of its nodes high has 1, 0.9375; low has 0.8333, 0.625 (the boundary is 0.875)" in output
    assert "teacher, 2 experts" in output and "both experts are in memory at once" in output
    code, output = fewstep("run", path)
    assert code == 0, output
    stages = tmp_path / "run" / "stages"
    assert not (stages / "high" / "low").exists()
    assert [e.trained for e in read_contract(stages / "high").experts] == [True, False]
    assert [e.trained for e in read_contract(stages / "low").experts] == [True, True]
    name = "diffusion_pytorch_model.safetensors"
    of_high = [(stages / stage / "high" / name).read_bytes() for stage in ("high", "low", "judged-low")]
    assert of_high[0] == of_high[1] == of_high[2]
    of_low = [(stages / stage / "low" / name).read_bytes() for stage in ("low", "judged-low")]
    assert of_low[0] != of_low[1] and hashes(tiny_experts_folder) == before
    result = json.loads((stages / "judged-low" / "result.json").read_text())
    assert {"endpoint_error", "motion", "fresh_heads", "fresh_heads_before"} <= result.keys()
    # at each step of this expert, though the last one alone was trained
    assert [key for key in result if key.startswith("fresh_heads_to_")] == ["fresh_heads_to_0.625", "fresh_heads_to_0"]
    code, output = fewstep("sample", tmp_path / "run", "--prompt", "a ring", "--out", tmp_path / "clip.mp4")
    assert code == 0 and (tmp_path / "clip.mp4").stat().st_size > 0, output
    code, output = fewstep(
        "export", tmp_path / "run", "--to", "diffusers", "--out", tmp_path / "out", "--device", "cpu"
    )
    assert code == 0, output


def test_a_lora_stage_of_one_expert_goes_on_from_full_ones(tmp_path: Path, tiny_experts_folder: Path) -> None:
    both = {"name": "both", "objective": PROGRESSIVE}
    low = {"name": "low", "expert": "low", "train": "lora", "objective": PROGRESSIVE}
    code, output = fewstep("run", write(tmp_path, tiny_experts_folder, both, low))
    assert code == 0, output
    contract = read_contract(tmp_path / "run" / "stages" / "low")
    assert contract.weights == "full" and all(expert.trained for expert in contract.experts)
    code, output = fewstep("sample", tmp_path / "run", "--prompt", "a ring", "--out", tmp_path / "clip.mp4")
    assert code == 0, output
