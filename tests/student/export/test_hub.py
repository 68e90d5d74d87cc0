"""Uploading, to a server on this machine that answers as the hub does."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from fewstep.student.export.hub import check_access, check_repo, push


class Hub(BaseHTTPRequestHandler):
    """Takes models and commits; every file is small enough to lie inside the commit."""

    repos: list[dict[str, object]] = []  # noqa: RUF012
    files: dict[str, bytes] = {}  # noqa: RUF012
    refuses = False
    private = True
    there: tuple[str, ...] = ()
    token: dict[str, object] = {"role": "write"}  # noqa: RUF012

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in self.there]
            self._answer({"id": "me/student", "private": self.private, "siblings": siblings})
        elif self.refuses:
            self._answer({"error": "Invalid username or password."}, 401)
        else:
            token = {"accessToken": {"displayName": "t", **self.token}}
            orgs = [{"name": "us", "roleInOrg": "write"}, {"name": "they", "roleInOrg": "read"}]
            self._answer({"type": "user", "name": "me", "orgs": orgs, "auth": {"type": "access_token", **token}})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.refuses:
            self._answer({"error": "no"}, 403)
        elif self.path == "/api/repos/create":
            self.repos.append(json.loads(body))
            self._answer({"url": f"{huggingface_hub.constants.ENDPOINT}/me/{self.repos[-1]['name']}"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self._answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        else:
            for line in body.splitlines():
                value = json.loads(line)["value"]
                if "content" in value:
                    self.files[value["path"]] = base64.b64decode(value["content"])
            self._answer({"commitUrl": f"{huggingface_hub.constants.ENDPOINT}/me/student/commit/0", "commitOid": "0"})

    def _answer(self, body: dict[str, object], status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Keeps quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    Hub.repos.clear()
    Hub.files.clear()
    Hub.refuses, Hub.private, Hub.token, Hub.there = False, True, {"role": "write"}, ()
    yield Hub
    server.shutdown()
    server.server_close()


def test_the_whole_folder_goes_up(hub: type[Hub], tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text("{}")
    (tmp_path / "contract.json").write_text('{"steps": 4}')
    assert push(tmp_path, "me/student", private=True).endswith("/me/student")
    assert hub.repos[0]["name"] == "student" and hub.repos[0]["organization"] == "me"
    assert hub.repos[0].get("visibility") == "private" or hub.repos[0].get("private") is True  # newer, older client
    assert hub.files == {"transformer/config.json": b"{}", "contract.json": b'{"steps": 4}'}


def test_a_refusal_says_what_to_do(hub: type[Hub], tmp_path: Path) -> None:
    hub.refuses = True
    (tmp_path / "contract.json").write_text("{}")
    with pytest.raises(ValueError, match=r"me/student could not be pushed .*: the export is whole; log in .*hf upload"):
        push(tmp_path, "me/student")
    assert not hub.files
    huggingface_hub.constants.ENDPOINT = "http://127.0.0.1:9"  # the fixture puts it back
    with pytest.raises(ValueError, match="me/student could not be pushed"):
        push(tmp_path, "me/student")


def test_the_token_is_asked_for_first(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    for repo in ("me/student", "us/student", "student"):
        check_access(repo)
    with pytest.raises(ValueError, match="may push to me or us, not to them: pass another name"):
        check_access("them/student")
    with pytest.raises(ValueError, match="may push to me or us, not to they: pass another name"):
        check_access("they/student")  # where they may read
    hub.refuses = True
    with pytest.raises(ValueError, match="the hub does not take the token, or is out of reach"):
        check_access("me/student")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="there is no token that could push to me/student: log in"):
        check_access("me/student")


def test_a_token_that_may_only_read_is_refused_before_the_work(hub: type[Hub]) -> None:
    hub.token = {"role": "read"}
    with pytest.raises(ValueError, match="the token may read, and not write to me/student: log in with one of role wr"):
        check_access("student")
    scope = {"entity": {"type": "user", "name": "me"}, "permissions": ["repo.content.read"]}
    hub.token = {"role": "fineGrained", "fineGrained": {"global": [], "scoped": [scope]}}
    with pytest.raises(ValueError, match="and not write to me/student"):
        check_access("me/student")
    scope["permissions"] = ["repo.content.read", "repo.write"]
    check_access("me/student")
    with pytest.raises(ValueError, match="and not write to us/student"):
        check_access("us/student")


def test_a_private_export_never_goes_to_a_public_model(hub: type[Hub], tmp_path: Path) -> None:
    hub.private = False
    (tmp_path / "contract.json").write_text("{}")
    with pytest.raises(ValueError, match="me/student is on the hub already, and public, so nothing was uploaded"):
        push(tmp_path, "me/student", private=True)
    assert not hub.files
    push(tmp_path, "me/student")
    assert hub.files and not hub.repos[-1].get("visibility") and hub.repos[-1].get("private") is None


def test_weights_of_another_export_are_not_left_in_the_way(hub: type[Hub], tmp_path: Path) -> None:
    """diffusers would load the shards of the one before in place of a new single file."""
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "model.safetensors").write_text("new")
    hub.there = ("README.md", "transformer/model.safetensors", "transformer/model.safetensors.index.json")
    with pytest.raises(
        ValueError, match=r"has weights that this export has not, such as transformer/model.*index.json"
    ):
        push(tmp_path, "me/student")
    assert not hub.files
    hub.there = ("README.md", "transformer/model.safetensors", "samples/clip.mp4")
    push(tmp_path, "me/student")
    assert hub.files == {"transformer/model.safetensors": b"new"}


def test_a_name_that_the_hub_does_not_take_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="a b is not a name on the hub"):
        check_repo("a b")
