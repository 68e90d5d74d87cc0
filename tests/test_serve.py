"""docs/serve.py: a tiny random student behind its app, asked as people ask it."""

from __future__ import annotations

import importlib.util
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from fastapi.testclient import TestClient

import fewstep
from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles
from fewstep.teacher.base import Teacher
from fewstep.teacher.source import VideoSize

SCRIPT = Path(__file__).parents[1] / "docs" / "serve.py"


@pytest.fixture(scope="module")
def serve() -> Any:
    spec = importlib.util.spec_from_file_location("serve", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where FastAPI looks up what its annotations name
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def client(serve: Any, tiny_teacher: Teacher, tiny_wan_folder: Path, tmp_path: Path) -> TestClient:
    """Of a two-step student that is the teacher itself."""
    size = tiny_teacher.default_size()
    assert size is not None
    Roles(tiny_teacher).save(tmp_path)
    SamplingContract.of(tiny_teacher, str(tiny_wan_folder), 2, "full", size, 3.0, "", 8).write(tmp_path)
    return TestClient(serve.make_app(fewstep.load_pipeline(tmp_path, device="cpu")))


def frames_of(mp4: bytes) -> np.ndarray[Any, Any]:
    with av.open(BytesIO(mp4), "r") as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def test_a_prompt_becomes_a_clip_that_its_seed_decides(client: TestClient) -> None:
    answers = [client.post("/clips", json={"prompt": "a ring", "seed": seed}) for seed in (7, 7, 8)]
    assert all(one.status_code == 200 and one.headers["content-type"] == "video/mp4" for one in answers)
    first, again, other = (frames_of(one.content) for one in answers)
    assert first.shape == (9, 16, 16, 3)
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_it_says_how_it_is(client: TestClient) -> None:
    actual = client.get("/health")
    assert actual.status_code == 200
    assert actual.json() == {"status": "ok", "steps": 2, "fps": 8, "frames": 9, "height": 16, "width": 16}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "prompt: Field required"),
        ({"prompt": "  "}, "prompt: String should have at least 1 character"),
        ({"prompt": "a" * 2001}, "prompt: String should have at most 2000 characters"),
        ({"prompt": "a", "seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"prompt": "a", "seed": "7"}, "seed: Input should be a valid integer"),
        ({"prompt": "a", "num_inference_steps": 50}, "num_inference_steps: Extra inputs are not permitted"),
    ],
)
def test_bad_input_is_told_in_a_sentence(client: TestClient, body: dict[str, Any], sentence: str) -> None:
    answer = client.post("/clips", json=body)
    assert answer.status_code == 422 and answer.json()["detail"].startswith(sentence)


def test_what_is_no_json_is_told(client: TestClient) -> None:
    answer = client.post("/clips", content="a ring", headers={"content-type": "application/json"})
    assert answer.status_code == 422 and "JSON" in answer.json()["detail"]
    assert client.get("/clips").status_code == 405 and client.post("/nothing").status_code == 404


class FakePipeline:
    """Remembers how many clips were made at once at most, and refuses one prompt."""

    contract = SimpleNamespace(given=(), size=VideoSize(2, 16, 16), steps=1, fps=8)

    def __init__(self) -> None:
        self.now = self.most = 0

    def __call__(self, prompt: str, **_: Any) -> Any:
        if prompt == "refused":
            raise ValueError("the student was not trained for it")
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.05)
        self.now -= 1
        return SimpleNamespace(frames=[np.zeros((2, 16, 16, 3))])


def test_one_clip_is_made_at_a_time(serve: Any) -> None:
    pipe = FakePipeline()
    client = TestClient(serve.make_app(pipe))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda seed: client.post("/clips", json={"prompt": "a", "seed": seed}), range(4)))
    assert [one.status_code for one in answers] == [200] * 4 and pipe.most == 1


def test_what_the_pipeline_refuses_is_told_and_others_follow(serve: Any) -> None:
    client = TestClient(serve.make_app(FakePipeline()))
    answer = client.post("/clips", json={"prompt": "refused"})
    assert answer.status_code == 400 and answer.json() == {"detail": "the student was not trained for it"}
    assert client.post("/clips", json={"prompt": "a"}).status_code == 200


@pytest.mark.parametrize("other", [{"given": ("first",)}, {"size": VideoSize(1, 16, 16)}])
def test_students_of_pictures_are_refused(serve: Any, other: dict[str, Any]) -> None:
    contract = SimpleNamespace(**vars(FakePipeline.contract) | other)
    with pytest.raises(ValueError, match="students that make clips from prompts alone"):
        serve.make_app(SimpleNamespace(contract=contract))
