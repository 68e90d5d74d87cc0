"""The embedded teachers of images and controls: put together from that of prompts and what they learned beyond."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from fewstep.teacher.files.cache_folder import cache_folder
from fewstep.teacher.files.checksums import sha256_of_all
from fewstep.teacher.shapes.learned import assemble_learned

LEARNED = Path(__file__).parent / "learned_weights"


def learned_path(kind: str) -> Path:
    """The file that says what the embedded teacher of this kind learned."""
    return LEARNED / f"{kind}.safetensors"


def assembled(kind: str, start: Path) -> Path:
    """The pipeline's folder, in the user's cache; `start` is the embedded teacher of prompts.

    It is written once for the files that it is made of. Raises ValueError when nothing was learned of this kind yet.
    """
    learned = learned_path(kind)
    if not learned.is_file():
        raise ValueError(f"{learned} is missing: reinstall fewstep, or train it with `fewstep teacher train`")
    # its name is a hash of all that it is made of: a newer fewstep makes another folder
    files = [learned, *sorted(path for path in start.rglob("*") if path.suffix in (".safetensors", ".json"))]
    name = sha256_of_all(files)[:16]
    folder = cache_folder("teachers") / f"shapes-{kind}-{name}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # another process may be writing the same
        if not folder.exists():
            assemble_learned(learned, start, folder)
    return folder
