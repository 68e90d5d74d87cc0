"""Which metrics an evaluation takes: those that are asked for, or all that its clips and weights allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from fewstep.eval.metrics.box_iou import BoxIoU
from fewstep.eval.metrics.clip_statistics import Blank, Broken, Contrast, Flicker, Motion, Saturation
from fewstep.eval.metrics.clips import Metric
from fewstep.eval.metrics.distance import Distance
from fewstep.eval.metrics.diversity import Diversity, rms
from fewstep.eval.metrics.features import open_features
from fewstep.eval.metrics.given_frames import FramePsnr
from fewstep.eval.metrics.lpips import MIN_SIDE, LpipsGap, VideoLpips, open_lpips
from fewstep.eval.metrics.prompt_accuracy import PromptAccuracy
from fewstep.eval.metrics.teacher_gap import PSNR, SSIM, LatentMSE, TemporalError
from fewstep.eval.reference import folder_clips, world_clips
from fewstep.teacher.base import VideoSize
from fewstep.teacher.given import given_names
from fewstep.teacher.shapes.captions import named
from fewstep.teacher.shapes.world import WORLD_FRAMES, WORLD_SIDE
from fewstep.teacher.videos.decoding import ClipShape

_TO_REAL_VIDEOS = ("fvd", "fd-videomae", "fd-vjepa2")
_OF_LPIPS = ("lpips", "diversity-lpips")
_OF_GIVEN = ("frame-psnr", "box-iou")
DIVERSITY_SEEDS = 4  # clips of a prompt that diversity is taken over


ChosenMetrics = tuple[list[Metric], dict[str, str]]  # metrics, and why others are left out


@dataclass(frozen=True)
class Setting:
    """What metrics have to know of an evaluation."""

    size: VideoSize
    fps: float
    prompts: Sequence[str]
    seed: int
    device: str
    real: Path | None = None  # a folder of real videos
    world_clips: int = 2048  # real clips of the shapes world that shapes-fd is taken to
    fvd_weights: Path | None = None
    lpips_trunk: Path | None = None


def choose_metrics(names: Sequence[str] | None, setting: Setting) -> ChosenMetrics:
    """The metrics of these names, by default all that can be taken, and why the others cannot.

    Raises ValueError when one that is named cannot, or one whose weights are.
    """
    if names is not None:
        check_metric_names(names)
    wanted = set(names or _with_weights(setting))
    metrics: list[Metric] = []
    left_out: dict[str, str] = {}
    # what was asked for by name must be taken; of the usual metrics the others are left out, with the reason
    for name in dict.fromkeys(names or _usual(setting)):
        try:
            if not names:
                _check_usual(name, setting)
            metrics.append(_MAKERS[name](setting))
        except ValueError as error:
            if name in wanted:
                raise
            left_out[name] = str(error)
    return metrics, left_out


def check_metric_names(names: Sequence[str]) -> None:
    """Raises ValueError for a name that no metric has, with the nearest ones."""
    for name in names:
        if name not in _MAKERS:
            close = get_close_matches(name, _MAKERS, n=2, cutoff=0.5)
            meant = f" (did you mean {' or '.join(close)}?)" if close else ""
            raise ValueError(f"there is no metric {name or 'without a name'}{meant}: choose among {', '.join(_MAKERS)}")


def unused_options(metrics: Sequence[Metric], setting: Setting) -> list[str]:
    """Sentences about what was given for metrics that are not taken."""
    taken, sentences = {metric.name for metric in metrics}, []
    if setting.real is not None and not taken & set(_TO_REAL_VIDEOS):
        sentences.append(f"--reference is not used: of {', '.join(_TO_REAL_VIDEOS)} none is taken")
    if setting.fvd_weights is not None and "fvd" not in taken:
        sentences.append("--fvd-weights is not used: fvd is not among --metrics")
    if setting.lpips_trunk is not None and not taken & set(_OF_LPIPS):
        sentences.append(f"--lpips-trunk is not used: neither {' nor '.join(_OF_LPIPS)} is among --metrics")
    return sentences


def _with_weights(setting: Setting) -> tuple[str, ...]:
    """The metrics whose weights were given, which asks for them."""
    fvd = ("fvd",) if setting.fvd_weights is not None else ()
    return (*fvd, *_OF_LPIPS) if setting.lpips_trunk is not None else fvd


def _usual(setting: Setting) -> list[str]:
    """All metrics, but for those of images and controls where no prompt has any: they would be no news."""
    return [name for name in _MAKERS if name not in _OF_GIVEN or given_names(setting.prompts)]


def judge_reads(size: VideoSize) -> bool:
    """Whether clips of this size can be read by the embedded judge, and so shapes-fd and prompt accuracy taken."""
    return size == (WORLD_FRAMES, WORLD_SIDE, WORLD_SIDE)


def _check_usual(name: str, setting: Setting) -> None:
    """Nothing is downloaded unasked."""
    if name == "fvd" and setting.fvd_weights is None:
        raise ValueError("it needs the weights of I3D: pass --fvd-weights")
    if name in ("fd-videomae", "fd-vjepa2"):
        raise ValueError(f"it needs a download: ask for it, --metrics {name}")


def _shapes_fd(setting: Setting) -> Metric:
    _check_judge(setting)
    real = world_clips(setting.world_clips, len(setting.prompts), setting.seed)
    return Distance(open_features("shapes-fd", device=setting.device), real)


def _temporal_error(setting: Setting) -> Metric:
    if setting.size.num_frames == 1:
        raise ValueError("these are images, and it compares how frames change: leave temporal-error out")
    return TemporalError()


def _prompt_accuracy(setting: Setting) -> Metric:
    _check_judge(setting)
    if not any(named(prompt) for prompt in setting.prompts):
        raise ValueError("the prompts name nothing that the judge of the shapes world knows")
    return PromptAccuracy(setting.device)


def _box_iou(setting: Setting) -> Metric:
    _check_judge(setting)
    return BoxIoU(setting.prompts, setting.size, setting.fps)


def _check_judge(setting: Setting) -> None:
    if not judge_reads(setting.size):
        raise ValueError(
            f"the judge reads clips of the shapes world, {(WORLD_FRAMES, WORLD_SIDE, WORLD_SIDE)}, and these are "
            f"{(*setting.size,)}"
        )


def _distance(name: str) -> Callable[[Setting], Metric]:
    def make(setting: Setting) -> Metric:
        network = open_features(name, setting.fvd_weights if name == "fvd" else None, setting.device)
        if setting.size.num_frames < network.min_frames:
            raise ValueError(f"{name} needs {network.min_frames} frames, and the clips have {setting.size.num_frames}")
        shape = ClipShape(*setting.size, setting.fps)
        return Distance(network, folder_clips(setting.real, shape, len(setting.prompts)) if setting.real else None)

    return make


def _lpips(setting: Setting) -> VideoLpips:
    if min(setting.size.height, setting.size.width) < MIN_SIDE:
        raise ValueError(f"lpips needs {MIN_SIDE} pixels a side, and the clips have {setting.size[1:]}")
    return open_lpips(setting.lpips_trunk, setting.device)


def _diversity_lpips(setting: Setting) -> Metric:
    distance = _lpips(setting)
    return Diversity("diversity-lpips", distance, DIVERSITY_SEEDS, **distance.protocol())


_MAKERS: dict[str, Callable[[Setting], Metric]] = {
    "shapes-fd": _shapes_fd,
    "prompt-accuracy": _prompt_accuracy,
    "frame-psnr": lambda setting: FramePsnr(setting.prompts, setting.size, setting.fps),
    "box-iou": _box_iou,
    "fvd": _distance("fvd"),
    "fd-videomae": _distance("fd-videomae"),
    "fd-vjepa2": _distance("fd-vjepa2"),
    "lpips": lambda setting: LpipsGap(_lpips(setting)),
    "psnr": lambda _: PSNR(),
    "ssim": lambda _: SSIM(),
    "latent-mse": lambda _: LatentMSE(),
    "temporal-error": _temporal_error,
    "motion": lambda _: Motion(),
    "flicker": lambda _: Flicker(),
    "saturation": lambda _: Saturation(),
    "contrast": lambda _: Contrast(),
    "blank": lambda _: Blank(),
    "broken": lambda _: Broken(),
    "diversity-rms": lambda _: Diversity("diversity-rms", rms, DIVERSITY_SEEDS),
    "diversity-lpips": _diversity_lpips,
}
METRICS = tuple(_MAKERS)
