"""The card: what the hub reads, what people read, and a snippet that runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from packaging.version import Version
from safetensors.torch import load_file, save_file

from fewstep.student.contract import UNNAMED
from fewstep.student.export.base import Exported, Written, find_format
from fewstep.student.export.card_use import install, least_diffusers, since
from fewstep.student.export.lora import LORA_FILE
from fewstep.student.export.model_card import model_card, pipeline_tag
from fewstep.student.export.provenance import Provenance, read_provenance
from fewstep.student.export.stock import merged_network, pipeline_latents, stock_pipeline
from fewstep.student.loading import Student
from fewstep.student.weights import weights_sha256
from fewstep.teacher.families import FAMILIES

RESULTS = {
    "command": "fewstep evaluate run",
    "protocol": {"clips": 512, "seed": 0},
    "rows": [
        {"model": "teacher", "steps": 32, "metrics": {"shapes-fd": {"value": 37.2, "low": 31.3, "high": 44.1}}},
        {
            "model": "4-step",
            "steps": 4,
            "metrics": {"psnr": {"value": 21.0}},
            "warnings": ["it moves only 31 % as much"],
        },
    ],
}
RECIPE = {
    "teacher": "shapes",
    "out": "/home/me/run",
    "data": {"kind": "rollouts", "prompts": "/home/me/prompts.txt"},
    "stages": [{"name": "8-step"}, {"name": "4-step"}, {"name": "2-step"}],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory as far as a card reads it."""
    stage = tmp_path / "run" / "stages" / "4-step"
    stage.mkdir(parents=True)
    (stage / "contract.json").write_text("{}")
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "run" / "data").mkdir()
    (tmp_path / "run" / "data" / "manifest.json").write_text("{}")
    (tmp_path / "run" / "evaluation").mkdir()
    (tmp_path / "run" / "evaluation" / "results.json").write_text(json.dumps(RESULTS))
    return stage


ADAPTER = Written(relation="adapter")


def card_of(student: Student, exported: Exported, provenance: Provenance | None, written: Written = ADAPTER) -> str:
    return model_card(student, find_format(exported.format), written, exported, provenance)


def test_the_card_says_how_to_sample_and_where_it_comes_from(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], run: Path
) -> None:
    card = card_of(make_student("wan", "lora"), make_export("wan", "lora", "lora"), read_provenance(run))
    for line in (
        "- steps: 4, at timesteps 1000, 937.5, 833.33, 625",
        "- guidance: 1, which means none: 3 is distilled into the weights",
        "- scheduler: `FlowMapEulerDiscreteScheduler(shift=5.0)`",
        "- size: 9 frames of 16 x 16 pixels, 8 frames per second",
        "- data: manifest sha256 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "| teacher | 32 | 37.2 (31.3 to 44.1) |  |",
        "| 4-step | 4 |  | 21 |",
        "| clips | 512 |",
        "- 4-step: it moves only 31 % as much",
        "prompts: prompts.txt",
    ):
        assert line in card, line
    assert "name: 8-step" in card and "name: 2-step" not in card and "/home/me" not in card


@pytest.mark.parametrize(
    ("given", "pictures", "tag"),
    [
        ((), False, "text-to-video"),
        ((), True, "text-to-image"),
        (("first", "control"), False, "image-to-video"),
        (("control", "mask"), False, "video-to-video"),
    ],
)
def test_the_tag_says_what_is_made_of_what(given: tuple[str, ...], pictures: bool, tag: str) -> None:
    contract, teacher = SimpleNamespace(given=given), SimpleNamespace(makes_pictures=pictures)
    student: Any = SimpleNamespace(contract=contract, teacher=teacher)
    assert pipeline_tag(student) == tag


def test_the_front_matter_names_base_relation_and_licence(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], tmp_path: Path
) -> None:
    student, exported = make_student("wan", "lora"), make_export("wan", "lora", "lora")
    data = ModelCard(card_of(student, exported, None)).data.to_dict()
    assert data == {"library_name": "diffusers", "pipeline_tag": "text-to-video", "tags": ["fewstep", "distillation"]}
    folder, contract = student.teacher.folder, student.contract
    licensed = tmp_path / "teacher"
    licensed.mkdir()
    (licensed / "README.md").write_text("---\nlicense: other\nlicense_name: seaweed\n---\n")
    object.__setattr__(student, "contract", contract.model_copy(update={"teacher": "me/teacher"}))
    student.teacher.folder = licensed
    try:
        card = ModelCard(card_of(student, exported, None))
    finally:
        object.__setattr__(student, "contract", contract)
        student.teacher.folder = folder
    data = card.data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("me/teacher", "adapter")
    assert (data["license"], data["license_name"]) == ("other", "seaweed")
    assert "inherited from it: other, seaweed" in card.text


def test_figures_of_weights_that_are_gone_are_left_out(run: Path) -> None:
    """The stage was trained again since it was evaluated."""
    (run / "adapter.safetensors").write_bytes(b"weights")
    claim = run.parent.parent / "evaluation" / "parts" / "4-step" / "model.json"
    claim.parent.mkdir(parents=True)
    claim.write_text(json.dumps({"weights_sha256": weights_sha256(run)}))
    assert read_provenance(run).results and not read_provenance(run).outdated
    (run / "adapter.safetensors").write_bytes(b"others")
    assert not read_provenance(run).results and read_provenance(run).outdated
    measured = claim.parent.parent.parent / "results.json"
    assert read_provenance(run, results=measured).results  # whoever names them means them


def test_results_that_are_none_are_refused(run: Path, tmp_path: Path) -> None:
    for text in ("{", "[]", '{"rows": 1, "protocol": {}}', '{"rows": [1], "protocol": {}}'):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(ValueError, match=r"is not a results.json.*: pass what `fewstep evaluate` wrote"):
            read_provenance(run, results=tmp_path / "results.json")


def test_the_card_of_a_student_that_no_stock_sampler_fits_says_why(make_student: Callable[..., Student]) -> None:
    """An ONNX graph is one forward: it needs none."""
    exported = Exported(Path("out"), "onnx", 1e-6, None, 1.0, 1.0)
    card = card_of(make_student("cogvideox", "full", 3), exported, None, Written())
    assert "- scheduler: none of diffusers: CogVideoXDDIMScheduler rounds its nodes to" in card


EXPORTS = [
    ("wan", "full", "diffusers"),
    ("wan", "lora", "lora"),
    ("wan", "lora", "comfyui"),
    ("wan", "full", "single-file"),
    ("cogvideox", "full", "diffusers"),
]


@pytest.mark.parametrize("exports", [EXPORTS, pytest.param([("animatediff", "lora", "lora")], marks=pytest.mark.slow)])
def test_the_snippets_run_as_they_stand(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], exports: list[tuple[str, str, str]]
) -> None:
    """In a process of their own, one after the other, each in its folder, with the base model's folder put in."""
    teachers = {make_export(*which).folder: make_student(*which[:2]).teacher.folder for which in exports}
    folders = list(teachers)
    for folder in folders:
        (snippet,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        (folder / "snippet.py").write_text(snippet.replace(UNNAMED, str(teachers[folder])))
    script = (
        "import os, sys\nfor folder in sys.argv[1:]:\n    os.chdir(folder)\n    exec(open('snippet.py').read(), {})\n"
    )
    command = [sys.executable, "-c", script, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr
    assert all((folder / "clip.gif").stat().st_size > 0 for folder in folders)


def test_the_card_says_what_to_install_and_how_to_serve(
    make_student: Callable[..., Student], make_export: Callable[..., Exported]
) -> None:
    card = (make_export("wan", "lora", "lora").folder / "README.md").read_text()
    assert "pip install 'diffusers>=0.40.0' transformers accelerate ftfy peft" in card
    assert 'WanPipeline.from_pretrained("ORG/BASE-MODEL", dtype=torch.float32)' in card
    for text in (
        "for diffusers only",
        "pipe.transformer.compile_repeated_blocks()",
        "enable_model_cpu_offload",
        "style",
    ):
        assert text in card
    comfyui = (make_export("wan", "full", "comfyui").folder / "README.md").read_text()
    assert "## In ComfyUI\n\n1. Put `fewstep-4step.safetensors` into `models/diffusion_models`." in comfyui
    assert "With another LoRA" not in comfyui


def test_a_tokenizer_of_pieces_and_given_videos_need_further_packages(
    make_student: Callable[..., Student], tmp_path: Path
) -> None:
    student = make_student("wan", "full")
    shutil.copytree(student.teacher.folder, folder := tmp_path / "teacher")
    for path in (folder / "tokenizer").glob("tokenizer.json"):
        path.unlink()
    (folder / "tokenizer" / "spiece.model").write_bytes(b"pieces")
    teacher = copy(student.teacher)
    teacher.folder = folder
    contract = student.contract.model_copy(update={"given": ("control",)})
    line = install(replace(student, teacher=teacher, contract=contract), find_format("diffusers"))
    assert "accelerate ftfy sentencepiece protobuf imageio imageio-ffmpeg\n" in line
    assert "sentencepiece" not in install(student, find_format("diffusers"))


def test_the_least_diffusers_is_no_newer_than_this_one(make_student: Callable[..., Student]) -> None:
    assert set(FAMILIES) <= since().keys()
    for name, version in since().items():
        assert hasattr(diffusers, name) or "(" in name
        assert Version(version) <= Version(diffusers.__version__)
    assert least_diffusers(make_student("wan", "lora")) == "0.40.0"


def test_both_loras_add_up_whichever_is_loaded_first(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], tmp_path: Path
) -> None:
    """What the card says was tried."""
    student = make_student("wan", "lora")
    folder = make_export("wan", "lora", "lora").folder
    torch.manual_seed(9)
    style = {k: torch.randn_like(x) * 0.1 for k, x in load_file(folder / LORA_FILE).items()}
    save_file(style, tmp_path / LORA_FILE)
    z = student.teacher.noise([3], student.teacher.latent_shape(*student.contract.size))
    latents = {}
    for order, weight in ((0, 0.8), (1, 0.8), (0, 0.0)):
        pipe = stock_pipeline(student)
        loaded = [(folder, "fewstep", 1.0), (tmp_path, "style", weight)]
        for where, name, _ in loaded[::-1] if order else loaded:
            pipe.load_lora_weights(where, adapter_name=name)
        pipe.set_adapters([name for _, name, _ in loaded], [weight for *_, weight in loaded])
        latents[order, weight] = pipeline_latents(pipe, student)(z, ["a ring"])
    own = student.sample(z, student.teacher.conditions(["a ring"]))
    assert torch.allclose(latents[0, 0.8], latents[1, 0.8], atol=1e-4)
    assert torch.allclose(latents[0, 0.0], own, atol=1e-4) and not torch.allclose(latents[0, 0.8], own, atol=1e-2)
    network = merged_network(student)
    with torch.no_grad():
        for key in (key for key in style if ".lora_A." in key):
            down, up = style[key], style[key.replace("lora_A", "lora_B")]
            layer = network.get_submodule(key.removeprefix("transformer.").removesuffix(".lora_A.weight"))
            layer.weight += 0.8 * (up.flatten(1) @ down.flatten(1)).view_as(layer.weight)
    both = replace(student, network=network).sample(z, student.teacher.conditions(["a ring"]))
    assert torch.allclose(latents[0, 0.8], both, atol=1e-3)


def test_where_a_stage_comes_from_is_found_from_inside_its_run_and_through_links(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_provenance(run)
    (tmp_path / "best").symlink_to(run)
    assert read_provenance(tmp_path / "best") == expected and expected.results
    monkeypatch.chdir(run)
    assert read_provenance(Path()) == expected


@pytest.mark.parametrize("text", ["a: [", "- a", "stages: [8-step]"])
def test_a_recipe_that_cannot_be_read_is_named_before_anything_is_exported(run: Path, text: str) -> None:
    (run.parent.parent / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.yaml cannot be read \(.*restore it, or move it away"):
        read_provenance(run)


def test_a_card_of_the_base_model_that_is_broken_says_nothing(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], run: Path, tmp_path: Path
) -> None:
    student = make_student("wan", "lora")
    teacher = copy(student.teacher)
    teacher.folder = tmp_path / "teacher"
    teacher.folder.mkdir()
    (teacher.folder / "README.md").write_text("---\nlicense: apache-2.0\ntitle: foo: bar\n---\n# Model\n")
    card = card_of(replace(student, teacher=teacher), make_export("wan", "lora", "lora"), read_provenance(run))
    assert "Licence: that of the base model." in card


def test_a_figure_that_lost_its_interval_is_shown_alone(
    make_student: Callable[..., Student], make_export: Callable[..., Exported]
) -> None:
    rows = [{"model": "a", "metrics": {"psnr": {"value": 21.0, "low": None, "high": 2.0}}}, {"warnings": ["is still"]}]
    told = Provenance(results={"protocol": {}, "rows": rows})
    card = card_of(make_student("wan", "lora"), make_export("wan", "lora", "lora"), told)
    assert "| a |  | 21 |" in card and "- : is still" in card
