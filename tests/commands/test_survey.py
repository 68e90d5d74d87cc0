"""`fewstep teacher survey`: what can be done with each pipeline, or the sentence that says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fewstep.commands.survey_tries import least_size, tried, write_noise_files
from fewstep.eval.results import read_results
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.given import Prompt, read_given
from tests.cases.breaking import edited
from tests.commands.typed import fewstep
from tests.teacher.modular import save_modular

DONE = {"sample": True, "run": True, "export": True, "exact": True, "sentence": ""}
REFUSED = {"sample": False, "run": False, "export": False, "exact": False}


def test_rows_say_what_was_done_or_why_not(tiny_wan_folder: Path, tmp_path: Path) -> None:
    known, unknown = (Path(shutil.copytree(tiny_wan_folder, tmp_path / name)) for name in ("known", "unknown"))
    edited("model_index.json", _class_name="AllegroPipeline")(unknown)
    code, output = fewstep("teacher", "survey", known, f"{unknown}/", "--out", tmp_path / "teachers.json")
    assert code == 0, output
    command, rows = read_results(tmp_path / "teachers.json")
    assert command == f"fewstep teacher survey {known} {unknown} --out {tmp_path / 'teachers.json'}"
    assert rows[0] == {"folder": "known", "pipeline": "WanPipeline", **DONE}
    sentence = rows[1].pop("sentence")
    assert rows[1] == {"folder": "unknown", "pipeline": "AllegroPipeline", **REFUSED}
    assert sentence.startswith("unknown is an AllegroPipeline, a family that fewstep does not know: use one of")
    assert len((tmp_path / "teachers.md").read_text().splitlines()) == 4


def test_a_modular_pipeline_is_exported_whole(tiny_wan_folder: Path, tmp_path: Path) -> None:
    """It becomes a classical one; into itself nothing can be put, as its classical class does not open it."""
    save_modular(tiny_wan_folder, tmp_path / "T")
    assert tried(tmp_path / "T", tmp_path / "work") == {"pipeline": "WanModularPipeline", **DONE}
    exported = json.loads((tmp_path / "work" / "export" / "model_index.json").read_text())
    assert exported["_class_name"] == "WanPipeline" and "_blocks_class_name" not in exported
    export = ["export", tmp_path / "work" / "run", "--to", "lora", "--out", tmp_path / "lora", "--device", "cpu"]
    code, output = fewstep(*export)
    assert code == 2 and "is a modular pipeline, which WanPipeline.from_pretrained does not open" in output
    assert not (tmp_path / "lora").exists()


def test_a_failure_that_the_dry_run_did_not_see_is_told_from_a_refusal(
    tiny_wan_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewstep.commands.survey_tries.follow_stages", lambda *_, **__: 1 / 0)
    row = tried(tiny_wan_folder, tmp_path / "work")
    assert row["sample"] and not row["run"]
    assert row["sentence"] == "approved by the dry run, but not by the run (ZeroDivisionError): division by zero"


def test_the_least_size_has_more_than_one_latent_frame(tiny_teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    assert least_size(tiny_teacher) == VideoSize(9, 16, 16)

    def none(*_: int) -> None:
        raise ValueError("no size can be made")

    monkeypatch.setattr(tiny_teacher, "latent_shape", none)
    with pytest.raises(ValueError, match="no size can be made"):
        least_size(tiny_teacher)


def test_what_is_given_is_written_in_its_size(tmp_path: Path) -> None:
    sizes = {"first": VideoSize(1, 16, 32), "control": VideoSize(9, 16, 32)}
    files = write_noise_files(tmp_path / "given", sizes)
    videos = read_given([Prompt("a ring", {name: Path(path) for name, path in files.items()})], sizes, 8.0)
    assert {name: tuple(video.shape[2:]) for name, video in videos.items()} == {n: tuple(s) for n, s in sizes.items()}


def test_two_folders_of_one_name_are_refused(tiny_wan_folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "T").mkdir(parents=True)
        (tmp_path / name / "T" / "model_index.json").write_text(json.dumps({"_class_name": "X"}))
    code, output = fewstep(
        "teacher", "survey", tmp_path / "a" / "T", tmp_path / "b" / "T", "--out", tmp_path / "t.json"
    )
    assert code == 2 and "two folders are called T" in output and not (tmp_path / "t.json").exists()
