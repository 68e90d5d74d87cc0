"""What a step is said to take of memory, without numbers, is what it takes with them."""

from __future__ import annotations

import math
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from fewstep.distill.estimate import stage_memory
from fewstep.distill.fitting import first_fitting, less_memory, remedies
from fewstep.distill.meta_step import AsOnDevice, MetaMemory
from fewstep.distill.objectives.progressive import Progressive
from fewstep.distill.parallel import Parallel
from fewstep.distill.recipe import Recipe
from fewstep.distill.settings import RolloutData, VideoData
from fewstep.distill.step_cost import StepCost, StepCounter
from fewstep.distill.trainer import Trainer
from fewstep.distill.untrained import untrained_trainer
from fewstep.student.few_bits import BASE_BYTES, FewBits, chosen_layers
from fewstep.student.recompute import Recompute, block_checkpoint
from fewstep.teacher.base import VideoSize
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.limits import GIB
from fewstep.teacher.load_teacher import load_teacher
from tests.distill.counters import PROMPT, counter_of, recipe_of
from tests.distill.sharded_memory import held_bytes, highest_bytes
from tests.tiny_pipelines import save_tiny_wan, tiny_transformer

LIBRARIES = {"int8": "torchao", "fp8": "torchao", "nf4": "bitsandbytes"}
FAMILIES = ["tiny_experts_folder"]
FURTHER_FAMILIES = [
    "tiny_sdxl_folder",
    "tiny_svd_folder", "tiny_ltx2_image_folder", "tiny_wan_animate_folder",
    "tiny_hunyuan_video15_image_folder", "tiny_kandinsky_image_folder", "tiny_mochi_folder",
]  # fmt: skip


def allocated(recipe: Recipe, size: VideoSize) -> tuple[float, float]:
    """GiB that a real stage takes between steps, and within one besides, as torch's allocator says."""
    teacher = load_teacher(recipe.teacher, device="cpu")
    teacher.use_size(size)
    conditions = teacher.conditions_of_any([PROMPT], "", size)
    trainer = untrained_trainer(recipe, 0, teacher, conditions, size, Accelerator(cpu=True), 3)
    trainer.one_step()
    return held_bytes(trainer) / GIB, highest_bytes(trainer.one_step) / GIB


@pytest.mark.parametrize(
    ("family", "train"),
    [
        ("tiny_wan_folder", "lora"),
        pytest.param("tiny_wan_folder", "full", marks=pytest.mark.slow),
        pytest.param("tiny_animatediff_folder", "lora", marks=pytest.mark.slow),
    ],
)
def test_memory_is_within_15_percent_of_the_allocators(request: pytest.FixtureRequest, family: str, train: str) -> None:
    recipe = recipe_of(request.getfixturevalue(family), train)
    counter, size = counter_of(recipe)
    (cost,) = counter.costs(recipe)
    held, step = allocated(recipe, size)
    assert cost.held == pytest.approx(held, rel=0.05)
    assert cost.peak == pytest.approx(held + step, rel=0.15)
    assert cost.flops > 0


@pytest.mark.parametrize("kind", [pytest.param(True, marks=pytest.mark.slow), "selective"])
def test_memory_of_checkpointing_is_within_15_percent_too(tiny_wide_folder: Path, kind: Recompute) -> None:
    recipe = recipe_of(tiny_wide_folder, gradient_checkpointing=kind)
    counter, size = counter_of(recipe)
    held, step = allocated(recipe, size)
    assert counter.cost(recipe, 0).peak == pytest.approx(held + step, rel=0.15)


def test_selective_checkpointing_is_between_none_and_all(judged: tuple[Recipe, StepCounter]) -> None:
    recipe, counter = judged
    none, some, full = (
        counter.cost(recipe.model_copy(update={"gradient_checkpointing": kind}), 0)
        for kind in (False, "selective", True)
    )
    assert none.flops < some.flops < full.flops
    assert full.peak < some.peak < none.peak


@pytest.mark.parametrize(
    ("train", "few"),
    [
        pytest.param("full", {"optimizer": "adamw8bit"}, marks=pytest.mark.slow),
        ("lora", {"base": "int8"}),
        pytest.param("lora", {"base": "nf4"}, marks=pytest.mark.slow),
    ],
)
def test_memory_of_few_bits_is_within_15_percent_too(tiny_wide_folder: Path, train: str, few: dict[str, str]) -> None:
    pytest.importorskip(LIBRARIES[few.get("base", "int8")], reason="its extra is not installed")
    student = {"train": train, "lora": {"rank": 2}} | {name: kind for name, kind in few.items() if name == "base"}
    recipe = recipe_of(tiny_wide_folder, student=student, optimizer=few.get("optimizer", "adamw"))
    counter, size = counter_of(recipe)
    (cost,) = counter.costs(recipe)
    held, step = allocated(recipe, size)
    assert cost.held == pytest.approx(held, rel=0.05)
    assert cost.peak == pytest.approx(held + step, rel=0.15)


@pytest.mark.parametrize(
    "family", [*FAMILIES, *(pytest.param(family, marks=pytest.mark.slow) for family in FURTHER_FAMILIES)]
)
def test_every_family_can_be_followed(request: pytest.FixtureRequest, family: str) -> None:
    recipe = recipe_of(request.getfixturevalue(family))
    counter, _ = counter_of(recipe)
    assert isinstance(recipe.data, RolloutData)
    assert counter.clips_peak(recipe.data) > 0 and counter.sample_peak() > 0
    if "ltx2" not in family:  # whose clips have sound: no video is encoded
        assert counter.clips_peak(VideoData(kind="videos", folder=Path())) > 0
    (cost,) = counter.costs(recipe)
    assert cost.peak > cost.held > 0 and cost.flops > 0
    with pytest.raises(ValueError, match="cannot be followed"):  # the autoencoder is gone
        counter.sample_peak()


def test_a_chain_of_layers_is_counted_to_the_byte() -> None:
    """Three layers of 10 x 10 weights and 40 clips: what a backward pass has at most by hand."""
    with torch.device("meta"):
        layers = nn.Sequential(*(nn.Linear(10, 10, bias=False) for _ in range(3)))
    weights, clips = 3 * 100 * 4, 40 * 10 * 4
    with MetaMemory([layers]) as memory:
        assert memory.held == weights
        x = torch.empty(40, 10, device="meta")
        y = layers(x)
        assert memory.held == weights + 4 * clips
        del x, y
        assert memory.held == weights
        memory.restart()
        with torch.no_grad():
            layers(torch.empty(40, 10, device="meta"))
        assert memory.peak == weights + 2 * clips + clips  # the input, and what a layer reads and writes
        assert memory.flops == 3 * 2 * 40 * 10 * 10


@pytest.mark.parametrize("autocast", [False, True])
def test_blocks_that_run_again_need_less(autocast: bool) -> None:
    def peak(again: bool) -> int:
        with torch.device("meta"):
            blocks = [nn.Sequential(nn.Linear(16, 256), nn.GELU(), nn.Linear(256, 16)) for _ in range(8)]
        with MetaMemory(blocks) as memory, AsOnDevice():
            y = torch.empty(1000, 16, device="meta", requires_grad=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                for block in blocks:
                    y = block_checkpoint(True, AsOnDevice)(block, y) if again else block(y)
            y.float().sum().backward()
            return memory.peak

    assert peak(again=True) < peak(again=False) / 3


def test_attention_holds_no_scores() -> None:
    with MetaMemory() as memory, AsOnDevice():
        q = torch.empty(1, 2, 4096, 64, device="meta", requires_grad=True)
        nn.functional.scaled_dot_product_attention(q, q, q).sum().backward()
    assert memory.peak < 10 * q.nbytes < 4096 * 4096 * 4
    assert memory.flops == (2 + 5) * 2 * 2 * 4096 * 4096 * 64  # 2 products forwards, 5 backwards


def test_numbers_that_nobody_knows() -> None:
    with MetaMemory():
        tokens = torch.empty(2, 7, device="meta")
        assert float(tokens.sum()) == 0.5 and not bool((tokens > 1).any())
        assert tokens.cpu().device.type == "cpu" and len(tokens[0].nonzero()) == 7


@pytest.fixture(scope="module")
def judged(tiny_wan_folder: Path) -> tuple[Recipe, StepCounter]:
    recipe = recipe_of(tiny_wan_folder, "full")
    return recipe, counter_of(recipe)[0]


@pytest.fixture(scope="module")
def counted(judged: tuple[Recipe, StepCounter]) -> tuple[Recipe, StepCounter, StepCost]:
    recipe, counter = judged
    recipe = regression_of(recipe)
    return recipe, counter, counter.cost(recipe, 0)


def regression_of(recipe: Recipe) -> Recipe:
    """The same with a stage of regression, which is counted in a quarter of the time."""
    return recipe.model_copy(update={"stages": [recipe.stages[0].model_copy(update={"objective": Progressive()})]})


def test_alike_stages_are_counted_once(counted: tuple[Recipe, StepCounter, StepCost]) -> None:
    recipe, counter, cost = counted
    first = recipe.stages[0]
    second, third = (first.model_copy(update={"name": name, "lr": lr}) for name, lr in (("b", 1e-3), ("c", 1e-4)))
    arguments: list[int] = []

    class Noting(StepCounter):
        def cost(self, recipe: Recipe, index: int) -> StepCost:
            arguments.append(index)
            return super().cost(recipe, index)

    noting = Noting.__new__(Noting)
    vars(noting).update(vars(counter))
    one, two, three = noting.costs(recipe.model_copy(update={"stages": [first, second, third]}))
    assert arguments == [0, 1] and [c.stage for c in (one, two, three)] == ["judged", "b", "c"]
    assert one == cost and (two.peak, two.flops) == (three.peak, three.flops)


def test_micro_batches_are_counted_by_two(counted: tuple[Recipe, StepCounter, StepCost]) -> None:
    recipe, counter, _ = counted
    stages = [recipe.stages[0].model_copy(update={"batch": count, "accumulate": count}) for count in (2, 6)]
    two, six = (counter.cost(recipe.model_copy(update={"stages": [stage]}), 0) for stage in stages)
    assert six.peak == two.peak and six.flops == pytest.approx(3 * two.flops)


def test_what_turns_share_waits_in_every_micro_batch(judged: tuple[Recipe, StepCounter]) -> None:
    """The clips, z_t, z_s and their noise at least, of each that comes after the first two."""
    recipe, counter = judged
    stages = [recipe.stages[0].model_copy(update={"batch": count, "accumulate": count}) for count in (2, 4)]
    two, four = (counter.cost(recipe.model_copy(update={"stages": [stage]}), 0).peak for stage in stages)
    teacher = load_teacher(recipe.teacher, device="cpu")
    size = teacher.default_size()
    assert size is not None
    latents = 4 * math.prod(teacher.latent_shape(*size)) / GIB
    assert four - two >= 2 * 4 * latents


def test_what_makes_it_fit(counted: tuple[Recipe, StepCounter, StepCost]) -> None:
    recipe, counter, cost = counted
    assert first_fitting(recipe, cost, counter, cost.peak) == ([], cost)
    fitting = first_fitting(recipe, cost, counter, cost.peak * 0.98)
    assert fitting is not None and fitting[0] and fitting[1].peak <= cost.peak * 0.98
    offered = [settings for settings, _ in remedies(recipe, 0)]
    assert offered[1:3] == [["gradient_checkpointing=selective"], [*offered[0], "gradient_checkpointing=selective"]]
    selective = recipe.model_copy(update={"gradient_checkpointing": "selective"})
    assert [settings for settings, _ in remedies(selective, 0)][1] == ["gradient_checkpointing=true"]
    settings = offered[-1]
    assert settings[:4] == [
        "stages.judged.accumulate=2", "gradient_checkpointing=true", "average=cpu", "optimizer=adamw8bit",
    ]  # fmt: skip
    assert settings[4:] == ["student.train=lora", "student.base=nf4"]
    *_, (_, lora), _, _ = remedies(recipe.model_copy(update={"optimizer": "adamw8bit"}), 0)  # needs no torchao
    assert counter.cost(lora.model_copy(update={"optimizer": "adamw"}), 0).held < cost.held
    split = recipe.model_copy(update={"parallel": Parallel(context=2)})
    shared = [changed for _, changed in remedies(split, 0) if changed.parallel.kind == "fsdp"]
    assert {changed.parallel.context for changed in shared} <= {2}


def test_a_cost_is_counted_within_a_devices_memory(counted: tuple[Recipe, StepCounter, StepCost]) -> None:
    recipe, counter, cost = counted
    assert counter.cost_within(recipe, 0, cost.peak) == cost
    assert counter.cost_within(recipe, 0, cost.peak * 0.999) is None
    with patch.object(Trainer, "one_step", side_effect=AssertionError("a step was followed")):
        assert counter.cost_within(recipe, 0, cost.held * 0.999) is None


def test_every_remedy_is_counted_before_none_is_enough(counted: tuple[Recipe, StepCounter, StepCost]) -> None:
    recipe, counter, cost = counted
    tried: list[Recipe] = []

    class Alike(StepCounter):
        def cost_within(self, recipe: Recipe, index: int, device_gib: float) -> StepCost | None:
            tried.append(recipe)
            if recipe.optimizer == "adamw8bit":
                raise ValueError("cannot be followed")
            return None

    alike = Alike.__new__(Alike)
    vars(alike).update(vars(counter))
    assert first_fitting(recipe, cost, alike, cost.peak / 2) is None
    assert tried == [changed for _, changed in remedies(recipe, 0)]


def test_steps_with_penalties_are_counted(judged: tuple[Recipe, StepCounter]) -> None:
    recipe, counter = judged

    def cost(**changes: object) -> StepCost:
        objective = recipe.stages[0].objective.model_copy(update=changes)
        stage = recipe.stages[0].model_copy(update={"objective": objective})
        return counter.cost(recipe.model_copy(update={"stages": [stage]}), 0)

    never, always, seldom = cost(r1=0.0, r2=0.0), cost(r1=1.0, penalty_every=1), cost(r1=1.0, penalty_every=4)
    assert never.peak < always.peak == seldom.peak
    assert seldom.flops == pytest.approx(never.flops + (always.flops - never.flops) / 4)


def test_a_base_in_eight_bits_is_not_offered_where_another_stage_trains_whole_networks(
    counted: tuple[Recipe, StepCounter, StepCost],
) -> None:
    recipe, _, _ = counted
    adapters = recipe.stages[0].model_copy(update={"train": "lora"})
    whole = recipe.stages[0].model_copy(update={"name": "whole"})
    mixed = recipe.model_copy(update={"stages": (adapters, whole)})
    offered = [setting for settings, _ in remedies(mixed, 0) for setting in settings]
    assert "optimizer=adamw8bit" in offered and "student.base=int8" not in offered
    assert "student.base=int8" in [setting for settings, _ in remedies(mixed, 1) for setting in settings]


def test_advice_can_be_followed(tiny_wan_folder: Path) -> None:
    recipe = recipe_of(tiny_wan_folder, train="full", batch=4)
    objective = recipe.stages[0].objective.model_copy(update={"mismatched": 1.0})
    mismatched = recipe.stages[0].model_copy(update={"objective": objective, "train": "full"})
    advice = less_memory(recipe.model_copy(update={"stages": (mismatched,)}), "judged")
    assert "--again judged --set stages.judged.accumulate=2 " in advice  # a clip alone has no other's prompt
    assert advice.index("student.base=nf4") < advice.index("stages.judged.train=lora", advice.index("in a new `out`"))
    in_a_chain = less_memory(recipe, "judged", option="--set clip.out=DIR")
    assert "--set" not in in_a_chain and "gradient_checkpointing=true" in in_a_chain


def test_an_average_elsewhere_is_not_the_devices(counted: tuple[Recipe, StepCounter, StepCost]) -> None:
    recipe, counter, cost = counted
    trained = GIB * stage_memory(recipe, 0, numel(counter))[1].average
    away = counter.cost(recipe.model_copy(update={"average": "cpu"}), 0)
    off = recipe.model_copy(update={"stages": [recipe.stages[0].model_copy(update={"ema": 0.0})]})
    none = counter.cost(off, 0)
    assert (cost.held - away.held) * GIB == pytest.approx(trained, abs=1) and none.held == away.held


def numel(counter: StepCounter) -> int:
    return sum(parameter.numel() for parameter in counter._teacher.denoiser.parameters())


@pytest.mark.parametrize(
    ("optimizer", "share"),
    [("adamw_fused", 1), pytest.param("adamw8bit", 0.25, marks=pytest.mark.slow), ("adamw4bit", 0.125)],
)
def test_moments_are_counted_in_their_own_bits(tiny_wide_folder: Path, optimizer: str, share: float) -> None:
    """Of a teacher most of whose weights are kept in blocks: what AdamW's take less is a share of them."""
    if "bit" in optimizer:
        pytest.importorskip("torchao", reason="the extra fewstep[quant] is not installed")
    recipe = regression_of(recipe_of(tiny_wide_folder, "full"))
    counter, _ = counter_of(recipe)
    exact = counter.cost(recipe, 0).held
    few = counter.cost(recipe.model_copy(update={"optimizer": optimizer}), 0).held
    moments = 2 * 4 * numel(counter) / GIB
    assert moments - (exact - few) == pytest.approx(share * moments, abs=0.05 * moments)


@pytest.mark.parametrize(
    "kind", ["int8", *(pytest.param(kind, marks=pytest.mark.slow) for kind in BASE_BYTES if kind != "int8")]
)
def test_a_base_of_few_bits_is_counted_and_taken_back(tiny_wide_folder: Path, kind: FewBits) -> None:
    pytest.importorskip(LIBRARIES[kind], reason="its extra is not installed")
    recipe = recipe_of(tiny_wide_folder)
    counter, _ = counter_of(recipe)
    exact = counter.cost(recipe, 0)
    student = recipe.student.model_copy(update={"base": kind})
    few = counter.cost(recipe.model_copy(update={"student": student}), 0)
    rounded = sum(layer.weight.numel() for layer in chosen_layers(counter._teacher, kind))
    assert exact.held - few.held == pytest.approx((4 - BASE_BYTES[kind]) * rounded / GIB, rel=0.05)
    assert exact.peak - few.peak > 0.9 * (exact.held - few.held)  # nothing turned back is kept for the backward pass
    assert counter.cost(recipe, 0).held == exact.held


def test_a_supervisor_that_is_the_backbone_is_counted_once(tmp_path: Path) -> None:
    save_tiny_wan(tmp_path, transformer=tiny_transformer(1, num_layers=4))  # with less, clips are more than a hundredth
    recipe = regression_of(recipe_of(tmp_path, "full"))
    counter, _ = counter_of(recipe)
    cost = counter.cost(recipe, 0)
    # the teacher, which supervises, and the student with two moments and an average
    assert cost.held == pytest.approx((1 + 4) * 4 * numel(counter) / GIB, rel=0.01)


def test_a_supervisor_computes_nothing_again(counted: tuple[Recipe, StepCounter, StepCost]) -> None:
    """Gradient checkpointing costs a forward pass of what learns, and none of the supervisor's."""
    usual, counter, _ = counted
    guided = usual.model_copy(update={"stages": [usual.stages[0].model_copy(update={"guidance": Guidance.of(3.0)})]})
    again = [one.model_copy(update={"gradient_checkpointing": True}) for one in (usual, guided)]
    more = [counter.cost(b, 0).flops - counter.cost(a, 0).flops for a, b in zip((usual, guided), again, strict=True)]
    assert more[0] == more[1] > 0
    assert counter.cost(usual, 0).flops == counter.cost(again[0], 0).flops - more[0]  # one count changes no other
