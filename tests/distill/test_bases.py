"""One motion module trained around several base models, from a recipe to a file that works on one it never saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter
from safetensors.torch import load_file

from fewstep.commands.run_checks import check_run
from fewstep.commands.run_screen import RunScreen
from fewstep.commands.run_stages import follow_stages
from fewstep.distill.batches import BasesBatches
from fewstep.distill.discriminator import Discriminator, DiscriminatorSettings
from fewstep.distill.draws import Draws
from fewstep.distill.objectives.base import Batch
from fewstep.distill.recipe import Recipe
from fewstep.distill.run_folder import RunFolder
from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles
from fewstep.student.export.base import Options
from fewstep.student.export.load_export import open_export
from fewstep.student.export.write_export import write_export
from fewstep.student.load_student import load_student
from fewstep.student.part import PART_FILE, part_parameters
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.base_models import join_bases
from fewstep.teacher.bases import BASE_INDEX, Bases
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.interrupts import Stop
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.rollout import rollout
from tests.commands.test_run_stops import signalled
from tests.tiny_pictures import save_tiny_sd
from tests.tiny_pipelines import save_tiny_animatediff

PROMPTS = ["a red circle", "a big blue square moves left"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher with motion, two further base models, one that training never sees, and one of another architecture."""
    root = tmp_path_factory.mktemp("bases")
    save_tiny_animatediff(root / "teacher")
    for seed, name in enumerate(("second", "third", "unseen"), start=11):
        save_tiny_sd(root / name, seed=seed)
    save_tiny_sd(root / "wider", block_out_channels=(8, 32))
    save_tiny_sd(root / "slower")
    (root / "slower" / "fewstep.json").write_text(json.dumps({"fps": 4}))
    (root / "prompts.txt").write_text("\n".join(PROMPTS), "utf-8")
    return root


def joined(root: Path, *names: str) -> tuple[Teacher, list[Teacher]]:
    teacher = load_teacher(root / "teacher", device="cpu")
    teacher.restrict("motion")
    return teacher, join_bases(teacher, [str(root / n) for n in names], lambda name: load_teacher(name, device="cpu"))


def of_bases(conditions: Conditions, *numbers: int) -> Conditions:
    return Conditions(conditions.positive, conditions.negative, {BASE_INDEX: torch.tensor(numbers)}, conditions.padded)


def recipe(root: Path, out: Path, **settings: Any) -> Recipe:
    adversarial = {"kind": "adversarial", "warmup": 1, "weight": 1.0, "discriminator": {"backbone": "trained"}}
    stage = {"steps": 2, "batch": 2, "warmup": 1, "lr": 0.01, "ema": 0.0}
    stages = [
        {**stage, "name": "mse", "teacher_steps": 8, "student_steps": 4, "guidance": 2.0,
         "objective": {"kind": "progressive"}},
        {**stage, "name": "conditional", "teacher_steps": 4, "student_steps": 2, "train": "lora",
         "objective": adversarial},
        {**stage, "name": "relaxed", "teacher_steps": 4, "student_steps": 2,
         "objective": {**adversarial, "conditional": False}},
    ]  # fmt: skip
    values = {
        "teacher": str(root / "teacher"), "bases": [str(root / "second"), str(root / "third")], "out": out,
        "precision": "float32", "device": "cpu", "logging": {"tracker": "none"},
        "data": {"kind": "rollouts", "prompts": root / "prompts.txt", "steps": 2, "guidance": 2.0},
        "student": {"only": "motion", "lora": {"rank": 2, "alpha": 2}}, "stages": stages,
    }  # fmt: skip
    return Recipe.model_validate(values | settings)


def trained(plan: Recipe) -> Path:
    check_run(plan, RunFolder(plan.out))
    follow_stages(plan, screen=RunScreen())
    return plan.out


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    """Around two base models, which takes two thirds of the time of three; not to be changed."""
    return trained(recipe(root, root / "run", bases=[str(root / "second")]))


def test_each_base_model_is_asked_about_its_own_clips(root: Path) -> None:
    teacher, others = joined(root, "second", "third")
    alone = load_teacher(root / "teacher", device="cpu")
    z, t = teacher.noise([0, 1, 2, 3], teacher.latent_shape(4, 16, 16)), torch.tensor([1.0, 0.7, 0.4, 0.2])
    conditions = of_bases(teacher.conditions([*PROMPTS, *PROMPTS]), 2, 0, 1, 2)
    x0, features = teacher.denoise(z, t, conditions, 3.0), teacher.features(z, t, conditions)
    for row, own in enumerate((others[1], alone, others[0], others[1])):
        assert torch.allclose(x0[row], own.denoise(z[[row]], t[[row]], conditions[[row]], 3.0)[0], atol=1e-4)
        assert torch.allclose(features[0][row], own.features(z[[row]], t[[row]], conditions[[row]])[0][0], atol=1e-4)


def test_base_models_are_their_own_pictures_and_the_teachers_motion(root: Path) -> None:
    _, (second,) = joined(root, "second")
    own, pictures = load_teacher(root / "teacher", device="cpu").pipeline.unet, load_teacher(root / "second").pipeline
    state = second.pipeline.unet.state_dict()
    for name, tensor in state.items():
        same = own.state_dict()[name] if "motion_modules" in name else pictures.unet.state_dict()[name]
        assert torch.equal(tensor, same)
    assert second.schedule == load_teacher(root / "teacher").schedule  # and not the image model's
    alone = load_teacher(root / "teacher", device="cpu")
    text, other = (one.conditions(["a red circle"]).positive["embeddings"] for one in (second, alone))
    assert not torch.allclose(text, other)


def test_only_motion_is_trained_around_every_base_model(root: Path) -> None:
    teacher, _ = joined(root, "second")
    before = {name: tensor.clone() for name, tensor in teacher.denoiser.state_dict().items()}
    for train in ("full", "lora"):
        roles = Roles(teacher, train, rank=2)
        assert roles.parameters and all("motion_modules" in name for name in roles.parameters)
        assert isinstance(roles.student, Bases)
        z, conditions = teacher.noise([0], teacher.latent_shape(4, 16, 16)), teacher.conditions(PROMPTS[:1])
        seen = [teacher.denoise(z, 0.7, of_bases(conditions, n), network=roles.student) for n in (0, 1)]
        for n, x in enumerate(seen):  # untrained it is the teacher
            assert torch.allclose(x, teacher.denoise(z, 0.7, of_bases(conditions, n)), atol=1e-4, rtol=1e-5)
        seen[1].square().mean().backward()  # of the second base model
        moved = [p for p in roles.parameters.values() if p.grad is not None and bool(p.grad.any())]
        torch.optim.SGD(moved, lr=0.1).step()
        for n in (0, 1):
            assert not torch.equal(teacher.denoise(z, 0.7, of_bases(conditions, n), network=roles.student), seen[n])
    after = teacher.denoiser.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("backbone", ["frozen", pytest.param("trained", marks=pytest.mark.slow), "lora"])
def test_the_discriminator_is_told_the_base_model_and_trains_motion_alone(root: Path, backbone: Any) -> None:
    teacher, _ = joined(root, "second")
    z, conditions = teacher.noise([0, 1], teacher.latent_shape(4, 16, 16)), teacher.conditions(PROMPTS)
    settings = DiscriminatorSettings(backbone=backbone, width=8, lora_rank=2)
    judge = Discriminator(teacher, teacher.denoiser, settings, z, of_bases(conditions, 0, 0), conditional=False)
    s = torch.tensor([0.5, 0.5], dtype=torch.float64)
    first = judge(z, s, of_bases(conditions, 0, 0))
    own = {name for name, _ in judge.named_parameters() if not name.startswith(("heads.", "base_embeddings."))}
    assert bool(own) == (backbone != "frozen") and all("motion_modules" in name for name in own)
    judge(z, s, of_bases(conditions, 0, 1)).sum().backward()
    facts = [p for name, p in judge.named_parameters() if name.startswith("base_embeddings.")]
    assert len(facts) == 3 and all(p.grad is not None and bool(p.grad.any(dim=1).all()) for p in facts)
    with torch.no_grad():
        for vectors in facts:
            vectors[1] += 1  # what is learned of the second says nothing of the first
    assert torch.equal(judge(z, s, of_bases(conditions, 0, 0)), first)


def test_base_models_are_learned_from_both_sides_however_starts_are_read(root: Path) -> None:
    """A frozen backbone reads z_t once, without gradients, for all turns of a round."""
    teacher, _ = joined(root, "second")
    z, conditions = teacher.noise([0, 1], teacher.latent_shape(4, 16, 16)), teacher.conditions(PROMPTS)
    settings, numbered = DiscriminatorSettings(width=8), of_bases(conditions, 0, 1)
    judge = Discriminator(teacher, teacher.denoiser, settings, z, of_bases(conditions, 0, 0), conditional=True)
    s, gradients = torch.tensor([0.5, 0.5], dtype=torch.float64), []
    for grad in (True, False):
        judge.zero_grad()
        with torch.set_grad_enabled(grad):
            starts = judge.read(z, s, numbered)
        judge(z, s, numbered, starts).square().sum().backward()
        gradients.append([embedding.weight.grad for embedding in judge.base_embeddings])
    assert all(bool(one.any()) and torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_bases_are_drawn_per_batch_whoever_asks_again() -> None:
    class Numbered:
        def __init__(self, base: int, rank: int) -> None:
            self._said = torch.tensor([[[[[float(base), rank]]]]])

        def batch(self, position: int, size: int, progress: float) -> Batch:
            text = Conditions({"embeddings": torch.ones(size, 1, 1)})
            return Batch(self._said.expand(size, -1, -1, -1, -1), text, Draws.seeded(0, size), progress)

    def drawn(rank: int) -> list[int]:
        source = BasesBatches([Numbered(base, rank) for base in range(3)], seed=4, stage=1, rank=rank)  # type: ignore[misc]
        batches = [source.batch(position, 2, 0.0) for position in range(60)]
        for batch in batches:
            assert batch.conditions.shared[BASE_INDEX].tolist() == [int(batch.x0[0, 0, 0, 0, 0])] * 2
        return [int(batch.conditions.shared[BASE_INDEX][0]) for batch in batches]

    ranks = [drawn(rank) for rank in range(3)]
    assert ranks[0] == drawn(0) and all(sorted(at) == [0, 1, 2] for at in zip(*ranks, strict=True))
    for turn in (ranks[0][::2], ranks[0][1::2]):  # students' and discriminators' turns alternate
        assert all(turn.count(base) >= 3 for base in range(3))


@pytest.mark.slow
def test_a_run_trains_motion_on_clips_of_every_base_model(root: Path, tmp_path: Path) -> None:
    run = trained(recipe(root, tmp_path / "run"))
    manifests = [json.loads((run / name / "manifest.json").read_text()) for name in ("data", "data-1", "data-2")]
    hashes = [manifest["teacher_sha256"] for manifest in manifests]
    assert len(set(hashes)) == 3 and hashes[0] == load_teacher(root / "teacher").sha256()
    for stage in ("mse", "conditional", "relaxed"):
        state = load_file(run / "stages" / stage / PART_FILE)
        assert state and all(".motion_modules." in name for name in state)
        assert not (run / "stages" / stage / "config.json").exists()
    follow_stages(recipe(root, run), screen=RunScreen())  # finished: nothing is trained again


@pytest.mark.slow
def test_base_models_and_sizes_go_together_and_resume(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [{"num_frames": 4, "height": 16, "width": 16}, {"num_frames": 2, "height": 16, "width": 24}]
    data = {"kind": "rollouts", "prompts": root / "prompts.txt", "steps": 2, "guidance": 2.0, "count": 2}
    whole, stopped = (recipe(root, tmp_path / name, size=sizes, data=data) for name in ("whole", "stopped"))
    trained(whole)
    names = ["16x16x4", "24x16x2"]
    for folder in ("data", "data-1", "data-2"):
        made = [json.loads((whole.out / folder / name / "manifest.json").read_text()) for name in names]
        assert [[shard["rows"] for shard in manifest["shards"]] for manifest in made] == [[2], [2]]
        assert len({manifest["teacher_sha256"] for manifest in made}) == 1
    for call in (1, 3):  # amid a stage, and amid another one
        with monkeypatch.context() as moment:
            signalled(moment, "fewstep.distill.trainer.Trainer.one_step", call)
            with pytest.raises(Stop):
                follow_stages(stopped, screen=RunScreen())
    follow_stages(stopped, screen=RunScreen())
    for stage in ("mse", "conditional", "relaxed"):
        ends = [load_file(run / "stages" / stage / PART_FILE) for run in (whole.out, stopped.out)]
        assert ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][n], x) for n, x in ends[1].items())
    assert [tuple(size) for size in load_student(whole.out, device="cpu").contract.sizes] == [(4, 16, 16), (2, 16, 24)]
    (whole.out / "recipe.yaml").unlink()
    with pytest.raises(ValueError, match=r"was begun with clips of 16x16x4, 24x16x2, not 24x16x2, 16x16x4: use the"):
        check_run(recipe(root, whole.out, size=sizes[::-1], data=data), RunFolder(whole.out))


def test_a_student_on_its_teachers_base_is_exported_as_a_motion_adapter(root: Path, run: Path) -> None:
    student = load_student(run, device="cpu")
    done = write_export(student, "part", root / "motion", Options())
    assert done.relative_error < 1e-5
    back = open_export(root / "motion", student.teacher)
    own = part_parameters(student.network, student.teacher.subsets["motion"])
    assert all(torch.equal(back.network.get_parameter(name), tensor) for name, tensor in own.items())
    assert "load_motion_modules" in (root / "motion" / "README.md").read_text()


def test_the_file_works_on_a_base_model_that_training_never_saw(root: Path, run: Path) -> None:
    write_export(load_student(run, device="cpu"), "part", root / "shared", Options())
    adapter: Any = MotionAdapter.from_pretrained(root / "shared")
    pipe: Any = AnimateDiffPipeline.from_pretrained(root / "unseen", motion_adapter=adapter)
    pipe.set_progress_bar_config(disable=True)
    student = load_student(run, device="cpu")
    trailing = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
    pipe.scheduler = DDIMScheduler.from_config(student.teacher.pipeline.scheduler.config, **trailing)
    teacher, (unseen,) = joined(root, "unseen")
    z = teacher.noise([7], teacher.latent_shape(4, 16, 16))
    size = {"num_frames": 4, "height": 16, "width": 16}
    arguments = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent", "return_dict": False}
    stock = pipe("a red circle", latents=z, **size, **arguments)[0]
    for name, network in part_parameters(student.network, teacher.subsets["motion"]).items():
        unseen.pipeline.unet.get_parameter(name).data = network.data
    own = rollout(unseen, z, unseen.conditions(["a red circle"]), student.contract.grid)
    assert float((own - stock).norm() / stock.norm()) < 1e-4
    untrained = rollout(joined(root, "unseen")[1][0], z, unseen.conditions(["a red circle"]), student.contract.grid)
    assert float((own - untrained).norm() / own.norm()) > 1e-3  # what was trained arrived


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"student": {}}, "bases: several base models share a part that is trained alone: name it as student.only"),
        ({"student": {"only": "faces"}}, "faces is not a part .* of a AnimateDiffPipeline, which has motion"),
        ({"bases": ["SECOND", "SECOND"]}, "named twice"),
        ({"bases": ["WIDER"]}, "WIDER .*: name a base model of the same architecture"),
        ({"bases": ["SLOWER"]}, "SLOWER makes clips of 4 frames per second, and the teacher of 8: write the same fps"),
        (
            {"size": [{"num_frames": 4, "height": 16, "width": 16}, {"num_frames": 4, "height": 16, "width": 20}]},
            r"the size of clips is \(4, 16, 20\), frames, height and width: ",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_loaded(
    root: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    named = {name.upper(): str(root / name) for name in ("second", "wider", "slower")}
    if "bases" in changes:
        changes = {"bases": [named[name] for name in changes["bases"]]}
    for short, path in named.items():
        sentence = sentence.replace(short, path)
    with pytest.raises(ValueError, match=sentence):
        check_run(recipe(root, tmp_path / "run", **changes), RunFolder(tmp_path / "run"))


def test_a_student_that_differs_in_more_than_motion_does_not_leave_as_motion(root: Path, tmp_path: Path) -> None:
    teacher = load_teacher(root / "teacher", device="cpu")
    roles, size = Roles(teacher), VideoSize(4, 16, 16)
    for parameter in roles.average.values():
        parameter.add_(torch.randn_like(parameter) * 0.03)
    roles.save(tmp_path)
    SamplingContract.of(teacher, str(root / "teacher"), 4, "full", size, 1.0, "", 8.0).write(tmp_path)
    with pytest.raises(ValueError, match="differs from its teacher in more than the part"):
        write_export(load_student(tmp_path, device="cpu"), "part", tmp_path / "refused", Options())
