"""A student behind a small HTTP app: POST a prompt and a seed, get an mp4. docs/serving.md says how to use it.

pip install fastapi uvicorn
python docs/serve.py runs/wan-4step
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Annotated, Any

import torch
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

import fewstep
from fewstep.teacher.videos.writing import write_video

Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]


class Wanted(BaseModel):
    """What a clip is made from."""

    model_config = ConfigDict(extra="forbid")
    prompt: Prompt
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0


def make_app(pipe: Any) -> FastAPI:
    """The app around a pipeline of `fewstep.load_pipeline`. Raises ValueError for a student that needs images, or
    makes them."""
    contract = pipe.contract
    if contract.given or contract.size.num_frames == 1:
        raise ValueError("this script serves students that make clips from prompts alone: add the images to `Wanted`")
    app, alone = FastAPI(title="few-step clips"), Lock()

    @app.exception_handler(RequestValidationError)
    def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(name) for name in first["loc"][1:]) or "the body"
        return JSONResponse({"detail": f"{where}: {first['msg']}"}, status_code=422)

    @app.get("/health")
    def health() -> dict[str, Any]:
        size = dict(zip(("frames", "height", "width"), contract.size, strict=True))
        return {"status": "busy" if alone.locked() else "ok", "steps": contract.steps, "fps": contract.fps} | size

    @app.post("/clips")
    def clip(wanted: Wanted) -> Response:
        generator = torch.Generator().manual_seed(wanted.seed)
        try:
            with alone:  # a pipeline holds the state of one clip: further requests wait
                frames = pipe(wanted.prompt, generator=generator, output_type="np").frames[0]
        except ValueError as error:
            return JSONResponse({"detail": str(error)}, status_code=400)
        return Response(as_mp4(frames, contract.fps), media_type="video/mp4")

    return app


def as_mp4(frames: Any, fps: float) -> bytes:
    """Frames (F, H, W, 3) in 0..1 as a file's bytes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, (frames * 255).round().astype("uint8"), fps)
        return path.read_bytes()


def main() -> None:
    """Loads the student once, then serves."""
    import uvicorn

    parser = argparse.ArgumentParser(description="Serve a student over HTTP.")
    parser.add_argument("student", help="a run, one of its stages, or an export")
    parser.add_argument("--steps", type=int, help="which student of a run; by default the last")
    parser.add_argument("--teacher", help="where the student's teacher is, if not where its contract says")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    try:
        app = make_app(fewstep.load_pipeline(arguments.student, steps=arguments.steps, teacher=arguments.teacher))
    except ValueError as error:
        parser.error(str(error))
    uvicorn.run(app, host=arguments.host, port=arguments.port)


if __name__ == "__main__":
    main()
