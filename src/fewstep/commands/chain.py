"""What `fewstep run` does with the recipe of a chain: its members one after the other, each in a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fewstep.commands.run_memory import Machine
from fewstep.commands.run_screen import RunScreen

if TYPE_CHECKING:
    from fewstep.distill.chain import Chain
    from fewstep.distill.recipe import Recipe
    from fewstep.teacher.base import VideoSize

_ELSEWHERE = "choose another folder with --set out=DIR"


def run_chain(
    recipe: str, settings: Sequence[str], again: Sequence[str], dry_run: Machine | None, screen: RunScreen
) -> Path:
    """Follows it, or only checks it and says what each member costs; see `fewstep run`. Gives the chain's folder."""
    from fewstep.distill.chain import GIVEN_FOLDER, read_chain
    from fewstep.student.chain import ChainMember, save_chain
    from fewstep.teacher.files.atomic import only_writer
    from fewstep.teacher.ranks import num_launched

    chain = read_chain(recipe, settings)
    if again:
        raise ValueError(
            f"--again {','.join(again)}: later members of a chain were distilled on what earlier ones made: delete the "
            f"folder of the member and {chain.out / GIVEN_FOLDER} to distil it again"
        )
    if (num_launched() if dry_run is None else dry_run.processes) > 1:
        raise ValueError("a chain runs in one process: follow its members' recipes by themselves to use several")
    # all members, before any data of the first one are made
    _check(chain, dry_run, screen)
    if dry_run is not None:
        return chain.out
    save_chain(chain.out, [ChainMember(source, given) for source, given in chain.sources])
    with only_writer(chain.out, _ELSEWHERE):
        for index, plan in enumerate(chain.plans):
            if plan is not None:
                _follow(chain, index, plan, screen)
    screen.say(f"the chain is in {chain.out}: `fewstep sample {chain.out} --prompt ... --out clip.mp4`")
    return chain.out


def _follow(chain: Chain, index: int, plan: Recipe, screen: RunScreen) -> None:
    """One member: what it is given, then its run."""
    from fewstep.commands.chain_given import make_given
    from fewstep.commands.run_stages import follow_stages

    member = chain.members[index]
    screen.say(f"member {member.name}: {plan.out}")
    if index:
        with screen:
            plan = _on(plan, make_given(chain, index, plan, _size(chain, index).num_frames, screen, _ELSEWHERE))
    with RunScreen(quiet=screen.quiet) as own:
        follow_stages(plan, screen=own, option="--set out=DIR of the chain")


def _on(plan: Recipe, prompts: Path | None) -> Recipe:
    """The same recipe on other prompts, which come with what they are given."""
    if prompts is None:
        return plan
    return plan.model_copy(update={"data": plan.data.model_copy(update={"prompts": prompts.resolve()})})


def _check(chain: Chain, dry_run: Machine | None, screen: RunScreen) -> None:
    """Raises ValueError, before any data are made, for the first member that cannot be distilled or does not fit."""
    from fewstep.commands.chain_given import grey_table, made_table
    from fewstep.commands.run_checks import check_run
    from fewstep.commands.run_cost import show_cost
    from fewstep.commands.run_precision import resolve_precision
    from fewstep.distill.run_folder import RunFolder
    from fewstep.distill.taken_folders import check_free
    from fewstep.student.chain import check_chain_sizes

    check_free(chain.out, _ELSEWHERE)
    before: tuple[str, VideoSize] | None = None
    for index, (member, plan) in enumerate(zip(chain.members, chain.plans, strict=True)):
        try:
            size = _size(chain, index)
            # the clips of the member before must fit what this one is given
            if before is not None:
                check_chain_sizes("it", size, *before, member.given)
            if plan is not None:
                resolved, line = resolve_precision(plan)
                # what a member is given may not be made yet: grey files of its size stand for it
                made = made_table(chain, index)
                with TemporaryDirectory() if index and made is None else nullcontext() as folder:
                    prompts = made if folder is None else grey_table(Path(folder), member.given, resolved, size)
                    outline = check_run(_on(resolved, prompts), RunFolder(plan.out))
                if dry_run is not None:
                    screen.say(f"member {member.name}{f'; {line}' if line else ''}")
                    show_cost(resolved, outline, screen, dry_run)
        except ValueError as error:
            raise ValueError(f"member {member.name}: {error}") from error
        before = (member.name, size)


def _size(chain: Chain, index: int) -> VideoSize:
    """Of a member's clips. Raises ValueError when its model is missing, or does not take what it is given."""
    from fewstep.distill.size_checks import clip_sizes
    from fewstep.student.outline import outline_sampler
    from fewstep.student.sampler import SamplingOptions
    from fewstep.teacher.outline import outline_teacher

    member, plan = chain.members[index], chain.plans[index]
    given = tuple(member.given) if index else None
    if plan is None:
        return outline_sampler(str(member.model), SamplingOptions(member.steps, given=given))[0].size
    teacher = outline_teacher(plan.teacher, plan.shift).teacher
    if given is not None:
        teacher.take(given)
    return clip_sizes(plan, teacher)[0]
