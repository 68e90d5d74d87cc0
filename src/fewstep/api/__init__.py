"""What `import fewstep` offers: the verbs of the command line as functions. Torch is loaded by the first call."""

from fewstep.api.distillation import distill
from fewstep.api.evaluation import evaluate
from fewstep.api.exporting import export
from fewstep.api.pipeline import load_pipeline
from fewstep.api.timing import benchmark

__all__ = ["benchmark", "distill", "evaluate", "export", "load_pipeline"]
