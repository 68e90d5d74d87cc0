"""Which diffusers first has each class that cards name: reads wheels, and prints student/export/diffusers_since.json.

pip download --no-deps -d DIR diffusers==0.29.0   # and so on for each version
python -m tests.clients.since DIR/*.whl
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from zipfile import ZipFile

from fewstep.teacher.families import FAMILIES

SCHEDULERS = (
    "CogVideoXDDIMScheduler",
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "FlowMapEulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
)
DTYPE = "from_pretrained(dtype=)"


def version_of(wheel: Path) -> tuple[int, ...]:
    """From its name."""
    return tuple(map(int, wheel.name.split("-")[1].split(".")))


def since(wheels: list[Path]) -> dict[str, str]:
    """Class, or what else -> the version of the first wheel that has it."""
    versions: dict[str, str] = {}
    for wheel in sorted(wheels, key=version_of):
        version = ".".join(map(str, version_of(wheel)))
        with ZipFile(wheel) as archive:
            exported = archive.read("diffusers/__init__.py").decode()
            deprecations = archive.read("diffusers/utils/deprecation_utils.py").decode()
        has = {name for name in (*FAMILIES, *SCHEDULERS) if re.search(rf'"{name}"', exported)}
        has |= {DTYPE} if "_resolve_dtype" in deprecations else set()
        versions |= dict.fromkeys(has - versions.keys(), version)
    return dict(sorted(versions.items()))


if __name__ == "__main__":
    print(json.dumps(since([Path(name) for name in sys.argv[1:]]), indent=1))
