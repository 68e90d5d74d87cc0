"""The table of exports: rows of the other tool's own clips, measured once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fewstep.eval.results import read_results
from fewstep.eval.shapes import exports as export_table
from fewstep.eval.shapes.exports import OWN, ExportEntry, ExportTable, entries_of
from fewstep.eval.shapes.steps import Protocol
from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles
from fewstep.student.load_student import load_student
from fewstep.student.loading import Student
from fewstep.teacher.base import Teacher
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.load_teacher import load_teacher


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of the embedded teacher that hardly changes it."""
    teacher, folder = load_teacher("shapes", device="cpu"), tmp_path_factory.mktemp("stage")
    roles = Roles(teacher, "lora", rank=2)
    torch.manual_seed(0)
    for parameter in roles.average.values():
        parameter.add_(torch.randn_like(parameter) * 1e-3)
    roles.save(folder)
    size = teacher.default_size()
    assert size is not None
    SamplingContract.of(teacher, "shapes", 2, "lora", size, 1.0, "", 8.0).write(folder)
    return folder


@pytest.fixture(scope="module")
def student(stage: Path) -> Student:
    return load_student(stage, device="cpu")


def quiet(what: str, done: int, total: int) -> None:
    """Shows nothing."""


def test_rows_are_measured_once_and_refusals_are_told(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, refused = tmp_path / "export.json", list[str]()
    table = ExportTable(
        [student], Protocol(2, Guidance(), 0, reference=4), "fewstep shapes exports", out, tmp_path / "exports"
    )
    entries = [ExportEntry(student, OWN, 0.5), ExportEntry(student, "comfyui", 0.5)]
    own, row = table.measure(entries, quiet, refused.append)
    assert not refused and (own["size_mb"], row["kind"], row["library"]) == (0.5, "lora", "diffusers")
    assert 0 < row["relative_error"] < 1e-5 and row["seconds"] > 0 and row["num"] == 2
    assert row["shapes_fd"] == pytest.approx(own["shapes_fd"], rel=1e-3)
    assert (tmp_path / "exports" / "lora-2step-comfyui" / "workflow.json").is_file()
    assert read_results(out)[1] == [own, row]

    def broken(*arguments: object, **options: object) -> None:
        raise ValueError("it gives other latents")

    monkeypatch.setattr(export_table, "write_export", broken)
    again = table.measure([*entries, ExportEntry(student, "lora", 0.5)], quiet, refused.append)
    assert again == [own, row] and refused == ["lora of the lora student: it gives other latents"]


def test_a_student_that_was_trained_again_is_measured_again(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, measured = tmp_path / "export.json", list[str]()

    def row(self: ExportTable, entry: ExportEntry, progress: object) -> dict[str, object]:
        measured.append(entry.sha256)
        return entry.key

    monkeypatch.setattr(ExportTable, "_row", row)
    table = ExportTable([student], Protocol(2, Guidance(), 0, reference=4), "", out, tmp_path)
    for sha256 in ("old", "old", "new"):
        table.measure([ExportEntry(student, OWN, 0.5, sha256)], quiet, measured.append)
    assert measured == ["old", "new"]
    assert [row["weights_sha256"] for row in read_results(out)[1]] == ["new"]


def test_students_that_a_table_does_not_tell_apart_are_refused(student: Student, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two of these students are lora students of 2 steps"):
        ExportTable([student, student], Protocol(2, Guidance(), 0), "", tmp_path / "export.json", tmp_path)


def test_a_student_has_a_row_for_each_format_of_its_family(student: Student, stage: Path) -> None:
    entries = entries_of(student, stage)
    assert [entry.format for entry in entries][:5] == [OWN, "diffusers", "lora", "comfyui", "single-file"]
    size = (stage / "adapter.safetensors").stat().st_size
    assert all(entry.size_mb == round(size / 1e6, 3) for entry in entries)


def test_another_world_is_refused(tiny_teacher: Teacher, student: Student, tmp_path: Path) -> None:
    other = Student(tiny_teacher, student.network, student.contract)
    with pytest.raises(ValueError, match="the judge knows the shapes world only"):
        ExportTable([other], Protocol(2, Guidance(), 0), "", tmp_path / "export.json", tmp_path)
