"""Trains the embedded teacher's transformer, jointly with its text encoder, by flow matching on the shapes latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from fewstep.teacher.families.wan_attention import count_padding
from fewstep.teacher.limited import Amount, Channels, Items, NumClips, NumSteps, Rank, Rate, TimeShift
from fewstep.teacher.schedule import shift_time
from fewstep.teacher.screen import SILENT, TrainingScreen
from fewstep.teacher.shapes.captions import MENTION_RATE, draw_caption
from fewstep.teacher.shapes.latents import SceneLatents
from fewstep.teacher.shapes.precision import TrainingPrecision, autocast
from fewstep.teacher.shapes.text import (
    TEXT_DIM,
    AttributeReader,
    encode_text,
    make_text_encoder,
    make_tokenizer,
    tokenize,
)
from fewstep.teacher.shapes.world import ATTRIBUTES, draw_scene
from fewstep.teacher.training_loop import Budget, losses_by_time, train_network

TEXT_TOKENS = 27  # the longest caption has 25; at least one zero stays at the end


class DenoiserRecipe(BaseModel):
    """Sizes and budgets of the transformer and its text encoder."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    steps: NumSteps = 20_000
    batch: NumClips = 32
    lr: Rate = 2e-3
    muon: Literal["none", "blocks"] = "blocks"  # against AdamW at equal wall-clock: see LOG.md
    muon_lr: Amount = 2.0  # as a multiple of lr
    ema: float = Field(0.999, ge=0, lt=1)
    cooldown: float = Field(0.3, ge=0, le=1)
    shift: TimeShift = 5.0  # training times are uniform, then shifted towards noise by this much
    drop: float = Field(0.1, ge=0, le=1)  # captions replaced by "": guidance needs an unconditional branch
    curriculum: float = Field(0.4, ge=0)  # fraction of the steps over which captions go from saying all to 60 %
    attribute_loss: float = Field(0.1, ge=0)  # weight of AttributeHead's loss next to the denoising loss
    neighbours: bool = True  # self-attention starts as a soft convolution
    clips: Items = 40_000
    text_steps: NumSteps = 400
    heads: Rank = 2
    layers: Rank = 6
    ffn: Channels = 768
    watch_clips: Items = 32  # prompts that accuracy is watched on
    precision: TrainingPrecision = "fp32"
    compile: bool = False


def make_transformer(recipe: DenoiserRecipe, channels: int) -> WanTransformer3DModel:
    """A WanTransformer3DModel with Wan's own initialisation, which diffusers leaves out."""
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=recipe.heads,
        attention_head_dim=128,
        in_channels=channels,
        out_channels=channels,
        text_dim=TEXT_DIM,
        freq_dim=256,
        ffn_dim=recipe.ffn,
        num_layers=recipe.layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )
    # Wan's initialisation: Xavier for all matrices, and an output layer of zeros, which predicts no velocity yet
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(model.patch_embedding.weight.flatten(1))
    nn.init.zeros_(model.proj_out.weight)
    for block in model.blocks:
        # 490 padding tokens with logit 0 would drown some twenty words: let words speak louder from the start
        nn.init.constant_(block.attn2.norm_q.weight, 2.0)
        nn.init.constant_(block.attn2.norm_k.weight, 2.0)
    if recipe.neighbours:
        _look_at_neighbours(model)
    return model


_NEIGHBOURS = (((0, 0, 1), (0, 0, -1)), ((0, 1, 0), (0, -1, 0)), ((1, 0, 0), (-1, 0, 0)))  # frames, rows, columns


@torch.no_grad()
def _look_at_neighbours(model: WanTransformer3DModel) -> None:
    """Starts self-attention as a soft convolution: each head looks at one neighbour, layer by layer another.

    Rotary embeddings turn a pair of frequency f at position p by f p, so a query bias that is a key bias turned by
    f d favours the token at distance d. Wan's positions are rotary only, and on a grid of 5x4x4 all but the first few
    frequencies stand still: left to itself a small model takes thousands of steps to tell neighbours apart.
    """
    rope = model.rope
    starts = (0, rope.t_dim, rope.t_dim + rope.h_dim)
    for layer, block in enumerate(model.blocks):
        # norms above 1 sharpen the attention
        attention = block.attn1
        nn.init.constant_(attention.norm_q.weight, 1.5)
        nn.init.constant_(attention.norm_k.weight, 1.5)
        for head in range(attention.heads):
            neighbour = _NEIGHBOURS[layer % 3][head % 2]
            for distance, start, size in zip(neighbour, starts, (rope.t_dim, rope.h_dim, rope.w_dim), strict=True):
                # only the fastest three frequencies turn enough from one token to the next to tell them apart
                for pair in range(3):
                    at = head * 128 + start + 2 * pair
                    turn = torch.tensor(distance * 10_000 ** (-2 * pair / size))
                    attention.to_k.bias[at] = 3.0
                    attention.to_q.bias[at : at + 2] = 3.0 * torch.stack([turn.cos(), turn.sin()])


class AttributeHead(nn.Module):
    """Reads the clip's attributes from the tokens two thirds of the way through the transformer; for training only.

    What a caption says of motion, shape or stripes changes the mean clip little, as their places are free, so the
    denoising loss alone teaches it last. This loss brings it into every token at once.
    """

    def __init__(self, transformer: WanTransformer3DModel) -> None:
        super().__init__()
        width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
        self.read = nn.Linear(width, sum(len(values) for values in ATTRIBUTES.values()))
        self._tokens: list[Tensor] = []
        block = transformer.blocks[2 * len(transformer.blocks) // 3 - 1]
        block.register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: object, output: Tensor) -> None:
        if output.requires_grad:  # not when a watch samples
            self._tokens.append(output)

    def loss(self, labels: Tensor) -> Tensor:
        """Mean cross-entropy of the last forward's clips against labels (B, len(ATTRIBUTES)); call once a forward."""
        logits = self.read(self._tokens.pop().float().mean(1)).split([len(v) for v in ATTRIBUTES.values()], dim=1)
        losses = [nn.functional.cross_entropy(of_attribute, labels[:, i]) for i, of_attribute in enumerate(logits)]
        return torch.stack(losses).mean()


def train_text(
    encoder: UMT5EncoderModel, recipe: DenoiserRecipe, seed: int, folder: Path, screen: TrainingScreen = SILENT
) -> None:
    """Teaches the text encoder what captions name, before the denoiser meets it."""
    tokenizer, reader = make_tokenizer(), AttributeReader()

    # captions without clips: nothing is rendered, so that a step costs little
    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([seed, step, 1])
        captions = [draw_caption(draw_scene(rng, "train"), rng, "train") for _ in range(128)]
        ids, mask = tokenize(tokenizer, captions, TEXT_TOKENS)
        return {"loss": reader.loss(encode_text(encoder, ids, mask), mask, captions)}

    train_network(
        "text encoder", folder, {"encoder": encoder, "reader": reader}, losses,
        Budget(recipe.text_steps, lr=2e-3, ema=0.9), screen=screen,
    )  # fmt: skip


def train_denoiser(
    transformer: WanTransformer3DModel,
    encoder: UMT5EncoderModel,
    latents: SceneLatents,
    recipe: DenoiserRecipe,
    seed: int,
    folder: Path,
    watch: Callable[[int], Mapping[str, float]] | None = None,
    screen: TrainingScreen = SILENT,
) -> None:
    """Flow matching, velocity eps - x0 (Wan's prediction), with caption dropout; trains both networks in place."""
    device = next(transformer.parameters()).device
    tokenizer = make_tokenizer()
    if recipe.compile:
        screen.say("denoiser: compiling the transformer in the first step")
    forward: Any = torch.compile(transformer) if recipe.compile else transformer

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([seed, step, 2])
        # curriculum: at first captions name every attribute, later only some, as users' prompts do
        mention_rate = MENTION_RATE + (1.0 - MENTION_RATE) * max(
            0.0, 1 - step / max(1.0, recipe.curriculum * recipe.steps)
        )
        x0, captions, labels = latents.batch(rng, recipe.batch, mention_rate)
        captions = ["" if rng.random() < recipe.drop else caption for caption in captions]
        ids, mask = tokenize(tokenizer, captions, TEXT_TOKENS)
        # flow matching: z_t = (1 - t) x0 + t eps, and the target is the velocity eps - x0
        t = shift_time(torch.from_numpy(rng.random(recipe.batch)), recipe.shift).float()
        eps = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))
        x0, t, eps, ids, mask = (a.to(device) for a in (x0, t, eps, ids, mask))
        # clips of one batch are at different times, so that a step learns all noise levels
        z_t = torch.lerp(x0, eps, t.view(-1, 1, 1, 1, 1))
        with autocast(recipe.precision, device):
            text = encode_text(encoder, ids, mask)
            velocity = forward(z_t, t * 1000, text, return_dict=False)[0]
        error = (velocity.float() - (eps - x0)).square().mean(dim=(1, 2, 3, 4))
        # the head reads attributes from the network, which ties the text to what is drawn
        attributes = head.loss(labels.to(device))
        total = error.mean() + recipe.attribute_loss * attributes
        return {"loss": total, "attributes": attributes, **losses_by_time(error, t)}

    count_padding(transformer)
    head = AttributeHead(transformer).to(device)
    budget = Budget(
        recipe.steps, recipe.lr, warmup=200, cooldown=recipe.cooldown, ema=recipe.ema, muon=recipe.muon,
        muon_lr=recipe.muon_lr,
    )  # fmt: skip
    modules = {"transformer": transformer, "text_encoder": encoder, "head": head}
    train_network("denoiser", folder, modules, losses, budget, watch, watch_every=1000, screen=screen)


def fresh_text_encoder() -> UMT5EncoderModel:
    """A text encoder that fits the shapes tokenizer."""
    return make_text_encoder(len(make_tokenizer()))
