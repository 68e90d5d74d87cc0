"""The teacher: a frozen diffusers pipeline, asked in x0 and latents whatever its family is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.teacher.bases import Bases
from fewstep.teacher.conditions import EMBEDDINGS, Conditions, Tensors
from fewstep.teacher.decoding import Decoding
from fewstep.teacher.denoiser_inputs import DenoiserInputs
from fewstep.teacher.divisible import Divisible
from fewstep.teacher.experts import Experts, join_rows, parts_of
from fewstep.teacher.exportable import Exportable
from fewstep.teacher.given import IMAGES, Given, KeptLatents, check_given_names, given_names, noise_given, read_given
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.held_parts import HeldParts
from fewstep.teacher.pipelines.index import config_number
from fewstep.teacher.predictions import schedule_of
from fewstep.teacher.schedule import NoiseSchedule, Time
from fewstep.teacher.scheduled import Scheduled
from fewstep.teacher.sharded import all_tokens, is_sharded, passes_of, taking_part
from fewstep.teacher.source import VideoSize, configured_fps, embedded_path
from fewstep.teacher.source import default_size as configured_size
from fewstep.teacher.tapped import outputs_of
from fewstep.teacher.tokens import count_tokens, unknown_words

__all__ = ["Conditions", "Teacher", "VideoSize", "embedded_path"]

TAP_DEPTHS = (0.5, 0.75, 1.0)  # features of SF-V, ADD and APT discriminators: the later half of the network


class Teacher(Scheduled, DenoiserInputs, Divisible, Exportable, Decoding, HeldParts, ABC):
    """A frozen multi-step model. Latents are float32, (B, C, F, h, w), normalised to unit variance.

    A family says how its pipeline is asked; everything outside `families` sees only this class. Methods that
    take a `network` ask that one instead of the teacher's own: a student is a copy of the teacher's denoiser,
    or the same one with adapters.
    """

    family_fps = 8.0  # frames per second of clips whose teacher's folder does not say
    fed_fps = False  # whether `default_fps` is an input of the denoiser: clips at another rate would be mislabelled
    family_size: VideoSize | None = None  # size of clips where neither folder nor pipeline class says
    padded = frozenset({EMBEDDINGS})  # what of `embed` counts tokens along its second dimension
    unencodable = ""  # why videos make no latents, where a family's clips are more than what is read of them
    unheard = ""  # what `decode` leaves out of its clips
    takes: tuple[str, ...] = ()  # images and videos that clips may be made from: names of `teacher.given`
    needs: tuple[str, ...] = ()  # and those without which none can be made
    splits_clips = False  # whether processes that share a clip's tokens by diffusers' plan predict what one does

    def __init__(self, pipeline: Any, folder: Path) -> None:
        self.pipeline = pipeline
        self.folder = folder
        self._given: tuple[str, ...] | None = None
        self._rests_from: torch.device | None = None
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()

    # --- what a family says

    @abstractmethod
    def embed(self, prompts: list[str]) -> Tensors:
        """What one branch of guidance sees of B prompts, by names: embeddings (B, L, D) as the denoiser takes them, and
        masks, pooled vectors and the like where it has them. The text encoder is there."""

    def embed_given(self, prompts: list[str], given: Given, negative: bool) -> Tensors:
        """`embed`, where the text encoder sees what is given, too: black ones in the unconditional branch."""
        return self.embed(prompts)

    def unconditional(self, embedded: Tensors) -> Tensors:
        """What `embed` says of the negative prompt as the unconditional branch sees it; families may blind it more."""
        return embedded

    def embed_negative(self, prompt: str, given: Given) -> Tensors:
        """What the unconditional branch sees of the negative prompt, "" where there is none, which families may leave
        out of the text encoder; `given` is black."""
        return self.unconditional(self.embed_given([prompt], given, negative=True))

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """What both branches see of the images and videos of `count` clips, by names; {} of families without any."""
        return {}

    def spread_guidance(self, weight: Tensor, z_t: Tensor) -> Tensor:
        """The guidance of z_t (B, C, F, h, w), whose weights are (B, 1, 1, 1, 1), where it is not the same everywhere
        in a clip; it is broadcast to z_t."""
        return weight

    def place_given(self, latents: Tensor, conditions: Conditions) -> Tensor:
        """Latents of encoded clips with what the conditions put before or among them, as the denoiser takes them."""
        return latents

    def kept(self, conditions: Conditions, z: Tensor) -> KeptLatents | None:
        """The latents that the conditions fix in z (B, C, F, h, w), for families that put given frames in place."""
        return None

    @property
    @abstractmethod
    def text_limit(self) -> int:
        """Tokens of a prompt, special ones included, beyond which the text encoder gets nothing; 0 where there is none
        (`reads_text`)."""

    def cleaned(self, prompt: str) -> str:
        """The prompt as the pipeline hands it to its tokenizer."""
        return prompt

    @abstractmethod
    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """The network's own output, of its own prediction type (`schedule_of`), without guidance."""

    def guide(
        self, z_t: Tensor, t: Time, conditions: Conditions, weights: Tensor, network: nn.Module | None = None
    ) -> Tensor:
        """x0 of clips of which some are guided; weights: (B,), 1 of those that are not.

        u + weight (c - u), in one forward; families whose pipelines guide by more say so, and what it costs
        (`guided_evaluations`).
        """
        guided, times = weights != 1, torch.as_tensor(t).expand(len(z_t))
        z, twice = torch.cat([z_t[guided], z_t]), torch.cat([times[guided], times])
        u, c = self.predict(z, twice, conditions.branches(guided), network).split([len(z) - len(z_t), len(z_t)])
        guided_prediction = c.clone()
        weight = weights[guided].to(u.device, u.dtype).view(-1, *[1] * (u.ndim - 1))
        guided_prediction[guided] = torch.lerp(u, c[guided], self.spread_guidance(weight, u))
        return self.schedule_of(network).to_x0(guided_prediction, z_t, t)

    def block_output(self, output: Any) -> Tensor:
        """The tokens in what a block gives, which may be a tuple: its first entry, unless a family says otherwise."""
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        return hidden

    @abstractmethod
    def encode(self, video: Tensor) -> Tensor:
        """Video (B, 3, F, H, W) in -1..1 -> latents; raises ValueError once the autoencoder was freed."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> video (B, 3, F, H, W) in -1..1; raises ValueError once the autoencoder was freed."""

    @abstractmethod
    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, F, h, w) of a clip; raises ValueError for a size that the family cannot make."""

    @property
    @abstractmethod
    def denoiser(self) -> nn.Module:
        """The network that is asked, or `Experts`, of which each is asked at its own times.

        A family that has them asks `ask_experts` in `predict`.
        """

    @abstractmethod
    def tokens_to_grid(self, tokens: Tensor, z_t: Tensor) -> Tensor:
        """A block's output for z_t as (B, C, F', h', w')."""

    @property
    def device(self) -> torch.device:
        """Where the denoiser is, or copies of it are asked while it rests."""
        return self._rests_from or next(self.denoiser.parameters()).device

    def rest(self) -> None:
        """Leaves the accelerator's memory to copies of the denoiser, which itself waits on the CPU."""
        self._rests_from = self.device
        self.denoiser.to("cpu")

    def network_at(self, t: Time) -> nn.Module:
        """The network in charge at t. Raises ValueError for times of two experts."""
        return self.denoiser.at(t) if isinstance(self.denoiser, Experts) else self.denoiser

    def component_names(self) -> dict[str, str]:
        """What the pipeline calls the denoiser's parts, by their names: {"": "transformer"}."""
        components = {id(part): name for name, part in self.pipeline.components.items()}
        return {name: components[id(part)] for name, part in parts_of(self.denoiser).items()}

    def index_without(self, index: Mapping[str, Any], components: Sequence[str]) -> dict[str, Any]:
        """A pipeline's model_index.json without these components, which its denoiser does without."""
        return {name: [None, None] if name in components else value for name, value in index.items()}

    def ask_experts(self, experts: Experts | Bases, z_t: Tensor, t: Time, conditions: Conditions) -> Tensor:
        """`predict`, by each expert, or each base model, about its own clips."""
        times = torch.as_tensor(t, dtype=torch.float64, device="cpu").expand(len(z_t))
        parts, idle = [], []
        for expert, rows, own in passes_of(experts, times, conditions, z_t.device):
            x = self.predict(z_t[rows], times[rows], conditions[rows], expert)
            if own:
                parts.append((rows, x))
            else:
                idle.append(x)
        return taking_part(join_rows(parts), idle)

    @property
    def given(self) -> tuple[str, ...]:
        """What every clip is made from besides its prompt: what `take` said, else what the teacher needs."""
        return self.needs if self._given is None else self._given

    def given_sizes(self, size: VideoSize) -> dict[str, VideoSize]:
        """The size at which each given image or video is needed for clips of this size."""
        return {name: size._replace(num_frames=1) if name in IMAGES else size for name in self.given}

    def take(self, names: Sequence[str]) -> None:
        """Sets `given`. Raises ValueError for what the teacher does not take, and where something is missing."""
        self._given = check_given_names(names, self.takes, self.needs, str(self.folder))

    @torch.no_grad()
    def conditions(
        self,
        prompts: Sequence[str],
        negative_prompt: str | None = "",
        size: VideoSize | None = None,
        given: Given | None = None,
        fps: float | None = None,
    ) -> Conditions:
        """The conditions of these prompts, with an unconditional branch; None spares the text encoder that one.

        Without it guidance has no effect: the prompts themselves stand there. given: the images and videos that the
        clips are made from, else those of the prompts' files (`teacher.given.Prompt`). size, fps: of the clips, if not
        the teacher's own; given videos are read at so many frames per second.
        Raises ValueError when there are no prompts, when they come with other files than `given` says, and once the
        text encoder was freed.
        """
        if not prompts:
            raise ValueError("there are no prompts: pass at least one, which may be empty")
        self._part(self.encoders[0])
        shared: Tensors = {}
        seen: Given = {}
        if self.takes or given or given_names(prompts):
            seen, known = self._seen(prompts, size or self.default_size(), given, fps or self.default_fps())
            shared = self.encode_given(seen, known, len(prompts))
        positive = self.embed_given(list(map(str, prompts)), seen, negative=False)
        negative = positive
        if negative_prompt is not None:
            black = {name: torch.zeros_like(video[:1]) for name, video in seen.items()}
            unconditional = self.embed_negative(negative_prompt, black)
            negative = {name: tensor.expand(len(prompts), *tensor.shape[1:]) for name, tensor in unconditional.items()}
        return Conditions(positive, negative, shared, self.padded)

    def conditions_of_any(self, prompts: Sequence[str], negative_prompt: str | None, size: VideoSize) -> Conditions:
        """`conditions`, of noise where images are given."""
        return self.conditions(prompts, negative_prompt, size, noise_given(self.given_sizes(size), len(prompts)))

    def _seen(
        self, prompts: Sequence[str], size: VideoSize | None, given: Given | None, fps: float
    ) -> tuple[Given, VideoSize]:
        names = given_names(prompts) if given is None else tuple(given)
        if set(check_given_names(names, self.takes, self.needs, str(self.folder))) != set(self.given):
            raise ValueError(
                f"{prompts[0]!r} comes with {', '.join(names) or 'nothing given'}, and clips are made here from "
                f"{', '.join(self.given) or 'prompts alone'}: give the same with every prompt"
            )
        if size is None:
            raise ValueError(f"{self.folder} states no size of clips that images could be cut to: say which it is")
        return read_given(prompts, self.given_sizes(size), fps) if given is None else given, size

    def count_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt, special ones included, before anything is cut at `text_limit`."""
        if not self.reads_text:
            return [0] * len(prompts)
        return count_tokens(self.pipeline.tokenizer, [self.cleaned(prompt) for prompt in prompts])

    def unknown_words(self, prompts: Sequence[str]) -> list[list[str]]:
        """The words of each prompt that the tokenizer does not know."""
        if not self.reads_text:
            return [[] for _ in prompts]
        return unknown_words(self.pipeline.tokenizer, [self.cleaned(prompt) for prompt in prompts])

    def schedule_of(self, network: nn.Module | None) -> NoiseSchedule:
        """The schedule with what this network predicts, which a converted student does otherwise than its teacher."""
        return schedule_of(network, self.schedule)

    def denoise(
        self,
        z_t: Tensor,
        t: Time,
        conditions: Conditions,
        guidance: Guidance | float = 1.0,
        network: nn.Module | None = None,
    ) -> Tensor:
        """x0 seen from z_t, each clip guided by the weight at its time, as `guide` does it.

        Works with and without gradients to z_t (and to a `network` that is trained).
        """
        guidance, schedule = Guidance.of(guidance), self.schedule_of(network)
        weights = guidance.weights(self.schedule, t).expand(len(z_t))
        if not (weights != 1).any():
            return self._pinned(schedule.to_x0(self.predict(z_t, t, conditions, network), z_t, t), conditions)
        return self._pinned(self.guide(z_t, t, conditions, weights, network), conditions)

    def _pinned(self, x0: Tensor, conditions: Conditions) -> Tensor:
        """x0 with what the conditions fix: a deterministic step to s = 0 lands on it exactly."""
        kept = self.kept(conditions, x0)
        return x0 if kept is None else kept.pin(x0)

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """The denoiser's repeated blocks, in the order in which they run; see `block_classes`."""
        if self.block_classes:
            return [module for module in network.modules() if isinstance(module, self.block_classes)]
        named = set(getattr(network, "_repeated_blocks", None) or ())  # sharding derives classes with other names
        return [m for m in network.modules() if named & {kind.__name__ for kind in type(m).__mro__}]

    def taps(self, network: nn.Module, depths: Sequence[float] = TAP_DEPTHS) -> list[nn.Module]:
        """The blocks that end at these fractions of the depth."""
        blocks = self.blocks(network)
        if not blocks:
            raise ValueError(f"{type(network).__name__} names no repeated blocks, so it has no features to tap")
        if not all(0 < depth <= 1 for depth in depths):
            raise ValueError(f"tap depths {tuple(depths)} must be fractions of the network's depth, above 0 up to 1")
        return [blocks[max(1, int(depth * len(blocks))) - 1] for depth in depths]

    def features(
        self,
        z_t: Tensor,
        t: Time,
        conditions: Conditions,
        depths: Sequence[float] = TAP_DEPTHS,
        network: nn.Module | None = None,
    ) -> list[Tensor]:
        """The outputs of the blocks at these depths, each (B, C, F', h', w'); gradients flow to z_t.

        Of experts each clip's are those of the expert in charge at its time, of base models those of its own.
        """
        network = self.denoiser if network is None else network
        if isinstance(network, Experts | Bases):
            times = torch.as_tensor(t, dtype=torch.float64, device="cpu").expand(len(z_t))
            shares, idle = [], list[Tensor]()
            for expert, rows, own in passes_of(network, times, conditions, z_t.device):
                read = self.features(z_t[rows], times[rows], conditions[rows], depths, expert)
                if own:
                    shares.append([(rows, f) for f in read])
                else:
                    idle += read
            return [taking_part(join_rows(of_depth), idle) for of_depth in zip(*shares, strict=True)]
        taps = self.taps(network, depths)
        whole, sharded = list[Tensor](), is_sharded(network)  # a sharded one's pass must end, to let go of weights
        outputs = outputs_of(
            set(taps), lambda: whole.append(self.predict(z_t, t, conditions, network)),
            self.stops_at_taps and not sharded, lambda output: self.block_output(all_tokens(network, output)),
        )  # fmt: skip
        grids = [self.tokens_to_grid(outputs[block], z_t) for block in taps]
        # what lies around the blocks is gathered for the backward pass once that reaches the prediction
        return [taking_part(grid, whole) for grid in grids] if sharded else grids

    def noise(self, seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Unit noise (B, *shape), a seed per sample, drawn on the CPU: batch and device do not matter."""
        generators = (torch.Generator().manual_seed(seed) for seed in seeds)
        return torch.stack([torch.randn(*shape, generator=g) for g in generators]).to(self.device)

    def default_size(self) -> VideoSize | None:
        """The size the teacher was made for: its folder's word, its pipeline class's, else its family's."""
        return configured_size(self.folder, type(self.pipeline)) or self.family_size

    def default_fps(self) -> float:
        """Frames per second of the clips the teacher was made for: its folder's word, else its family's."""
        return configured_fps(self.folder) or self.family_fps

    def check_fps(self, fps: float | None, where: str) -> None:
        """Raises ValueError for clips, from `where`, at another rate than the denoiser's input; None: unknown."""
        own = self.default_fps()
        if self.fed_fps and fps is not None and fps != own:
            raise ValueError(
                f"{where} has clips of {fps:g} frames per second, and the denoiser of {self.folder} takes the frame "
                f"rate as an input, which is {own:g}: make the data with --fps {own:g}, or write the rate into a "
                "fewstep.json in its folder"
            )

    def check_encodes(self) -> None:
        """Raises ValueError where videos cannot become this teacher's latents."""
        if self.unencodable:
            raise ValueError(f"{self.folder} cannot be taught by videos: {self.unencodable}")

    # --- what a family may say as well

    block_classes: tuple[type[nn.Module], ...] = ()
    """Classes of the repeated blocks, where diffusers names none for the denoiser, or others as well. Where they are
    not registered in the order in which they run, `blocks` must be overridden."""

    stops_at_taps = False
    """Whether a pass for features may end behind the last block that is read. Not where gradient checkpointing goes
    around blocks: it must see them end."""

    agreeing: tuple[tuple[str, str], ...] = ()
    """Pairs of settings in parts' config.json, such as vae.z_dim, that must be equal where both are stated."""

    @classmethod
    def check_folder(cls, folder: Path, index: dict[str, Any]) -> None:
        """Raises ValueError for what `index`, the folder's model_index.json, and its configs cannot mean together.

        It is asked before a part is looked at, also where only the configs of a hub id were downloaded.
        """
        for first, second in cls.agreeing:
            a, b = (config_number(folder, name) for name in (first, second))
            if a is not None and b is not None and a != b:
                raise ValueError(
                    f"the parts in {folder} are of different models: {first} is {a}, {second} is {b}, and they must be "
                    "equal; download it again"
                )
