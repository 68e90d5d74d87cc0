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
        raise ValueError(f"{repo} is not a name on the hub ({error}): pass one like me/my-student") from error


def check_access(repo: str) -> None:
    """Asks the hub who the token's owner is. Raises ValueError where there is no token, it is not valid, or its owner
    cannot write to the repository's namespace."""
    from huggingface_hub import HfApi, errors, get_token

    if get_token() is None:
        raise ValueError(f"there is no token that could push to {repo}: log in with `hf auth login`, or set HF_TOKEN")
    of_client: Any = errors
    try:
        account = HfApi().whoami()
    except (of_client.HTTPError, OSError) as error:
        raise ValueError(
            f"the hub does not take the token, or is out of reach ({' '.join(str(error).split())}): log in with `hf "
            "auth login`, or leave --push-to-hub out"
        ) from error
    may = [account["name"], *(org["name"] for org in account.get("orgs", ()))]
    namespace, slash, _ = repo.partition("/")
    if slash and namespace not in may:
        raise ValueError(f"the token's owner may push to {' or '.join(may)}, not to {namespace}: pass another name")


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
