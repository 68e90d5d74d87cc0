"""No file of an export tells where anything lies on the machine that it was made on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

import fewstep.teacher
from fewstep.student.contract import UNNAMED, read_contract
from fewstep.student.export.base import MODULES, Exported, Options, find_format
from fewstep.student.export.privacy import check_base_model, forget_origins, results_without_paths, without_paths
from fewstep.student.export.provenance import Provenance
from fewstep.student.export.write_export import write_export
from fewstep.student.load_student import load_student
from fewstep.student.loading import Student
from fewstep.student.outline import outline_sampler
from fewstep.student.sampler import SamplingOptions, open_sampler

FORMATS = {name: ("animatediff" if name == "part" else "wan32") for name in MODULES}


LONG = ("onnx", "torchao-fp8")  # the latter is written as torchao-int8 is


@pytest.mark.parametrize("to", [pytest.param(to, marks=pytest.mark.slow) if to in LONG else to for to in FORMATS])
def test_no_file_names_a_folder(make_student: Callable[..., Student], tmp_path: Path, to: str) -> None:
    """Neither the teacher's, nor the student's, nor that of any library."""
    if any(find_spec(module) is None for module in find_format(to).needs):
        pytest.skip(f"an extra of {to} is not installed")
    student = make_student(FORMATS[to], "full")
    if to == "part":
        state = student.teacher.denoiser.state_dict()
        motion = {n: x + 0.01 for n, x in state.items() if "motion_modules" in n and x.is_floating_point()}
        network = type(student.network).from_config(student.network.config)  # type: ignore[attr-defined]
        network.load_state_dict({**state, **motion})
        student = replace(student, network=network)
    student.network.register_to_config(_name_or_path=str(student.teacher.folder))  # type: ignore[operator]
    recipe = f"teacher: {student.teacher.folder}\ndata: {{captions: {tmp_path}/captions.csv}}\n"
    results = {"rows": [], "protocol": {"prompts": f"{tmp_path}/p.txt"}, "command": f"fewstep evaluate {tmp_path}/r@4"}
    provenance = Provenance(recipe=recipe, results=results)
    out = write_export(student, to, tmp_path / "out", Options(), provenance).folder
    assert read_contract(out).teacher == UNNAMED
    secrets = [str(tmp_path), str(student.teacher.folder), str(Path.home()), str(Path(torch.__file__).parents[2])]
    secrets.append(str(Path(fewstep.teacher.__path__[0]).resolve().parent))
    for file in (path for path in out.rglob("*") if path.is_file()):
        content = file.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], file
    card = (out / "README.md").read_text()
    assert f"teacher: {UNNAMED}" in card and "captions: captions.csv" in card and "| prompts | p.txt |" in card
    if to not in ("diffusers", "torchao-int8", "torchao-fp8", "onnx"):
        assert (
            f'from_pretrained("{UNNAMED}"' in card and "put in the base model's name on the hub, or its folder" in card
        )


def test_a_named_base_model_is_in_contract_card_and_snippet(
    make_student: Callable[..., Student], tmp_path: Path
) -> None:
    out = write_export(make_student("wan", "lora"), "lora", tmp_path / "out", Options(base_model="me/teacher")).folder
    assert read_contract(out).teacher == "me/teacher"
    card = (out / "README.md").read_text()
    data = ModelCard(card).data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("me/teacher", "adapter")
    assert 'WanPipeline.from_pretrained("me/teacher", dtype=torch.float32)' in card and "put in" not in card


@pytest.mark.parametrize("name", ["/data/wan", "./wan", "wan", "a b/c", "me/wan/2", "", "me/", "https://hub/me/wan"])
def test_a_base_model_that_is_no_name_on_the_hub_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^--base-model .*must be the base model's name on the hub, such as ORG/NAME"):
        check_base_model(name)


def test_a_folder_is_no_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "wan").mkdir(parents=True)
    check_base_model("models/wan")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="and no folder"):
        check_base_model("models/wan")


def test_an_unnamed_teacher_is_asked_for(
    make_student: Callable[..., Student], make_export: Callable[..., Exported]
) -> None:
    folder, student = make_export("wan", "lora", "lora").folder, make_student("wan", "lora")
    for ask in (
        lambda: open_sampler(folder, device="cpu"),
        lambda: outline_sampler(folder, SamplingOptions()),
        lambda: load_student(folder, device="cpu"),
    ):
        with pytest.raises(ValueError, match=r"does not tell where its base model is.*--teacher of `fewstep sample`"):
            ask()
    assert open_sampler(folder, teacher=str(student.teacher.folder), device="cpu").contract is not None


def test_origins_are_emptied_and_all_else_stays(tmp_path: Path) -> None:
    nested = {
        "special_tokens_map_file": "/home/me/map.json",
        "vocab_file": "vocab.json",
        "of": [{"name_or_path": "~/x"}],
    }
    config = {"_name_or_path": "/home/me/wan", "layers": 4, "path": "/usr", "text_config": nested}
    emptied = nested | {"special_tokens_map_file": "", "of": [{"name_or_path": ""}]}
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps(config))
    other = '{"_name_or_path":  "me/wan"}'
    (tmp_path / "config.json").write_text(other)
    shutil.copy(tmp_path / "vae" / "config.json", tmp_path / "vae" / "tokens.json")
    forget_origins(tmp_path)
    assert json.loads((tmp_path / "vae" / "config.json").read_text()) == config | {
        "_name_or_path": "",
        "text_config": emptied,
    }
    assert (tmp_path / "config.json").read_text() == other
    assert json.loads((tmp_path / "vae" / "tokens.json").read_text()) == config


@pytest.mark.parametrize(
    ("facts", "kept"),
    [
        ("/home/me/x.txt", "x.txt"),
        ("~/a b/x.txt", "x.txt"),
        ("see /home/me/run@4: bad", "see run@4: bad"),
        ("out:/home/me/x", "out:x"),
        (r"C:\Users\me\x", "x"),
        (r"it is C:\Users\me\x.", "it is x."),
        ("https://a.b/c/d, 20 frames/s, a/b", "https://a.b/c/d, 20 frames/s, a/b"),
        ({"a": ["/home/me/x", 1, None]}, {"a": ["x", 1, None]}),
    ],
)
def test_of_absolute_paths_names_are_left(facts: object, kept: object) -> None:
    assert without_paths(facts) == kept


def test_of_folders_with_blanks_names_are_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/John Smith")
    assert without_paths("cannot read /home/John Smith/my clips/a.mp4") == "cannot read my clips/a.mp4"
    monkeypatch.chdir(tmp_path)
    assert without_paths(f"wrote {tmp_path}/out/a.mp4") == "wrote out/a.mp4"


def test_of_a_command_names_are_left() -> None:
    command = "fewstep evaluate teacher=/data/wan@50:3 '/home/me/my run@4' --prompts=/x/p.txt --num 5 runs/a"
    kept = results_without_paths({"command": command, "rows": []})["command"]
    assert kept == "fewstep evaluate teacher=wan@50:3 'my run@4' --prompts=p.txt --num 5 runs/a"
