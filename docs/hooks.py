"""The page of a recipe's settings, which mkdocs makes from `recipes/schema.json` as it builds the site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SCHEMA = Path(__file__).parents[1] / "recipes" / "schema.json"
HEAD = """# Recipe settings

Every setting of a recipe, its type, its default and what it means, as `recipes/schema.json` says it to editors.
[Writing a recipe](writing-a-recipe.md) explains how they go together; the settings of each kind of objective are
introduced in [Objectives](objectives.md).
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the page `recipe-settings.md`."""
    schema = json.loads(SCHEMA.read_text("utf-8"))
    files.append(File.generated(config, "recipe-settings.md", content=settings_page(schema)))
    return files


def settings_page(schema: dict[str, Any]) -> str:
    """A table of settings for each part of a recipe, in Markdown; the recipe itself comes first."""
    parts = {"Recipe": schema, **schema["$defs"]}
    return "\n\n".join([HEAD, *(_part(name, node, parts) for name, node in parts.items())])


def _part(name: str, node: dict[str, Any], parts: dict[str, Any]) -> str:
    required = node.get("required", [])
    fields = {setting: _described(field, parts) for setting, field in node["properties"].items()}
    rows = [_row(setting, field, setting in required) for setting, field in fields.items()]
    table = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |", *rows]
    return "\n".join([f"## {name}", "", _text(node), "", *table])


def _described(field: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """A setting without a description of its own has that of the part which it holds."""
    part = parts.get(field.get("$ref", "").rpartition("/")[-1], {})
    return {"description": part.get("description", "")} | field


def _row(setting: str, field: dict[str, Any], required: bool) -> str:
    default = "required" if required else f"`{json.dumps(field.get('default'))}`"
    if isinstance(field.get("default"), dict):
        default = "its own defaults"
    cells = (f"`{setting}`", _type(field), default, _text(field))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(field: dict[str, Any]) -> str:
    """The values that a setting takes, in words; parts of a recipe are links to their table."""
    if "$ref" in field:
        part = field["$ref"].rpartition("/")[-1]
        return f"[{part}](#{part.lower()})"
    if choices := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(choice) for choice in choices))
    if "enum" in field or "const" in field:
        return " or ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        items = field.get("prefixItems") or [field["items"]] if "items" in field or "prefixItems" in field else [{}]
        return "list of " + ", ".join(dict.fromkeys(_type(item) for item in items))
    if isinstance(field.get("additionalProperties"), dict):
        return f"name: {_type(field['additionalProperties'])}"
    return _number(field) if field.get("type") in ("integer", "number") else str(field.get("type", "any"))


def _number(field: dict[str, Any]) -> str:
    """A number's type and its limits."""
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    limits = " and ".join(f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field)
    return f"{field['type']} {limits}".strip()


def _text(node: dict[str, Any]) -> str:
    return " ".join(str(node.get("description", "")).split())
