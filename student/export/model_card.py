"""The README.md of an export: what it is, how it must be sampled, where it comes from, what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from fewstep.student.contract import SamplingContract
from fewstep.student.export.base import Exported, Format, Written
from fewstep.student.export.card_use import install, limits, lora_combination, sampling, serving, stored_weights
from fewstep.student.export.privacy import is_hub_id, results_without_paths, without_paths
from fewstep.student.export.programs import PROGRAMS
from fewstep.student.export.provenance import Provenance
from fewstep.student.loading import Student
from fewstep.teacher.given import IMAGES

_LICENCE = ("license", "license_name", "license_link")


def model_card(
    student: Student, format: Format, written: Written, exported: Exported, provenance: Provenance | None
) -> str:
    """The card, with the front matter that the hub reads."""
    from huggingface_hub import ModelCardData

    contract, licence, provenance = student.contract, _licence(student), provenance or Provenance()
    results = results_without_paths(provenance.results)
    on_hub = is_hub_id(contract.teacher)
    data = ModelCardData(
        base_model=contract.teacher if on_hub else None,
        base_model_relation=written.relation if on_hub else None,
        library_name=format.library,
        pipeline_tag=pipeline_tag(student),
        tags=["fewstep", "distillation"],
        **licence,
    )
    # what a reader needs first comes first: how to sample it, then how it was made and measured
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {contract.steps} steps from {contract.teacher}",
        _summary(contract, written.relation, licence),
        "## Sampling\n\n" + sampling(student),
        install(student, format),
        f"```python\n{format.snippet(student, written).rstrip()}\n```",
        *_section("In ComfyUI", "\n".join(f"{i}. {step}" for i, step in enumerate(written.steps, 1))),
        *_section("With another LoRA", lora_combination(student, format, written)),
        *_section("Serving", serving(student, format)),
        "## This export\n\n" + _export(format, exported, written),
        "## Training\n\n" + _training(contract, provenance),
        "## Evaluation\n\n" + _evaluation(results),
        "## Limits\n\n" + _limits(limits(contract, format, written), results),
    ]
    return "\n\n".join(parts) + "\n"


def _licence(student: Student) -> dict[str, Any]:
    """What the base model's own card says."""
    from huggingface_hub import ModelCard

    card = student.teacher.folder / "README.md"
    try:
        card_data = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, yaml.YAMLError):  # none, or one that is broken, which says nothing
        return {}
    return {key: card_data[key] for key in _LICENCE if card_data.get(key)}


def pipeline_tag(student: Student) -> str:
    """The hub's word for what a model makes of what."""
    made, given = "image" if student.teacher.makes_pictures else "video", student.contract.given
    made_from = "image" if set(given) & set(IMAGES) else "video" if given else "text"
    return f"{made_from}-to-{made}"


def _summary(contract: SamplingContract, relation: str, licence: Mapping[str, Any]) -> str:
    inherited = f"inherited from it: {', '.join(map(str, licence.values()))}" if licence else "that of the base model"
    return (
        f"A {contract.steps}-step student, distilled with fewstep from {contract.teacher} (sha256 "
        f"{contract.teacher_sha256[:12]}…), of which it is "
        f"{'an adapter' if relation == 'adapter' else f'a {relation}'}. Licence: {inherited}."
    )


def _section(title: str, text: str) -> list[str]:
    return [f"## {title}\n\n{text}"] if text else []


def _export(format: Format, exported: Exported, written: Written) -> str:
    lines = [
        f"- format: {exported.format}, for {PROGRAMS[format.name].program}; {exported.size_mb:g} MB, "
        f"{stored_weights(written)} in {exported.precision}",
        "- loaded by the tool that it is for, it reproduces the student's latents from the same noise with a relative "
        f"error of {exported.relative_error:.2g}",
    ]
    return "\n".join([*lines, *(f"- {note}" for note in exported.notes)])


def _training(contract: SamplingContract, provenance: Provenance) -> str:
    kind = "a LoRA adapter" if contract.weights == "lora" else "all weights"
    recipe = yaml.safe_load(provenance.recipe) if provenance.recipe else {}
    base = (recipe.get("student") or {}).get("base")
    rounded = f", on the teacher's weights in {base}" if base else ""
    lines = [f"- trained: {kind}{f', stage {provenance.stage}' * bool(provenance.stage)}{rounded}"]
    if provenance.manifest_sha256:
        lines.append(f"- data: manifest sha256 {provenance.manifest_sha256}")
    shown = _recipe(contract, recipe, provenance.stage)
    if not shown:
        return "\n".join([*lines, "- recipe: not kept"])
    return "\n".join([*lines, "", f"<details><summary>Recipe</summary>\n\n```yaml\n{shown}```\n\n</details>"])


def _recipe(contract: SamplingContract, recipe: Mapping[str, Any], stage: str) -> str:
    """The recipe up to this student's stage, without what it says about the machine it ran on."""
    settings = {key: value for key, value in recipe.items() if key not in ("out", "device", "logging")}
    # the teacher as the contract names it, which is no folder of this machine; no stages behind this student's
    settings |= {"teacher": contract.teacher} if "teacher" in settings else {}
    stages = settings.get("stages", [])
    ends = [i for i, entry in enumerate(stages, 1) if entry.get("name") == stage]
    settings |= {"stages": stages[: ends[0]]} if ends else {}
    return yaml.safe_dump(without_paths(settings), sort_keys=False) if settings else ""


def _evaluation(results: Mapping[str, Any]) -> str:
    if not results:
        return "Not measured; `fewstep evaluate` measures it."
    rows = results["rows"]
    names = list(dict.fromkeys(name for row in rows for name in row.get("metrics", {})))
    lines = [" | ".join(["model", "steps", *names]), " | ".join(["---", *["---:"] * (len(names) + 1)])]
    for row in rows:
        cells = (_figure(row.get("metrics", {}).get(name)) for name in names)
        lines.append(" | ".join([str(row.get("model", "")), str(row.get("steps") or ""), *cells]))
    table = "\n".join(f"| {line} |" for line in lines)
    protocol = "\n".join(f"| {key} | {value} |" for key, value in results["protocol"].items())
    command = f"\nCommand: `{results['command']}`." if results.get("command") else ""
    return f"{table}\n\n| protocol | |\n| --- | --- |\n{protocol}\n{command}"


def _figure(metric: Any) -> str:
    """A value, with its interval where there is one."""
    if not isinstance(metric, Mapping) or not isinstance(metric.get("value"), int | float):
        return ""
    ends = [metric.get(name) for name in ("low", "high")]
    interval = f" ({ends[0]:.3g} to {ends[1]:.3g})" if all(isinstance(end, int | float) for end in ends) else ""
    return f"{metric['value']:.3g}{interval}"


def _limits(lines: Sequence[str], results: Mapping[str, Any]) -> str:
    warned = [f"{row.get('model', '')}: {text}" for row in results.get("rows", ()) for text in row.get("warnings", ())]
    return "\n".join(f"- {line}" for line in (*lines, *warned))
