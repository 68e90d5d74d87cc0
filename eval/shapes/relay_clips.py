"""The clips of a table of students, made and judged once: what is found of each stays on disk, for comparisons to come.

Every entry makes clips of the same prompts and noise, and of the first prompts several more, for diversity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fewstep.eval.feature_cache import cached_features, cached_tensors, read_cached_tensors
from fewstep.eval.metrics import paired
from fewstep.eval.metrics.clip_statistics import motion
from fewstep.eval.metrics.diversity import mean_of_pairs
from fewstep.eval.metrics.shapes import REAL_SEED, Progress, ShapesJudgement, check_world, held_out_prompts
from fewstep.eval.shapes.relay_entry import REFERENCE_STEPS, RelayEntry, label_of
from fewstep.eval.shapes.steps import Protocol, generate, reference_features
from fewstep.teacher.base import Teacher
from fewstep.teacher.shapes.judge import batch, load_judge
from fewstep.teacher.videos.writing import Frames, to_uint8

DIVERSE_SEEDS = 8  # clips of one prompt, for diversity
_OTHER_SEED = 500_009  # of the teacher's clips that others are compared with: neither their prompts nor their noise
_DIVERSE_SEED = 250_007  # of the noise of clips for diversity
_OF_AN_ENTRY = ("model", "steps", "guidance", "weights_sha256")  # of a row: all that its clips depend on
_OF_ALL = ("teacher_sha256", "judge_sha256", "num", "seed", "dtype")

_NO_DIVERSITY = {"features": torch.zeros(0)}

ReadVideos = Callable[[range], Tensor]  # clips of these numbers, (B, 3, F, H, W) in -1..1


@dataclass(frozen=True)
class Judged:
    """What was found of N clips; clip i of every model shows prompt i from noise i."""

    features: Tensor  # (N, D)
    agreements: Tensor  # (N, attributes), int8: 1 right, 0 wrong, -1 not named by the prompt
    motion: Tensor  # (N,), of a range of 1
    reference: Tensor  # (M, D), of real clips, the same for all models
    apart: Tensor  # (P,), the mean distance between the features of clips of one prompt; P may be 0

    @property
    def right(self) -> Tensor:
        """Whether a clip shows all that its prompt names (N,)."""
        return (self.agreements != 0).all(1)

    @cached_property
    def distance(self) -> paired.Resampled:
        """shapes-fd."""
        return paired.distance(self.features, self.reference)

    @cached_property
    def accuracy(self) -> paired.Resampled:
        """Prompt accuracy in percent."""
        return paired.mean(100.0 * self.right)


def _identity(row: Mapping[str, Any]) -> dict[str, Any]:
    """All of a row that its clips depend on, so that rows about the same clips share them."""
    return {key: row[key] for key in _OF_AN_ENTRY if key in row}


class RelayClips:
    """Makes and judges clips. `shared` is what all rows of the table have in common, but for `diverse`.

    Raises ValueError when the teacher is not of the shapes world.
    """

    def __init__(self, teacher: Teacher, protocol: Protocol, shared: Mapping[str, Any], diverse: int) -> None:
        """`diverse` prompts get more clips, at most as many as there are prompts; with 0 there is no diversity."""
        self._size = check_world(teacher)
        self._teacher, self._protocol, self._shared = teacher, protocol, dict(shared)
        self._diverse = diverse
        self._found: dict[str, Judged] = {}
        self._reference: Tensor | None = None

    def judged(self, row: Mapping[str, Any], entry: RelayEntry | None, progress: Progress) -> Judged | None:
        """What was found of the clips of a row, from disk, or measured if that is gone and its entry is there."""
        identity = _identity(row)
        known = str(sorted(identity.items()))
        if known not in self._found:
            tensors = (
                self._read(identity) if entry is None else self._measure(identity, entry, "shapes_fd" in row, progress)
            )
            if tensors is None:
                return None
            main, apart = tensors
            self._found[known] = Judged(**main, reference=self.real_reference(progress), apart=apart)
        return self._found[known]

    def real(self, progress: Progress) -> Judged:
        """What was found of as many real clips, with captions of their own."""
        seed = REAL_SEED + self._protocol.seed
        clips = {"clips": "real, judged", "num": self._protocol.num, "seed": seed}
        identity = clips | {"judge_sha256": self._shared["judge_sha256"]}

        def videos(rows: range) -> Tensor:
            return batch("held-out", seed, rows)[0]

        tensors = cached_tensors(identity, lambda: self._judge(videos, "real clips", progress, seed))
        return Judged(**tensors, reference=self.real_reference(progress), apart=torch.zeros(0))

    def real_motion(self, progress: Progress) -> Tensor:
        """Motion (N,) of the real clips that the prompts are the captions of."""
        seed, num = self._protocol.seed, self._protocol.num

        def compute() -> Tensor:
            motions = []
            for rows in self._batches(num):
                motions.append(motion(batch("held-out", seed, rows)[0]))
                progress("motion of real clips", rows.stop, num)
            return torch.cat(motions)

        return cached_features({"clips": "real, of the prompts", "of": "motion", "num": num, "seed": seed}, compute)

    def real_reference(self, progress: Progress) -> Tensor:
        """Features (M, D) of the real clips that distances are taken to."""
        if self._reference is None:
            clips = {"clips": "real", "num": self._protocol.reference, "judge_sha256": self._shared["judge_sha256"]}
            self._reference = cached_features(clips, lambda: reference_features(self._protocol, progress))
        return self._reference

    def teacher_reference(self, progress: Progress) -> Tensor:
        """Features (N, D) of the teacher's clips of other prompts and noise: dear, so they are kept."""
        seed = self._protocol.seed + _OTHER_SEED
        clips = {"clips": "teacher's", "steps": REFERENCE_STEPS, "seed": seed, **self._shared}
        entry, label = RelayEntry(REFERENCE_STEPS, self._protocol.guidance), "the teacher's other clips"
        return cached_features(
            clips, lambda: self._judge(self._of_prompts(entry, seed), label, progress, seed)["features"]
        )

    def shown(self, entry: RelayEntry, count: int) -> list[Frames]:
        """The first clips of an entry, each (F, H, W, 3) in uint8: from disk, where they were shown before."""
        prompts, seeds = held_out_prompts(count, self._protocol.seed), self._protocol.noise_seeds(0, count)
        main, _ = self._protocols(_identity(entry.key))

        def compute() -> dict[str, Tensor]:
            clips = self._generate(entry, prompts, seeds)
            return {"frames": torch.stack([torch.from_numpy(to_uint8(clip)) for clip in clips])}

        frames = cached_tensors(main | {"clips": "an entry's, shown", "num": count}, compute)["frames"]
        return list(frames.numpy())

    @torch.no_grad()
    def _generate(self, entry: RelayEntry, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Videos (B, 3, F, H, W) in -1..1 of one entry."""
        if entry.student is None:
            return generate(self._teacher, prompts, seeds, entry.steps, entry.guidance)
        z = self._teacher.noise(seeds, self._teacher.latent_shape(*self._size))
        return self._teacher.decode(entry.student.sample(z, self._teacher.conditions(prompts)))

    def _read(self, identity: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor] | None:
        main, several = self._protocols(identity)
        tensors, apart = read_cached_tensors(main), read_cached_tensors(several) if self._diverse else _NO_DIVERSITY
        return None if tensors is None or apart is None else (tensors, apart["features"])

    def _measure(
        self, identity: dict[str, Any], entry: RelayEntry, again: bool, progress: Progress
    ) -> tuple[dict[str, Tensor], Tensor]:
        main, several = self._protocols(identity)
        label = label_of(entry.key) + (" again (its features are not on disk)" if again else "")
        tensors = cached_tensors(main, lambda: self._judge(self._of_prompts(entry), label, progress))
        if self._diverse == 0:
            return tensors, _NO_DIVERSITY["features"]
        return tensors, cached_features(several, lambda: self._apart(entry, f"{label}, diversity", progress))

    def _protocols(self, identity: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of an entry's clips, and of those for diversity."""
        own = {**identity, **{key: self._shared[key] for key in _OF_ALL}}
        main = {"clips": "an entry's", **own}
        del own["num"]  # diversity does not depend on it
        return main, {"clips": "an entry's, for diversity", "prompts": self._diverse, "seeds": DIVERSE_SEEDS, **own}

    def _of_prompts(self, entry: RelayEntry, seed: int | None = None) -> ReadVideos:
        """Clips of held-out prompts; prompts and noise follow from the seed alone."""
        protocol = self._protocol if seed is None else replace(self._protocol, seed=seed)
        prompts = held_out_prompts(protocol.num, protocol.seed)

        def videos(rows: range) -> Tensor:
            return self._generate(entry, prompts[rows.start : rows.stop], protocol.noise_seeds(rows.start, len(rows)))

        return videos

    @torch.no_grad()
    def _judge(self, videos: ReadVideos, label: str, progress: Progress, seed: int | None = None) -> dict[str, Tensor]:
        """The fields of `Judged` of clips whose prompts are those of `seed`, else of the protocol's."""
        num = self._protocol.num
        judgement, moving = ShapesJudgement(load_judge(device=str(self._teacher.device))), []
        prompts = held_out_prompts(num, self._protocol.seed if seed is None else seed)
        for rows in self._batches(num):
            clips = videos(rows)
            judgement.update(clips.cpu(), prompts[rows.start : rows.stop])
            moving.append(motion(clips.clamp(-1, 1)).float().cpu())
            progress(label, rows.stop, num)
        return {
            "features": judgement.features(),
            "agreements": judgement.agreements(),
            "motion": torch.cat(moving),
        }

    @torch.no_grad()
    def _apart(self, entry: RelayEntry, label: str, progress: Progress) -> Tensor:
        """How far apart the clips of each prompt are (P,)."""
        protocol = replace(self._protocol, seed=self._protocol.seed + _DIVERSE_SEED)
        judge = load_judge(device=str(self._teacher.device))
        # clips of a prompt next to one another, each from noise of its own
        prompts = [
            prompt for prompt in held_out_prompts(self._diverse, self._protocol.seed) for _ in range(DIVERSE_SEEDS)
        ]
        features = []
        for rows in self._batches(len(prompts)):
            seeds = protocol.noise_seeds(rows.start, len(rows))
            clips = self._generate(entry, prompts[rows.start : rows.stop], seeds)
            features.append(judge.read(clips.to(judge.feature_mean.device))[1].float().cpu())
            progress(label, rows.stop, len(prompts))
        return mean_of_pairs(torch.cat(features).unflatten(0, (-1, DIVERSE_SEEDS)))

    def _batches(self, num: int) -> Iterator[range]:
        for start in range(0, num, self._protocol.batch):
            yield range(start, min(start + self._protocol.batch, num))
