"""`auto` precision: chosen by the device, said in a line, kept on disk, and the same when something is resumed."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from fewstep.distill.recipe import read_recipe
from fewstep.teacher import precision
from fewstep.teacher.dataset.manifest import read_manifest
from fewstep.teacher.precision import AutoPrecision, auto_precision
from tests.cases.record import outcome
from tests.commands.typed import fewstep
from tests.torchrun import torchrun

KIND = "17 precision auto"
NATIVE = AutoPrecision("bfloat16", "the CPU has AVX512-BF16")
EMULATED = AutoPrecision("float32", "bfloat16 takes 6.8 times as long as float32")
CPU = torch.device("cpu")
SHAPES = [f"shapes-{name}" for name in ("1step", "2step", "4step", "demo", "lora-4step")]

Machine = Callable[[AutoPrecision], None]
on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN's limit is of x86")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """machine(NATIVE): from now on the commands run on such a machine."""
    return lambda text: monkeypatch.setattr(precision, "auto_precision", lambda device: text)


@pytest.fixture
def tiny(tmp_path: Path, tiny_wan_folder: Path, uncounted: None) -> Path:
    """The recipe of a run of one short stage, which says nothing of its precision."""
    (tmp_path / "prompts.txt").write_text("a ring\na cross\na box\n")
    stage = {
        "teacher_steps": 4, "student_steps": 2, "guidance": 2.0, "steps": 1, "batch": 2,
        "objective": {"kind": "progressive"},
    }  # fmt: skip
    recipe = {
        "teacher": str(tiny_wan_folder), "out": str(tmp_path / "run"), "device": "cpu", "logging": {"tracker": "none"},
        "data": {"kind": "rollouts", "prompts": "prompts.txt", "steps": 2}, "stages": [stage],
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "tiny.yaml"


def printed(output: str) -> str:
    """The line about precision, or the sentence that a command was refused with."""
    lines = [line for line in output.splitlines() if line.startswith("precision: ") and "(" in line]
    return " ".join(lines) if lines else output.strip().splitlines()[-1]


def kept(recipe: Path) -> str:
    return str(yaml.safe_load((recipe.parent / "run" / "recipe.yaml").read_text())["precision"])


@pytest.mark.parametrize("said_by", [NATIVE, EMULATED], ids=lambda auto: auto.precision)
def test_a_run_says_and_keeps_what_auto_chose(
    said_by: AutoPrecision, tiny: Path, machine: Machine, check_case: Callable[..., None]
) -> None:
    machine(said_by)
    code, output = fewstep("run", tiny)
    data = read_manifest(tiny.parent / "run" / "data").precision
    got = f"exit {code}; {printed(output)}; recipe.yaml has {kept(tiny)}, the data {data}"
    chosen = said_by.precision
    expected = f"exit 0; precision: {chosen} (auto: {said_by.reason}); recipe.yaml has {chosen}, the data {chosen}"
    check_case(KIND, f"run where {said_by.reason}", got, expected)


@pytest.mark.parametrize(
    ("begun", "now", "line"),
    [
        (NATIVE, EMULATED, "precision: bfloat16 (auto: resumed in what it was begun in; slow here, for bfloat16 takes"),
        pytest.param(
            EMULATED, NATIVE, "precision: float32 (auto: resumed in what it was begun in)", marks=pytest.mark.slow
        ),
    ],
    ids=["bfloat16", "float32"],
)
def test_a_run_that_moves_to_another_machine_keeps_its_precision(
    begun: AutoPrecision,
    now: AutoPrecision,
    line: str,
    tiny: Path,
    machine: Machine,
    check_case: Callable[..., None],
) -> None:
    machine(begun)
    assert fewstep("run", tiny)[0] == 0
    machine(now)
    code, output = fewstep("run", tiny)
    case = f"run begun in {begun.precision}, resumed where auto means {now.precision}"
    check_case(KIND, case, f"exit {code}; {printed(output)}; {kept(tiny)}", [f"exit 0; {line}", f"; {begun.precision}"])
    code, output = fewstep("run", tiny, "--dry-run")
    check_case(KIND, f"dry run of a {case}", f"exit {code}; {printed(output)}", [f"exit 0; {line}"])
    AcceleratorState._reset_state(reset_partial_state=True)  # as in another process
    code, output = fewstep("run", tiny, "--set", f"precision={now.precision}")
    expected = ["exit 2", "was begun with another precision"]
    check_case(KIND, f"{case}, and told {now.precision}", f"exit {code}; {output}", expected)


def test_bfloat16_where_it_is_emulated_is_warned_of(
    tiny: Path, machine: Machine, check_case: Callable[..., None]
) -> None:
    machine(EMULATED)
    code, output = fewstep("run", tiny, "--set", "precision=bfloat16", "--dry-run")
    expected = (
        "precision: bfloat16 (slow here, for bfloat16 takes 6.8 times as long as float32; auto would choose float32)"
    )
    check_case(
        KIND,
        "recipe that says bfloat16 where it is emulated",
        f"exit {code}; {printed(output)}",
        f"exit 0; {expected}",
    )


@pytest.mark.parametrize("arguments", ["float16", "fp16", "half", "bf16", "Auto", "null"])
def test_other_precisions_of_training_are_refused(arguments: str, tiny: Path, check_case: Callable[..., None]) -> None:
    sentence = ["exit 2", "precision", "bfloat16", "float32", "auto"]
    code, output = fewstep("run", tiny, "--set", f"precision={arguments}", "--dry-run")
    check_case(KIND, f"precision={arguments} for training", f"exit {code}; {printed(output)}", sentence)


@pytest.mark.parametrize("name", SHAPES)
def test_recipes_of_the_shapes_world_leave_it_to_the_machine(name: str, check_case: Callable[..., None]) -> None:
    check_case(KIND, f"recipe {name}", read_recipe(name).precision, "auto")


def test_recipes_for_gpus_say_bfloat16(tmp_path: Path, check_case: Callable[..., None]) -> None:
    (tmp_path / "mine.txt").write_text("a corgi runs\n")
    recipe = read_recipe("wan2.1-t2v-1.3b-4step", [f"data.prompts={tmp_path / 'mine.txt'}"])
    check_case(KIND, "recipe for Wan on a GPU", recipe.precision, "bfloat16")


def test_an_evaluation_keeps_its_precision(
    tiny_wan_folder: Path, tmp_path: Path, machine: Machine, check_case: Callable[..., None]
) -> None:
    (tmp_path / "prompts.txt").write_text("a ring\n")
    arguments = ["--prompts", tmp_path / "prompts.txt", "--num", 3, "--out", tmp_path / "out", "--metrics", "motion"]
    command = ["evaluate", f"teacher={tiny_wan_folder}@2", *arguments]
    results = tmp_path / "out" / "results.json"
    for now, case in ((NATIVE, "evaluate where bfloat16 is native"), (EMULATED, "evaluate resumed where it is not")):
        machine(now)
        code, output = fewstep(*command)
        got = f"exit {code}; {printed(output)}; protocol has {json.loads(results.read_text())['protocol']['dtype']}"
        check_case(KIND, case, got, ["exit 0; precision: bfloat16 (auto: ", "; protocol has bfloat16"])
    code, output = fewstep(*command, "--dtype", "float32")
    expected = ["exit 2", "holds an evaluation with dtype 'bfloat16', not 'float32'", "choose another --out"]
    check_case(KIND, "evaluate resumed with --dtype float32", f"exit {code}; {output}", expected)


def test_a_dataset_keeps_its_precision(
    tiny_wan_folder: Path, tmp_path: Path, machine: Machine, check_case: Callable[..., None]
) -> None:
    (tmp_path / "prompts.txt").write_text("a ring\na box\n")
    command = ["data", "rollouts", tmp_path / "prompts.txt", "--teacher", tiny_wan_folder, "--steps", 2]
    command += ["--out", tmp_path / "data", "--rows-per-shard", 1]
    for now, case in ((NATIVE, "data where bfloat16 is native"), (EMULATED, "data resumed where it is not")):
        machine(now)
        code, output = fewstep(*command)
        got = f"exit {code}; {printed(output)}; manifest has {read_manifest(tmp_path / 'data').precision}"
        check_case(KIND, case, got, ["exit 0; precision: bfloat16 (auto: ", "; manifest has bfloat16"])
        (tmp_path / "data" / "shard-00001.parquet").unlink()  # as if it had been stopped
    code, output = fewstep(*command, "--dtype", "float32")
    expected = ["exit 2", "was begun with precision bfloat16, not float32"]
    check_case(KIND, "data resumed with --dtype float32", f"exit {code}; {output}", expected)


def test_videos_for_vbench_keep_their_precision(
    tiny_wan_folder: Path, tmp_path: Path, machine: Machine, check_case: Callable[..., None]
) -> None:
    (tmp_path / "prompts.txt").write_text("a ring\n")
    arguments = ["--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "out"]
    command = ["vbench", "videos", f"teacher={tiny_wan_folder}@2", *arguments]
    claim = tmp_path / "out" / "teacher.json"
    for now, case in ((NATIVE, "vbench where bfloat16 is native"), (EMULATED, "vbench resumed where it is not")):
        machine(now)
        code, output = fewstep(*command)
        got = f"exit {code}; {printed(output)}; kept {json.loads(claim.read_text())['dtype']}"
        check_case(KIND, case, got, ["exit 0; precision: bfloat16 (auto: ", "; kept bfloat16"])
    code, output = fewstep(*command, "--dtype", "float32")
    expected = ["exit 2", "were made in bfloat16, not float32: pass --dtype bfloat16, or choose another --out"]
    check_case(KIND, "vbench resumed with --dtype float32", f"exit {code}; {output}", expected)
    claim.write_text(json.dumps({k: v for k, v in json.loads(claim.read_text()).items() if k != "dtype"}))
    code, output = fewstep(*command)
    expected = ["exit 0", "precision: float32 (auto: resumed in what it was begun in)"]
    check_case(KIND, "vbench of before precisions were kept, all in float32", f"exit {code}; {output}", expected)


def test_a_benchmark_and_a_sample_say_their_precision(
    tiny_wan_folder: Path, tmp_path: Path, machine: Machine, check_case: Callable[..., None]
) -> None:
    machine(NATIVE)
    timed = [
        "benchmark",
        f"teacher={tiny_wan_folder}@2",
        "--repetitions",
        1,
        "--warmup",
        1,
        "--out",
        tmp_path / "b.json",
    ]
    code, output = fewstep(*timed)
    dtype = json.loads((tmp_path / "b.json").read_text())["protocol"]["dtype"]
    expected = "exit 0; precision: bfloat16 (auto: the CPU has AVX512-BF16); protocol has bfloat16"
    check_case(KIND, "benchmark", f"exit {code}; {printed(output)}; protocol has {dtype}", expected)
    shown = ["sample", tiny_wan_folder, "--steps", 1, "--prompt", "a ring", "--out", tmp_path / "clip.gif"]
    code, output = fewstep(*shown)
    expected = "exit 0; precision: bfloat16 (auto: the CPU has AVX512-BF16)"
    check_case(KIND, "sample", f"exit {code}; {printed(output)}", expected)
    code, output = fewstep(*shown, "--dtype", "float32")
    check_case(KIND, "sample that is told float32", f"exit {code}; {'precision:' in output}", "exit 0; False")


@pytest.fixture
def plain_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without instructions for bfloat16 and without limits in the environment."""
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    auto_precision.cache_clear()


@pytest.mark.parametrize("name", ["_is_amx_tile_supported", "_is_avx512_bf16_supported"])
def test_processors_with_instructions(
    name: str, plain_cpu: None, monkeypatch: pytest.MonkeyPatch, check_case: Callable[..., None]
) -> None:
    monkeypatch.setattr(torch.cpu, name, lambda: True)
    instructions = "AMX" if "amx" in name else "AVX512-BF16"
    outcome = auto_precision(CPU)
    check_case(KIND, f"CPU with {instructions}", outcome, str(AutoPrecision("bfloat16", f"the CPU has {instructions}")))


@pytest.mark.parametrize(
    ("case", "slowdown", "expected"),
    [
        ("CPU with AVX2 alone, where bfloat16 takes 6.8 times as long", 6.8, "float32"),
        ("CPU with AVX512 alone, where bfloat16 takes 2.3 times as long", 2.3, "float32"),
        ("device on which both take as long", 1.0, "float32"),
        ("ARM CPU with bfloat16, twice as fast", 0.5, "bfloat16"),
        ("device without bfloat16", None, "float32"),
    ],
)
def test_processors_without_a_word(
    case: str,
    slowdown: float | None,
    expected: str,
    plain_cpu: None,
    monkeypatch: pytest.MonkeyPatch,
    check_case: Callable[..., None],
) -> None:
    monkeypatch.setattr(precision, "probe", lambda device: slowdown)
    check_case(KIND, case, auto_precision(CPU).precision, expected)


@pytest.mark.parametrize("native", [True, False])
def test_gpus(native: bool, plain_cpu: None, monkeypatch: pytest.MonkeyPatch, check_case: Callable[..., None]) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    case = "GPU with bfloat16" if native else "GPU that emulates bfloat16"
    check_case(KIND, case, auto_precision(torch.device("cuda")).precision, "bfloat16" if native else "float32")


@on_x86
@pytest.mark.slow
@pytest.mark.parametrize("limit", ["SSE41", "AVX2", "AVX512_CORE"])
def test_a_processor_made_older(limit: str, tmp_path: Path, check_case: Callable[..., None]) -> None:
    command = [sys.executable, "-m", "fewstep", "run", "shapes-demo", "--dry-run", "--set", f"out={tmp_path / 'run'}"]
    limited = os.environ | {"ONEDNN_MAX_CPU_ISA": limit, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=limited)
    kept = yaml.safe_load(done.stdout)["precision"] if done.returncode == 0 else "nothing"
    got = f"exit {done.returncode}; {printed(done.stderr)}; the recipe resolves to {kept}"
    expected = ["exit 0; precision: float32 (auto: bfloat16 takes ", "; the recipe resolves to float32"]
    check_case(KIND, f"dry run of shapes-demo with ONEDNN_MAX_CPU_ISA={limit}", got, expected)


RANKS = """
import os
from pathlib import Path
from fewstep.commands.run_precision import resolve_for_all
from fewstep.distill.recipe import read_recipe
from fewstep.teacher import precision
from fewstep.teacher.ranks import current_ranks, join_processes
first = os.environ["RANK"] == "0"
own = precision.AutoPrecision(*(("float32", "the first") if first else ("bfloat16", "the second")))
precision.auto_precision = lambda device: own
join_processes(cpu=True)
plan, line = resolve_for_all(read_recipe("shapes-demo", ["device=cpu"]), current_ranks())
Path(f"process {os.environ['RANK']}").write_text(f"{plan.precision}, {line}")
"""


@pytest.mark.slow
def test_processes_of_unlike_machines_agree(tmp_path: Path, check_case: Callable[..., None]) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    quiet = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(torchrun(2, tmp_path / "ranks.py"), cwd=tmp_path, env=quiet, timeout=300, check=True)
    got = "; ".join(f"{path.name}: {path.read_text()}" for path in sorted(tmp_path.glob("process *")))
    expected = "process 0: float32, precision: float32 (auto: the first); process 1: float32, None"
    check_case(KIND, "two processes whose machines differ", got, expected)


def test_a_device_that_is_not_there(tiny: Path, check_case: Callable[..., None]) -> None:
    got = outcome(lambda: fewstep("sample", "shapes", "--prompt", "a", "--out", "x.mp4", "--device", "cuda:7"))
    check_case(KIND, "--device that is not there", got, ["(2, ", "there is no device cuda:7 on this machine"])
