"""Two processes, whatever the layout: they train what one process does, go on from each other, and end together.

`--scale FILE` runs every layout, and writes the table docs/results/scale.json.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fewstep.distill.settings import Stage
from fewstep.eval.results import write_results
from fewstep.student.few_bits import base_of
from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher
from tests.distill.conftest import rollouts
from tests.distill.one_stage import Case
from tests.distill.several_processes import OBJECTIVES, Job, Layout, begin, end, processes, run

STEPS = 5
Rows = list[dict[str, Any]]
LIMITS = {"ddp": 1e-5, "fsdp": 1e-4}
ALWAYS = [
    Layout("adversarial", "full", "ddp"),
    Layout("adversarial-trained", "lora", "fsdp", recompute="selective", background=True),
]
FOR_THE_TABLE = [
    Layout("regression", "full", "fsdp", background=True),
    Layout("adversarial-lora", "lora", "fsdp", "adamw4bit", "int8"),
    Layout("regression", "full", "ddp"),
    *(Layout(objective, "lora", "ddp") for objective in ("regression", "adversarial")),
    *(Layout(objective, "full", "ddp") for objective in ("adversarial-lora", "adversarial-trained")),
    *(Layout(objective, "full", "fsdp") for objective in ("adversarial", "adversarial-lora", "adversarial-trained")),
    *(Layout(objective, "lora", "fsdp") for objective in OBJECTIVES),
    Layout("adversarial", "full", "ddp", recompute="selective"),
    Layout("regression", "full", "fsdp", "adamw8bit"),
    Layout("adversarial-trained", "full", "fsdp", "adamw8bit"),
    Layout("adversarial-lora", "full", "ddp", "adamw8bit"),
    Layout("adversarial-trained", "lora", "fsdp", "adamw8bit"),
    Layout("adversarial-lora", "lora", "fsdp", "adamw_fused", "fp8"),
    Layout("regression", "lora", "ddp", "adamw", "int8"),
    *(Layout("adversarial-samples", "full", kind) for kind in ("ddp", "fsdp")),
]


@pytest.fixture(scope="module")
def layouts(request: pytest.FixtureRequest) -> list[Layout]:
    return [*ALWAYS, *FOR_THE_TABLE] if request.config.getoption("--scale") else ALWAYS


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest) -> Iterator[list[dict[str, Any]]]:
    """Written at the end when `--scale` names a file."""
    results: list[dict[str, Any]] = []
    yield results
    if path := request.config.getoption("--scale"):
        write_results(Path(path), "make scale", results)


@pytest.fixture(scope="module")
def own_teacher(tiny_wan_folder: Path) -> Teacher:
    return load_teacher(tiny_wan_folder, device="cpu")


def difference(first: Path, second: Path) -> float:
    """The largest of any weight or average."""
    one, other = (load_file(folder / "weights.safetensors") for folder in (first, second))
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def compared(own_teacher: Teacher, dataset: Path, tmp_path: Path, layouts: list[Layout]) -> Iterator[dict[str, Any]]:
    """A row per layout: against one process with the same global batch; and 2 -> 1 -> 2 processes against 2 without a
    stop."""
    folders = {}
    for layout in layouts:
        for way in ("alone", "whole", "parts"):
            folders[layout, way] = tmp_path / "-".join(map(str, (*layout, way)))
            folders[layout, way].mkdir()

    def together(jobs: list[Job]) -> None:
        ends = processes(own_teacher.folder, dataset, jobs, tmp_path).ends()
        assert [code for code, _ in ends] == [0, 0], ends[0][1][-3000:] + ends[1][1][-3000:]

    jobs = [Job(layout, str(folders[layout, "whole"])) for layout in layouts]
    together(jobs + [Job(layout, str(folders[layout, "parts"]), stop=2) for layout in layouts])
    for layout in layouts:
        case = Case(own_teacher, dataset, folders[layout, "parts"])
        assert (case.folder / "state").is_dir() == (layout.kind == "fsdp")
        with base_of(own_teacher, layout.base):
            alone = begin(case, layout)
            assert alone.step == 2
            run(alone, stop=4)
            assert (case.folder / "state.pt").is_file() and not (case.folder / "state").exists()
            case.folder = folders[layout, "alone"]
            reference = begin(case, layout)
            run(reference)
            end(reference, case.folder)
    together([Job(layout, str(folders[layout, "parts"])) for layout in layouts])
    for layout in layouts:
        alone_folder, whole, parts = (folders[layout, way] for way in ("alone", "whole", "parts"))
        apart, resumed = difference(alone_folder, whole), difference(whole, parts)
        same_files = [sorted(p.name for p in (f / "student").iterdir()) for f in (alone_folder, whole)]
        ok = max(apart, resumed) <= LIMITS[layout.kind] and same_files[0] == same_files[1]
        what = layout._asdict()
        yield {"layout": what.pop("kind"), "processes": 2, **what} | {
            "steps": STEPS, "max_difference": apart, "resumed": resumed, "ok": ok
        }  # fmt: skip


def test_layouts_train_alike_and_go_on_from_each_other(
    own_teacher: Teacher, tiny_dataset: Path, tmp_path: Path, layouts: list[Layout], rows: Rows
) -> None:
    rows += compared(own_teacher, tiny_dataset, tmp_path, layouts)
    assert all(row["ok"] for row in rows), rows


def test_clips_are_split(request: pytest.FixtureRequest, own_teacher: Teacher, tmp_path: Path, rows: Rows) -> None:
    layouts = [Layout("adversarial", "full", "ddp", context=2)]
    if request.config.getoption("--scale"):
        layouts.append(Layout("regression", "full", "ddp", context=2))
        layouts.append(Layout("regression", "full", "fsdp", context=2, recompute="selective"))
        layouts.append(Layout("regression", "lora", "fsdp", "adamw_fused", "int8", context=2))
        layouts.append(Layout("adversarial-lora", "lora", "ddp", context=2))
        layouts += [Layout(f"adversarial-{backbone}", "full", "fsdp", context=2) for backbone in ("lora", "trained")]
    own = list(compared(own_teacher, rollouts(own_teacher, tmp_path, 16, width=32), tmp_path, layouts))
    rows += own
    assert all(row["ok"] for row in own), own


def test_a_base_in_four_bits_is_sharded(
    request: pytest.FixtureRequest, tiny_wide_folder: Path, tmp_path: Path, rows: Rows
) -> None:
    if not request.config.getoption("--scale"):
        pytest.skip("takes a minute and a half: `make scale` runs it")
    pytest.importorskip("bitsandbytes", reason="the extra fewstep[nf4] is not installed")
    layout = Layout("adversarial", "lora", "fsdp", "adamw8bit", "nf4")
    teacher = load_teacher(tiny_wide_folder, device="cpu")
    own = list(compared(teacher, rollouts(teacher, tmp_path, 16), tmp_path, [layout]))
    rows += own
    assert all(row["ok"] for row in own), own


@pytest.mark.parametrize(("kind", "fails", "code"), [("fsdp", "killed", -9), ("ddp", "raises", 2)])
def test_who_is_left_alone_ends_with_a_sentence(
    request: pytest.FixtureRequest, tiny_wan_folder: Path, tiny_dataset: Path, tmp_path: Path, kind: str, fails: str,
    code: int,
) -> None:  # fmt: skip
    if kind == "ddp" and not request.config.getoption("--scale"):
        pytest.skip("`make scale` runs it, and tests/cases has it for whole runs")
    job = Job(Layout("regression", "full", kind), str(tmp_path), fails=fails)
    both = processes(tiny_wan_folder, tiny_dataset, [job], tmp_path)
    both.wait_for_first()
    began = time.monotonic()
    (first, text), (second, of_second) = both.ends()
    assert time.monotonic() - began < 30
    assert (first, second) == (2, code)
    assert "another process of this run has ended" in text.strip().splitlines()[-1]
    assert fails == "killed" or "the disk of node 1 is broken" in of_second


def test_processes_that_see_other_folders_are_refused(
    own_teacher: Teacher, tiny_wan_folder: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    layout = Layout("regression", "full", "ddp")
    run(begin(Case(own_teacher, tiny_dataset, tmp_path), layout), stop=2)
    ends = processes(tiny_wan_folder, tiny_dataset, [Job(layout, str(tmp_path), fails="elsewhere")], tmp_path).ends()
    for code, text in ends:
        assert code == 2
        assert "the processes of this run differ in step (process 0: 2, process 1: 0): let them share" in text


def test_processes_wait_for_one_that_writes_long(tiny_wan_folder: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    job = Job(Layout("regression", "full", "ddp"), str(tmp_path), fails="slow disk")
    ends = processes(tiny_wan_folder, tiny_dataset, [job], tmp_path).ends()
    assert [code for code, _ in ends] == [0, 0], ends


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    stage = Stage.model_validate(
        {"name": "s", "teacher_steps": 4, "student_steps": 2, "batch": 8, "accumulate": 2}
        | {"objective": {"kind": "progressive"}}
    )
    assert (stage.micro_batches(1), stage.share(1)) == (2, 4) and (stage.micro_batches(2), stage.share(2)) == (2, 2)
    assert (stage.micro_batches(8), stage.share(8)) == (1, 1)  # micro-batches of 4 are too small for 8
    with pytest.raises(
        ValueError, match=r"stage s: 3 processes cannot share a batch of 8 clips equally: start 1, 2, 4, 8 "
    ):
        stage.share(3)
