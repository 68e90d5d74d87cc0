"""What a run could not use, prompts that are cut, and where datasets may go."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fewstep.teacher.dataset.sources import list_files
from tests.commands.test_run_data import recipe, videos
from tests.commands.typed import fewstep

SKIPPED, TEXT, PLACE = "04 what run skipped", "05 prompts beyond the text encoder", "07 dataset folders"
Check = Callable[[str, str, object, str | Sequence[str]], None]


def run(folder: Path, *words: object) -> str:
    """Exit code, and all that was said, without progress bars and with paths from the test's folder."""
    code, text = fewstep(*words)
    message = "\n".join(line for line in text.splitlines() if "━" not in line)
    return f"exit {code}: {message}".replace(f"{folder}/", "")


def usable(folder: Path, teacher: Path, good: int, bad: int, *settings: str) -> list[str]:
    """What two starts of one run on these clips say."""
    data = {"kind": "videos", "folder": str(videos(folder / "videos", good, bad))}
    words = ["run", recipe(folder, teacher, data), *(word for setting in settings for word in ("--set", setting))]
    return [run(folder, *words), run(folder, *words)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("good", "bad", "settings", "code"),
    [
        (1, 6, [], 2),
        (1, 6, ["data.min_usable=0.1"], 0),
        (2, 2, [], 0),
        (2, 3, [], 2),
        (3, 1, ["data.min_usable=0.9"], 2),
    ],
)
def test_clips_that_could_not_be_used(
    tmp_path: Path, tiny_wan_folder: Path, check_case: Check, good: int, bad: int, settings: list[str], code: int
) -> None:
    line = f"{good} of {good + bad} clips usable, {bad} skipped: run/data/skipped.jsonl"
    for start, outcome in zip(
        ("first", "second"), usable(tmp_path, tiny_wan_folder, good, bad, *settings), strict=True
    ):
        case = f"{bad} of {good + bad} clips broken, {' '.join(settings) or 'the usual limit'}, {start} start"
        expected = [
            f"exit {code}",
            line,
            *(["data.min_usable is", "bad0.mp4: broken"] if code else ["the student is in"]),
        ]
        check_case(SKIPPED, case, outcome, expected)


@pytest.mark.usefixtures("uncounted")
@pytest.mark.parametrize(("reason", "good", "bad"), [("no caption", 7, 0), ("broken", 1, 6)])
def test_a_dry_run_foresees_it(
    tmp_path: Path, tiny_wan_folder: Path, check_case: Check, reason: str, good: int, bad: int
) -> None:
    folder = videos(tmp_path / "videos", good, bad)
    for i in range(1, good):
        (folder / f"good{i}.txt").unlink()
    path = recipe(tmp_path, tiny_wan_folder, {"kind": "videos", "folder": str(folder)})
    outcome = run(tmp_path, "run", path, "--dry-run")
    line = "at most 1 of 7 clips usable, 6 skipped (such as"
    expected = ["exit 2", line, reason, "data.min_usable is 0.5: fix the data, or --set data.min_usable=0.14"]
    check_case(SKIPPED, f"6 of 7, {reason}: the dry run", outcome, expected)
    outcome = run(tmp_path, "run", path, "--dry-run", "--set", "data.min_usable=0.14")
    check_case(SKIPPED, f"6 of 7, {reason}: the dry run, a lower limit", outcome, ["exit 0", line])


@pytest.mark.slow
def test_a_run_inside_the_folder_of_its_videos_resumes(
    tmp_path: Path, tiny_wan_folder: Path, check_case: Check
) -> None:
    folder = videos(tmp_path / "videos", 2, 0)
    out, prompts = str(folder / "run"), {"prompts": ["a ring"]}
    path = recipe(tmp_path, tiny_wan_folder, {"kind": "videos", "folder": str(folder)}, out=out, logging=prompts)
    assert run(tmp_path, "run", path)[:6] == "exit 0"
    outcome = run(tmp_path, "run", path)
    check_case(PLACE, "a run inside the folder of its videos, second start", outcome, ["exit 0", "1-step is finished"])
    outcome = run(tmp_path, "run", path, "--set", f"out={folder}")
    expected = ["exit 2", "videos is the folder of the videos and of the run", "--set out=DIR"]
    check_case(PLACE, "a run in the folder of its videos itself", outcome, expected)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jpg", ".PNG", ".webp", ".srt", ".vtt", ".md", ".yaml", ".nfo"])
def test_what_people_keep_next_to_videos_is_no_video(tmp_path: Path, check_case: Check, suffix: str) -> None:
    folder = videos(tmp_path / "videos", 1, 0)
    (clip,) = list_files(folder, tmp_path / "out")
    (folder / f"{clip.stem}{suffix}").write_bytes(b"a thumbnail, subtitles or notes")
    (folder / "unknown.bin").write_bytes(b"this may be a video")  # other files are opened, and counted if they are none
    names = [path.name for path in list_files(folder, tmp_path / "out")]
    check_case(SKIPPED, f"clip{suffix} next to clip.mp4", names, str([clip.name, "unknown.bin"]))


def test_folders_that_links_lead_to_are_read_once(tmp_path: Path) -> None:
    """Shards of a collection are often linked into one folder."""
    for name in ("videos/own/a.mp4", "elsewhere/b.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"a video")
    folder = tmp_path / "videos"
    for link, target in (("linked", tmp_path / "elsewhere"), ("again", folder / "own"), ("own/loop", folder)):
        (folder / link).symlink_to(target)
    names = [path.relative_to(folder).as_posix() for path in list_files(folder, tmp_path / "out")]
    assert names == ["linked/b.mp4", "own/a.mp4"]


def test_nothing_to_skip_is_not_mentioned(tmp_path: Path, tiny_wan_folder: Path, check_case: Check) -> None:
    outcome = usable(tmp_path, tiny_wan_folder, 2, 0)[0]
    check_case(SKIPPED, "all clips usable", f"{outcome[:6]}, {'usable' in outcome}", "exit 0, False")


def test_captions_missing_for_most_videos(tmp_path: Path, tiny_wan_folder: Path, check_case: Check) -> None:
    folder = videos(tmp_path / "videos", 4, 0)
    for i in range(1, 4):
        (folder / f"good{i}.txt").unlink()
    outcome = run(tmp_path, "run", recipe(tmp_path, tiny_wan_folder, {"kind": "videos", "folder": str(folder)}))
    check_case(
        SKIPPED, "three of four without a caption", outcome, ["exit 2", "1 of 4 clips usable", "good1.mp4: no caption"]
    )


@pytest.mark.slow
def test_a_dataset_with_skipped_clips(tmp_path: Path, tiny_wan_folder: Path, check_case: Check) -> None:
    words = [videos(tmp_path / "videos", 1, 3), "--teacher", tiny_wan_folder, "--out", tmp_path / "made"]
    line = "1 of 4 clips usable, 3 skipped: made/skipped.jsonl"
    check_case(SKIPPED, "fewstep data videos says it, too", run(tmp_path, "data", "videos", *words), ["exit 3", line])
    path = recipe(tmp_path, tiny_wan_folder, {"kind": "dataset", "folder": str(tmp_path / "made")})
    check_case(SKIPPED, "data.kind: dataset", run(tmp_path, "run", path), ["exit 2", line, "data.min_usable is 0.5"])
    outcome = run(tmp_path, "run", path, "--set", "data.min_usable=0.25")
    check_case(SKIPPED, "data.kind: dataset, a lower limit", outcome, ["exit 0", line])


LONG = "a red ring " * 6
CUT = "are longer than the text encoder's 16 tokens and are cut there: 'a red ring a red ring a red ring a re...' (19"


# tests/commands/test_evaluate.py has the other two
FURTHER = [pytest.param(verb, marks=pytest.mark.slow) for verb in ("evaluate", "vbench videos")]


@pytest.mark.parametrize("verb", ["data rollouts", "data videos", "run", "sample", *FURTHER])
def test_every_verb_that_takes_prompts_counts_long_ones(
    tmp_path: Path, tiny_cogvideox_folder: Path, check_case: Check, verb: str
) -> None:
    teacher, prompts = tiny_cogvideox_folder, tmp_path / "prompts.txt"
    prompts.write_text(f"a ring\n{LONG}\na zebra\n")
    words: list[Any] = ["--prompts", prompts, "--steps", 1, "--out", tmp_path / "out.gif"]
    if verb == "data rollouts":
        words = [prompts, "--steps", 1, "--teacher", teacher, "--out", tmp_path / "out"]
    elif verb == "data videos":
        for name, text in zip(("good0", "good1", "good2"), ("a ring", LONG, "a zebra"), strict=True):
            folder = tmp_path / "videos" if (tmp_path / "videos").exists() else videos(tmp_path / "videos", 3, 0)
            (folder / f"{name}.txt").write_text(text)
        words = [tmp_path / "videos", "--teacher", teacher, "--out", tmp_path / "out"]
    elif verb == "run":
        words = [recipe(tmp_path, teacher, {"kind": "rollouts", "prompts": str(prompts), "steps": 1})]
    elif verb == "evaluate":
        words = [teacher, *words[:4], "--num", 3, "--metrics", "psnr", "--out", tmp_path / "out"]
    else:
        words = [teacher, *words]
    outcome = run(tmp_path, *verb.split(), *words)
    expected = [
        "exit 0",
        f"1 of 3 prompts {CUT}",
        "1 of 3 prompts have words that the tokenizer does not know: 'zebra'",
    ]
    check_case(TEXT, f"fewstep {verb}", outcome, expected)


@pytest.mark.parametrize("family", ["tiny_wan_folder", "tiny_animatediff_folder"])
def test_the_limit_is_the_family_s(
    request: pytest.FixtureRequest, tmp_path: Path, check_case: Check, family: str
) -> None:
    limit = {"tiny_wan_folder": 512, "tiny_animatediff_folder": 77}[family]
    for words, text in (
        (limit - 1, "nothing"),
        (limit, f"1 of 1 prompts are longer than the text encoder's {limit} tokens"),
    ):
        sample = ["--prompt", "ring " * words, "--steps", 1, "--out", tmp_path / "clip.gif"]
        outcome = run(tmp_path, "sample", request.getfixturevalue(family), *sample)
        shown = outcome if "longer" in outcome else f"{outcome[:6]}: nothing"
        check_case(TEXT, f"{limit} tokens, a prompt of {words + 1}", shown, ["exit 0", text])


@pytest.mark.parametrize(
    ("case", "made", "out", "sentence"),
    [
        ("a run directory", ["run/recipe.yaml", "run/stages/x/contract.json"], "run", "lies in a run directory"),
        ("its data folder", ["run/recipe.yaml", "run/data/manifest.json"], "run/data", "lies in a run directory"),
        ("a new folder in a run that is training", ["run/state.pt"], "run/new", "lies in a run directory"),
        ("deep inside a run", ["run/stages/x/contract.json"], "run/stages/x/y/z", "lies in a run directory"),
        ("a folder of notes", ["notes/readme.md"], "notes", "holds files other than a dataset's, such as readme.md"),
        (
            "a teacher's folder",
            ["t/model_index.json"],
            "t",
            "holds files other than a dataset's, such as model_index.json",
        ),
        ("a folder of videos", ["v/a.mp4", "v/a.txt"], "v", "holds files other than a dataset's, such as a.mp4, a.txt"),
    ],
)
def test_where_a_dataset_may_not_go(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    check_case: Check,
    case: str,
    made: list[str],
    out: str,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("prompts.txt", *made):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("a ring\n")
    before = sorted(tmp_path.rglob("*"))
    outcome = run(tmp_path, "data", "rollouts", "prompts.txt", "--out", out)
    check_case(PLACE, f"--out is {case}", outcome, ["exit 2", sentence, "choose"])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_real_run_is_known(tmp_path: Path, tiny_wan_folder: Path, check_case: Check) -> None:
    (tmp_path / "prompts.txt").write_text("a ring\n")
    data = {"kind": "rollouts", "prompts": str(tmp_path / "prompts.txt"), "steps": 1}
    assert fewstep("run", recipe(tmp_path, tiny_wan_folder, data))[0] == 0
    words = ["data", "rollouts", tmp_path / "prompts.txt", "--teacher", tiny_wan_folder, "--steps", 1, "--out"]
    for out in ("run", "run/data", "run/more"):
        outcome = run(tmp_path, *words, tmp_path / out)
        check_case(PLACE, f"--out is {out} of a finished run", outcome, ["exit 2", "lies in a run directory"])
    (tmp_path / "recipe.yaml").write_text("out: runs/mine\n")
    check_case(
        PLACE,
        "a recipe of one's own beside it",
        run(tmp_path, *words, tmp_path / "data"),
        ["exit 0", "1 clips in 1 shards"],
    )


@pytest.fixture(scope="module")
def taken(tiny_wan_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pipeline T, a dataset, a finished run and prompts.txt; not to be changed."""
    folder = tmp_path_factory.mktemp("taken")
    shutil.copytree(tiny_wan_folder, folder / "T")
    (folder / "prompts.txt").write_text("a ring\na box\na disc\n")
    data = {"kind": "rollouts", "prompts": str(folder / "prompts.txt"), "steps": 1}
    assert fewstep("run", recipe(folder, folder / "T", data))[0] == 0
    shutil.copytree(folder / "run" / "data", folder / "dataset")
    return folder


VERBS = {
    "run": "run tiny.yaml --set out={}",
    "run --dry-run": "run tiny.yaml --dry-run --set out={}",
    "evaluate": "evaluate T@1 run@1 --num 3 --prompts prompts.txt --metrics motion --out {}",
    "vbench videos": "vbench videos T@1 --prompts prompts.txt --out {}",
    "teacher videos": "teacher videos {} --num 1",
    "demo": "demo --out {}",
    "data rollouts": "data rollouts prompts.txt --teacher T --out {}",
}


@pytest.mark.usefixtures("uncounted")
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_writes_into_what_is_another_s(
    taken: Path, monkeypatch: pytest.MonkeyPatch, check_case: Check, verb: str
) -> None:
    monkeypatch.chdir(taken)
    before = sorted(taken.rglob("*"))
    for out in ("T", "T/more", "dataset/more", "run/stages/1-step", *([] if verb == "data rollouts" else ["dataset"])):
        outcome = run(taken, *VERBS[verb].format(out).split())
        check_case(
            PLACE, f"{verb} into {out}", outcome, ["exit 2", "choose another" if "data" not in verb else "choose"]
        )
    assert sorted(taken.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("benchmark T@1 --out run/recipe.yaml", "run/recipe.yaml does not end in .json: choose another --out"),
        ("benchmark T@1 --out run/data/manifest.json", "run/data/manifest.json is not a benchmark's table"),
        ("report run --out prompts.txt", "prompts.txt does not end in .html or .htm: choose another --out"),
        ("shapes teacher --fresh --out run/recipe.yaml", "run/recipe.yaml does not end in .json"),
        ("shapes teacher --fresh --out run/data/manifest.json", "manifest.json is not a results table"),
        ("shapes exports run --step-count 1 --out prompts.txt", "prompts.txt does not end in .json"),
        ("sample T --prompt ring --out run/recipe.yaml", "run/recipe.yaml does not end in .mp4"),
    ],
)
def test_no_file_of_another_kind_is_written_over(
    taken: Path, monkeypatch: pytest.MonkeyPatch, check_case: Check, words: str, sentence: str
) -> None:
    monkeypatch.chdir(taken)
    check_case(PLACE, words, run(taken, *words.split()), ["exit 2", sentence])


def test_prompts_alone_make_no_dataset(tmp_path: Path, check_case: Check) -> None:
    outcome = run(tmp_path, "data", "prompts", tmp_path / "prompts.txt", "--out", tmp_path / "out")
    check_case(PLACE, "fewstep data prompts", outcome, ["exit 2", "No such command 'prompts'"])
