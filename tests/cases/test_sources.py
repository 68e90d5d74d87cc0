"""What compares models looks at every source, metric and place first: no weight is loaded, and nothing is written."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fewstep.eval.models import Model
from fewstep.eval.outlines import outline_models
from fewstep.student.sampler import SamplingOptions
from tests.cases.breaking import (
    Change,
    edited,
    forbid_loading,
    given,
    halved,
    listing,
    removed,
    write_recipe,
    written,
)
from tests.commands.typed import fewstep

KIND = "10 every source first"
STAGE = "run/stages/2-step"
WEIGHTS = f"{STAGE}/diffusion_pytorch_model.safetensors"
EVALUATE, BENCHMARK, VBENCH = (
    "evaluate T=T@2 --num 3",
    "benchmark T=T@2",
    "vbench videos --prompts prompts.txt --out out",
)
SHAPES_WORLD = {"num_frames": 17, "height": 64, "width": 64, "fps": 8}


@pytest.fixture(scope="module")
def finished(tiny_wan_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher of the shapes world's size, T, and a run with two students; not to be changed."""
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(tiny_wan_folder, folder / "T")
    (folder / "T" / "fewstep.json").write_text(json.dumps(SHAPES_WORLD))
    write_recipe(folder, folder / "T")
    code, output = fewstep("run", folder / "tiny.yaml")
    assert code == 0, output
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current directory; the students' contracts name the copy's teacher."""
    here = Path(shutil.copytree(finished, tmp_path / "here"))
    for path in (*here.glob("run/stages/*/contract.json"), here / "run" / "recipe.yaml"):
        path.write_text(path.read_text().replace(str(finished), str(here)))
    monkeypatch.chdir(here)
    return here


def another_teacher(folder: Path) -> list[str]:
    """T2, which is not the students' teacher; theirs is gone."""
    shutil.copytree(folder / "T", folder / "T2")
    edited("T2/scheduler/scheduler_config.json", shift=3.0)(folder)
    return removed("T")(folder)


def both(*changes: Change) -> Change:
    return lambda folder: [word for change in changes for word in change(folder)]


def results(**protocol: object) -> str:
    return json.dumps({"command": "", "protocol": {**protocol, "metrics": {"x": {"y": 1}}}, "rows": [], "prompts": []})


MISSING = ["there is no folder nowhere"]
FIRST: list[tuple[str, Change, str, list[str]]] = [
    ("a mistyped student", given(), f"{EVALUATE} run@2 nowhere --out out", MISSING),
    ("two mistyped students", given(), f"{EVALUATE} a=nowhere b=gone --out out",
     ["a: there is no folder nowhere", "b: there is no folder gone"]),
    ("a student of other steps", given(), f"{EVALUATE} run@3", ["trained for 3 steps", "2-step (2), 1-step (1)"]),
    ("a stage of other steps", given(), f"{EVALUATE} {STAGE}@3 --out out", ["trained for steps 2, not 3"]),
    ("a student with guidance", given(), f"{EVALUATE} run@2:3 --out out", ["is already distilled into its weights"]),
    ("steps that are none", given(), f"{EVALUATE} run@two --out out", ["'run@two' is no SOURCE@STEPS[:GUIDANCE]"]),
    ("a run without finished stage", removed("run/stages"),
     f"{EVALUATE} run --out out", ["run has no finished stage yet"]),
    ("a name that is taken", given(), f"{EVALUATE} real=run@2 --out out", ["real is the name of real clips"]),
    ("cut weights of a student", halved(WEIGHTS), f"{EVALUATE} run@2 --out out", [f"{WEIGHTS} is cut off: "]),
    ("no weights of a student", removed(WEIGHTS), f"{EVALUATE} run@2 --out out", [f"{WEIGHTS} is missing: restore it"]),
    ("a contract that lost a line", edited(f"{STAGE}/contract.json", times=None), f"{EVALUATE} {STAGE} --out out",
     ["contract.json is not whole (times: Field required)"]),
    ("a student whose teacher is gone", another_teacher, "evaluate T=T2@2 s=run@2 --num 3 --out out",
     [f"the teacher of {STAGE} cannot be opened: there is no folder T"]),
    ("a student of another teacher", edited("T/scheduler/scheduler_config.json", shift=3.0),
     f"{EVALUATE} run@2 --out out", ["the student's teacher was T", "not T"]),
    ("a pickle", written("s.pt", b"x"), f"{EVALUATE} s.pt --out out", ["s.pt is a pickle, which may run code"]),
    ("a file without contract", given(), f"{EVALUATE} T/{'transformer/diffusion_pytorch_model.safetensors'} --out out",
     ["has no sampling contract in its header"]),
    ("frames that cannot be made", given(), f"{EVALUATE} run@2 --frames 10 --out out", ["10 frames cannot be made"]),
    ("a metric that is not there", given(), f"{EVALUATE} --metrics psnr,fdv --out out",
     ["there is no metric fdv (did you mean fvd or fd-vjepa2?): choose among"]),
    ("no name of a metric", given(), f"{EVALUATE} --metrics psnr, --out out", ["there is no metric without a name"]),
    ("fvd whose weights are missing", given(), f"{EVALUATE} --fvd-weights i3d.pt --out out",
     ["there are no weights at i3d.pt"]),
    ("fvd with other weights", written("i3d.safetensors", "x"),
     f"{EVALUATE} --metrics fvd --fvd-weights i3d.safetensors --out out", ["i3d.safetensors holds no plain tensors"]),
    ("fvd without a download", given(), f"{EVALUATE} --metrics fvd --out out", ["neither on this disk nor"]),
    ("a trunk of lpips that is missing", given(), f"{EVALUATE} --lpips-trunk alex.pth --out out",
     ["there is no file alex.pth for --lpips-trunk"]),
    ("a trunk of lpips that is cut off", written("alex.pth", "PK half"),
     f"{EVALUATE} --metrics psnr,lpips --lpips-trunk alex.pth --out out", ["alex.pth holds no weights that can"]),
    ("features that are not cached", given(), f"{EVALUATE} --metrics fd-videomae --out out",
     ["MCG-NJU/videomae-base is neither on this disk nor within reach"]),
    ("no folder of real videos", given(), f"{EVALUATE} --reference films --out out", ["there is no folder films for"]),
    ("two real videos", removed("videos/a.mp4"), f"{EVALUATE} --reference videos --out out",
     ["--reference videos holds 2 videos"]),
    ("a broken real video", halved("videos/b.mp4"), f"{EVALUATE} --reference videos --out out",
     ["videos/b.mp4 cannot be a reference: "]),
    ("a device that is not there", given(), f"{EVALUATE} --device cuda:63 --out out", ["there is no device cuda:63"]),
    ("no prompts file", given(), f"{EVALUATE} --prompts none.txt --out out", ["there is no prompts file none.txt"]),
    ("out is a file", given(), f"{EVALUATE} --out prompts.txt", ["prompts.txt cannot be a folder", "another --out"]),
    ("out holds another evaluation", written("out/results.json", results(num=7)), f"{EVALUATE} --out out",
     ["holds an evaluation with num 7, not 3", "choose another --out"]),
    ("out holds something else", written("out/results.json", "[]"), f"{EVALUATE} --out out",
     ["out/results.json is not an evaluation's file"]),
    ("out holds another model's clips", written("out/parts/s/model.json", "{}"), f"{EVALUATE} s=run@2 --out out",
     ["clips of another model called s", "NAME=run/stages/2-step, or choose another --out"]),
    ("benchmark: a mistyped student", given(), f"{BENCHMARK} run@2 nowhere --out b.json", MISSING),
    ("benchmark: cut weights", halved(WEIGHTS), f"{BENCHMARK} run@2 --out b.json", [f"{WEIGHTS} is cut off: "]),
    ("benchmark: no such attention", given(), f"{BENCHMARK} --attention quick --out b.json",
     ["WanTransformer3DModel has no attention backend quick"]),
    ("benchmark: no torchao", given(), f"{BENCHMARK} --quantise int8 --out b.json", ["pip install 'fewstep[quant]'"]),
    ("benchmark: a folder as table", given(), f"{BENCHMARK} --out videos", ["videos is a folder, and a file is"]),
    ("benchmark: no such device", given(), f"{BENCHMARK} --device cuda:63 --out b.json", ["no device cuda:63"]),
    ("benchmark: no such architecture", given(), "benchmark --random-weights wan9 --out b.json", ["architecture wan9"]),
    ("vbench: a mistyped student", given(), f"{VBENCH} T run@2 nowhere", MISSING),
    ("vbench: another model's clips", written("out/s.json", "{}"), f"{VBENCH} s=run@2", ["another model called s"]),
    ("report: two that are neither", given(), "report run T videos", ["T and videos is neither a run"]),
    ("report: a folder that is gone", given(), "report run nowhere", ["there is no folder nowhere"]),
    ("report: an evaluation and a benchmark", both(written("run/evaluation/results.json", "{"),
     written("run/benchmark.json", "[]")), "report run", ["run/benchmark.json is not", "results.json is not JSON"]),
    ("report: a folder as page", given(), "report run --out videos", ["videos is a folder, and a file is"]),
    ("shapes students: a second run that is gone", given(), "shapes students run nowhere --out t.json",
     ["nowhere is not a run (it has no recipe.yaml)"]),
    ("shapes students: nothing finished", both(removed("run/stages/2-step"), removed("run/stages/1-step")),
     "shapes students run --out t.json", ["run has no finished stage yet"]),
    ("shapes students: cut weights, and --fresh",
     both(written("t.json", '{"command": "", "rows": []}'), halved(WEIGHTS)),
     "shapes students run --fresh --out t.json", [f"{WEIGHTS} is cut off"]),
    ("shapes students: another table", written("t.json", '{"command": "", "rows": [{"num": 7}]}'),
     "shapes students run --out t.json", ["t.json holds figures of another", "--fresh"]),
    ("shapes exports: cut weights", halved(WEIGHTS), "shapes exports run --step-count 2 --out t.json --exports e",
     [f"{WEIGHTS} is cut off"]),
    ("shapes exports: a second run that is gone", given(), "shapes exports run nowhere --step-count 2 --out t.json",
     ["there is no folder nowhere: pass a run directory"]),
    ("shapes teacher: another table", written("t.json", '{"command": "", "rows": [{"num": 7}]}'),
     "shapes teacher T --out t.json", ["t.json holds figures of another"]),
    ("demo: out is a file", given(), "demo --out prompts.txt", ["prompts.txt cannot be a folder", "another --out"]),
    ("demo: another evaluation", written("demo/evaluation/results.json", results(num=7, seed=0)),
     "demo --out demo --num 9", ["holds an evaluation with num 7, not 9", "choose another --out"]),
    ("demo: another recipe", written("demo/recipe.yaml", "seed: 4"), "demo --out demo",
     ["demo was begun with another", "or choose another folder with --out DIR"]),
]  # fmt: skip


@pytest.mark.parametrize(("case", "change", "words", "expected"), FIRST, ids=[case for case, *_ in FIRST])
def test_it_is_found_before_anything_is_loaded(
    case: str,
    change: Change,
    words: str,
    expected: Sequence[str],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    check_case: Callable[..., None],
) -> None:
    change(place)
    before = listing(place)
    forbid_loading(monkeypatch)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)  # as where it is not installed
    code, output = fewstep(*words.split())
    assert listing(place) == before
    got = f"exit {code}: {output.strip()}".replace(f"{place}/", "")
    check_case(KIND, case, got, ["exit 2: ", *expected])


def test_a_moved_teacher_that_takes_part_is_the_students_own(place: Path, check_case: Callable[..., None]) -> None:
    """Its contract names where it was; what counts is its sha256."""
    (place / "T").rename(place / "moved")
    models = [Model.of("teacher", "moved"), Model.of("student", "run", 2)]
    outcome = [one.sampler.steps for one in outline_models(models, SamplingOptions())]
    check_case(KIND, "the teacher moved, and is the first model", outcome, "[50, 2]")


def test_what_is_left_out_is_announced_first(
    place: Path, monkeypatch: pytest.MonkeyPatch, check_case: Callable[..., None]
) -> None:
    """With the sentence in front of the first weight that is loaded."""
    from diffusers import DiffusionPipeline

    def stop(*_: object, **__: object) -> None:
        raise OSError("here the teacher is loaded")

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", stop)
    monkeypatch.setitem(sys.modules, "lpips", None)
    code, output = fewstep(*f"{EVALUATE} run@2 --reference videos --out out".split())
    expected = ["exit 2", "without fvd: it needs the weights of I3D", "without lpips: ", "--reference is not used: ",
                "here the teacher is loaded"]  # fmt: skip
    check_case(KIND, "metrics that cannot be taken", f"exit {code} {output}", expected)
    assert output.index("without lpips") < output.index("here the teacher") and not (place / "out").exists()
