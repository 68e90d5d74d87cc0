"""What the parts of an evaluation's results.json must be, so that whoever continues with them can compute."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

SamplingStepCount = Annotated[int, Field(gt=0, lt=10**6)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Figure(_Part):
    value: FiniteFloat | None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    num: Annotated[int, Field(ge=0, lt=10**12)] | None = None


class _Link(_Part):
    source: str
    steps: SamplingStepCount


class _Row(_Part):
    model: Annotated[str, Field(max_length=1000)]
    role: Literal["teacher", "student", "real"]
    metrics: dict[str, _Figure]
    source: str = ""
    steps: SamplingStepCount | None = None
    evaluations: Annotated[float, Field(gt=0, lt=1e9)] | None = None
    warnings: list[str] = Field(default_factory=list)
    chain: list[_Link] | None = None


class _Difference(_Part):
    model: str
    other: str
    metrics: dict[str, _Figure]


_ROWS, _DIFFERENCES = TypeAdapter(list[_Row]), TypeAdapter(list[_Difference])


def check_shape(rows: Any, differences: Any) -> None:
    """Raises ValueError, with the first reason alone, unless these are rows of models and differences between them."""
    for name, adapter, entries in (("rows", _ROWS, rows), ("differences", _DIFFERENCES, differences)):
        try:
            adapter.validate_python(entries)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, (name, *first['loc'])))}: {first['msg']}") from None
