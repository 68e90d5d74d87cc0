"""A teacher's folder that lost a part or holds a cut file: one sentence names both, whoever meets it first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.outline import outline_teacher
from tests.cases.breaking import Change, edited, emptied, halved, linked, removed, written
from tests.cases.record import outcome
from tests.commands.typed import fewstep

KIND = "12 a teacher that is not whole"
TRANSFORMER, VAE = (f"{part}/diffusion_pytorch_model.safetensors" for part in ("transformer", "vae"))
TEXT = "text_encoder/model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 220000000\n"
AGAIN = ": download it again"


def shortened(name: str, length: int) -> Change:
    def change(folder: Path) -> list[str]:
        (folder / name).write_bytes((folder / name).read_bytes()[:length])
        return []

    return change


def lengthened(name: str) -> Change:
    def change(folder: Path) -> list[str]:
        (folder / name).write_bytes((folder / name).read_bytes() + bytes(10))
        return []

    return change


def with_tensors(name: str, change_them: Callable[[dict[str, Tensor]], object]) -> Change:
    def change(folder: Path) -> list[str]:
        path = folder / name
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            header = file.metadata()
        change_them(tensors)
        save_file(tensors, path, header)
        return []

    return change


def reshape(tensors: dict[str, Tensor]) -> None:
    name = next(name for name in sorted(tensors) if tensors[name].ndim == 2)
    tensors[name] = torch.zeros(3, 5)


def in_shards(and_then: Callable[[Path], object]) -> Change:
    """The denoiser's weights in two files, of which something is changed."""

    def change(folder: Path) -> list[str]:
        single = folder / TRANSFORMER
        tensors = load_file(single)
        single.unlink()
        names, index = sorted(tensors), dict[str, str]()
        for number, some in enumerate((names[::2], names[1::2]), 1):
            shard = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
            save_file({name: tensors[name] for name in some}, single.with_name(shard), {"format": "pt"})
            index |= dict.fromkeys(some, shard)
        content = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
        single.with_name(f"{single.name}.index.json").write_text(content)
        and_then(single.parent)
        return []

    return change


def renamed(name: str, to: str) -> Change:
    def change(folder: Path) -> list[str]:
        (folder / name).rename(folder / to)
        return []

    return change


def copied(name: str, to: str) -> Change:
    def change(folder: Path) -> list[str]:
        shutil.copy(folder / name, folder / to)
        return []

    return change


def sentencepiece(folder: Path) -> list[str]:
    """A vocabulary in the form that needs the library sentencepiece, but damaged: it is not the library that lacks."""
    removed("tokenizer/tokenizer.json")(folder)
    written("tokenizer/spiece.model", b"\x0a\x0b no model" * 20)(folder)
    return edited("model_index.json", tokenizer=["transformers", "T5Tokenizer"])(folder)


SECOND = "diffusion_pytorch_model-00002-of-00002.safetensors"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
BROKEN: list[tuple[str, Change, list[str]]] = [
    ("no tokenizer", removed("tokenizer"), ["T/tokenizer is missing, the TokenizersBackend that"]),
    ("an empty tokenizer", emptied("tokenizer"), ["T/tokenizer holds no", "tokenizer.json", "its vocabulary" + AGAIN]),
    ("no vocabulary", removed("tokenizer/tokenizer.json"), ["T/tokenizer holds no", "tokenizer.json"]),
    ("a cut vocabulary", halved("tokenizer/tokenizer.json"), ["T/tokenizer/tokenizer.json cannot be read", AGAIN]),
    ("a pointer for a vocabulary", written("tokenizer/tokenizer.json", POINTER), ["is a git-lfs pointer"]),
    ("no settings of the tokenizer", removed("tokenizer/tokenizer_config.json"), ["names no pad_token", AGAIN]),
    ("empty settings of the tokenizer", written("tokenizer/tokenizer_config.json", "{}"), ["names no pad_token"]),
    ("no text encoder", removed("text_encoder"), ["T/text_encoder is missing, the UMT5EncoderModel", AGAIN]),
    ("no autoencoder", removed("vae"), ["T/vae is missing, the AutoencoderKLWan that model_index.json names"]),
    ("no scheduler", removed("scheduler"), ["T/scheduler is missing, the FlowMapEulerDiscreteScheduler"]),
    ("no denoiser", removed("transformer"), ["T/transformer is missing, the WanTransformer3DModel"]),
    ("a file in place of a part", lambda f: [*removed("vae")(f), *written("vae", "x")(f)], ["T/vae is missing"]),
    ("no config", removed("text_encoder/config.json"), ["T/text_encoder/config.json is missing" + AGAIN]),
    ("no scheduler's config", removed("scheduler/scheduler_config.json"), ["scheduler_config.json is missing"]),
    ("a config that is no JSON", written("vae/config.json", "{a"), ["T/vae/config.json cannot be read"]),
    ("an empty config", written("vae/config.json", ""), ["T/vae/config.json is empty" + AGAIN]),
    ("a config that is a list", written("transformer/config.json", "[1]"), ["config.json is not a JSON object"]),
    ("a config of a wrong type", edited("transformer/config.json", num_layers="x"), ["T/transformer does not"]),
    (
        "a config of another model",
        written("text_encoder/config.json", '{"model_type": "bert"}'),
        ["T/text_encoder does not describe the UMT5EncoderModel that model_index.json names"],
    ),
    ("no weights", removed(TEXT), [f"T/{TEXT} is missing" + AGAIN]),
    ("weights of 0 bytes", written(TEXT, ""), [f"T/{TEXT} is empty" + AGAIN]),
    ("weights cut in their header", shortened(TEXT, 1024), [f"T/{TEXT} is cut off within its header, after 1,024"]),
    ("weights of 4 bytes", shortened(TRANSFORMER, 4), [f"T/{TRANSFORMER} is cut off within its header"]),
    ("weights cut in the middle", halved(TRANSFORMER), [f"T/{TRANSFORMER} is cut off: ", " bytes" + AGAIN]),
    ("the autoencoder's last byte", shortened(VAE, -1), [f"T/{VAE} is cut off: "]),
    ("weights with a tail", lengthened(VAE), [f"T/{VAE} is longer than its header says"]),
    ("a pointer for weights", written(TRANSFORMER, POINTER), [f"T/{TRANSFORMER} is a git-lfs pointer", "git lfs pull"]),
    ("a web page for weights", written(TEXT, "<!DOCTYPE html><p>404"), [f"T/{TEXT} is a web page in place of the"]),
    ("zeros for weights", written(TEXT, bytes(5000)), [f"T/{TEXT} is not a safetensors file"]),
    ("a link that leads nowhere", lambda f: [*removed(TEXT)(f), *linked(TEXT, "/nowhere")(f)], ["link to one that is"]),
    ("only another precision", renamed(TRANSFORMER, "transformer/diffusion_pytorch_model.fp16.safetensors"),
     [f"T/{TRANSFORMER} is missing; T/transformer holds only diffusion_pytorch_model.fp16.safetensors"]),
    ("a pickle for weights", renamed(TRANSFORMER, "transformer/diffusion_pytorch_model.bin"),
     ["T/transformer/diffusion_pytorch_model.bin is a pickle"]),
    ("a weight of another shape", with_tensors(TRANSFORMER, reshape), ["of shape [3, 5], but the network takes ["]),
    ("a text weight of another shape", with_tensors(TEXT, reshape), ["the weights in T/text_encoder have", "[3, 5]"]),
    ("a weight that is missing", with_tensors(TEXT, lambda w: w.pop(sorted(w)[2])),
     ["the weights in T/text_encoder lack", "would be filled with random numbers"]),
    ("two weights that are missing", with_tensors(VAE, lambda w: [w.pop(name) for name in sorted(w)[:2]]),
     ["the weights in T/vae lack", "and 1 more"]),
    ("a shard that is missing", in_shards(lambda part: (part / SECOND).unlink()), [f"{SECOND} is missing"]),
    ("a shard that is cut off", in_shards(halved(SECOND)), [f"T/transformer/{SECOND} is cut off: "]),
    ("shards without index", in_shards(lambda part: (part / INDEX).unlink()), [f"T/{TRANSFORMER} is missing; "]),
    ("an index that is no JSON", in_shards(written(INDEX, "{")), [f"T/transformer/{INDEX} cannot be read"]),
    ("an index without map", in_shards(written(INDEX, "{}")), [f"T/transformer/{INDEX} has no weight_map"]),
    ("an index of another shard", in_shards(edited(INDEX, weight_map={"a": SECOND})), [f"{SECOND} lacks a, which"]),
    ("a part that is not named", edited("model_index.json", vae=None), ["model_index.json names no vae"]),
    ("a part that is named null", edited("model_index.json", text_encoder=[None, None]), ["names no text_encoder"]),
    ("no denoiser is named", edited("model_index.json", transformer=[None, None]), ["names no denoiser (transformer"]),
    ("half a name", edited("model_index.json", vae=["diffusers"]), ["has vae: ['diffusers'], which is not a pair"]),
    ("a class that is not there", edited("model_index.json", vae=["diffusers", "AutoencoderNew"]),
     ["model_index.json names AutoencoderNew for vae, which diffusers", "upgrade diffusers"]),
    ("parts swapped", edited("model_index.json", vae=["diffusers", "WanTransformer3DModel"]), ["T/vae does not"]),
    ("another vocabulary's file", written("tokenizer/tokenizer.json", "{}"), ["T/tokenizer makes no"]),
    ("a damaged sentencepiece model", sentencepiece, ["T/tokenizer makes no T5Tokenizer", "is damaged" + AGAIN]),
    ("an empty sentencepiece model", lambda f: [*sentencepiece(f), *written("tokenizer/spiece.model", "")(f)],
     ["T/tokenizer/spiece.model is empty" + AGAIN]),
    ("another model's weights", lambda f: [*removed(TEXT)(f), *copied(VAE, TEXT)(f)], ["in T/text_encoder lack"]),
    ("an index of parts that is no JSON", written("model_index.json", "{"), ["T/model_index.json is not a JSON"]),
]  # fmt: skip


@pytest.fixture
def teacher(tmp_path: Path, tiny_wan_folder: Path) -> Path:
    """A copy of a tiny teacher, T."""
    return Path(shutil.copytree(tiny_wan_folder, tmp_path / "T"))


@pytest.mark.parametrize(("case", "change", "expected"), BROKEN, ids=[case for case, *_ in BROKEN])
def test_the_missing_or_cut_part_is_named(
    case: str, change: Change, expected: list[str], teacher: Path, check_case: Callable[..., None]
) -> None:
    change(teacher)
    loaded, outlined = outcome(lambda: load_teacher(teacher, device="cpu")), outcome(lambda: outline_teacher(teacher))
    assert loaded == outlined and loaded.startswith("refused: ")
    assert "sentencepiece" not in loaded and "T/note" not in loaded
    check_case(KIND, case, loaded.replace(f"{teacher.parent}/", ""), expected)


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("a folder of notes beside", written("note/readme.md", "x")),
        ("a pickle in a folder beside", written("note/optimizer.bin", "x")),
        ("a config in a folder beside", written("note/config.json", "{")),
        ("an entry that the pipeline does not take", edited("model_index.json", note=["diffusers", "UNet2DModel"])),
        ("a weight too many", with_tensors(TEXT, lambda tensors: tensors.update(more=torch.zeros(1)))),
        ("weights in shards", in_shards(lambda _: None)),
    ],
)
def test_what_is_only_more_is_let_in(case: str, change: Change, teacher: Path, check_case: Callable[..., None]) -> None:
    change(teacher)
    loaded = outcome(lambda: type(load_teacher(teacher, device="cpu")).__name__)
    assert outline_teacher(teacher).teacher.default_size() == (9, 16, 16)
    check_case(KIND, case, loaded, "WanTeacher")


@pytest.mark.parametrize("family", ["tiny_cogvideox_folder", "tiny_animatediff_folder"])
def test_every_family_is_looked_at(
    family: str, request: pytest.FixtureRequest, tmp_path: Path, check_case: Callable[..., None]
) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(family), tmp_path / "T"))
    (folder / TEXT).write_bytes((folder / TEXT).read_bytes()[:-100])
    got = outcome(lambda: load_teacher(folder, device="cpu")).replace(f"{tmp_path}/", "")
    check_case(KIND, f"{family.split('_')[1]}, cut text encoder", got, [f"T/{TEXT} is cut off: "])


def test_verbs_say_it_in_a_sentence(teacher: Path, tmp_path: Path, check_case: Callable[..., None]) -> None:
    """As users meet it: every verb that takes a teacher, exit code 2, nothing written."""
    (teacher / TRANSFORMER).write_bytes((teacher / TRANSFORMER).read_bytes()[:-1])
    (tmp_path / "prompts.txt").write_text("a ring\n")
    prompts = ["--prompts", tmp_path / "prompts.txt"]
    verbs: dict[str, list[Any]] = {
        "sample": ["sample", teacher, "--prompt", "a ring", "--out", tmp_path / "clip.mp4"],
        "data": ["data", "rollouts", tmp_path / "prompts.txt", "--teacher", teacher, "--out", tmp_path / "data"],
        "evaluate": ["evaluate", teacher, *prompts, "--out", tmp_path / "out"],
        "benchmark": ["benchmark", teacher, "--out", tmp_path / "out.json"],
        "vbench videos": ["vbench", "videos", teacher, *prompts, "--out", tmp_path / "vbench"],
        "shapes teacher": ["shapes", "teacher", teacher, "--out", tmp_path / "table.json"],
    }
    for name, words in verbs.items():
        code, output = fewstep(*words)
        got = f"exit {code}: {output.strip()}".replace(f"{tmp_path}/", "")
        check_case(KIND, f"fewstep {name}", got, ["exit 2: ", f"T/{TRANSFORMER} is cut off: ", AGAIN])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["T", "prompts.txt"]
