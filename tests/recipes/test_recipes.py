"""Every packaged recipe resolves; its schema, prompts and documentation are what the code says."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from fewstep.distill.estimate import stage_calls
from fewstep.distill.objectives.adversarial_settings import Adversarial
from fewstep.distill.objectives.renoise import NoiseLevels
from fewstep.distill.packaged import RECIPES, find_recipe, recipe_names
from fewstep.distill.recipe import read_recipe, recipe_schema
from fewstep.distill.settings import VideoData
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.outline import outline_teacher
from fewstep.teacher.shapes.captions import example, named, text_held_out
from fewstep.teacher.shapes.world import held_out

ROOT = Path(__file__).parents[2]
SHAPES = ["shapes-1step", "shapes-2step", "shapes-4step", "shapes-from-video", "shapes-lora-4step"]
OF_CLIPS = ["shapes-ladd", "shapes-apt"]  # a discriminator on real clips, and nothing else
COMPARED = ["shapes-arms", "shapes-published", *OF_CLIPS]  # ways to compare with
DEMO = "shapes-demo"
RELAY = "shapes-relay"
SHAPES_GIVEN = {  # recipe -> teacher, what clips are made from
    "shapes-first-frame": ("shapes-image", "first"),
    "shapes-first-last": ("shapes-image", "first last"),
    "shapes-box-control": ("shapes-control", "control"),
}
SIZES = "shapes-sizes"
CHAINED = "shapes-chain-picture"
EXPERTS = "wan2.2-t2v-a14b-lora-4step"
LTX = {"ltx-video-2b-lora-4step": ("Lightricks/LTX-Video", "5"), "ltx-2-lora-4step": ("Lightricks/LTX-2", "3")}
HUNYUAN = {  # of prompts: recipe -> teacher, guidance
    "hunyuanvideo-t2v-lora-4step": ("hunyuanvideo-community/HunyuanVideo", "1"),
    "hunyuanvideo1.5-t2v-480p-lora-4step": ("hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v", "6"),
    "hunyuanvideo1.5-t2v-480p-distilled-lora-4step": (
        "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v_distilled",
        "1",
    ),
}
SKYREELS, SANA = "skyreels-v2-t2v-14b-lora-4step", "sana-video-2b-lora-4step"
KANDINSKY = "kandinsky5-t2v-lite-lora-4step"
COGVIDEOX = {"cogvideox-5b-lora-4step": ("zai-org/CogVideoX-5b", "6")}
MOCHI = {"mochi-1-lora-4step": ("genmo/mochi-1-preview", "4.5")}
OF_PROMPTS = [
    "wan2.1-t2v-1.3b-4step", "wan2.1-t2v-1.3b-lora-4step", EXPERTS, *LTX, *HUNYUAN, *COGVIDEOX, SKYREELS, SANA,
    KANDINSKY, *MOCHI,
]  # fmt: skip
GIVEN = {  # recipe -> teacher, guidance, what clips are made from
    "wan2.1-i2v-14b-lora-4step": ("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "5", "first"),
    "wan2.1-flf2v-14b-lora-4step": ("Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers", "5.5", "first last"),
    "wan2.1-vace-1.3b-lora-4step": ("Wan-AI/Wan2.1-VACE-1.3B-diffusers", "5", "control"),
    "wan2.2-i2v-a14b-lora-4step": ("Wan-AI/Wan2.2-I2V-A14B-Diffusers", "3.5", "first"),
    "wan2.2-ti2v-5b-lora-4step": ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "5", "first"),
    "skyreels-v2-i2v-14b-lora-4step": ("Skywork/SkyReels-V2-I2V-14B-540P-Diffusers", "5", "first"),
    "kandinsky5-i2v-lite-lora-4step": ("kandinskylab/Kandinsky-5.0-I2V-Lite-5s-Diffusers", "5", "first"),
    "wan2.2-animate-14b-lora-4step": ("Wan-AI/Wan2.2-Animate-14B-Diffusers", "1", "reference pose face"),
    "ltx-video-13b-lora-4step": ("Lightricks/LTX-Video-0.9.7-dev", "5", "first"),
    "hunyuanvideo-i2v-lora-4step": ("hunyuanvideo-community/HunyuanVideo-I2V", "1", "first"),
    "hunyuanvideo-i2v-33ch-lora-4step": ("hunyuanvideo-community/HunyuanVideo-I2V-33ch", "1", "first"),
    "hunyuanvideo1.5-i2v-480p-lora-4step": ("hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_i2v", "6", "first"),
    "svd-4step": ("stabilityai/stable-video-diffusion-img2vid", "3", "first"),
    "svd-xt-4step": ("stabilityai/stable-video-diffusion-img2vid-xt", "3", "first"),
    "cogvideox-5b-i2v-lora-4step": ("zai-org/CogVideoX-5b-I2V", "6", "first"),
    "cogvideox1.5-5b-i2v-lora-4step": ("zai-org/CogVideoX1.5-5B-I2V", "6", "first"),
    "cogvideox-fun-5b-control-lora-4step": ("CogVideoX-Fun-V1.1-5b-Control", "6", "control"),
    "animatediff-openpose-lora-4step": ("openpose-clips", "7.5", "control"),
}
WAN = [*OF_PROMPTS, *GIVEN]
PICTURES = ["sdxl-lightning", "sdxl-lora-4step"]
MOTION = "animatediff-lightning"
TEACHERS = {
    **dict.fromkeys(OF_PROMPTS, ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "5")),
    SKYREELS: ("Skywork/SkyReels-V2-T2V-14B-540P-Diffusers", "6"),
    KANDINSKY: ("kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers", "5"),
    SANA: ("Efficient-Large-Model/SANA-Video_2B_480p_diffusers", "6"),
    EXPERTS: ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "4@0.875-1,3@0-0.875"),
    **LTX,
    **HUNYUAN,
    **COGVIDEOX,
    **MOCHI,
    **{name: (teacher, guidance) for name, (teacher, guidance, _) in GIVEN.items()},
    **{name: (teacher, "3") for name, (teacher, _) in SHAPES_GIVEN.items()},
    MOTION: ("animatediff-epicrealism", "7.5"),
    CHAINED: ("shapes-frame", "3"),
    **dict.fromkeys(PICTURES, ("stabilityai/stable-diffusion-xl-base-1.0", "6")),
}
TO_WRITE_THE_SCHEMA = (
    'python -c "import json; from fewstep.distill.recipe import recipe_schema; '
    'print(json.dumps(recipe_schema(), indent=1))" > recipes/schema.json'
)


@pytest.fixture
def own(tmp_path: Path) -> dict[str, list[str]]:
    """What a user has to name: recipe -> overrides."""
    (tmp_path / "mine.txt").write_text("a corgi runs\n")
    prompts = [f"data.prompts={tmp_path / 'mine.txt'}"]
    folder = [f"data.folder={tmp_path}"]
    (tmp_path / "mine.csv").write_text("file,caption,control\n")
    captions = [*folder, f"data.captions={tmp_path / 'mine.csv'}"]
    given = [*GIVEN, *SHAPES_GIVEN]
    facts = {name: captions if "_FRAME" not in find_recipe(name).read_text() else folder for name in given}
    of_folders = dict.fromkeys(["shapes-from-video", "shapes-arms", *OF_CLIPS, RELAY], folder)
    return {**of_folders, **dict.fromkeys([*OF_PROMPTS, *PICTURES, MOTION], prompts), **facts}


def test_what_is_given_is_as_the_files_say(own: dict[str, list[str]]) -> None:
    for name, names in {name: facts[-1] for name, facts in [*GIVEN.items(), *SHAPES_GIVEN.items()]}.items():
        data = read_recipe(name, own[name]).data
        assert isinstance(data, VideoData) and list(data.given or {}) == names.split()


def test_the_packaged_recipes_are_listed() -> None:
    assert recipe_names() == sorted(
        [*SHAPES, *COMPARED, DEMO, RELAY, *SHAPES_GIVEN, SIZES, CHAINED, *WAN, *PICTURES, MOTION]
    )
    with pytest.raises(
        ValueError, match=r"there is no recipe shapes-3step: pass a YAML file, or one of .*shapes-1step, "
    ):
        read_recipe("shapes-3step")
    with pytest.raises(ValueError, match="there is no recipe"):
        read_recipe("elsewhere/shapes-4step")


@pytest.mark.parametrize(
    "name", [*SHAPES, *COMPARED, DEMO, RELAY, *SHAPES_GIVEN, SIZES, CHAINED, *WAN, *PICTURES, MOTION]
)
def test_every_recipe_resolves_and_reads_back(name: str, own: dict[str, list[str]], tmp_path: Path) -> None:
    recipe = read_recipe(name, own.get(name, []))
    assert recipe == read_recipe(f"{name}.yaml", own.get(name, [])) == read_recipe(find_recipe(name), own.get(name, []))
    recipe.save(tmp_path / "recipe.yaml")
    assert read_recipe(tmp_path / "recipe.yaml") == recipe
    assert recipe.out == Path("runs") / name
    assert recipe.teacher == TEACHERS.get(name, ("shapes", ""))[0]


@pytest.mark.parametrize("name", [*SHAPES, *WAN, "sdxl-lora-4step"])
def test_every_recipe_is_a_relay_with_guidance_first_and_the_discriminator_last(
    name: str, own: dict[str, list[str]]
) -> None:
    recipe = read_recipe(name, own.get(name, []))
    indices = range(len(recipe.stages))
    guidance = Guidance.of(TEACHERS.get(name, ("shapes", "7@0.3-0.93"))[1])
    assert [i for i in indices if recipe.teacher_of(i) is None] == [0] and recipe.stages[0].guidance == guidance
    target = {"1": 1, "2": 2}.get(name.removeprefix("shapes-")[0], 4)
    kinds = [(s.objective.kind, s.student_steps) for s in recipe.stages]
    counts = [count for count in (8, 4, 2, 1) if count >= target]
    assert kinds == [("progressive", count) for count in counts] + [("adversarial", target)] * 2
    (conditional, relaxed) = (s.objective for s in recipe.stages[-2:])
    assert isinstance(conditional, Adversarial) and conditional.conditional
    real = conditional.real if name.startswith("shapes") else "clips_at_data"
    assert relaxed == conditional.model_copy(update={"conditional": False, "real": real})
    assert all(s.betas[0] == 0 for s in recipe.stages[-2:])
    assert {recipe.train_of(i) for i in indices} == {"lora" if "lora" in name else "full"}


@pytest.mark.parametrize("name", ["shapes-1step", "shapes-2step"])
def test_few_steps_learn_from_their_nodes_alone_and_at_last_from_eight_steps(name: str) -> None:
    """arXiv 2402.13929 has several starts, which cost distance here: LOG.md."""
    conditional, relaxed = read_recipe(name).stages[-2:]
    assert conditional.starts is relaxed.starts is None
    assert relaxed.teacher_steps == 8
    assert isinstance(relaxed.objective, Adversarial) and relaxed.objective.noise.kind == "levels"


def test_the_published_recipe_is_the_papers() -> None:
    """arXiv 2402.13929: per count LoRA conditional, LoRA relaxed, the merged network relaxed; nothing of our own."""
    recipe = read_recipe("shapes-published")
    phases = [stage.objective for stage in recipe.stages[1:]]
    assert [recipe.train_of(i) for i in range(1, 7)] == ["lora", "lora", "full"] * 2
    for i, objective in enumerate(phases):
        assert isinstance(objective, Adversarial) and objective.conditional is (i % 3 == 0)
        assert (objective.loss, objective.anchor.weight, objective.real) == ("non_saturating", 0, "supervisor")
        assert objective.r1 == objective.r2 == 0 and objective.discriminator.backbone == "trained"
    assert recipe.stages[-1].teacher_steps == 8 and recipe.stages[-1].starts == (0.25, 0.5, 0.75, 1.0)


def test_the_lightning_recipe_is_the_papers_whole(own: dict[str, list[str]]) -> None:
    """arXiv 2402.13929: 128 -> 32 by regression, then three phases at each count; x0 for one step; its rates."""
    recipe = read_recipe("sdxl-lightning", own["sdxl-lightning"])
    counts = [(stage.teacher_steps, stage.student_steps) for stage in recipe.stages]
    of_2_and_1 = [(4, 2), (8, 2), (8, 2), (2, 1), (4, 1), (4, 1)]
    assert counts == [(128, 32), *[(32, 8)] * 3, *[(8, 4)] * 3, *of_2_and_1]
    assert [recipe.train_of(i) for i in range(13)] == ["full", *["lora", "lora", "full"] * 4]
    assert [stage.lr for stage in recipe.stages] == [1e-5, *[1e-6, 1e-6, 5e-7] * 4]
    for i, stage in enumerate(recipe.stages[1:]):
        objective = stage.objective
        assert isinstance(objective, Adversarial) and objective.conditional is (i % 3 == 0) and stage.betas == (0, 0.99)
        assert (objective.loss, objective.anchor.weight) == ("non_saturating", 0)
        assert (objective.discriminator.backbone, objective.discriminator.depths) == ("trained", (0.6,))
        assert (stage.starts is not None) is (i in (7, 8, 10, 11))
        assert isinstance(objective.noise, NoiseLevels) and len(objective.noise.levels) == (4 if i > 5 else 1)
    converted = [(stage.name, stage.convert.to) for stage in recipe.stages if stage.convert]
    assert converted == [("1-step-lora-conditional", "x0")]
    supervisors = [recipe.teacher_of(i) for i in range(13)]
    assert supervisors == [None, 0, 0, 0, 3, 3, 3, 6, 3, 3, 9, 6, 6]


def test_arms_start_alike_and_have_regression_alone_to_compare_with() -> None:
    recipe = read_recipe("shapes-arms", [f"data.folder={RECIPES}"])
    for steps in (4, 2, 1):
        start = [s.name for s in recipe.stages].index(f"{steps}-step")
        arms = [i for i, s in enumerate(recipe.stages) if s.student_steps == steps and i != start]
        assert {recipe.start_of(i) for i in arms if "published" not in recipe.stages[i].name} == {start}
        assert recipe.stages[arms[0]].name == f"{steps}-mse"
    ladd = next(s.objective for s in recipe.stages if s.name == "4-ladd")
    assert isinstance(ladd, Adversarial) and (ladd.real, ladd.judges, ladd.anchor.weight) == ("clips", "clip", 0)


@pytest.mark.parametrize("name", OF_CLIPS)
def test_ladd_and_apt_ask_no_supervisor(name: str, own: dict[str, list[str]]) -> None:
    """arXiv 2403.12015 and 2501.08316: after regression, real clips alone say what is right."""
    *regression, last = read_recipe(name, own[name]).stages
    assert {stage.objective.kind for stage in regression} == {"progressive"}
    assert isinstance(last.objective, Adversarial) and not last.objective.learns_from_supervisor(last.student_steps)
    calls = stage_calls(last, outline_teacher("shapes").teacher.schedule)
    assert calls.forward.get("supervisor", 0) == 0 and calls.forward["discriminator"] > 0


@pytest.mark.parametrize("name", ["shapes-from-video", "shapes-arms", RELAY, *SHAPES_GIVEN, *WAN, *PICTURES, MOTION])
def test_a_recipe_without_the_users_files_says_how_to_name_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"as in --set data\.(folder|prompts|captions)=PATH"):
        read_recipe(name)


@pytest.mark.parametrize(
    "name",
    ["shapes-teacher", "shapes-teacher-on", *(f"shapes-teacher-{kind}" for kind in ("image", "control", "frame"))],
)
def test_the_recipes_of_the_embedded_teacher_are_told_apart(name: str) -> None:
    with pytest.raises(ValueError, match="is the recipe of a teacher, not of a distillation"):
        read_recipe(name)


def test_the_schema_is_current() -> None:
    committed = json.loads((RECIPES / "schema.json").read_text("utf-8"))
    assert committed == json.loads(json.dumps(recipe_schema())), f"write it again: {TO_WRITE_THE_SCHEMA}"


def test_the_demo_trains_on_the_first_of_the_prompts() -> None:
    every, few = ((RECIPES / f"shapes-{name}.txt").read_text("utf-8") for name in ("prompts", "demo-prompts"))
    assert every.startswith(few) and len(few.splitlines()) == 192


@pytest.mark.parametrize(
    "name", [*SHAPES, *COMPARED, DEMO, RELAY, *SHAPES_GIVEN, SIZES, CHAINED, *WAN, *PICTURES, MOTION]
)
def test_editors_are_pointed_to_the_schema(name: str) -> None:
    assert find_recipe(name).read_text("utf-8").startswith("# yaml-language-server: $schema=schema.json\n")


def test_every_setting_is_described_for_editors() -> None:
    fields = [(model, name, field) for model, node in models().items() for name, field in node["properties"].items()]
    assert not [f"{model}.{name}" for model, name, field in fields if not {"description", "$ref"} & field.keys()]


def test_the_documentation_has_a_table_of_every_model_with_the_defaults() -> None:
    page = (ROOT / "docs" / "writing-a-recipe.md").read_text("utf-8")
    missing = without_table(page)
    assert not missing, "\n\n".join(["tables to begin with:", *missing.values()])
    assert len(tables_of(page)) == len(models())


def tables_of(page: str) -> list[list[tuple[str, str]]]:
    """(setting, default) of each table."""
    parts = page.split("\n### ")[1:]
    return [re.findall(r"^\| `(\w+)` \| (.+?) \|", part, re.MULTILINE) for part in parts]


def without_table(page: str) -> dict[str, str]:
    """The models of which the page has no table with the defaults, each with one to begin with, in Markdown."""
    documented, tables = tables_of(page), {}
    for model, node in models().items():
        if (rows := documented_rows(node)) not in documented:
            facts = [(name, default, node["properties"][name].get("description", "")) for name, default in rows]
            lines = [f"| `{name}` | {default} | {' '.join(text.split())} |" for name, default, text in facts]
            tables[model] = "\n".join(["| setting | default | meaning |", "| --- | --- | --- |", *lines])
    return tables


def models() -> dict[str, dict[str, Any]]:
    """Name -> schema of every part of a recipe."""
    schema = recipe_schema()
    return {"Recipe": schema, **schema["$defs"]}


def documented_rows(model: dict[str, Any]) -> list[tuple[str, str]]:
    """(setting, default) as a table should show them; `kind` stands in the heading."""
    rows = []
    for name, field in model["properties"].items():
        default = field.get("default")
        if "default" not in field:
            shown = "required"
        elif isinstance(default, dict):
            shown = "below"
        elif isinstance(default, str) and default:
            shown = f"`{default}`"
        else:
            shown = f"`{json.dumps(default).replace('0.0002', '2e-4')}`"
        rows.append((name, shown))
    return [row for row in rows if row[0] != "kind"]


def test_the_prompts_are_what_their_recipe_says() -> None:
    lines = (RECIPES / "shapes-prompts.txt").read_text("utf-8").splitlines()
    scenes, captions = zip(*(example("train", 7, i) for i in range(1536)), strict=True)
    assert lines == list(captions)
    command = re.search(
        r"example\('train', 7, i\)\[1\]\) for i in range\(1536\)", find_recipe("shapes-4step").read_text()
    )
    assert command
    assert not any(held_out(s.shape, s.colour, s.motion) for s in scenes)
    combinations = [[named(line).get(name) for name in ("shape", "colour", "motion")] for line in lines]
    text = [values for values in combinations if all(values)]
    assert len(text) > 200 and not any(held_out(*map(str, values)) for values in text)
    assert not any(text_held_out(line) for line in lines)
    assert len(lines) == len(set(lines))


def test_the_sample_prompts_say_what_the_judge_can_name() -> None:
    for name, prompt in product(SHAPES, range(2)):
        assert named(read_recipe(name, ["data={kind: dataset, folder: .}"]).logging.sampled[prompt])
