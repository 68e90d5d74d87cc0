"""What `fewstep run` refuses its `--dry-run` refuses in the same words, before a weight is loaded or a file written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.cases.breaking import (
    VIDEOS,
    Change,
    edited,
    emptied,
    flipped,
    forbid_loading,
    given,
    halved,
    linked,
    listing,
    removed,
    sets,
    write_recipe,
    written,
)
from tests.commands.typed import fewstep

KIND = "11 dry-run and run"


@pytest.fixture
def place(tmp_path: Path, tiny_wan_folder: Path) -> Path:
    """A folder with a recipe and its own copy of the teacher, T."""
    shutil.copytree(tiny_wan_folder, tmp_path / "T")
    write_recipe(tmp_path, tmp_path / "T")
    return tmp_path


@pytest.fixture(scope="module")
def finished(tiny_wan_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs of the recipe, on rollouts and on videos; not to be changed."""
    folders = {}
    for kind, settings in (("rollouts", []), ("videos", VIDEOS)):
        folder = tmp_path_factory.mktemp(kind)
        write_recipe(folder, tiny_wan_folder)
        code, output = fewstep("run", folder / "tiny.yaml", *sets(settings))
        assert code == 0, output
        folders[kind] = folder
    return folders


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The sentence with which both refuse a recipe's folder; fails where they differ, load the teacher or write."""

    def refuse(folder: Path, settings: list[str], *options: object) -> str:
        before = listing(folder)
        with monkeypatch.context() as patched:
            forbid_loading(patched)
            patched.chdir(folder)
            text = [fewstep("run", "tiny.yaml", *sets(settings), *options, *dry) for dry in (["--dry-run"], [])]
        assert [code for code, _ in text] == [2, 2], text
        assert text[0][1] == text[1][1], text
        assert listing(folder) == before
        return text[0][1].strip().replace(f"{folder}/", "").replace(str(folder), "HERE")

    return refuse


def second_expert(folder: Path) -> list[str]:
    """Which is never asked: both nodes of two steps lie above its boundary."""
    shutil.copytree(folder / "T" / "transformer", folder / "T" / "transformer_2")
    expert = ["diffusers", "WanTransformer3DModel"]
    edited("T/model_index.json", transformer_2=expert, boundary_ratio=0.5)(folder)
    return ["stages.0.expert=low"]


SIZE = "{num_frames: 9, height: 16, width: 16}"
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
FRESH: list[tuple[str, Change, list[str]]] = [
    ("frames", given("size={num_frames: 10, height: 16, width: 16}"), ["10 frames cannot be made", "such as 9"]),
    ("height", given("size={num_frames: 9, height: 20, width: 16}"), ["height 20 cannot be made", "multiple of 16"]),
    ("width", given("size={num_frames: 9, height: 16, width: 8}"), ["width 8 cannot be made"]),
    ("the teacher's own size", edited("T/fewstep.json", width=17), ["(9, 16, 17)", "width 17 cannot be made"]),
    ("the teacher's own height in quotes", edited("T/fewstep.json", height="16"), ["fewstep.json: height is '16'; it"]),
    ("the teacher's own rate", edited("T/fewstep.json", fps="8"), ["fewstep.json: fps is '8'"]),
    ("a GPU that is not there", given("device=cuda:63"), ["there is no device cuda:63 on this machine: use cpu"]),
    ("a device of no kind", given("device=gpu"), ["there is no device gpu"]),
    ("the device meta", given("device=meta"), ["the device meta holds no numbers"]),
    (
        "sizes, of which one cannot be made",
        given(f"size=[{SIZE}, {{num_frames: 9, height: 20, width: 16}}]"),
        ["(9, 20, 16)", "height 20 cannot be made", "multiple of 16"],
    ),
    ("a size twice", given(f"size=[{SIZE}, {SIZE}]"), ["size: 16x16x9 is listed twice: list each size once"]),
    (
        "a size that no video fits",
        given(*VIDEOS, f"size=[{SIZE}, {{num_frames: 9, height: 16, width: 32}}]"),
        ["the size 32x16x9 gets no clips, and stage 2-step takes batches of 2", "leave this size out, add data"],
    ),
    (
        "a size with fewer clips than a batch",
        given(f"size=[{SIZE}, {{num_frames: 5, height: 16, width: 16}}]"),
        ["the size 16x16x", "gets 1 clip, and stage 2-step takes batches of 2 of one size", "a smaller `batch`"],
    ),
    (
        "videos that are too short for every size",
        given(*VIDEOS, "size=[{num_frames: 33, height: 16, width: 16}, {num_frames: 49, height: 16, width: 16}]"),
        ["none of the 3 videos in videos is longer than", "the shortest size, 16x16x33", "name shorter sizes"],
    ),
    ("no folder of videos", given("data={kind: videos, folder: films}"), ["there is no films in", "--set data.folder"]),
    ("an empty folder of videos", emptied("videos", *VIDEOS), ["videos holds no files that could be videos"]),
    ("a video in place of the folder", given("data={kind: videos, folder: videos/a.mp4}"), ["there is no folder"]),
    (
        "no videos among the files",
        written("other/a.pdf", "x", "data={kind: videos, folder: other}"),
        ["other holds no videos", "--set data.folder=DIR"],
    ),
    (
        "no captions",
        written("other/a.mp4", "x", "data={kind: videos, folder: other}"),
        ["none of the 1 files in", "has a caption in a .txt file next to it"],
    ),
    (
        "a csv of other columns",
        written("c.csv", "name,words\na.mp4,ring\n", "data={kind: videos, folder: videos, captions: c.csv}"),
        ["c.csv has the columns name, words", "one of file, file_name"],
    ),
    (
        "a csv with an open quote",
        written("c.csv", 'file,caption\na.mp4,"a ring\n', "data={kind: videos, folder: videos, captions: c.csv}"),
        ["c.csv, line 2 is not CSV"],
    ),
    (
        "captions of no kind",
        written("c.txt", "a ring", "data={kind: videos, folder: videos, captions: c.txt}"),
        ["c.txt is neither .csv nor .jsonl"],
    ),
    ("no prompts file", given("data.prompts=none.txt"), ["there is no none.txt in", "--set data.prompts=PATH"]),
    ("prompts without prompts", written("prompts.txt", " \n\n"), ["prompts.txt holds no prompts: write one per line"]),
    ("prompts of another encoding", written("prompts.txt", "blå\n".encode("cp1252")), ["is not UTF-8 text"]),
    ("a folder of prompts", given("data.prompts=videos"), ["there is no prompts file", "videos"]),
    (
        "a dataset without manifest",
        given("data={kind: dataset, folder: videos}"),
        ["videos is not a dataset (it has no manifest.json)"],
    ),
    (
        "a dataset whose manifest is cut off",
        written("d/manifest.json", '{"version": 1, "ki', "data={kind: dataset, folder: d}"),
        ["manifest.json is damaged"],
    ),
    ("out is a file", given("out=prompts.txt"), ["prompts.txt cannot be a folder", "--set out=DIR"]),
    ("out inside a file", given("out=prompts.txt/run"), ["is a file: choose another folder with --set out=DIR"]),
    ("out is a link to nowhere", linked("out", "/nowhere/run", "out=out"), ["out is a link to /nowhere/run, which is"]),
    ("a file where the stages go", written("run/stages", "x"), ["run/stages cannot be a folder", "--set out=DIR"]),
    ("a file where the data goes", written("run/data", "x"), ["run/data cannot be a folder", "--set out=DIR"]),
    ("a tracker that is not installed", given("logging.tracker=trackio"), ["trackio", "pip install trackio"]),
    (
        "a gate that only the judge can open",
        given("stages.0.gate={metric: prompt_accuracy, at_least: 0.5}"),
        ["the gate of stage 2-step uses prompt_accuracy", "the judge knows the shapes world only"],
    ),
    (
        "a gate on clips that the judge cannot read",
        given(
            "teacher=shapes",
            "size={num_frames: 9, height: 64, width: 64}",
            "stages.1.gate={metric: prompt_accuracy, at_least: 0.5}",
        ),
        ["the gate of stage 1-step uses prompt_accuracy", "(9, 64, 64)"],
    ),
    ("no teacher", given("teacher=T2"), ["there is no folder T2: pass shapes, a diffusers pipeline's folder or a hub"]),
    ("no teacher on the hub", given("teacher=no/such"), ["there is neither a folder nor a hub model no/such"]),
    (
        "a teacher of an unknown family",
        edited("T/model_index.json", _class_name="FluxPipeline"),
        ["is a FluxPipeline, a family that fewstep does not know: use one of WanPipeline"],
    ),
    (
        "a teacher that lacks its second expert",
        edited("T/model_index.json", boundary_ratio=0.5),
        ["has boundary_ratio 0.5, so that two experts share the times, but names no transformer_2"],
    ),
    ("an expert without a node", second_expert, ["trains the low expert, which has none of its 2 nodes"]),
    ("an expert of a single denoiser", given("stages.0.expert=high"), ["has a single denoiser: leave expert out"]),
    ("a teacher with cut weights", halved(f"T/{TRANSFORMER}"), [f"T/{TRANSFORMER} is cut off", "download it again"]),
    ("a teacher without text encoder", removed("T/text_encoder"), ["T/text_encoder is missing, the UMT5EncoderModel"]),
    (
        "a schedule that is not known",
        edited("T/scheduler/scheduler_config.json", use_dynamic_shifting=True),
        ["use_dynamic_shifting"],
    ),
    (
        "LoRA on no module",
        given("student.train=lora", "student.lora.targets=[to_query]"),
        ["has no module called to_query", "attn1.to_q"],
    ),
    (
        "LoRA on modules of which one is missing",
        given("stages.1.train=lora", "student.lora.targets=[to_q, to_kk]"),
        ["student.lora.targets", "has no module called to_kk"],
    ),
    (
        "LoRA on what is no layer",
        given("student.train=lora", "student.lora.targets=[attn1]"),
        ["attn1 means blocks.0.attn1, a WanAttention, which LoRA cannot adapt"],
    ),
    ("a stage that is not there", given(), ["there is no stage 3-step: the recipe has 2-step, 1-step"]),
]


@pytest.mark.parametrize(("case", "change", "expected"), FRESH, ids=[case for case, *_ in FRESH])
def test_a_recipe_is_refused_alike(
    case: str,
    change: Change,
    expected: list[str],
    place: Path,
    refusal: Callable[..., str],
    check_case: Callable[..., None],
) -> None:
    options = ["--again", "3-step"] if case == "a stage that is not there" else []
    check_case(KIND, case, refusal(place, change(place), *options), expected)


def dataset(change: Change, *settings: str) -> Change:
    """The run's data named as a dataset by another run."""
    return lambda folder: [*change(folder), "data={kind: dataset, folder: run/data}", "out=other", *settings]


def no_change(_: Path) -> list[str]:
    return []


SHARD, STAGE = "run/data/shard-00000.parquet", "run/stages/2-step"
WEIGHTS = f"{STAGE}/diffusion_pytorch_model.safetensors"
AGAIN = "set another gate, or train it again for longer"
BEGUN: list[tuple[str, str, Change, list[str]]] = [
    ("videos", "a video was added", written("videos/new.mp4", b"x"), ["begun with other videos: new.mp4 was added"]),
    ("videos", "a video was removed", removed("videos/b.mp4"), ["b.mp4 was removed; undo that", "--set out=DIR"]),
    ("videos", "a video is another one", written("videos/a.mp4", b"x"), ["a.mp4 was replaced"]),
    ("videos", "another caption", written("videos/c.txt", "a box"), ["c.mp4 was given another caption"]),
    (
        "videos",
        "two videos were added and one removed",
        lambda f: [*written("videos/x.mp4", b"x")(f), *written("videos/y.mp4", b"y")(f), *removed("videos/a.mp4")(f)],
        ["x.mp4 and y.mp4 were added, a.mp4 was removed"],
    ),
    (
        "videos",
        "a video was added to an older dataset",
        lambda f: [*removed("run/data/items.jsonl")(f), *written("videos/new.mp4", b"x")(f)],
        ["was begun with items 3, not 4", "--set out=DIR"],
    ),
    ("rollouts", "a prompt was added", written("prompts.txt", "a ring\na cross\na box\na dog\n"), ["a dog was added"]),
    ("rollouts", "another recipe", given("seed=1"), ["was begun with another seed", "--set out=DIR", "--again STAGE"]),
    ("rollouts", "another teacher", given("teacher=shapes"), ["was begun with"]),
    ("rollouts", "the recipe that was kept is broken", written("run/recipe.yaml", "a: ["), ["recipe.yaml cannot be"]),
    ("rollouts", "another size", given("size={num_frames: 5, height: 16, width: 16}"), ["begun with another size"]),
    ("rollouts", "a shard is damaged", flipped(SHARD), ["shard-00000.parquet is damaged", "run the command that made"]),
    ("rollouts", "the unconditional embedding is damaged", flipped("run/data/unconditional.parquet"), ["is damaged"]),
    ("rollouts", "a manifest is damaged", written("run/data/manifest.json", "{"), ["manifest.json is damaged"]),
    ("rollouts", "shards without manifest", removed("run/data/manifest.json"), ["holds shards and no manifest.json"]),
    ("rollouts", "a student's weights are cut off", halved(WEIGHTS), [f"{WEIGHTS} is cut off", "train the student"]),
    ("rollouts", "a student's weights are missing", removed(WEIGHTS), [f"{WEIGHTS} is missing"]),
    ("rollouts", "a contract lost a line", edited(f"{STAGE}/contract.json", steps=None), ["not whole (steps: Field"]),
    (
        "rollouts",
        "a result is missing",
        removed(f"{STAGE}/result.json", "stages.0.gate={metric: endpoint_error, at_most: 9}"),
        ["2-step/result.json is missing", "restore it, or delete"],
    ),
    (
        "rollouts",
        "a gate that a finished stage does not reach",
        given("stages.0.gate={metric: endpoint_error, at_most: 1e-9}"),
        ["stage 2-step ended with endpoint_error", "at most 1e-09", AGAIN],
    ),
    (
        "rollouts",
        "a checkpoint is cut off",
        lambda f: [*removed("run/stages/1-step")(f), *written("run/state.pt", b"PK\x03\x04 half")(f)],
        ["state.pt is broken", "delete it to begin the stage 1-step again"],
    ),
    ("rollouts", "a dataset of another size", dataset(given("size={num_frames: 5, height: 16, width: 16}")),
     ["run/data has clips of (9, 16, 16) frames, height and width, not (5, 16, 16)"]),
    ("rollouts", "a dataset of another teacher", dataset(given("teacher=shapes")), ["was made with the teacher"]),
    ("rollouts", "a dataset that is unfinished", dataset(edited("run/data/manifest.json", shards=[])),
     ["run/data is unfinished (0 of 1 shards)"]),
    ("rollouts", "a dataset without a shard", dataset(removed(SHARD)), ["shard-00000.parquet is missing"]),
    ("rollouts", "a dataset with a damaged shard", dataset(flipped(SHARD)), ["is damaged (its sha256 is off)"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "case", "change", "expected"), BEGUN, ids=[case for _, case, *_ in BEGUN])
def test_a_run_that_was_begun_is_refused_alike(
    kind: str,
    case: str,
    change: Change,
    expected: list[str],
    finished: dict[str, Path],
    tmp_path: Path,
    refusal: Callable[..., str],
    check_case: Callable[..., None],
) -> None:
    place = tmp_path / "place"
    shutil.copytree(finished[kind], place)
    recipe = place / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(finished[kind]), str(place)))
    settings = [*(VIDEOS if kind == "videos" else []), f"out={place / 'run'}", *change(place)]
    check_case(KIND, f"{kind}: {case}", refusal(place, settings), expected)


def test_a_run_that_goes_on_elsewhere_is_refused_alike(
    finished: dict[str, Path], tmp_path: Path, refusal: Callable[..., str], check_case: Callable[..., None]
) -> None:
    for lock in ("run/.lock", "run/data/.lock"):
        place = tmp_path / lock.replace("/", "-")
        shutil.copytree(finished["rollouts"], place)
        (place / lock).touch()
        with FileLock(place / lock):
            outcome = refusal(place, [f"out={place / 'run'}"])
        check_case(KIND, f"{lock} is held", outcome, ["another process is writing", "or choose another"])


def test_an_out_that_cannot_be_written_is_refused_alike(
    place: Path, monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str], check_case: Callable[..., None]
) -> None:
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    expected = ["HERE cannot be written into: allow it, or choose another folder with --set out=DIR"]
    check_case(KIND, "out is read-only", refusal(place, []), expected)


def test_the_same_sentence_of_another_verb_names_its_own_option(place: Path, check_case: Callable[..., None]) -> None:
    words = ["data", "videos", place / "videos", "--teacher", place / "T", "--out", place / "data", "--device", "cpu"]
    assert fewstep(*words)[0] == 0
    shutil.copy(place / "videos" / "a.mp4", place / "videos" / "new.mp4")
    code, output = fewstep(*words)
    got = f"exit {code}: {output.strip().splitlines()[-1]}".replace(f"{place}/", "")
    check_case(KIND, "fewstep data: a video was added", got, [
        "exit 2: data was begun with other videos: new.mp4 was added; undo that to resume, or choose another --out"
    ])  # fmt: skip


@pytest.mark.usefixtures("uncounted")
def test_what_is_fine_passes(place: Path, check_case: Callable[..., None]) -> None:
    code, output = fewstep("run", place / "tiny.yaml", "--dry-run")
    check_case(
        KIND,
        "nothing is wrong",
        f"exit {code} {output}".replace(str(place), "HERE"),
        ["exit 0", "teacher_steps: 4", "GiB"],
    )
    assert not (place / "run").exists()
