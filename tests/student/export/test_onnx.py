"""The ONNX graph in onnxruntime, for batches of any size, and what is not opened."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from fewstep.student.contract import UNNAMED
from fewstep.student.export.base import EXACT, Exported, find_format
from fewstep.student.export.write_export import write_export
from fewstep.student.loading import Student
from fewstep.student.sampler import Sampler, SamplingOptions, open_sampler, student_sampler
from fewstep.teacher.source import size_text

onnx: Any = pytest.importorskip("onnx", reason="the extra fewstep[onnx] is not installed")
for module in ("onnxscript", "onnxruntime"):
    pytest.importorskip(module, reason="the extra fewstep[onnx] is not installed")


def latents(sampler: Sampler, num: int) -> Tensor:
    return sampler.sample(sampler.noise(range(num)), sampler.conditions(["a ring", "two dots on blue", "x"][:num]))


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.fixture
def file(make_export: Callable[..., Exported], tmp_path: Path) -> Path:
    """A graph of one's own, outside of its folder."""
    return Path(shutil.copy(make_export("wan32", "lora", "onnx").folder / "fewstep-4step.onnx", tmp_path))


@pytest.mark.parametrize(
    ("family", "train"), [("wan32", "lora"), pytest.param("cogvideox1", "full", marks=pytest.mark.slow)]
)
def test_onnxruntime_gives_the_same_latents_for_any_batch(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], family: str, train: str
) -> None:
    student, exported = make_student(family, train), make_export(family, train, "onnx")
    assert exported.relative_error <= EXACT and exported.motion is None
    own, back = (
        student_sampler(student, "own", SamplingOptions()),
        open_sampler(exported.folder, teacher=student.teacher),
    )
    assert back.contract is not None and back.contract.differences(student.contract) == []
    for num in (1, 3):
        assert difference(latents(back, num), latents(own, num)) < EXACT


def test_a_file_and_a_teacher_are_enough_and_the_snippet_runs(
    make_student: Callable[..., Student],
    make_export: Callable[..., Exported],
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student = make_student("wan32", "lora")
    own, back = student_sampler(student, "own", SamplingOptions()), open_sampler(file, teacher=student.teacher)
    assert back.contract is not None and back.contract.differences(student.contract) == []
    assert difference(latents(back, 2), latents(own, 2)) < EXACT
    folder = make_export("wan32", "lora", "onnx").folder
    monkeypatch.chdir(folder)
    (snippet,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    exec(snippet.replace(UNNAMED, str(student.teacher.folder)), {})
    assert (folder / "clip.gif").stat().st_size > 0


def test_what_is_not_whole_or_of_another_student_is_refused(
    file: Path, make_student: Callable[..., Student], tiny_cogvideox_folder: Path
) -> None:
    teacher = str(make_student("wan32", "lora").teacher.folder)
    whole = file.read_bytes()
    with pytest.raises(ValueError, match=r"the ONNX graph takes one size of clips only .*leave --frames"):
        latents(open_sampler(file, SamplingOptions(height=32, width=32), teacher, device="cpu"), 1)
    with pytest.raises(ValueError, match="the student's teacher was"):
        open_sampler(file, teacher=str(tiny_cogvideox_folder), device="cpu")
    model = onnx.load(file)
    model.graph.input[0].name = "pixels"
    for node in model.graph.node:
        node.input[:] = ["pixels" if name == "hidden_states" else name for name in node.input]
    onnx.save(model, file)
    with pytest.raises(ValueError, match=r"takes .*pixels.*, which a WanTransformer3DModel does not"):
        open_sampler(file, teacher=teacher, device="cpu")
    for broken in (whole[:5], whole[: len(whole) // 2], b"\x80\x04pickle"):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match="is not a whole ONNX file"):
            open_sampler(file, device="cpu")


def test_a_missing_contract_is_refused(file: Path) -> None:
    model = onnx.load(file)
    contract = next(entry for entry in model.metadata_props if entry.key == "fewstep_contract")
    contract.value = contract.value.replace('"shift":5.0,', "")
    onnx.save(model, file)
    with pytest.raises(ValueError, match=r"in the header of .* is not whole \(shift: Field required\)"):
        open_sampler(file, device="cpu")
    model.metadata_props.remove(contract)
    onnx.save(model, file)
    with pytest.raises(ValueError, match="no sampling contract in its header"):
        open_sampler(file, device="cpu")


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"onnx needs onnxruntime .*: pip install 'fewstep\[onnx\]'"):
        find_format("onnx").check_needs()


@pytest.mark.slow
def test_a_graph_of_a_student_of_several_sizes_says_which_it_makes(
    make_student: Callable[..., Student], tmp_path: Path
) -> None:
    student = make_student("wan32", "lora")
    usual = student.contract.size
    wide = usual._replace(width=2 * usual.width)
    several = replace(student, contract=student.contract.model_copy(update={"sizes": (usual, wide)}))
    exported = write_export(several, "onnx", tmp_path / "onnx")
    assert exported.relative_error <= EXACT and f"clips of {size_text(usual)} only" in exported.notes[-1]
    back = open_sampler(exported.folder, SamplingOptions(width=wide.width), student.teacher)
    with pytest.raises(ValueError, match="takes one size of clips only"):
        latents(back, 1)
