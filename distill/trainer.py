"""The loop of one stage: turns, checkpoints, curves. It knows of the objective only whose turn it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from fewstep.distill import sharded_checkpoint
from fewstep.distill.batches import BatchSource
from fewstep.distill.checkpoint import single_files
from fewstep.distill.curves import Curves
from fewstep.distill.health import Watcher
from fewstep.distill.objectives.base import STUDENT, Objective
from fewstep.distill.optimizer_group import OptimizerGroup, as_numbers
from fewstep.distill.optimizers import OptimizerKind
from fewstep.distill.out_of_memory import MemoryRanOut, is_out_of_memory, kept_steps
from fewstep.distill.processes import agree, is_of_processes
from fewstep.distill.settings import Logging, Stage, stage_of
from fewstep.distill.stage_checkpoint import StageCheckpoint
from fewstep.distill.tracker import NoTracker, Tracker
from fewstep.distill.trained import Trained
from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles
from fewstep.teacher.interrupts import Signals
from fewstep.teacher.lr_scale import lr_scale
from fewstep.teacher.ranks import among_processes, current_ranks
from fewstep.teacher.screen import OnStep

_LEAST_RATE = 1 / 8  # of what the recipe says: a stage rolls back three times


class Trainer:
    """Trains `roles.student`, and what the objective trains besides it, for `stage.steps` steps.

    `folder` is the run's: its checkpoint is resumed when it is this stage's, and refused with another contract than
    `contract`. `samples(step)`, if given, is called on the EMA every `logging.samples_every` steps, and
    `watcher` measures the EMA and says when it is not healthy. `num_groups`: of processes that take the same clips;
    None: each takes its own.
    """

    def __init__(
        self,
        stage: Stage,
        roles: Roles,
        objective: Objective[Any],
        batches: BatchSource,
        contract: SamplingContract,
        accelerator: Accelerator,
        logging: Logging,
        folder: Path,
        samples: Callable[[int], dict[str, float]] | None = None,
        tracker: Tracker | None = None,
        watcher: Watcher | None = None,
        optimizer: OptimizerKind = "adamw",
        num_groups: int | None = None,
    ) -> None:
        self.stage, self.roles, self.objective = stage, roles, objective
        self.batches, self.accelerator, self.logging, self.folder = batches, accelerator, logging, folder
        self.contract, self.samples, self.tracker = contract, samples, tracker or NoTracker()
        self.watcher = watcher
        # an optimizer group for the student G, and one for each network that the objective trains besides, such as D
        self.modules = {name: group.module for name, group in objective.trainees().items()}
        self.optimizer_groups = {
            STUDENT: OptimizerGroup(
                roles.parameters.values(), stage.lr, stage.betas, stage.weight_decay, stage.clip, optimizer
            )
        }
        for name, group in objective.trainees().items():
            trained = [p for p in group.module.parameters() if p.requires_grad]
            self.optimizer_groups[name] = OptimizerGroup(trained, group.lr, group.betas, 0.0, stage.clip, optimizer)
        num_groups = accelerator.num_processes if num_groups is None else num_groups
        self._micro_batches, self._clips = stage.micro_batches(num_groups), stage.share(num_groups)
        # processes of a group have gradients of their own tokens, which add up, and all processes' are averaged
        self._loss_scale = accelerator.num_processes / num_groups / self._micro_batches
        # all that a checkpoint holds besides tensors; the random draws of a step follow from `drawn`
        self.step, self.drawn, self.seconds = 0, 0, 0.0
        self.rate = 1.0  # of all learning rates: halved each time that the stage rolls back
        # what is done of the next step, and its figures: a discriminator's warm-up may take many minutes
        self.rounds, self._figures = 0, dict[str, float]()
        self._whole = True  # False from a round's first move to its end, or to the step's point on the curve
        self.trained = Trained(roles, self.modules, self.optimizer_groups)
        self._checkpoint = StageCheckpoint(folder, stage.name, self.trained.sharded, accelerator.is_main_process)
        if (last := self._checkpoint.find()) is not None:
            self._take(last)
        self._saved, self._saved_at = (self.step, self.rounds), time.monotonic()

    def run(self, on_step: OnStep, signals: Signals, say: Callable[[str], None] = lambda sentence: None) -> int:
        """Trains to the end of the stage, or of the round in which a signal asked to stop: returns its number, or 0.

        Either way the checkpoint is written. A request to save is answered by `say`, and training continues.
        Raises ValueError when a loss or gradient is not finite. The checkpoint then holds the round before it, or,
        where another group has moved in that round already, what was written last: half a round is never kept. The
        same holds when memory runs out. Where the watch ends the run, the checkpoint is of the step that it looked at.
        """
        self._curves = self._open_curves()
        try:
            # a stop may have cut samples or measurements of this very step short: a resume begins with them
            stop = self._after_step(signals, say)
            while not stop and self.step < self.stage.steps:
                figures = self.one_step(lambda: bool(self._answer(signals, say)))
                if not figures:  # stopped between two rounds
                    stop = self._answer(signals, say)
                    continue
                if (self.step - 1) % self.logging.every == 0 or self.step == self.stage.steps:
                    self._curves.write(self.step, figures)
                self._whole = True
                on_step(self.step, figures[f"{STUDENT}/loss"])
                stop = self._after_step(signals, say)
            self.save()
            return stop
        except BaseException as error:
            if self._whole and not self.trained.sharded:  # those who hold the other parts may be gone
                self._write()
            if not is_of_processes(error):
                self._checkpoint.finish()  # one that a thread is writing is whole
                raise
            with among_processes():
                raise
        finally:
            self._curves.close()

    @property
    def _kept_steps(self) -> str:
        # after an error: half a round is never kept, nor shares of networks whose others may be gone
        return kept_steps(*((self.step, self.rounds) if self._whole and not self.trained.sharded else self._saved))

    @property
    def kept(self) -> str:
        """The stage's progress, and how much of it is on disk."""
        reached = f"stage {self.stage.name} is at step {self.step} of {self.stage.steps}"
        if self.rounds:
            reached += f" (warm-up rounds done: {self.rounds})"
        return f"{reached}, saved in {self._checkpoint.place}" if self.has_begun else f"{reached}, nothing to save yet"

    @property
    def has_begun(self) -> bool:
        """Whether anything was trained, if only by the first step's warm-up."""
        return bool(self.step or self.rounds)

    def _open_curves(self) -> Curves:
        return Curves(self.folder, self.stage.name, self.accelerator, self.tracker, self.step)

    def _after_step(self, signals: Signals, say: Callable[[str], None]) -> int:
        """Samples, measurements and checkpoints that are due; the number of a signal that asked any process to stop, or
        0."""
        if self.samples and self.step and self.step % self.logging.samples_every == 0:
            self._measure(partial(self.samples, self.step), signals)
        if self.watcher and self.watcher.due(self.step):
            self._watch(self.watcher, signals, say)
        return self._answer(signals, say)

    def _answer(self, signals: Signals, say: Callable[[str], None]) -> int:
        """A checkpoint that is due or was asked for; the number of a signal that asked any process to stop, or 0."""
        due = time.monotonic() - self._saved_at > self.logging.save_seconds
        request = agree(self.accelerator, signals, due)
        self._checkpoint.check()
        if request.due:
            self.save(wait=not self.logging.save_in_background)
        if request.save:
            self.save()
            say(f"{self.kept}; training continues")
        alone = self.accelerator.num_processes == 1
        return request.stop or (signals.stop if alone else 0)  # one that came as it was saved needs no further step

    def _measure(self, measure: Callable[[], Mapping[str, float]], signals: Signals) -> Mapping[str, float] | None:
        """Figures of the EMA, now on the curve; None where a request to stop cut them short. A resume then
        takes them, as its first step."""
        self._whole = False  # the EMA stands in the student's place
        try:
            with self.roles.averaged():
                # the figures of several processes are one, so none may leave the others waiting
                figures = signals.attempt(measure) if self.accelerator.num_processes == 1 else measure()
        except Exception:  # but for a second request to stop, which may come at any time, the student is back
            self._whole = True
            raise
        self._whole = True
        if figures is not None:
            self._curves.write(self.step, figures)
        return figures

    def _watch(self, watcher: Watcher, signals: Signals, say: Callable[[str], None]) -> None:
        """Measures whether the student is healthy, and does what the recipe says where it is not."""
        figures = self._measure(watcher.measure, signals)
        if figures is None:
            return
        # the bands of the watch (motion, contrast, accuracy of D ...) tell a collapse, which no loss would show
        action, wrong = watcher.settings.on_trigger, watcher.judge(self.step, {**figures, **self.objective.watched()})
        if wrong and action == "roll_back":
            self._roll_back("; ".join(wrong), say)
        elif wrong and action == "warn":
            say(f"warning: stage {self.stage.name} at step {self.step}: {'; '.join(wrong)}")
        elif wrong:
            self.save()
            raise ValueError(
                f"stage {self.stage.name} is not healthy at step {self.step}: {'; '.join(wrong)}; what was trained is "
                "kept: lower lr or an adversarial weight in the recipe and train it again with --again "
                f"{self.stage.name}, or continue with a wider band, --set watch.NAME=null or watch.on_trigger=warn"
            )
        elif action == "roll_back" and watcher.healthy:
            self._checkpoint.write(self.trained.tensors(), self._numbers(), healthy=True)
            current_ranks().wait()  # as in `save`

    def _roll_back(self, wrong: str, say: Callable[[str], None]) -> None:
        """Back to the last checkpoint at which nothing was wrong, and on from there at half the learning rates."""
        checkpoint, rate = self._checkpoint.find(healthy=True), self.rate / 2
        if checkpoint is None or rate < _LEAST_RATE:
            why = "there is no healthy checkpoint to go back to" if checkpoint is None else "lower rates did not help"
            raise ValueError(
                f"stage {self.stage.name} is not healthy at step {self.step}: {wrong}; {why}: change its objective or "
                f"lr in the recipe, and train it again with --again {self.stage.name}"
            )
        from_step = self.step
        self._take(checkpoint)
        self.rate, self._saved = rate, (-1, 0)  # the halved rate is saved, also where this step was
        self.save()
        self._curves.close()
        self._curves = self._open_curves()
        say(
            f"stage {self.stage.name} at step {from_step}: {wrong}; back to step {self.step}, continuing at {rate:g} "
            "times its learning rates"
        )

    def one_step(self, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Every round that is left of the next step; returns the figures of each group's last turn, and writes nothing.

        `stop` is asked between rounds of a warm-up: if it is True no figures are returned, and the next call begins
        with the round after. Raises ValueError when a loss or gradient is not finite.
        """
        done_before = self.rounds
        for number, turns in enumerate(self.objective.rounds(self.step)):
            if number < done_before and STUDENT not in turns:
                continue
            if self._whole and self.rounds > done_before and stop():
                return {}
            self._round(turns)
        # the average of few steps must not hold on to where the student began
        self.roles.update_average(min(self.stage.ema, (self.step + 1) / (self.step + 10)))
        figures = self._figures
        self.step, self.rounds, self._figures = self.step + 1, 0, {}
        return figures

    def _round(self, turns: tuple[str, ...]) -> None:
        """Turns that share their clips: D's on real z_s and fake z_s, then G's on the same fakes."""
        began, drawn = time.monotonic(), self.drawn
        # such as the discriminator's scores, which its loss updates: what a round that fails has added is taken back
        buffers = [(buffer, buffer.clone()) for module in self.modules.values() for buffer in module.buffers()]
        try:
            # a single turn needs each lesson once; several share them, which are all held until the last turn
            lessons = self.lessons(turns) if len(turns) == 1 else list(self.lessons(turns))
            for turn in turns:
                self._figures |= {f"{turn}/{name}": value for name, value in self._turn(turn, lessons).items()}
        except BaseException as error:
            self.drawn = drawn
            for buffer, before in buffers:
                buffer.copy_(before)
            if is_out_of_memory(error):
                raise MemoryRanOut(self.stage.name, self.step, self._kept_steps) from error
            raise
        self.rounds += 1
        self.seconds += time.monotonic() - began  # of training alone, without samples and what they measure
        self._whole = STUDENT not in turns  # the student's round ends with its step, whose point is still to come

    def lessons(self, turns: tuple[str, ...]) -> Iterator[Any]:
        """What the turns of a round learn from, one lesson per micro-batch.

        Only where there is a single one may its graph wait for the student step: several would fill the memory that
        micro-batches are there to save.
        """
        for _ in range(self._micro_batches):
            batch = self.batches.batch(self.drawn, self._clips, self.step / self.stage.steps)
            with self.accelerator.autocast():
                yield self.objective.lesson(turns, batch, self.roles, keep_graph=self._micro_batches == 1)
            self.drawn += 1

    def _turn(self, turn: str, lessons: Iterable[Any]) -> dict[str, float]:
        stage, group, seen = self.stage, self.optimizer_groups[turn], dict[str, list[float]]()
        for number, lesson in enumerate(lessons, 1):
            with self.accelerator.autocast():
                figures = self.objective.loss(turn, lesson, self.roles, self.step)
            if number == self._micro_batches:
                group.expect(self.accelerator)
            self.accelerator.backward(figures["loss"] * self._loss_scale)
            for name, value in as_numbers(figures).items():
                seen.setdefault(name, []).append(value)
        total = {name: sum(values) / len(values) for name, values in seen.items()}  # some are of a few micro-batches
        # the student's warm-up is its own: a discriminator's lies within the first step as a whole
        scale = lr_scale(self.step, stage.steps, stage.warmup if turn == STUDENT else 0, stage.cooldown)
        # the mean gradient over micro-batches and processes: not finite in all processes, or in none
        norm = group.gather(self.accelerator, total["loss"])
        if not math.isfinite(norm):
            raise ValueError(
                f"stage {stage.name}: the {turn}'s loss is {total['loss']:g} and its gradient {norm:g} at step "
                f"{self.step}; {self._kept_steps}: lower its learning rate in the recipe, and train it "
                f"again with --again {stage_of(stage.name)}"
            )
        self._whole = False  # only now: until all processes have averaged, one may end and nothing has moved
        group.step(scale * self.rate)
        for other in self.optimizer_groups.values():  # sharded weights get gradients in others' turns as well
            other.clear()
        return total | {"gradient": norm, "lr_scale": scale}

    def save(self, wait: bool = True) -> None:
        """Writes the checkpoint, unless this round's was written, or could not be; every process takes part.

        With `wait` it is on the disk when this returns, else a thread goes on writing.
        """
        self._write(wait)
        # one process may write for longer than a collective call waits
        current_ranks().wait()

    def _write(self, wait: bool = True) -> None:
        self._checkpoint.finish()
        reached = (self.step, self.rounds)
        due, self._saved, self._saved_at = reached != self._saved, reached, time.monotonic()
        if due:
            (self._checkpoint.write if wait else self._checkpoint.begin_write)(self.trained.tensors(), self._numbers())

    def _numbers(self) -> dict[str, Any]:
        return {
            "stage": self.stage.name,
            "step": self.step,
            "rounds": self.rounds,
            "figures": dict(self._figures),  # a thread may write it while the next round adds to it
            "drawn": self.drawn,
            "micro_batches": self._micro_batches,
            "seconds": self.seconds,
            "rate": self.rate,
            "suspect": self.watcher.suspect if self.watcher else 0,
            "watched": self.watcher.last if self.watcher else 0,
            "contract": self.contract.model_dump(mode="json"),
        }

    def _take(self, checkpoint: dict[str, Any] | Path) -> None:
        numbers = sharded_checkpoint.read_numbers(checkpoint) if isinstance(checkpoint, Path) else checkpoint
        try:
            # weights that were trained for other nodes, guidance or predictions mean something else here
            if other := self.contract.differences(SamplingContract.model_validate(numbers["contract"])):
                raise ValueError(f"it is of a student with another {', '.join(other)}")
            if numbers["step"] > self.stage.steps:
                raise ValueError(f"it is at step {numbers['step']} of {self.stage.steps}")
            self.trained.take(checkpoint)
            self.step, self.seconds, self.rate = numbers["step"], numbers["seconds"], numbers.get("rate", 1.0)
            self.rounds, self._figures = numbers.get("rounds", 0), dict(numbers.get("figures", {}))
            if self.watcher:
                self.watcher.suspect, self.watcher.last = numbers.get("suspect", 0), numbers.get("watched", 0)
            # drawn so often by another number of processes, perhaps, in micro-batches of other sizes
            before = numbers.get("micro_batches", self.stage.accumulate)
            self.drawn = numbers["drawn"] * self._micro_batches // before
        except Exception as error:  # what it holds may be anything, and torch raises a dozen kinds for it
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            files = [checkpoint] if isinstance(checkpoint, Path) else [path.name for path in single_files(self.folder)]
            raise ValueError(
                f"the checkpoint in {self.folder} does not fit stage {self.stage.name} ({reason[:200]}): delete its "
                f"{' and '.join(map(str, files))} to begin the stage again"
            ) from error
