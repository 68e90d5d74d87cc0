"""Chains: an image from a text, then a clip from it; distilled member by member, sampled, measured, refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fewstep.distill.chain import read_chain
from fewstep.distill.packaged import chain_names
from fewstep.distill.recipe import read_recipe
from fewstep.student.chain import USUAL, chained, check_chain_sizes, members_of, seed_before
from fewstep.student.contract import read_contract
from fewstep.student.sampler import SamplingOptions, open_sampler
from fewstep.teacher.dataset.manifest import read_manifest
from fewstep.teacher.dataset.sources import item_seed
from fewstep.teacher.given import Prompt, read_given
from fewstep.teacher.source import VideoSize
from fewstep.teacher.videos.writing import to_uint8
from tests.commands.typed import fewstep

SHARED: dict[str, Any] = {"steps": 1, "batch": 2, "objective": {"kind": "progressive"}}
STAGES = [
    SHARED | {"teacher_steps": 4, "student_steps": 2, "guidance": 2.0},
    SHARED | {"teacher_steps": 2, "student_steps": 1},
]
PROMPTS = ["a ring", "a cross", "a box"]
PICTURE = {"num_frames": 1, "height": 16, "width": 16}


def write_chain(folder: Path, first: Path, later: Path) -> Path:
    """A recipe of one-frame clips of `first`, then clips of `later`."""
    (folder / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    shared = {
        "device": "cpu", "precision": "float32", "logging": {"tracker": "none"}, "stages": STAGES,
        "data": {"kind": "rollouts", "prompts": "prompts.txt", "steps": 2, "batch": 2},
    }  # fmt: skip
    (folder / "picture.yaml").write_text(yaml.safe_dump({"teacher": str(first), "size": PICTURE, **shared}))
    (folder / "clip.yaml").write_text(yaml.safe_dump({"teacher": str(later), **shared}))
    path = folder / "chain.yaml"
    members = [{"name": "picture", "recipe": "picture.yaml", "steps": 2}, {"name": "clip", "recipe": "clip.yaml"}]
    path.write_text(yaml.safe_dump({"out": str(folder / "chain"), "chain": members}))
    return path


@pytest.fixture(scope="module")
def recipe(tiny_wan_folder: Path, tiny_wan_i2v_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chain(tmp_path_factory.mktemp("chain"), tiny_wan_folder, tiny_wan_i2v_folder)


@pytest.fixture(scope="module")
def chain(recipe: Path) -> Path:
    """Its finished folder; not to be changed."""
    code, output = fewstep("run", recipe)
    assert code == 0, output
    return recipe.parent / "chain"


def test_the_later_member_learns_on_what_the_distilled_one_before_makes(chain: Path) -> None:
    manifest = read_manifest(chain / "clip" / "data")
    assert manifest.given == {"first": "files"} and manifest.rows == len(PROMPTS)
    assert read_contract(chain / "clip" / "stages" / "1-step").given == ("first",)
    before = open_sampler(chain / "picture", SamplingOptions(2), device="cpu")
    for number, prompt in enumerate(PROMPTS):
        made = to_uint8(before.clips([prompt], [item_seed(0, number)])[0])[0]
        kept = np.asarray(Image.open(chain / "given" / "clip" / f"{number:05d}-first.png"))
        assert np.abs(kept.astype(int) - made).max() <= 1  # made in another batch


def test_run_again_changes_nothing_and_another_student_is_noticed(chain: Path, recipe: Path) -> None:
    files = [*chain.glob("*/stages/*/*.safetensors"), *chain.glob("given/clip/*"), *chain.glob("clip/data/*.parquet")]
    times = {path: path.stat().st_mtime_ns for path in files}
    code, output = fewstep("run", recipe)
    assert code == 0 and times == {path: path.stat().st_mtime_ns for path in files}, output


def test_another_student_is_noticed_and_what_a_stop_left_is_gone_on_with(
    chain: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "chain"
    shutil.copytree(chain, out)
    shutil.rmtree(out / "clip")
    table, claim = (out / "given" / "clip" / name for name in ("prompts.jsonl", "made-by.json"))
    kept, claimed = table.read_text(), claim.read_text()
    table.unlink()
    claim.write_text(claimed.replace('"seed": 0', '"seed": 1'))
    code, output = fewstep("run", recipe, "--set", f"out={out}")
    assert code != 0 and "was made by another student: delete it" in output, output
    claim.write_text(claimed)
    code, output = fewstep("run", recipe, "--set", f"out={out}")
    assert code == 0 and table.read_text() == kept, output


def test_a_chain_is_its_members_one_after_the_other(chain: Path, tmp_path: Path) -> None:
    members = members_of(str(chain))
    assert [(Path(one.source).name, dict(one.frames)) for one in members] == [("picture", {}), ("clip", dict(USUAL))]
    first, last = (open_sampler(chain / name, SamplingOptions(2), device="cpu") for name in ("picture", "clip"))
    whole = chained([first, last], [USUAL])
    assert (whole.steps, whole.steps_each, whole.evaluations, whole.size) == (4, (2, 2), 4, last.size)
    code, output = fewstep("sample", f"{chain}@2+2", "--prompt", "a ring", "--seed", 5, "--out", tmp_path / "clip.gif")
    assert code == 0, output
    arguments = ("--control-scale", 0.5, "--out", tmp_path / "other.gif")
    code, output = fewstep("sample", chain, "--prompt", "a ring", *arguments)
    assert code != 0 and "the last member of the chain is a student, whose contract fixes" in output
    picture = Image.fromarray(to_uint8(first.clips(["a ring"], [seed_before(5)])[0])[0])
    picture.save(tmp_path / "first.png")
    prompt = Prompt("a ring", {"first": tmp_path / "first.png"})
    assert torch.equal(whole.clips(["a ring"], [5]), last.clips([prompt], [5]))
    given = read_given([prompt], {"first": VideoSize(1, 16, 16)}, 8.0)
    assert torch.equal(whole.before.given(["a ring"], [5])["first"], given["first"])  # type: ignore[union-attr]


def test_a_third_member_may_follow_the_whole_clip(
    tiny_wan_folder: Path, tiny_wan_i2v_folder: Path, tiny_wan_vace_folder: Path
) -> None:
    arguments = [
        SamplingOptions(1, 1.0, num_frames=1, height=16, width=16),
        SamplingOptions(1, 1.0),
        SamplingOptions(1, 1.0, given=("control",)),
    ]
    folders = (tiny_wan_folder, tiny_wan_i2v_folder, tiny_wan_vace_folder)
    samplers = [open_sampler(folder, way, device="cpu") for folder, way in zip(folders, arguments, strict=True)]
    whole = chained(samplers, [USUAL, {"control": "WHOLE_CLIP"}])
    assert whole.before is not None and whole.steps_each == (1, 1, 1)
    control = whole.before.given(["a ring"], [3])["control"]
    clip = chained(samplers[:2], [USUAL]).clips(["a ring"], [seed_before(3)])[0]
    assert np.array_equal(control[0].permute(1, 2, 3, 0).numpy(), to_uint8(clip))
    assert whole.clips(["a ring"], [3]).shape == (1, 3, *samplers[2].size)
    with pytest.raises(ValueError, match=r"follows whole clips of .*, which have 1: give both one `size`"):
        chained([samplers[0], samplers[2]], [{"control": "WHOLE_CLIP"}])


def test_a_later_member_fills_in_between_the_frames_of_an_earlier_one(
    tiny_wan_folder: Path, tiny_wan_vace_folder: Path
) -> None:
    given = {"control": "SPREAD_CLIP", "mask": "SPREAD_GAPS"}
    arguments = [SamplingOptions(1, 1.0, num_frames=5), SamplingOptions(1, 1.0, given=tuple(given))]
    folders = (tiny_wan_folder, tiny_wan_vace_folder)
    samplers = [open_sampler(folder, way, device="cpu") for folder, way in zip(folders, arguments, strict=True)]
    whole = chained(samplers, [given])
    assert whole.before is not None and (samplers[0].size.num_frames, whole.size.num_frames) == (5, 9)
    message = whole.before.given(["a ring"], [3])
    clip = to_uint8(samplers[0].clips(["a ring"], [seed_before(3)])[0])
    assert np.array_equal(message["control"][0, :, ::2].permute(1, 2, 3, 0).numpy(), clip)
    assert bool((message["control"][:, :, 1::2] == 128).all())
    assert message["mask"].shape == (1, 3, *whole.size)
    assert bool((message["mask"][:, :, ::2] == 0).all()) and bool((message["mask"][:, :, 1::2] == 255).all())
    assert whole.clips(["a ring"], [3]).shape == (1, 3, *whole.size)


@pytest.mark.parametrize(("earlier", "later"), [(1, 9), (9, 9), (9, 5), (5, 13), (4, 9)])
def test_frames_that_cannot_be_spread_evenly_are_refused(earlier: int, later: int) -> None:
    sizes = [VideoSize(count, 16, 16) for count in (later, earlier)]
    given = {"control": "SPREAD_CLIP"}
    if (earlier, later) == (5, 13):
        check_chain_sizes("it", sizes[0], "the first", sizes[1], given)
        return
    with pytest.raises(ValueError, match=f"{later} frames, over which the {earlier} of the first cannot be spread"):
        check_chain_sizes("it", sizes[0], "the first", sizes[1], given)


def test_it_is_evaluated_and_timed_as_a_whole(chain: Path, recipe: Path, tmp_path: Path) -> None:
    recipes = [yaml.safe_load((recipe.parent / f"{name}.yaml").read_text()) for name in ("picture", "clip")]
    teachers = "+".join(text["teacher"] for text in recipes)
    models = [f"teacher={teachers}@4+2:2+1", f"four={chain}@2+2", f"two={chain}@1"]
    # the tiny teacher of texts makes nine frames by itself: its last one is what the other is given
    code, output = fewstep(
        "evaluate", *models, "--prompts", recipe.parent / "prompts.txt", "--num", 3, "--metrics", "psnr,motion"
    )
    assert code == 0, output
    rows = json.loads((chain / "evaluation" / "results.json").read_text())["rows"]
    assert [[link["steps"] for link in row["chain"]] for row in rows] == [[4, 2], [2, 2], [1, 1]]
    assert [row["evaluations"] for row in rows] == [10, 4, 2] and [row["role"] for row in rows][1:] == ["student"] * 2
    code, output = fewstep("benchmark", *models, "--repetitions", 1, "--warmup", 1, "--out", tmp_path / "time.json")
    assert code == 0, output
    timed = json.loads((tmp_path / "time.json").read_text())["rows"]
    assert [row["evaluations"] for row in timed] == [10, 4, 2]
    assert all(row["text_seconds"] and row["split_gap"] < 0.5 for row in timed)


@pytest.mark.usefixtures("uncounted")
def test_a_dry_run_checks_every_member_and_makes_nothing(recipe: Path, tmp_path: Path) -> None:
    code, output = fewstep("run", recipe, "--dry-run", "--set", f"out={tmp_path / 'chain'}", "--set", "clip.seed=7")
    assert code == 0 and "member picture" in output and "member clip" in output and "seed: 7" in output, output
    assert not (tmp_path / "chain").exists()


@pytest.mark.parametrize(
    ("change", "settings", "sentence"),
    [
        ({"given": {"control": "WHOLE_CLIP"}}, [], "member clip: .*takes first, not control"),
        ({"given": {"first": "MIDDLE"}}, [], "first is 'MIDDLE': use FIRST_FRAME"),
        ({"given": {"first": "WHOLE_CLIP"}}, [], "first is one image, and WHOLE_CLIP is not"),
        ({"steps": 3}, [], "clip has no student of 3 steps, .*: set steps to one of 2, 1"),
        ({"model": "runs/none"}, [], "clip has one of recipe and model"),
        ({"name": "picture"}, [], "two members called picture"),
        ({}, ["clip.size={num_frames: 9, height: 32, width: 32}"], "member clip: it makes clips of 32x32 pixels"),
        ({}, ["clip.data={kind: videos, folder: .}"], "data.kind to rollouts"),
        ({}, ["seed=3"], "a chain has `out` and its members, picture, clip"),
        ({}, ["clip.precision=bfloat16"], "choose one for all"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(
    recipe: Path, tmp_path: Path, change: dict[str, Any], settings: list[str], sentence: str
) -> None:
    text = yaml.safe_load(recipe.read_text())
    text["chain"][1] |= change
    text["out"] = str(tmp_path / "chain")
    other = recipe.parent / "other.yaml"
    other.write_text(yaml.safe_dump(text))
    code, output = fewstep("run", other, *(part for setting in settings for part in ("--set", setting)))
    message = " ".join(output.split())
    assert code != 0 and re.search(sentence, message), output
    assert not (tmp_path / "chain").exists()


def test_a_finished_model_takes_part_as_it_is(recipe: Path, chain: Path, tmp_path: Path) -> None:
    text = yaml.safe_load(recipe.read_text()) | {"out": str(tmp_path / "chain")}
    text["chain"][1] = {"name": "clip", "model": str(chain / "clip")}
    (recipe.parent / "with-model.yaml").write_text(yaml.safe_dump(text))
    code, output = fewstep("run", recipe.parent / "with-model.yaml")
    assert code == 0, output
    assert [Path(one.source) for one in members_of(str(tmp_path / "chain"))][1] == (chain / "clip").resolve()
    assert sorted(path.name for path in (tmp_path / "chain").iterdir() if path.is_dir()) == ["picture"]


def test_steps_and_settings_that_a_chain_cannot_take(chain: Path, tmp_path: Path) -> None:
    arguments = ["--prompt", "a ring", "--out", tmp_path / "clip.gif"]
    for source, options, sentence in (
        (f"{chain}@2+2+2", [], "says 3 numbers of a chain of 2"),
        (f"{chain}@3", [], "no student in"),
        (chain, ["--guidance", 3], "guidance, shift and negative prompt are distilled into them"),
        (f"{chain}+", [], "is not a chain"),
    ):
        code, output = fewstep("sample", source, *arguments, *options)
        assert code != 0 and sentence in " ".join(output.split()), output


def test_packaged_chains_are_read_and_told_from_other_recipes() -> None:
    assert chain_names() == ["shapes-chain"]
    chain = read_chain("shapes-chain", ["picture.seed=4", "clip.model=elsewhere"])
    picture, clip = chain.plans
    assert picture is not None and (picture.seed, picture.out) == (4, Path("runs/shapes-chain/picture"))
    assert clip is None and chain.members[1].model == "elsewhere"
    with pytest.raises(ValueError, match="is the recipe of a chain"):
        read_recipe("shapes-chain")
