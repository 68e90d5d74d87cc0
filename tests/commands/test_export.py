"""`fewstep export` from a run to files, and `fewstep sample` back from them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from safetensors.torch import load_file

from fewstep.eval.models import Model, with_student_defaults
from fewstep.student.contract import read_contract
from fewstep.student.export import hub
from fewstep.student.sampler import SamplingOptions
from fewstep.teacher.guidance import Guidance
from tests.commands.typed import fewstep

RECIPE = {
    "seed": 3,
    "data": {"kind": "rollouts", "prompts": "prompts.txt", "steps": 2, "guidance": 2.0},
    "logging": {"every": 1, "samples_every": 9, "tracker": "none"},
    "stages": [
        {
            "teacher_steps": 4, "student_steps": steps, "guidance": 2.0, "teacher": "base", "steps": 2, "batch": 2,
            "lr": 1e-2, "objective": {"kind": "progressive"},
        }
        for steps in (2, 1)
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_wan_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a 2-step and a 1-step student; not to be changed."""
    folder: Path = tmp_path_factory.mktemp("export")
    (folder / "prompts.txt").write_text("a ring\na dot\n")
    recipe = RECIPE | {"teacher": str(tiny_wan_folder), "out": str(folder / "run"), "device": "cpu"}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    code, output = fewstep("run", folder / "tiny.yaml")
    assert code == 0, output
    return folder / "run"


def test_a_run_leaves_as_files_and_comes_back(
    run: Path, tiny_wan_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "exports" / "diffusers"
    command = ("export", run, "--to", "diffusers", "--step-count", 2, "--out", out, "--device", "cpu")
    code, output = fewstep(*command)
    assert code == 0 and re.search(r"latents differ by [0-9.]+e-0[6-9] from the student's own", output), output
    card = (out / "README.md").read_text()
    assert "2-step" in card and "manifest sha256" in card and "kind: progressive" in card
    code, output = fewstep("sample", out, "--prompt", "a ring", "--out", tmp_path / "clip.mp4")
    assert code == 0 and (tmp_path / "clip.mp4").stat().st_size > 0, output

    code, output = fewstep(*command)
    assert code == 2 and "is there already" in output and "--force" in output
    monkeypatch.setattr(hub, "check_access", lambda repo: None)
    monkeypatch.setattr(hub, "push", lambda folder, repo, private: f"https://hub/{repo} {folder.name} {private}")
    code, output = fewstep(*command, "--force", "--push-to-hub", "me/student", "--private")
    assert code == 0 and "https://hub/me/student diffusers True" in output

    again = tmp_path / "exports" / "file"
    code, output = fewstep("export", out, "--to", "single-file", "--out", again, "--device", "cpu")
    assert code == 0 and json.loads((again / "contract.json").read_text())["steps"] == 2, output
    file = again / "fewstep-2step.safetensors"
    sample = ("sample", file, "--prompt", "a ring", "--out", tmp_path / "clip.gif")
    code, output = fewstep(*sample)
    assert code == 2 and "does not tell where its base model is" in output
    code, output = fewstep(*sample, "--teacher", tiny_wan_folder)
    assert code == 0 and (tmp_path / "clip.gif").stat().st_size > 0, output

    # teachers of a comparison are asked as the student was trained, whether its contract is in a folder or in a file
    of_file, of_folder = (
        with_student_defaults([Model.of("s", str(path))], SamplingOptions()) for path in (file, again)
    )
    assert of_file == of_folder and of_file.guidance == Guidance(2.0) and of_file.num_frames == 9

    # a LoRA is what the student changed in its teacher, which its own pipeline does not know
    lora = ("export", out, "--to", "lora", "--out", tmp_path / "lora", "--device", "cpu")
    code, output = fewstep(*lora)
    assert code == 2 and f"pass --teacher with {read_contract(out).teacher}" in output and "loading" not in output
    code, output = fewstep(*lora, "--teacher", tiny_wan_folder)
    assert code == 0, output
    (weights,) = (tmp_path / "lora").glob("*.safetensors")
    assert any(bool(tensor.any()) for name, tensor in load_file(weights).items() if "lora_B" in name)


def test_a_stages_own_folder_has_one_step_count(run: Path, tmp_path: Path) -> None:
    stage = run / "stages" / "2-step"
    code, output = fewstep("export", stage, "--to", "diffusers", "--step-count", 1, "--out", tmp_path / "out")
    assert code == 2 and "trained for steps 2, not 1" in output and not (tmp_path / "out").exists(), output


def results_of(folder: Path) -> Path:
    """A results.json of no rows."""
    (folder / "results.json").write_text('{"rows": [], "protocol": {}}')
    return folder / "results.json"


def test_all_writes_what_fits_and_says_why_others_do_not(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "all"
    code, output = fewstep("export", run, "--to", "all", "--out", out, "--device", "cpu", "--rank", 4)
    assert code == 0, output
    written = {folder.name for folder in out.iterdir()}
    assert {"diffusers", "lora", "comfyui", "single-file"} <= written and "part" not in written
    assert all(f"{out / name}: {name}," in output for name in written)
    assert "not part: no part of a WanPipeline is shared by itself" in output
    assert (out / "comfyui" / "fewstep-1step-lora.safetensors").is_file()  # of the rank, as asked
    code, output = fewstep("export", run, "--to", "part", "--out", tmp_path / "part")
    assert code == 2 and "part is not possible" in output and "loading the student" not in output
    again = ("export", run, "--to", "all", "--out", out, "--device", "cpu")
    code, output = fewstep(*again)
    assert code == 2 and "lora is there already" in output  # of another rank
    shutil.rmtree(out / "diffusers")  # as a stop leaves it
    lora = (out / "lora" / "export.json").stat()
    code, output = fewstep(*again, "--rank", 4)
    assert code == 0 and (out / "diffusers" / "export.json").is_file(), output
    assert "lora: of this student already, so it stays" in output and "diffusers: diffusers," in output
    assert (out / "lora" / "export.json").stat() == lora
    code, output = fewstep(*again[:-2], "--rank", 4, "--results", results_of(tmp_path))
    assert code == 2 and "is there already" in output  # whose cards would not have these figures
    code, output = fewstep("export", out / "lora", "--to", "all", "--out", out / "lora" / "all")
    assert code == 2 and "lora, the student's own folder: choose another --out" in " ".join(output.split())
    (out / "diffusers" / "export.json").write_text("{")
    code, output = fewstep(*again, "--rank", 4)
    assert code == 2 and "diffusers is there already" in output


def test_help_says_whom_each_format_is_for() -> None:
    code, output = fewstep("export", "--help")
    text = " ".join(re.sub(r"[│╭╰─]", " ", output).split())
    assert (
        code == 0
        and "lora: diffusers only, for load_lora_weights; in ComfyUI it has no effect, or only a part of it" in text
    )
    assert "extra gguf" in text


def test_mistakes_are_one_sentence_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    out = tmp_path / "out"
    code, output = fewstep("export", tmp_path, "--to", "diffusers", "--out", out)
    assert code == 2 and "has no finished stage yet" in output
    code, output = fewstep("export", tmp_path, "--to", "diffusers", "--out", out, "--push-to-hub", "a b")
    assert code == 2 and "a b is not a name on the hub" in output
    code, output = fewstep("export", tmp_path, "--to", "mp3", "--out", out)
    assert code == 2 and "'mp3' is not one of" in output
    for arguments, why in (
        (("--base-model", "/data/wan"), "must be the base model's name on the hub"),
        (
            ("--push-to-hub", "me/student"),
            "there is no token that could push to me/student: log in",
        ),
    ):
        code, output = fewstep("export", tmp_path, "--to", "diffusers", "--out", out, *arguments)
        assert code == 2 and why in " ".join(output.split())
    code, output = fewstep("export", tmp_path, "--to", "all", "--out", out, "--push-to-hub", "me/student")
    assert code == 2 and "--push-to-hub takes one format" in output
    assert not list(tmp_path.iterdir())
