"""What a run looks at while it trains: sample clips of fixed prompts and noise, and the metrics that gates name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fewstep.student.loading import Student

if TYPE_CHECKING:
    from torch import nn

    from fewstep.distill.recipe import Recipe
    from fewstep.distill.stages import GateMetric, WriteSamples
    from fewstep.student.contract import SamplingContract
    from fewstep.teacher.base import Teacher, VideoSize
    from fewstep.teacher.ranks import Ranks

_JUDGED, _BATCH = 256, 16  # held-out prompts behind a gate


def samples(teacher: Teacher, plan: Recipe, size: VideoSize, fps: float) -> WriteSamples | None:
    """Writes a clip of this size and frame rate per prompt of `logging.prompts`, and all of them as a contact sheet;
    None without prompts. Raises ValueError for a small decoder of another autoencoder."""
    from fewstep.student.decoder.files import load_decoder
    from fewstep.teacher.videos.writing import contact_sheet, to_uint8, write_image, write_video

    prompts = plan.logging.sampled
    if not prompts:
        return None
    # one clip at a time, here and below: they are made while networks that train fill the memory
    conditions = [teacher.conditions([prompt], size=size, fps=fps) for prompt in prompts]
    small = plan.logging.decoder
    decode = None if small is None else load_decoder(small, teacher).decode

    @torch.no_grad()
    def write(path: Path | None, network: nn.Module, contract: SamplingContract) -> None:
        student, shape = Student(teacher, network, contract), teacher.latent_shape(*contract.size)
        # prompts and noise are the same at every call, so that clips of two steps differ by the weights alone
        latents = [student.sample(teacher.noise([i], shape), conditions[i]) for i in range(len(prompts))]
        # the other processes only take part in sampling
        if path is None:
            return
        with teacher.decoding_by(decode):
            frames = [to_uint8(teacher.decode(latent)[0]) for latent in latents]
        path.mkdir(parents=True, exist_ok=True)
        for i, clip in enumerate(frames):
            write_video(path / f"{i}.mp4", clip, contract.fps)
        write_image(path / "sheet.png", contact_sheet(frames, prompts))

    return write


def gate_metrics(teacher: Teacher, plan: Recipe, ranks: Ranks) -> dict[str, GateMetric]:
    """The metrics that the recipe's gates name and that need more than the stage itself; all `ranks` share their clips.

    Raises ValueError for prompt accuracy of a teacher outside the shapes world, which the judge knows nothing of.
    """
    if not any(stage.gate and stage.gate.metric == "prompt_accuracy" for stage in plan.stages):
        return {}
    from fewstep.eval.metrics.shapes import ShapesJudgement, check_world, held_out_prompts

    check_world(teacher)
    # processes that share a clip (parallel.context) are a group, and groups share the batches
    num_groups = plan.parallel.groups(ranks.count)
    group, place = plan.parallel.group_of(ranks.rank, ranks.count)
    speaks = place == 0  # of the processes that make a clip together
    prompts = held_out_prompts(_JUDGED, plan.seed)
    conditions = teacher.conditions(prompts)

    @torch.no_grad()
    def prompt_accuracy(network: nn.Module, contract: SamplingContract) -> float:
        student, judgement, right = Student(teacher, network, contract), ShapesJudgement(), ranks.tally()
        batches = range(0, _JUDGED, _BATCH)
        for n in range(group, len(batches) + -len(batches) % num_groups, num_groups):
            start = batches[n % len(batches)]  # a sharded network must be asked by all processes as often
            part = slice(start, start + _BATCH)
            noise = teacher.noise(range(start, start + _BATCH), teacher.latent_shape(*contract.size))
            latents = student.sample(noise, conditions[part])
            if n < len(batches) and speaks:
                judgement.update(teacher.decode(latents), prompts[part])
        # right clips are counted over all processes
        right.add(judgement.num_right)
        ranks.wait()
        return right.add() / _JUDGED

    return {"prompt_accuracy": prompt_accuracy}
