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
    """Asks the hub who the token's owner is. Raises ValueError where there is no token, it is not valid, or it may not
    write to the repository or its namespace."""
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
    writable = [org["name"] for org in account.get("orgs", ()) if org.get("roleInOrg") != "read"]
    may = [account["name"], *writable]
    namespace, slash, _ = repo.partition("/")
    if slash and namespace not in may:
        raise ValueError(f"the token's owner may push to {' or '.join(may)}, not to {namespace}: pass another name")
    repo = repo if slash else f"{account['name']}/{repo}"
    if not _may_write(account, repo):
        raise ValueError(
            f"the token may read, and not write to {repo}: log in with one of role write (`hf auth login`), or give it "
            "write access to this repository or its owner's"
        )


def _may_write(account: dict[str, Any], repo: str) -> bool:
    """Whether the token itself may write to ORG/NAME, by the role that the hub says it has."""
    token = (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") != "fineGrained":
        return bool(token.get("role") != "read")
    scopes = (token.get("fineGrained") or {}).get("scoped") or ()
    named = {repo, repo.partition("/")[0]}
    return any("repo.write" in scope["permissions"] and scope["entity"].get("name") in named for scope in scopes)


def _weights(names: set[str]) -> list[str]:
    suffixes = (".safetensors", ".index.json", ".bin", ".gguf", ".onnx", ".data")
    return sorted(name for name in names if name.endswith(suffixes))


def push(folder: Path, repo: str, private: bool = False) -> str:
    """Uploads an export's folder as the model `repo` and returns its address.

    Raises ValueError when the hub refuses or is out of reach, and before anything is uploaded when the model is there
    and has other weights, or is public where `private` is asked; the folder stays as it is.
    """
    from huggingface_hub import HfApi, errors

    of_client: Any = errors  # HTTPError is httpx's or httpx2's there, as the version goes
    api = HfApi()
    try:
        # None leaves the choice to the organisation's own default; of a model that is there the hub ignores it
        url = api.create_repo(repo, private=private or None, exist_ok=True)
        there = api.model_info(url.repo_id)
        if private and not there.private:
            raise ValueError(
                f"{repo} is on the hub already, and public, so nothing was uploaded: make it private there, or pass "
                f"another name; the export is whole, in {folder}"
            )
        # diffusers would go on loading the shards of an earlier export in place of a new single file
        own = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        if others := _weights({file.rfilename for file in there.siblings or ()} - own):
            raise ValueError(
                f"{repo} has weights that this export has not, such as {others[0]}, and others might load them in its "
                "place, so nothing was uploaded: delete them there, or pass another name; the export is whole, in "
                f"{folder}"
            )
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message="fewstep export")
    except (of_client.HTTPError, OSError) as error:
        raise ValueError(
            f"{repo} could not be pushed ({' '.join(str(error).split())}): the export is whole; log in with `hf auth "
            f"login`, then `hf upload {repo} {folder}`"
        ) from error
    return str(url)
