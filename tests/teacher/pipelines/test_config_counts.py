from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import pytest

from fewstep.teacher.outline import outline_teacher
from fewstep.teacher.pipelines.config_counts import check_counts
from fewstep.teacher.source import PIPELINE


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("transformer/config.json", "num_layers", 10**8),
        ("vae/config.json", "num_res_blocks", 10**6),
        ("text_encoder/config.json", "num_layers", 10**18),
        ("text_encoder/config.json", "vocab_size", 10**30),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**9),
    ],
)
def test_a_network_of_endlessly_many_layers_is_never_made(
    tiny_wan_folder: Path, tmp_path: Path, part: str, name: str, value: int
) -> None:
    folder = copytree(tiny_wan_folder, tmp_path / "teacher")
    text = json.loads((folder / part).read_text())
    (folder / part).write_text(json.dumps(text | {name: value}))
    with pytest.raises(ValueError, match=rf"has {name} {str(value)[:20]}, and at most .* can be"):
        outline_teacher(folder)


def test_configs_as_they_are_have_none(tmp_path: Path) -> None:
    architectures = Path(__file__).parents[3] / "eval" / "latency" / "architectures"
    files = [*architectures.rglob("*config.json"), *PIPELINE.rglob("*config.json")]
    configs = [config for config in files if not config.parent.name.startswith("tokenizer")]
    assert len(configs) > 5
    for config in configs:
        check_counts(config)
    check_counts(tmp_path / "none.json")
