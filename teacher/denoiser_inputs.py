"""Numbers that are inputs of a denoiser besides times: embedded guidance and control scale."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from fewstep.teacher.limits import MOST_CONTROL

ControlScale = float | tuple[float, ...]


class DenoiserInputs:
    """The part of `Teacher` for inputs that are the same at every time and for every clip, in teacher and student."""

    pipeline: Any
    folder: Path

    embedded_guidance: float | None = None
    """Guidance as an input of the denoiser (arXiv 2210.03142); None: it takes none. It needs one forward, and can
    be combined with classifier-free guidance. A family sets its pipeline's default."""
    control_scale: ControlScale = 1.0
    """Scale of the control branch's output, as one number or one for each of `control_layers`: 1 adds all of it, 0
    nothing."""

    @property
    def control_layers(self) -> int:
        """How many layers have a control scale of their own; 0 where the pipeline takes none."""
        return 0

    @property
    def denoiser_inputs(self) -> dict[str, Any]:
        """The current values of those that the denoiser takes, as arguments of `set_inputs` that JSON can hold."""
        result: dict[str, Any] = {}
        if self.embedded_guidance is not None:
            result["embedded_guidance"] = self.embedded_guidance
        if self.control_layers:
            scale = self.control_scale
            result["control_scale"] = list(scale) if isinstance(scale, tuple) else scale
        return result

    @property
    def control_scales(self) -> tuple[float, ...]:
        """The control scale of each layer."""
        scale = self.control_scale
        return scale if isinstance(scale, tuple) else (scale,) * self.control_layers

    def set_inputs(self, embedded_guidance: float | None = None, control_scale: ControlScale | None = None) -> None:
        """Sets these inputs for the denoiser from now on, as teacher and as student; None keeps the current value.

        Raises ValueError for an input that it does not take, except a control scale of 1, and for a control scale
        with a wrong number of layers.
        """
        if embedded_guidance is not None and self.embedded_guidance is None:
            raise ValueError(
                f"the denoiser in {self.folder} takes no guidance as an input, so embedded_guidance has no effect: "
                "leave it out, and set the classifier-free `guidance` of stages, data or sampling"
            )
        if control_scale is not None:
            self.control_scale = self._checked(control_scale)
        self.embedded_guidance = self.embedded_guidance if embedded_guidance is None else embedded_guidance

    def _checked(self, scale: ControlScale) -> ControlScale:
        scale, layers = one_scale(scale), self.control_layers
        if not layers and scale != 1:
            raise ValueError(
                f"a {type(self.pipeline).__name__} takes no control scale, so control_scale has no effect: leave it out"
            )
        if isinstance(scale, tuple) and len(scale) != layers:
            raise ValueError(
                f"control_scale has {len(scale)} numbers, and the denoiser in {self.folder} has {layers} control "
                f"layer{'s' * (layers > 1)}: give one number, or {layers} of them"
            )
        return scale


def one_scale(value: object) -> ControlScale:
    """A control scale of a number, of a text such as `0.5` or `1,0.8,0.5`, or of a list: one for each control layer, or
    one number where all are alike.

    Raises ValueError for anything else.
    """
    texts: Any = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        numbers = tuple(float(number) for number in texts if not isinstance(number, bool))
    except (TypeError, ValueError):
        numbers = ()
    # fewer numbers than texts: true or false was among them, which float() would have read as 1 or 0
    if not numbers or len(numbers) < len(texts) or not all(0 <= number <= MOST_CONTROL for number in numbers):
        raise ValueError(
            f"control_scale is {value!r}: write a number from 0 to {MOST_CONTROL:g}, where 1 adds all of the control, "
            "or a list of one for each control layer"
        )
    return numbers[0] if len(set(numbers)) == 1 else numbers


_NUMBER: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": MOST_CONTROL}

# of pydantic's models
ControlScaleField = Annotated[
    ControlScale,
    BeforeValidator(one_scale),
    WithJsonSchema({"anyOf": [_NUMBER, {"type": "array", "items": _NUMBER, "minItems": 1}]}),
]
