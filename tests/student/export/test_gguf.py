"""The GGUF file in diffusers, as ComfyUI-GGUF wants it, and what is not opened."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from fewstep.student.export.base import Exported, ExportPrecision, Options, Written, find_format
from fewstep.student.export.write_export import write_export
from fewstep.student.loading import Student
from fewstep.student.sampler import Sampler, SamplingOptions, open_sampler, student_sampler
from fewstep.teacher.families.wan_files import WAN_NAMES

gguf: Any = pytest.importorskip("gguf", reason="the extra fewstep[gguf] is not installed")


def latents(sampler: Sampler) -> Tensor:
    return sampler.sample(sampler.noise([7, 8]), sampler.conditions(["a ring", "two dots"]))


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.fixture
def file(make_export: Callable[..., Exported], tmp_path: Path) -> Path:
    """A file of one's own, outside of its folder."""
    return Path(shutil.copy(make_export("wan32", "full", "gguf").folder / "fewstep-4step-Q8_0.gguf", tmp_path))


def test_diffusers_loads_it_and_so_do_we(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], file: Path
) -> None:
    student, exported = make_student("wan32", "full"), make_export("wan32", "full", "gguf")
    assert 0 < exported.relative_error <= 1e-2 and exported.motion is not None
    own, back = (
        student_sampler(student, "own", SamplingOptions()),
        open_sampler(exported.folder, teacher=student.teacher),
    )
    assert back.contract is not None and back.contract.differences(student.contract) == []
    assert 0 < difference(latents(back), latents(own)) < 2e-2
    assert torch.equal(latents(open_sampler(file, teacher=str(student.teacher.folder), device="cpu")), latents(back))


def test_it_is_as_comfyui_wants_it(make_student: Callable[..., Student], file: Path) -> None:
    """Architecture, original names; all in full but matrices within half a step of Q8_0, whose scales are halves."""
    state = {
        WAN_NAMES.to_original(name): tensor
        for name, tensor in make_student("wan32", "full").network.state_dict().items()
    }
    reader = gguf.GGUFReader(file)
    assert reader.get_field("general.architecture").contents() == "wan"
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors.keys() == state.keys()
    rounded = {name for name, tensor in tensors.items() if tensor.tensor_type.name == "Q8_0"}
    assert "blocks.0.self_attn.q.weight" in rounded and all(name.startswith("blocks.") for name in rounded)
    for name, tensor in tensors.items():
        values = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        step = state[name].abs().max() / 127 if name in rounded else 0.0
        assert values.shape == state[name].shape and (values - state[name]).abs().max() <= 0.6 * step, name


def test_the_snippet_runs(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, student = make_export("wan32", "full", "gguf").folder, make_student("wan32", "full")
    monkeypatch.chdir(folder)
    exec(find_format("gguf").snippet(student, Written()), {})  # of a student in a run, whose teacher is a folder
    assert (folder / "clip.gif").stat().st_size > 0


def test_another_family_is_refused(make_student: Callable[..., Student], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"gguf is not possible for students of CogVideoXPipeline .*: export to diffusers or lora or"
    ):
        write_export(make_student("cogvideox", "full"), "gguf", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_is_not_whole_or_of_another_student_is_refused(
    file: Path, make_student: Callable[..., Student], tmp_path: Path
) -> None:
    whole, teacher = file.read_bytes(), make_student("wan32", "full").teacher
    other = Path(shutil.copytree(teacher.folder, tmp_path / "other"))
    WanTransformer3DModel.from_config({**teacher.pipeline.transformer.config, "ffn_dim": 64}).save_pretrained(
        other / "transformer"
    )
    with pytest.raises(ValueError, match="the student's teacher was"):
        open_sampler(file, teacher=str(other), device="cpu")
    with pytest.raises(
        ValueError, match=r"is no WanTransformer3DModel of the teacher's size \(see blocks.0.ffn.0.bias\)"
    ):
        find_format("gguf").network(file, open_sampler(other, device="cpu").teacher)
    for broken in (whole[:5], whole[:200], whole[: len(whole) // 2], whole[:-50], b"\x80\x04pickle" * 9):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match="is not a whole GGUF file"):
            open_sampler(file, device="cpu")


def test_a_missing_contract_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'"shift":5.0,', b'"shaft":5.0,'))
    with pytest.raises(ValueError, match=r"in the header of .* is not whole \(shift: Field required\)"):
        open_sampler(file, device="cpu")
    file.write_bytes(whole.replace(b"fewstep_contract", b"fewstep_kontract"))
    with pytest.raises(ValueError, match="no sampling contract in its header"):
        open_sampler(file, device="cpu")


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"gguf needs gguf .*: pip install 'fewstep\[gguf\]'"):
        find_format("gguf").check_needs()


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_what_is_not_in_eight_bits_is_in_the_precision(
    make_student: Callable[..., Student], tmp_path: Path, precision: ExportPrecision
) -> None:
    done = write_export(make_student("wan32", "full"), "gguf", tmp_path / "out", Options(precision=precision))
    assert done.relative_error < 2e-2
    (file,) = done.folder.glob("*.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    assert kinds["head.head.weight"] == {"float16": "F16", "bfloat16": "BF16"}[precision]
    assert kinds["patch_embedding.weight"] == "F32"  # diffusers reads convolutions in no other
    assert kinds["blocks.0.self_attn.q.weight"] == "Q8_0" and kinds["blocks.0.self_attn.q.bias"] == "F32"
