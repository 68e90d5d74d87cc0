"""The contract: whole or refused, and honoured or forced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fewstep.student.contract import CONTRACT_FILE, SamplingContract, read_contract
from fewstep.student.sampler import clip_size
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.load_teacher import load_teacher

OLDER = Path(__file__).parent / "contracts"


@pytest.fixture(scope="module")
def contract(tiny_teacher: Teacher) -> SamplingContract:
    return SamplingContract.of(tiny_teacher, "tiny", 4, "full", VideoSize(9, 16, 16), 5.0, "", 8.0)


def test_nodes_are_those_of_the_teachers_shift(contract: SamplingContract) -> None:
    assert contract.times == pytest.approx([1, 0.9375, 0.8333333, 0.625, 0])
    assert contract.timesteps == pytest.approx([1000, 937.5, 833.3333, 625])
    assert contract.grid.tolist() == list(contract.times)


def test_it_survives_the_disk(contract: SamplingContract, tmp_path: Path) -> None:
    contract.write(tmp_path)
    assert read_contract(tmp_path) == contract


@pytest.mark.parametrize(
    ("version", "weights", "baked"), [(1, "full", "7@0.3-0.93"), (2, "lora", "3"), (3, "lora", "3"), (4, "lora", "3")]
)
def test_files_of_older_versions_are_read(version: int, weights: str, baked: str, tmp_path: Path) -> None:
    """Each was written by a run of the embedded teacher when that version was the newest."""
    text = (OLDER / f"version-{version}.json").read_text()
    (tmp_path / CONTRACT_FILE).write_text(text)
    contract = read_contract(tmp_path)
    assert contract.version == 5 and contract.control_scale == 1 and json.loads(text)["version"] == version
    assert contract.sizes == (VideoSize(17, 64, 64),) and (contract.experts, contract.given) == ((), ())
    assert (contract.weights, str(contract.baked_guidance), contract.embedded_guidance) == (weights, baked, None)
    teacher = load_teacher("shapes", device="cpu")
    contract.check_teacher(teacher)
    contract.prepare(teacher)
    contract.check(size=VideoSize(9, 64, 96))  # of one size: any
    contract.write(tmp_path)
    assert read_contract(tmp_path) == contract
    for name in (old := json.loads(text)):
        (tmp_path / CONTRACT_FILE).write_text(json.dumps({k: v for k, v in old.items() if k != name}))
        with pytest.raises(ValueError, match="is not whole"):
            read_contract(tmp_path)


def test_contracts_of_newer_versions_are_refused(contract: SamplingContract, tmp_path: Path) -> None:
    (tmp_path / CONTRACT_FILE).write_text(contract.model_dump_json().replace('"version":5', '"version":6'))
    with pytest.raises(ValueError, match=r"is not whole \(version"):
        read_contract(tmp_path)


def test_a_contract_that_lost_any_line_is_refused(contract: SamplingContract, tmp_path: Path) -> None:
    contract.write(tmp_path)
    whole = json.loads((tmp_path / CONTRACT_FILE).read_text())
    for name in whole:
        (tmp_path / CONTRACT_FILE).write_text(json.dumps({k: v for k, v in whole.items() if k != name}))
        with pytest.raises(ValueError, match=f"is not whole \\({name}"):
            read_contract(tmp_path)
    lines = json.dumps(whole, indent=1).splitlines()
    for i in range(len(lines)):
        (tmp_path / CONTRACT_FILE).write_text("\n".join(lines[:i] + lines[i + 1 :]))
        with pytest.raises(ValueError, match="is not whole"):
            read_contract(tmp_path)


def test_missing_and_inconsistent_contracts_are_refused(contract: SamplingContract, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no contract\.json"):
        read_contract(tmp_path)
    (tmp_path / CONTRACT_FILE).write_text(contract.model_dump_json().replace('"steps":4', '"steps":3'))
    with pytest.raises(ValueError, match="3 steps need 4 times"):
        read_contract(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 10**8), ("times", [1, 0.5, 0.7, 0.2, 0]), ("times", [1, 0.8, 0.6, 0.4, 0.2]), ("shift", 0),
        ("fps", -1), ("fps", 1e300), ("sizes", [[10**6, 16, 16]]), ("given", ["nothing"]), ("baked_guidance", 1e308),
        ("embedded_guidance", -1), ("control_scale", -1), ("control_scale", []),
    ],
)  # fmt: skip
def test_contracts_of_odd_values_are_refused(
    contract: SamplingContract, tmp_path: Path, name: str, value: object
) -> None:
    (tmp_path / CONTRACT_FILE).write_text(json.dumps(contract.model_dump(mode="json") | {name: value}))
    with pytest.raises(ValueError, match="is not whole"):
        read_contract(tmp_path)


def test_other_settings_are_refused_with_the_reason(contract: SamplingContract) -> None:
    contract.check(steps=4, shift=5.0, guidance=1.0)
    contract.check()
    with pytest.raises(ValueError, match=r"trained for steps 4, not 8: .*--force"):
        contract.check(steps=8)
    with pytest.raises(ValueError, match=r"trained for shift 5, not 8: .*--force"):
        contract.check(shift=8.0)
    with pytest.raises(ValueError, match=r"trained for guidance 1, not 5: .*into its weights.*--force"):
        contract.check(guidance=5.0)


def test_another_teacher_is_refused(contract: SamplingContract, make_tiny_wan: object, tmp_path: Path) -> None:
    make_tiny_wan(tmp_path, experts=2, boundary_ratio=0.5)  # type: ignore[operator]
    with pytest.raises(ValueError, match="the student's teacher was tiny"):
        contract.check_teacher(load_teacher(tmp_path, device="cpu"))


def test_a_rate_that_the_denoiser_takes_is_the_one_that_was_trained(tiny_ltx_folder: Path) -> None:
    """It is in a file that says nothing of weights, so that another folder of the same ones may have another."""
    teacher = load_teacher(tiny_ltx_folder, device="cpu")
    trained = [
        SamplingContract.of(teacher, "tiny", 2, "full", VideoSize(9, 64, 64), 1.0, "", fps) for fps in (8.0, 30.0)
    ]
    trained[0].prepare(teacher)
    with pytest.raises(ValueError, match=r'clips of 30 frames per second, .* has 8: .* write {"fps": 30}'):
        trained[1].prepare(teacher)


def test_a_converted_student_fits_a_teacher_that_predicts_eps(
    tiny_teacher: Teacher, tiny_animatediff_folder: Path
) -> None:
    teacher, size = load_teacher(tiny_animatediff_folder, device="cpu"), VideoSize(4, 16, 16)
    made = [SamplingContract.of(teacher, "tiny", 1, "full", size, 1.0, "", 8.0, p) for p in (None, "v", "x0")]
    assert [contract.prediction for contract in made] == ["eps", "v", "x0"]
    for contract in made:
        contract.check_teacher(teacher)
    with pytest.raises(ValueError, match="the contract says vp with flow-prediction, the teacher vp with eps"):
        made[0].model_copy(update={"prediction": "flow"}).check_teacher(teacher)
    flow = SamplingContract.of(tiny_teacher, "tiny", 4, "full", VideoSize(9, 16, 16), 5.0, "", 8.0)
    with pytest.raises(ValueError, match="the contract says flow with x0-prediction, the teacher flow with flow"):
        flow.model_copy(update={"prediction": "x0"}).check_teacher(tiny_teacher)


def test_a_given_shift_is_in_the_contract_and_another_teachers_shift_is_no_obstacle(
    contract: SamplingContract, tiny_wan_folder: Path, tiny_teacher: Teacher
) -> None:
    teacher = load_teacher(tiny_wan_folder, device="cpu", shift=2.0)
    given = SamplingContract.of(teacher, "tiny", 4, "full", VideoSize(9, 16, 16), 5.0, "", 8.0)
    assert given.shift == 2.0 and given.times == pytest.approx([1, 6 / 7, 2 / 3, 0.4, 0])
    given.check_teacher(tiny_teacher)  # the nodes are the contract's own


def test_timesteps_that_the_teacher_is_not_fed_are_refused(contract: SamplingContract, tiny_teacher: Teacher) -> None:
    other = contract.model_copy(update={"timesteps": (999.0, 936.0, 833.0, 624.0)})
    with pytest.raises(ValueError, match=r"timesteps 999, 936, 833, 624 at its nodes, and .* is passed 1000, 937\.5"):
        other.check_teacher(tiny_teacher)


def test_a_student_of_several_sizes_refuses_others(contract: SamplingContract, tiny_teacher: Teacher) -> None:
    sizes = (VideoSize(9, 16, 16), VideoSize(5, 16, 32))
    several = SamplingContract.of(tiny_teacher, "tiny", 4, "full", sizes, 5.0, "", 8.0)
    assert several.size == sizes[0] and several.differences(contract) == ["sizes"]
    several.check(size=sizes[1])
    with pytest.raises(ValueError, match=r"trained for sizes 16x16x9, 32x16x5, not 16x16x5: .*--force"):
        several.check(size=VideoSize(5, 16, 16))
    contract.check(size=VideoSize(5, 16, 16))  # of one size: any
    assert several.at(sizes[1]).sizes == sizes[::-1] and several.at(sizes[0]) == several
    with pytest.raises(ValueError, match="16x16x9 is listed twice"):
        SamplingContract.of(tiny_teacher, "tiny", 4, "full", sizes[:1] * 2, 5.0, "", 8.0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((None, None, None), (9, 16, 16)),
        ((5, None, None), (5, 16, 32)),
        ((None, None, 32), (5, 16, 32)),
        ((None, 32, None), (9, 32, 16)),  # no size agrees: the rest is the usual one's
    ],
)
def test_what_is_asked_of_a_size_chooses_among_several(
    arguments: tuple[int | None, int | None, int | None], expected: tuple[int, int, int]
) -> None:
    assert clip_size((VideoSize(9, 16, 16), VideoSize(5, 16, 32)), *arguments) == VideoSize(*expected)
