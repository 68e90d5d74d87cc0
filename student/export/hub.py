"""An export on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def check_repo(repo: str) -> None:
    """Raises ValueError for a name that the hub does not take."""
    from huggingface_hub import utils
    from huggingface_hub.errors import HFValidationError

    of_hub: Any = utils  # mypy sees only what is listed as exported
    try:
        of_hub.validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"{repo} is no name on the hub ({error}): pass one like me/my-student") from error


def push(folder: Path, repo: str, private: bool = False) -> str:
    """Uploads an export's folder as the model `repo` and returns its address.

    Raises ValueError when the hub refuses or is out of reach; the folder stays as it is.
    """
    from huggingface_hub import HfApi, errors

    of_client: Any = errors  # HTTPError is httpx's or httpx2's there, as the version goes
    api = HfApi()
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message="fewstep export")
    except (of_client.HTTPError, OSError) as error:
        raise ValueError(
            f"{repo} could not be pushed ({' '.join(str(error).split())}): the export is whole; log in with `hf auth "
            f"login`, then `hf upload {repo} {folder}`"
        ) from error
    return str(url)
