"""Which settings make a run fit into a device's memory, the gentlest first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fewstep.distill.optimizers import has_few_bits
from fewstep.distill.recipe import Recipe
from fewstep.distill.run_folder import OPTION, may_change
from fewstep.distill.settings import Stage
from fewstep.distill.step_cost import StepCost, StepCounter
from fewstep.student.few_bits import FewBits
from fewstep.student.recompute import Recompute

Changed = tuple[list[str], Recipe]  # settings as --set takes them, and the recipe with them


def remedies(recipe: Recipe, index: int, num_processes: int = 1) -> Iterator[Changed]:
    """Ways to need less memory in stage `index`, that change less of the result first.

    More micro-batches, recomputed activations, an average in main memory and sharding, where there are several
    processes, change seconds alone; 8-bit moments change what is learned a little, LoRA more, and then its
    frozen weights may be 8-bit, or 4-bit.
    """
    start: Changed = ([], recipe)
    clips = recipe.stages[index].share(recipe.parallel.groups(num_processes))
    divided = _one_by_one(start, index) if clips > 1 else start
    if divided is not start:
        yield divided
    # these change seconds alone: recomputed activations, an EMA in main memory, sharding
    lightest = divided
    more: dict[Recompute, tuple[Recompute, ...]] = {False: ("selective", True), "selective": (True,), True: ()}
    for kind in more[recipe.gradient_checkpointing]:
        lightest = _with(divided, "gradient_checkpointing", kind)
        if divided is not start:
            yield _with(start, "gradient_checkpointing", kind)
        yield lightest
    if recipe.average_of(index) == "device":
        yield (lightest := _with(lightest, "average", "cpu"))
    exact = lightest  # it learns the same, but for the order of sums
    shared = num_processes > 1 and recipe.student.only is None  # networks with a trained part are not sharded
    if shared:
        yield from _sharded(exact)
    # then what changes the steps: moments of 8 bits, LoRA in place of full training, a rounded base
    few_bits = _with(lightest, "optimizer", "adamw8bit")
    if not has_few_bits(recipe.optimizer) and not few_bits[1].few_bit_errors():
        yield (lightest := few_bits)
        if shared:
            yield from _sharded(lightest)
    if recipe.train_of(index) == "full":
        yield (lightest := _adapters(lightest, index))
        if shared:
            yield from _sharded(_adapters(exact, index))
    bases: tuple[FewBits, ...] = ("int8", "nf4")
    for base in bases:
        few_bits = _on(lightest, base)
        if recipe.student.base is None and not few_bits[1].few_bit_errors():
            yield few_bits


def first_fitting(
    recipe: Recipe, cost: StepCost, counter: StepCounter, device_gib: float
) -> tuple[list[str], StepCost] | None:
    """The first remedy with which the stage of this cost fits into `device_gib`, and what it costs then.

    No settings where it fits as it is; None where no remedy is enough.
    """
    if cost.peak <= device_gib:
        return [], cost
    index = [stage.name for stage in recipe.stages].index(cost.stage)
    # the gentlest first, each counted as a whole step of the changed recipe
    for settings, changed in remedies(recipe, index, counter.num_processes):
        try:
            less = counter.cost_within(changed, index, device_gib)
        except ValueError:  # a network that cannot recompute its activations, say
            continue
        if less is not None:
            return settings, less
    return None


def less_memory(recipe: Recipe, stage: str, num_processes: int = 1, option: str = OPTION) -> str:
    """What to change where memory has run out in this stage: what a resumed run may change, then the rest.

    option: how the command takes another folder; another than that of `fewstep run RECIPE` takes no such settings.
    """
    index = [one.name for one in recipe.stages].index(stage)
    offered: dict[str, str] = {}  # the last value of each setting is the one that needs least
    for settings, _ in remedies(recipe, index, num_processes):
        offered |= {name: value for name, _, value in (setting.partition("=") for setting in settings)}

    def as_options(names: Iterable[str]) -> str:
        return " ".join(f"--set {name}={offered[name]}" for name in names)

    if option != OPTION:
        listing = ", ".join(f"{name}={value}" for name, value in offered.items())
        return f"settings of its recipe that take less: {listing or 'a smaller size'}"
    free = [name for name in offered if may_change(name)]
    of_stage = [name for name in offered if name.startswith("stages.")]
    others = [name for name in offered if name not in (*free, *of_stage)]
    if "student.base" in others:  # of adapters alone
        others += [name for name in of_stage if name.endswith(".train")]
    ways = [f"run the same command again with {as_options(free)}"] if free else []
    ways += [f"with --again {stage} {as_options(of_stage)}"] if of_stage else []
    ways += [f"in a new `out` with {as_options(others)}"] if others else []
    ways += ["take a smaller size (--dry-run --device-memory GIB says what fits)"]
    return ", or ".join(ways)


def _one_by_one(changed: Changed, index: int) -> Changed:
    """One clip at a time, or as few as the objective takes."""
    settings, recipe = changed
    stage = recipe.stages[index]
    for count in range(stage.batch, stage.accumulate, -1):
        smaller = stage.model_copy(update={"accumulate": count})
        if stage.batch % count or not _takes(smaller):
            continue
        stages = list(recipe.stages)
        stages[index] = smaller
        return [*settings, f"stages.{stage.name}.accumulate={count}"], recipe.model_copy(update={"stages": stages})
    return changed


def _takes(stage: Stage) -> bool:
    try:
        stage.objective.check(stage)
    except ValueError:
        return False
    return True


def _sharded(changed: Changed) -> Iterator[Changed]:
    """Networks in shares, and then with these in main memory while they do not compute."""
    if changed[1].parallel.kind == "ddp":
        changed = _in_parallel(changed, "kind", "fsdp")
        if not changed[1].few_bit_errors():
            yield changed
    if changed[1].parallel.offload == "none":
        offloaded = _in_parallel(changed, "offload", "cpu")
        if not offloaded[1].few_bit_errors():
            yield offloaded


def _in_parallel(changed: Changed, name: str, value: str) -> Changed:
    """Its other settings, such as the context, stay as they are."""
    settings, recipe = changed
    parallel = recipe.parallel.model_copy(update={name: value})
    return [*settings, f"parallel.{name}={value}"], recipe.model_copy(update={"parallel": parallel})


def _adapters(changed: Changed, index: int) -> Changed:
    """LoRA in place of full training."""
    settings, recipe = changed
    stage = recipe.stages[index]
    if stage.train is None:
        student = recipe.student.model_copy(update={"train": "lora"})
        return [*settings, "student.train=lora"], recipe.model_copy(update={"student": student})
    stages = list(recipe.stages)
    stages[index] = stage.model_copy(update={"train": "lora"})
    return [*settings, f"stages.{stage.name}.train=lora"], recipe.model_copy(update={"stages": stages})


def _on(changed: Changed, base: FewBits) -> Changed:
    """Adapters of every stage on weights of few bits."""
    settings, recipe = changed
    student = recipe.student.model_copy(update={"base": base})
    return [*settings, f"student.base={base}"], recipe.model_copy(update={"student": student})


def _with(changed: Changed, name: str, value: object) -> Changed:
    settings, recipe = changed
    return [*settings, f"{name}={str(value).lower()}"], recipe.model_copy(update={name: value})
