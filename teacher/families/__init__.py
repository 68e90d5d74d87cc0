"""One file per diffusers family. A new one is a file here and a line below."""

from __future__ import annotations

from fewstep.teacher.base import Teacher
from fewstep.teacher.families.animatediff import AnimateDiffTeacher
from fewstep.teacher.families.animatediff_controlnet import AnimateDiffControlNetTeacher
from fewstep.teacher.families.cogvideox import CogVideoXTeacher
from fewstep.teacher.families.cogvideox_given import CogVideoXControlTeacher, CogVideoXImageTeacher
from fewstep.teacher.families.hunyuan_video import HunyuanVideoTeacher
from fewstep.teacher.families.hunyuan_video15 import HunyuanVideo15ImageTeacher, HunyuanVideo15Teacher
from fewstep.teacher.families.hunyuan_video_image import HunyuanVideoImageTeacher
from fewstep.teacher.families.kandinsky import KandinskyTeacher
from fewstep.teacher.families.kandinsky_image import KandinskyImageTeacher
from fewstep.teacher.families.ltx import LTXImageTeacher, LTXTeacher
from fewstep.teacher.families.ltx2 import LTX2ImageTeacher, LTX2Teacher
from fewstep.teacher.families.ltx_condition import LTXConditionTeacher
from fewstep.teacher.families.mochi import MochiTeacher
from fewstep.teacher.families.sana_video import SanaVideoImageTeacher, SanaVideoTeacher
from fewstep.teacher.families.skyreels import FORCING, SkyReelsImageTeacher, SkyReelsTeacher
from fewstep.teacher.families.stable_diffusion import StableDiffusionTeacher, StableDiffusionXLTeacher
from fewstep.teacher.families.stable_video import StableVideoTeacher
from fewstep.teacher.families.wan import WanTeacher
from fewstep.teacher.families.wan_animate import WanAnimateTeacher
from fewstep.teacher.families.wan_image import WanImageTeacher
from fewstep.teacher.families.wan_vace import WanVACETeacher

FAMILIES: dict[str, type[Teacher]] = {  # by _class_name in model_index.json
    "WanPipeline": WanTeacher,
    "WanImageToVideoPipeline": WanImageTeacher,
    "WanVACEPipeline": WanVACETeacher,
    "WanAnimatePipeline": WanAnimateTeacher,
    "CogVideoXPipeline": CogVideoXTeacher,
    "AnimateDiffPipeline": AnimateDiffTeacher,
    "LTXPipeline": LTXTeacher,
    "LTXImageToVideoPipeline": LTXImageTeacher,
    "LTXConditionPipeline": LTXConditionTeacher,
    "LTX2Pipeline": LTX2Teacher,
    "LTX2ImageToVideoPipeline": LTX2ImageTeacher,
    "AnimateDiffControlNetPipeline": AnimateDiffControlNetTeacher,
    "StableDiffusionPipeline": StableDiffusionTeacher,
    "StableDiffusionXLPipeline": StableDiffusionXLTeacher,
    "HunyuanVideoPipeline": HunyuanVideoTeacher,
    "HunyuanVideoImageToVideoPipeline": HunyuanVideoImageTeacher,
    "HunyuanVideo15Pipeline": HunyuanVideo15Teacher,
    "HunyuanVideo15ImageToVideoPipeline": HunyuanVideo15ImageTeacher,
    "SkyReelsV2Pipeline": SkyReelsTeacher,
    "SkyReelsV2ImageToVideoPipeline": SkyReelsImageTeacher,
    "SanaVideoPipeline": SanaVideoTeacher,
    "SanaImageToVideoPipeline": SanaVideoImageTeacher,
    "Kandinsky5T2VPipeline": KandinskyTeacher,
    "Kandinsky5I2VPipeline": KandinskyImageTeacher,
    "StableVideoDiffusionPipeline": StableVideoTeacher,
    "CogVideoXImageToVideoPipeline": CogVideoXImageTeacher,
    "CogVideoXFunControlPipeline": CogVideoXControlTeacher,
    "MochiPipeline": MochiTeacher,
}

# Modular pipelines, by _class_name in modular_model_index.json: the first of these that has all its parts.
MODULAR_FAMILIES = {
    "WanModularPipeline": ("WanPipeline",),
    "Wan22ModularPipeline": ("WanPipeline",),
    "WanImage2VideoModularPipeline": ("WanImageToVideoPipeline",),
    "Wan22Image2VideoModularPipeline": ("WanImageToVideoPipeline",),
    "LTXModularPipeline": ("LTXPipeline",),
    "HunyuanVideo15ModularPipeline": ("HunyuanVideo15ImageToVideoPipeline", "HunyuanVideo15Pipeline"),
}

REFUSED = {  # pipelines that cannot be teachers, and why
    "SkyReelsV2DiffusionForcingPipeline": FORCING,
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": FORCING,
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": FORCING,
}
