"""A small decoder from its recipe to sampling, evaluation and timing with it; resumed, refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from fewstep.commands.run_watch import samples
from fewstep.distill.decoder.pairs import Pairs
from fewstep.distill.decoder.recipe import is_decoder, read_decoder_recipe
from fewstep.distill.packaged import decoder_names
from fewstep.distill.settings import Logging
from fewstep.student.contract import SamplingContract
from fewstep.student.decoder.video_decoder import SmallVideoDecoder
from fewstep.teacher import precision
from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.precision import AutoPrecision, Precision
from tests.commands.typed import fewstep

SETTINGS: dict[str, Any] = {
    "clips": 12, "steps": 4, "batch": 2, "widths": [8, 4], "blocks": [1, 0], "features": {"weight": 0.1},
    "discriminator": {"weight": 0.1, "start": 0.5, "width": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tiny_wan_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    (folder / "prompts.txt").write_text("".join(f"clip {i}\n" for i in range(12)))
    path = folder / "decoder.yaml"
    path.write_text(yaml.safe_dump({
        "teacher": str(tiny_wan_folder), "out": str(folder / "run"), "device": "cpu", "precision": "float32",
        "data": {"kind": "rollouts", "prompts": "prompts.txt", "steps": 1, "batch": 4}, "decoder": SETTINGS,
    }))  # fmt: skip
    return path


@pytest.fixture(scope="module")
def run(recipe: Path) -> Path:
    run_command("run", str(recipe))
    return recipe.parent / "run"


def run_command(*arguments: str) -> str:
    code, output = fewstep(*arguments)
    assert code == 0, output
    return output


def refusal(*arguments: str) -> str:
    code, output = fewstep(*arguments)
    assert code == 2, output
    return output


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(next((run / "decoder").glob("*.safetensors")))


def test_a_recipe_becomes_a_folder_that_says_what_was_measured(run: Path) -> None:
    result = json.loads((run / "decoder" / "result.json").read_text())
    assert result["steps"] == 4 and result["held_out"] == 1 and result["psnr_db"] > 0
    assert not (run / "state.pt").exists()
    card = (run / "decoder" / "README.md").read_text()
    compile(card.partition("```python\n")[2].partition("```")[0], "card", "exec")
    assert 'from_pretrained("ORG/BASE-MODEL", dtype=torch.float32).to("cuda")' in card and "# put in the base" in card
    assert "pip install 'diffusers>=0.40.0'" in card and str(run.parent) not in card
    assert str(run.parent) not in (run / "decoder" / "config.json").read_text()


def test_pairs_are_what_the_autoencoder_makes_of_their_latents(run: Path, tiny_wan_folder: Path) -> None:
    pairs, teacher = Pairs(run / "pairs"), load_teacher(tiny_wan_folder, device="cpu")
    z, video = pairs.take([3])
    with torch.no_grad():
        again = teacher.pipeline.vae.decode(z).sample
    assert float((again - video).abs().max()) <= 1 / 255 + 1e-5
    epoch = [int(number) for step in range(11) for number in pairs._order(0, 0)[step : step + 1]]
    assert sorted(epoch) == list(range(11))
    assert torch.equal(pairs.batch(11, 1, 0)[0], pairs.take([int(pairs._order(0, 1)[0])])[0])


def test_a_stopped_run_ends_with_the_same_bytes(
    recipe: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["--set", f"out={tmp_path / 'again'}"]
    whole = Pairs.batch

    def broken(pairs: Pairs, step: int, size: int, seed: int) -> Any:
        if step == 2:
            raise ValueError("a disk is lost")
        return whole(pairs, step, size, seed)

    with monkeypatch.context() as patch:
        patch.setattr(Pairs, "batch", broken)
        assert "a disk is lost" in refusal("run", str(recipe), *settings)
    assert "begun with another decoder.lr" in refusal("run", str(recipe), *settings, "--set", "decoder.lr=1e-3")
    shard = next((tmp_path / "again" / "pairs").glob("*.safetensors"))
    before = shard.stat().st_mtime_ns
    run_command("run", str(recipe), *settings)
    assert shard.stat().st_mtime_ns == before
    own = weights(run)
    assert all(torch.equal(tensor, own[name]) for name, tensor in weights(tmp_path / "again").items())


def test_passes_in_bfloat16_leave_weights_in_float32(recipe: Path, run: Path, tmp_path: Path) -> None:
    run_command("run", str(recipe), "--set", f"out={tmp_path / 'run'}", "--set", "decoder.precision=bfloat16")
    own = weights(run)
    for name, tensor in weights(tmp_path / "run").items():
        assert tensor.dtype == torch.float32
        assert torch.allclose(tensor, own[name], atol=0.02)
    assert not torch.equal(weights(tmp_path / "run")["enter.weight"], own["enter.weight"])


@pytest.mark.parametrize("fast", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_auto_is_what_the_machine_is_fast_in_and_is_kept(
    fast: Precision, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("--set", f"out={tmp_path / 'run'}", "--set", "decoder.precision=auto")
    monkeypatch.setattr(precision, "auto_precision", lambda device: AutoPrecision(fast, "a probe said so"))
    assert f"decoder.precision: {fast} (auto: a probe said so)" in run_command("run", str(recipe), *settings)
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["decoder"]["precision"] == fast
    # on another machine the same folder stays in what it was begun in
    other: Precision = "bfloat16" if fast == "float32" else "float32"
    monkeypatch.setattr(precision, "auto_precision", lambda device: AutoPrecision(other, "another machine"))
    assert f"decoder.precision: {fast} (auto: resumed" in run_command("run", str(recipe), *settings)


def test_bfloat16_by_name_is_warned_of_where_it_is_slow(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "auto_precision", lambda device: AutoPrecision("float32", "bfloat16 is emulated"))
    settings = ("--set", f"out={tmp_path / 'run'}", "--set", "decoder.precision=bfloat16", "--dry-run")
    said = "decoder.precision: bfloat16 (slow here, for bfloat16 is emulated; auto would choose float32)"
    assert said in run_command("run", str(recipe), *settings)


def test_sampling_evaluating_and_timing_take_it(run: Path, tiny_wan_folder: Path, tmp_path: Path) -> None:
    run_command(
        "sample", str(tiny_wan_folder), "--steps", "1", "--prompt", "x", "--decoder", str(run),
        "--dtype", "float32", "--out", str(tmp_path / "clip.mp4"),
    )  # fmt: skip
    models = [f"own={tiny_wan_folder}@1:1", f"small={tiny_wan_folder}@1:1"]
    run_command("benchmark", *models, "--decoder", str(run), "--repetitions", "1", "--warmup", "1",
                  "--dtype", "float32", "--out", str(tmp_path / "benchmark.json"))  # fmt: skip
    rows = {row["model"]: row for row in json.loads((tmp_path / "benchmark.json").read_text())["rows"]}
    assert rows["small"]["decoder"] == str(run / "decoder") and "decoder" not in rows["own"]
    evaluated = ["evaluate", *models, "--num", "3", "--metrics", "motion", "--dtype", "float32"]
    (tmp_path / "prompts.txt").write_text("a\nb\nc\n")
    evaluated += ["--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "evaluation")]
    run_command(*evaluated, "--decoder", f"small={run}")
    clips = [(tmp_path / "evaluation" / "videos" / name / "00000.mp4").read_bytes() for name in ("own", "small")]
    assert clips[0] != clips[1]
    assert "another model called small" in refusal(*evaluated)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (["decoder.widths=[8,4,2]"], "give both one for each level"),
        (["decoder.widths=[8,4,2,2,2]", "decoder.blocks=[0,0,0,0,0]"], "make no decoder of 8 pixels per latent"),
        (["decoder.batch=0"], "decoder.batch"),
        (["decoder.layers=3"], "decoder.layers"),
        (["decoder.features=0.1"], "decoder.features"),
        (
            ["decoder.features={network: judge, weight: 0.1}"],
            "judge: it takes clips of 64x64x17",
        ),
        (["decoder.window={num_frames: 9, height: 640, width: 32}"], "make it smaller"),
        (["decoder.window={num_frames: 3, height: 16, width: 16}"], "size of clips"),
        (["precision=float16"], "FP16"),
        (["teacher=nowhere"], "no folder nowhere"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused_in_a_sentence(
    recipe: Path, tmp_path: Path, changed: list[str], sentence: str
) -> None:
    settings = [part for setting in (*changed, f"out={tmp_path / 'run'}") for part in ("--set", setting)]
    assert sentence in refusal("run", str(recipe), *settings, "--dry-run")
    assert not (tmp_path / "run").exists()


def test_sample_clips_of_a_training_may_be_decoded_by_it(
    run: Path, tiny_teacher: Teacher, tiny_wan_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, seen, decode = tiny_teacher.default_size(), list[tuple[int, ...]](), SmallVideoDecoder.decode
    assert size is not None
    contract = SamplingContract.of(tiny_teacher, str(tiny_wan_folder), 2, "full", size, 3.0, "", 8)

    def watched(self: SmallVideoDecoder, z: torch.Tensor, **arguments: Any) -> Any:
        seen.append(tuple(z.shape))
        return decode(self, z, **arguments)

    monkeypatch.setattr(SmallVideoDecoder, "decode", watched)
    for decoder, clips in ((run, 1), (None, 0)):
        plan: Any = SimpleNamespace(logging=Logging(prompts=("x",), decoder=decoder))
        write = samples(tiny_teacher, plan, size, 8.0)
        assert write is not None
        write(tmp_path / str(clips), tiny_teacher.denoiser, contract)
        assert len(seen) == 1 and (tmp_path / str(clips) / "0.mp4").is_file()
    assert "vae" in tiny_teacher.pipeline.components and "decode" not in vars(tiny_teacher.pipeline.vae)
    settings = ["--set", f"logging.decoder={tmp_path}", "--set", f"out={tmp_path / 'run'}"]
    assert "there is no small decoder in" in refusal("run", "shapes-demo", *settings, "--dry-run")


def test_what_decoders_have_not_is_refused(recipe: Path, run: Path, tiny_wan_folder: Path, tmp_path: Path) -> None:
    assert "no stages" in refusal("run", str(recipe), "--again", "x")
    for option, value in (("--device-memory", "24"), ("--tflops", "100")):
        assert "counts neither memory nor hours" in refusal("run", str(recipe), "--dry-run", option, value)
    assert "no small decoder" in refusal(
        "sample", str(tiny_wan_folder), "--prompt", "x", "--decoder", str(tmp_path), "--out", "x.mp4"
    )
    assert "no model is called b; there are a" in refusal(
        "benchmark", f"a={tiny_wan_folder}@1", "--decoder", f"b={run}"
    )
    assert "--random-weights" in refusal("benchmark", "--random-weights", "wan2.1-t2v-1.3b", "--decoder", str(run))


def test_packaged_recipes_of_decoders_resolve() -> None:
    assert "shapes-decoder" in decoder_names()
    for name in decoder_names():
        assert is_decoder(name)
        plan = read_decoder_recipe(name, ["data.folder=."])
        assert len(plan.decoder.widths) == len(plan.decoder.blocks)
