"""Training only a part of a teacher's denoiser, and around which base models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from fewstep.teacher.bases import Bases, Kinds
from fewstep.teacher.source import teacher_sha256


class Divisible:
    """The part of `Teacher` that knows parts of its denoiser. A family says what they are."""

    pipeline: Any
    folder: Path
    only: str | None = None  # the part of the denoiser that alone is trained: see `restrict`
    bases: Bases | None = None  # the denoiser of several base models: see `join`
    part_of: Divisible | None = None  # whose part this one's denoiser has, as one of its base models

    # --- what a family says

    subsets: Mapping[str, Kinds] = MappingProxyType({})
    """Parts of the denoiser that can be trained alone, by the names that recipes use: the classes of their modules."""
    base_classes: tuple[str, ...] = ()
    """Classes of pipelines of which `with_base` makes a teacher of the family, besides the family's own."""

    def with_base(self, parts: Mapping[str, Any]) -> Any:
        """The family's pipeline of another base model's parts, as a pipeline of `base_classes` has them, with this
        teacher's own part that is trained alone, and its scheduler."""
        raise NotImplementedError

    # --- what follows

    @property
    def denoiser(self) -> nn.Module:
        """See `Teacher`."""
        raise NotImplementedError

    @property
    def kinds(self) -> Kinds | None:
        """The classes of the modules that alone are trained; None: all of the denoiser."""
        return None if self.only is None else self.subsets[self.only]

    def restrict(self, only: str | None) -> None:
        """From now on this part of the denoiser alone is trained, by its name in `subsets`; None: all of it.

        Raises ValueError for a part that the family does not name.
        """
        if only is not None and only not in self.subsets:
            named = " or ".join(self.subsets) or "none: all of it belongs together"
            raise ValueError(
                f"student.only: {only} is not a part that can be trained alone of a {type(self.pipeline).__name__}, "
                f"which has {named}; use null for the whole denoiser"
            )
        self.only = only

    def join(self, others: Sequence[Divisible]) -> None:
        """Makes the denoiser that of several base models, this one the first, around the part that is trained.

        From now on the others have this one's part, too. Raises ValueError where no part is trained alone.
        """
        if self.kinds is None:
            raise ValueError("bases: several base models share a part that is trained alone: name it as student.only")
        self.bases = Bases([self.denoiser, *(other.denoiser for other in others)], self.kinds) if others else None
        for other in others:
            other.part_of = self

    def sha256(self) -> str:
        """Whether two runs had the same teacher: see `teacher_sha256`. Slow for large ones, once."""
        if self.part_of is None:
            return self._sha256
        return hashlib.sha256(f"{self.part_of.sha256()} {self._sha256}".encode()).hexdigest()

    @cached_property
    def _sha256(self) -> str:
        return teacher_sha256(self.folder)
