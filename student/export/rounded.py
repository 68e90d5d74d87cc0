"""A student as an export holds it: with weights that a precision can hold, which it still computes with in float32."""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from dataclasses import replace
from typing import Any

from torch import nn

from fewstep.student.adapters import merge_adapters
from fewstep.student.export.base import ExportPrecision
from fewstep.student.export.lora import baked_settings, baked_state, is_adapted, prefix_of, with_adapter
from fewstep.student.export.precision import kept_whole, round_to
from fewstep.student.export.stock import trained_names
from fewstep.student.loading import Student
from fewstep.teacher.base import Teacher
from fewstep.teacher.experts import parts_of, with_parts
from fewstep.teacher.predictions import recorded_as


def rounded(
    student: Student, precision: ExportPrecision, keeps_adapters: bool, only: Collection[str] | None = None
) -> Student:
    """The student, computing in float32 with weights that are rounded to this precision, as an export holds them.

    keeps_adapters: an adapter stays one, and is rounded with its scale inside; else it is merged first. only: names of
    the weights that leave; None: all. Raises ValueError for weights that the precision cannot hold.
    """
    # float32 holds all weights exactly, but an adapter may have to be merged for the format
    if precision == "float32" and (keeps_adapters or not is_adapted(student.network)):
        return student
    parts = parts_of(student.network)
    own = {name: parts[name] for name in trained_names(student.contract)}
    rounded_parts = {
        name: _rounded_adapter(student.teacher, network, precision, name)
        if keeps_adapters and is_adapted(network)
        else _rounded_network(network, precision, only)
        for name, network in own.items()
    }
    network = with_parts(student.network, {**parts, **rounded_parts})
    return replace(student, network=recorded_as(network, student.network))


def _rounded_network(network: nn.Module, precision: ExportPrecision, only: Collection[str] | None) -> nn.Module:
    merged = deepcopy(network)
    merge_adapters(merged)
    kept = kept_whole(merged)
    for name, parameter in merged.named_parameters():
        if name not in kept and (only is None or name in only):
            parameter.data = round_to(parameter.data, precision, name).float()
    return merged


def _rounded_adapter(teacher: Teacher, network: Any, precision: ExportPrecision, name: str) -> nn.Module:
    state = {key: round_to(x, precision, key).float() for key, x in baked_state(network).items()}
    prefix = f"{prefix_of(teacher)}."
    prefixed = {prefix + key: tensor for key, tensor in state.items()}
    return with_adapter(teacher, prefixed, teacher.folder, baked_settings(network, prefix), name)
