"""fewstep: progressive adversarial distillation for video diffusion models."""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewstep import metrics as metrics
    from fewstep.api import benchmark as benchmark
    from fewstep.api import distill as distill
    from fewstep.api import evaluate as evaluate
    from fewstep.api import export as export
    from fewstep.api import load_pipeline as load_pipeline
    from fewstep.distill.objectives.adversarial_settings import Adversarial as Adversarial
    from fewstep.distill.objectives.progressive import Progressive as Progressive
    from fewstep.distill.recipe import DatasetData as DatasetData
    from fewstep.distill.recipe import Gate as Gate
    from fewstep.distill.recipe import Logging as Logging
    from fewstep.distill.recipe import LoraSettings as LoraSettings
    from fewstep.distill.recipe import Recipe as Recipe
    from fewstep.distill.recipe import RolloutData as RolloutData
    from fewstep.distill.recipe import Size as Size
    from fewstep.distill.recipe import Stage as Stage
    from fewstep.distill.recipe import StudentSettings as StudentSettings
    from fewstep.distill.recipe import VideoData as VideoData
    from fewstep.distill.recipe import Watch as Watch
    from fewstep.distill.recipe import read_recipe as read_recipe

__version__ = "0.1.0"

# Name -> its module, imported when it is first asked for: `import fewstep` loads neither torch nor pydantic.
_MODULE_OF = {
    **dict.fromkeys(("benchmark", "evaluate", "export", "load_pipeline"), "fewstep.api"),
    **dict.fromkeys(
        (
            "DatasetData", "Gate", "Logging", "LoraSettings", "Recipe", "RolloutData", "Size", "Stage",
            "StudentSettings", "VideoData", "Watch", "read_recipe",
        ),
        "fewstep.distill.recipe",
    ),
    "Adversarial": "fewstep.distill.objectives.adversarial_settings",
    "Progressive": "fewstep.distill.objectives.progressive",
}  # fmt: skip
__all__ = ["__version__", "distill", "metrics", *_MODULE_OF]


class _Callable(ModuleType):
    """The folder `distill`, whose name the function has as well: `fewstep.distill(recipe)` calls the function."""

    def __call__(self, recipe: Any, **options: Any) -> Any:
        return import_module("fewstep.api").distill(recipe, **options)


import_module("fewstep.distill").__class__ = _Callable  # it holds no more than its docstring


def __getattr__(name: str) -> Any:
    import_module("fewstep.library_chatter").quiet_imports()
    if name == "metrics":
        return import_module("fewstep.metrics")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'fewstep' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
