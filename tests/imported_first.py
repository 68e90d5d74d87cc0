"""What the process that `tests/forked.py` forks from imports, so that its children need not."""

import diffusers
import torch
import torch.utils.tensorboard

import fewstep.cli
import fewstep.commands.run_watch
import fewstep.distill.stages
import fewstep.eval.evaluate
import fewstep.teacher.families.wan

torch.set_num_threads(1)
assert diffusers.WanPipeline and fewstep.cli
