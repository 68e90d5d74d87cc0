"""Exports are whole and proven, or not there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from fewstep.student.export import base, diffusers_folder
from fewstep.student.export.base import Format, Options, SampleLatents, Written, find_format
from fewstep.student.export.whole_folder import whole_folder
from fewstep.student.export.write_export import write_export
from fewstep.student.loading import Student
from fewstep.teacher.base import VideoSize
from tests.forked import Scripts


@pytest.fixture
def student(make_student: Callable[..., Student]) -> Student:
    return make_student("wan", "lora")


def with_diffusers(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    changed = replace(find_format("diffusers"), **changes)  # type: ignore[arg-type]
    monkeypatch.setitem(diffusers_folder.FORMATS, "diffusers", changed)


def test_other_latents_fail_the_export(student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = find_format("diffusers").reload

    def slightly_off(folder: Path, student: Student) -> SampleLatents:
        latents = usual(folder, student)

        def off(z: Tensor, prompts: Sequence[str]) -> Tensor:
            return latents(z, prompts) * 1.0001

        return off

    with_diffusers(monkeypatch, reload=slightly_off)
    with pytest.raises(ValueError, match=r"gives other latents .*relative error 0.0001, at most 1e-05 is allowed"):
        write_export(student, "diffusers", tmp_path / "out")
    assert not list(tmp_path.iterdir())
    with_diffusers(monkeypatch, reload=lambda *_: lambda z, _: z * float("nan"), tolerance=1.0)
    with pytest.raises(ValueError, match="relative error nan"):
        write_export(student, "diffusers", tmp_path / "out")
    with_diffusers(monkeypatch, reload=slightly_off, tolerance=1e-3)
    exported = write_export(student, "diffusers", tmp_path / "out")
    saved = json.loads((exported.folder / "export.json").read_text())
    assert saved["relative_error"] == pytest.approx(1e-4, rel=0.01) and saved["motion"] == pytest.approx(1, abs=1e-2)
    assert saved["format"] == "diffusers" and saved["size_mb"] > 0 and saved["seconds"] > 0


def test_every_size_of_the_contract_is_compared(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, wide = student.contract.size, VideoSize(5, 16, 32)
    several = replace(student, contract=student.contract.model_copy(update={"sizes": (usual, wide)}))
    exported = write_export(several, "diffusers", tmp_path / "fine")
    assert exported.relative_error <= 1e-5 and exported.notes[-1].endswith("its sizes, 16x16x9, 32x16x5.")
    card = (exported.folder / "README.md").read_text()
    for size in (usual, wide):
        assert f"- size: {size.num_frames} frames of {size.width} x {size.height} pixels, 8 frames per second" in card
    assert "clips of 9 frames of 16 x 16 or 5 frames of 32 x 16; with any other settings" in card
    own = find_format("diffusers").reload

    def off_at_the_second(folder: Path, arguments: Student) -> SampleLatents:
        latents = own(folder, arguments)
        return lambda z, prompts: latents(z, prompts) * (float("nan") if arguments.contract.size == wide else 1)

    with_diffusers(monkeypatch, reload=off_at_the_second)
    with pytest.raises(ValueError, match="relative error nan"):
        write_export(several, "diffusers", tmp_path / "out")
    with_diffusers(monkeypatch, reload=off_at_the_second, one_size=True)
    notes = write_export(several, "diffusers", tmp_path / "out").notes
    assert notes[-1] == "It makes clips of 16x16x9 only; the student was taught 16x16x9, 32x16x5."


def test_a_library_that_is_missing_is_named_with_its_extra(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_diffusers(monkeypatch, needs=("no_such_library",), extra="quant")
    with pytest.raises(ValueError, match=r"diffusers needs no_such_library .*: pip install 'fewstep\[quant\]'"):
        write_export(student, "diffusers", tmp_path / "out")


def test_a_stopped_export_leaves_nothing(student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(student: Student, folder: Path, options: Options) -> Written:
        (folder / "half").write_text("a")
        raise KeyboardInterrupt

    with_diffusers(monkeypatch, write=stopped)
    with pytest.raises(KeyboardInterrupt):
        write_export(student, "diffusers", tmp_path / "out")
    assert not list(tmp_path.iterdir())


KILLED = """
import sys, time
from pathlib import Path
from fewstep.student.export.whole_folder import whole_folder
with whole_folder(Path(sys.argv[1]), force=True) as part:
    (part / "export.json").write_text("new")
    time.sleep(60)
"""


def test_what_a_killed_one_leaves_is_not_under_the_name(tmp_path: Path) -> None:
    out, part = tmp_path / "out", tmp_path / ".out.part"
    with whole_folder(out) as fresh:
        (fresh / "export.json").write_text("old")
    (logs := tmp_path / "logs").mkdir()
    (logs / "killed.py").write_text(KILLED)
    process = Scripts(1, logs / "killed.py", out, logs=logs)
    end = time.monotonic() + 60
    while not (part / "export.json").exists() and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.ends()
    assert part.exists() and (out / "export.json").read_text() == "old"
    with whole_folder(out, force=True) as fresh:
        assert not list(fresh.iterdir())
        (fresh / "export.json").write_text("newer")
    assert (out / "export.json").read_text() == "newer" and {path.name for path in tmp_path.iterdir()} == {
        "logs",
        "out",
    }


def test_one_killed_between_its_renames_is_put_back(tmp_path: Path) -> None:
    old = tmp_path / ".out.old"
    old.mkdir()
    (old / "export.json").write_text("old")
    with (
        pytest.raises(ValueError, match="is there already: choose another --out, or pass --force"),
        whole_folder(tmp_path / "out"),
    ):
        pass
    assert (tmp_path / "out" / "export.json").read_text() == "old"


def test_only_exports_are_replaced(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x")
    with (
        pytest.raises(ValueError, match=r"is not an export .*--force leaves it alone"),
        whole_folder(precious, force=True),
    ):
        pass
    with pytest.raises(ValueError, match="is not an export"), whole_folder(precious / "thesis.tex", force=True):
        pass
    assert (precious / "thesis.tex").read_text() == "x"


def test_modules_of_formats_hold_what_is_promised() -> None:
    for name in base.MODULES:
        format = find_format(name)
        assert isinstance(format, Format) and format.name == name
        assert bool(format.needs) == bool(format.extra)


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "big")
    for text in ("first", "second", "third"):
        with whole_folder(tmp_path / "out", force=True) as fresh:
            (fresh / "export.json").write_text(text)
        assert (tmp_path / "big" / "export.json").read_text() == text and (tmp_path / "out").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "out"]


def test_two_exports_do_not_write_one_folder(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as first:
        with (
            pytest.raises(ValueError, match=r"another process is writing .*out: wait for it"),
            whole_folder(tmp_path / "out"),
        ):
            pass
        (first / "export.json").write_text("first")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["export.json"]
