"""What a step is said to take of memory, without numbers, is what it takes with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.profiler import ProfilerActivity, profile

from fewstep.distill.estimate import GIB
from fewstep.distill.fitting import remedies, what_fits
from fewstep.distill.meta_step import AsOnDevice, MetaMemory, checkpointed
from fewstep.distill.recipe import Recipe
from fewstep.distill.step_cost import StepCost, StepCounter
from fewstep.distill.untrained import untrained_trainer
from fewstep.teacher.base import VideoSize, load_teacher
from fewstep.teacher.outline import outline_teacher

PROMPT = "a red ball rolls slowly across a wooden table"
FAMILIES = [
    "tiny_experts_folder", "tiny_wan_animate_folder", "tiny_sdxl_folder", "tiny_hunyuan_video15_image_folder",
    "tiny_kandinsky_image_folder", "tiny_svd_folder", "tiny_mochi_folder", "tiny_ltx2_image_folder",
]  # fmt: skip


def recipe_of(folder: Path, train: str = "lora", **more: object) -> Recipe:
    """An adversarial stage of four clips."""
    stage = {"name": "judged", "teacher_steps": 4, "student_steps": 2, "steps": 4, "batch": 2}
    judged = {"kind": "adversarial", "warmup": 0, "discriminator": {"width": 8}, "r1": 0.01, "r2": 0.01}
    data = {"kind": "rollouts", "prompts": "prompts.txt"}
    values = {
        "teacher": str(folder),
        "out": "run",
        "device": "cpu",
        "data": data,
        "student": {"train": train, "lora": {"rank": 2}},
    }
    return Recipe.model_validate(values | {"stages": [stage | {"objective": judged}]} | more)


def counter_of(recipe: Recipe) -> tuple[StepCounter, VideoSize]:
    teacher = outline_teacher(recipe.teacher).teacher
    size = teacher.default_size()
    assert size is not None
    teacher.use_size(size)
    tokens = teacher.count_tokens([PROMPT])[0] or None
    return StepCounter(teacher, size, "float32", tokens), size


def allocated(recipe: Recipe, size: VideoSize) -> tuple[float, float]:
    """GiB that a real stage takes between steps, and within one besides, as torch's allocator says."""
    teacher = load_teacher(recipe.teacher, device="cpu")
    teacher.use_size(size)
    conditions = teacher.conditions_of_any([PROMPT], "", size)
    trainer = untrained_trainer(recipe, 0, teacher, conditions, size, Accelerator(cpu=True), 3)
    trainer.one_step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        trainer.one_step()
    now = highest = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    states = [state for p in trainer.players.values() for state in p.optimizer.state.values()]
    moments = sum(x.nbytes for state in states for x in state.values())
    networks = (trainer.roles.student, trainer.roles.supervisor, trainer.roles.backbone, *trainer.modules.values())
    tensors = {id(x): x.nbytes for net in networks for x in (*net.parameters(), *net.buffers())}
    return (
        sum(tensors.values()) + moments + sum(x.nbytes for x in trainer.roles.average.values())
    ) / GIB, highest / GIB


@pytest.mark.parametrize(
    ("family", "train"),
    [("tiny_wan_folder", "lora"), ("tiny_wan_folder", "full"), ("tiny_animatediff_folder", "lora")],
)
def test_memory_is_within_15_percent_of_the_allocators(request: pytest.FixtureRequest, family: str, train: str) -> None:
    recipe = recipe_of(request.getfixturevalue(family), train)
    counter, size = counter_of(recipe)
    (cost,) = counter.costs(recipe)
    held, step = allocated(recipe, size)
    assert cost.held == pytest.approx(held, rel=0.05)
    assert cost.peak == pytest.approx(held + step, rel=0.15)
    assert cost.flops > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_followed(request: pytest.FixtureRequest, family: str) -> None:
    recipe = recipe_of(request.getfixturevalue(family))
    ((cost),) = counter_of(recipe)[0].costs(recipe)
    assert cost.peak > cost.held > 0 and cost.flops > 0


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
                    y = checkpointed(block, y) if again else block(y)
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
def counted(tiny_wan_folder: Path) -> tuple[Recipe, StepCounter, StepCost]:
    recipe = recipe_of(tiny_wan_folder, "full")
    counter, _ = counter_of(recipe)
    return recipe, counter, counter.cost(recipe, 0)


def test_alike_stages_are_counted_once(counted: tuple[Recipe, StepCounter, StepCost]) -> None:
    recipe, counter, cost = counted
    first = recipe.stages[0]
    second, third = (first.model_copy(update={"name": name, "lr": lr}) for name, lr in (("b", 1e-3), ("c", 1e-4)))
    asked: list[int] = []

    class Noting(StepCounter):
        def cost(self, recipe: Recipe, index: int) -> StepCost:
            asked.append(index)
            return super().cost(recipe, index)

    noting = Noting.__new__(Noting)
    vars(noting).update(vars(counter))
    one, two, three = noting.costs(recipe.model_copy(update={"stages": [first, second, third]}))
    assert asked == [0, 1] and [c.stage for c in (one, two, three)] == ["judged", "b", "c"]
    assert one == cost and (two.peak, two.flops) == (three.peak, three.flops)


def test_micro_batches_are_counted_by_two(counted: tuple[Recipe, StepCounter, StepCost]) -> None:
    recipe, counter, _ = counted
    stages = [recipe.stages[0].model_copy(update={"batch": count, "accumulate": count}) for count in (2, 6)]
    two, six = (counter.cost(recipe.model_copy(update={"stages": [stage]}), 0) for stage in stages)
    assert six.peak == two.peak and six.flops == pytest.approx(3 * two.flops)


def test_what_makes_it_fit(counted: tuple[Recipe, StepCounter, StepCost]) -> None:
    recipe, counter, cost = counted
    assert what_fits(recipe, cost, counter, cost.peak) == ([], cost)
    found = what_fits(recipe, cost, counter, cost.peak * 0.98)
    assert found is not None and found[0] == ["stages.judged.accumulate=2"] and found[1].peak < cost.peak
    *_, (settings, lightest) = remedies(recipe, 0)
    assert settings == ["stages.judged.accumulate=2", "gradient_checkpointing=true", "student.train=lora"]
    assert counter.cost(lightest, 0).held < cost.held
    assert what_fits(recipe, cost, counter, 1e-6) is None
