"""A network being trained: one update of its weights, and how good it is on what it doesn't learn from.

An update is a function of the weights, the optimizer's state, the batch and the step's number, and of nothing else.
"""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from training import precision
from training.augmentation import augmented
from training.checkpoint import State, explained
from training.data import Split
from training.error import Diverged
from training.forward import BATCH_SIZE, as_tuple, tensors_of
from training.group import Group, accumulating, spread_like, whole
from training.layer import Layer, LayerWatch, first_not_finite
from training.optimizer import make_optimizer
from training.recipe import Recipe
from training.run_folder import Run
from training.schedule import derived_seed, learning_rate
from training.share import num_judged
from training.start import freeze, set_training

_CALMER = "try a peak_learning_rate below {:g}, or set clip_norm"

Targets = Tensor | dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """A split as tensors, on the CPU; the targets by name where there are several."""

    inputs: tuple[Tensor, ...]
    targets: Targets
    size: int

    @classmethod
    def of(cls, split: Split, recipe: Recipe) -> "Samples":
        """The split's lesson, or where it has none its arrays in the order of the recipe's inputs."""
        names, targets = split.targets.dtype.names, split.targets
        tensors = {name: torch.from_numpy(targets[name].copy()) for name in names or ()}
        lesson = tuple(torch.from_numpy(np.require(array, requirements=["C", "W"])) for array in split.lesson.values())
        return cls(
            inputs=lesson or tensors_of(split.inputs, recipe.inputs),
            targets=tensors or torch.from_numpy(targets),
            size=len(split),
        )

    def batch(self, chosen: Tensor | slice, device: str | torch.device) -> "Samples":
        """The chosen samples, on the device."""
        inputs = tuple(tensor[chosen].to(device) for tensor in self.inputs)
        if isinstance(self.targets, dict):
            targets: Targets = {name: tensor[chosen].to(device) for name, tensor in self.targets.items()}
        else:
            targets = self.targets[chosen].to(device)
        return Samples(inputs=inputs, targets=targets, size=len(inputs[0]))

    def chunks(self, count: int) -> list["Samples"]:
        """The samples in so many equal parts."""
        size, device = self.size // count, self.inputs[0].device
        return [self.batch(slice(at * size, (at + 1) * size), device) for at in range(count)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What one update came to: means over the batch before it, and the layers where they were watched."""

    loss: float
    score: float
    learning_rate: float
    gradient_norm: float
    layers: dict[str, Layer] | None


class Learner:
    """Network, optimizer and whatever else an update needs, as `state` says or new."""

    def __init__(self, recipe: Recipe, run: Run, group: Group, state: State | None) -> None:
        self._recipe, self._run, self._group = recipe, run, group
        self._precision = precision.resolve(recipe.config.precision, run.device)
        self._scaler = self._precision.scaler()
        self._teacher = recipe.teacher.loss(recipe, run.num_threads) if recipe.teacher else None
        self.network = _fresh(recipe, run.device, with_start=state is None)
        self.best: dict[str, Tensor] = {}
        self.average: dict[str, Tensor] = {}
        if state is not None:
            with explained(run.checkpoint):
                self.network.load_state_dict(state.below("network"))
                self.best = state.below("best")
                self.average = {name: tensor.to(run.device) for name, tensor in state.below("average").items()}
        self._joined = group.joined(self.network, run.device, sharded=recipe.config.sharded)
        self._optimizer = make_optimizer(recipe.config, self.network)
        self._parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        if state is not None:
            with explained(run.checkpoint):
                state.restore_optimizer(self._optimizer)
                self._scaler.load_state_dict(state.below("scaler"))

    def state(self) -> State:
        """Everything that the next update depends on; where weights are spread, all processes call it together."""
        state = State.of(self.network, self._optimizer)
        best = {f"best.{name}": tensor for name, tensor in self.best.items()}
        average = {f"average.{name}": tensor for name, tensor in self.average.items()}
        scaler = {f"scaler.{name}": value for name, value in self._scaler.state_dict().items()}
        return State(tensors={**state.tensors, **best, **average}, scalars={**state.scalars, **scaler})

    def keep_best(self) -> None:
        """Remember the weights, or their average, as the best so far."""
        weights = self.average or self.network.state_dict()
        self.best = {name: whole(tensor).detach().cpu().clone() for name, tensor in weights.items()}

    def settle(self) -> None:
        """Take the best weights for the network's, or their average where there is no best."""
        self._put(self.best or self.average)

    def update(self, batch: Samples, step: int, num_steps: int, *, watched: bool) -> Update:
        """Learn from one whole batch, of which this process takes its share.

        Raises Diverged, before the weights are changed, when the loss or its gradient is no number any more.
        """
        config, group, objective = self._recipe.config, self._group, self._recipe.objective
        batch = self._augmented(batch, step)
        rate = learning_rate(config, step, num_steps)
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = rate
        set_training(self.network)
        self._optimizer.zero_grad()
        # Part by part all processes work on what one process would, so batch statistics are the same ones.
        own = batch.chunks(group.size * config.accumulation)[group.rank :: group.size]
        # The group takes the mean over its processes, so their shares are of what falls to one of them.
        total = num_judged(objective, batch.inputs, batch.targets)
        shares = [group.size * num_judged(objective, part.inputs, part.targets) / total for part in own]
        results, watch = [], LayerWatch(self.network) if watched else None
        for index, (part, share) in enumerate(zip(own, shares, strict=True)):
            results.append(self._learn(part, share, watch if index == 0 else None, last=part is own[-1]))
        loss, score = group.mean([sum(values) for values in zip(*results, strict=True)])
        if not math.isfinite(loss):
            self._diverged(f"the loss became {loss}", step, num_steps, own[0])
        self._scaler.unscale_(self._optimizer)
        norm = whole(get_total_norm([p.grad for p in self._parameters if p.grad is not None]))
        if not (self._scaler.is_enabled() or norm.isfinite()):
            self._diverged(f"the gradient became {norm.item()}", step, num_steps, own[0])
        layers = watch.layers() if watch else None
        if config.clip_norm is not None:
            clip_grads_with_norm_(self._parameters, config.clip_norm, norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if config.average:
            self._follow(min(config.average, (1 + step) / (10 + step)))
        return Update(loss=loss, score=score, learning_rate=rate, gradient_norm=norm.item(), layers=layers)

    def validate(self, samples: Samples) -> tuple[float, float]:
        """Mean loss and score over all samples, of the average of the weights where there is one.

        Raises Diverged when the loss is no number.
        """
        own = {name: tensor.clone() for name, tensor in self.network.state_dict().items()} if self.average else {}
        self._put(self.average)
        try:
            return self._validated(samples)
        finally:
            self._put(own)

    def _validated(self, samples: Samples) -> tuple[float, float]:
        self.network.eval()
        loss_sum = score_sum = 0.0
        with torch.inference_mode(), self._precision.autocast():
            for first in range(0, samples.size, self._group.size * BATCH_SIZE):
                start = first + self._group.rank * BATCH_SIZE
                counts = start < samples.size  # a process that has none left still takes part in gathering weights
                start = start if counts else 0
                batch = samples.batch(slice(start, start + BATCH_SIZE), self._run.device)
                outputs = as_tuple(self.network(*batch.inputs))
                if counts:
                    loss_sum += self._recipe.objective.loss(outputs, batch.targets).item() * batch.size
                    score_sum += self._recipe.objective.score(outputs, batch.targets).item() * batch.size
        loss_sum, score_sum = self._group.sum([loss_sum, score_sum])
        if not math.isfinite(loss_sum):
            raise Diverged(
                f"the validation loss became {loss_sum}: {_CALMER.format(self._recipe.config.peak_learning_rate)}"
            )
        return loss_sum / samples.size, score_sum / samples.size

    def _follow(self, kept: float) -> None:
        """Move the average towards the weights; at first quickly, away from what they began as."""
        with torch.no_grad():
            for name, tensor in self.network.state_dict().items():
                if name in self.average and tensor.is_floating_point():
                    self.average[name].lerp_(tensor, 1 - kept)
                else:
                    self.average[name] = tensor.clone()

    def _put(self, weights: dict[str, Tensor]) -> None:
        """Make these the network's weights, if there are any."""
        with torch.no_grad():
            for name, tensor in self.network.state_dict().items() if weights else ():
                tensor.copy_(spread_like(weights[name].to(tensor.device), tensor))

    def _augmented(self, batch: Samples, step: int) -> Samples:
        """The whole batch, augmented in every process alike; what is random in the network is the process's own."""
        seed, group = self._recipe.config.seed, self._group
        torch.manual_seed(derived_seed(seed, "step", step))
        inputs, targets = augmented(self._recipe.augment, batch.inputs, batch.targets)
        batch = Samples(inputs=tuple(inputs), targets=targets, size=batch.size)
        if group.size > 1:
            torch.manual_seed(derived_seed(seed, "process", step * group.size + group.rank))
        return batch

    def _learn(self, part: Samples, share: float, watch: LayerWatch | None, *, last: bool) -> tuple[float, float]:
        """Add the part's share of the gradient; its share of the loss and of the score."""
        objective, teacher = self._recipe.objective, self._recipe.teacher
        with ExitStack() as stack:
            stack.enter_context(accumulating(self._joined, last=last))
            if watch is not None:
                stack.enter_context(watch)
            with self._precision.autocast():
                outputs = as_tuple(self._joined(*part.inputs))
                loss = objective.loss(outputs, part.targets) * share
                if teacher is not None and self._teacher is not None:
                    taught = self._teacher(part.inputs, outputs) / self._recipe.config.accumulation  # a mean of samples
                    loss = (1 - teacher.alpha) * loss + teacher.alpha * taught
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        detached = [output.detach() for output in outputs]
        return loss.item(), objective.score(detached, part.targets).item() * share

    def _diverged(self, what: str, step: int, num_steps: int, part: Samples) -> NoReturn:
        layer = first_not_finite(self.network, part.inputs)
        where = f", and {layer} is the first layer that answers NaN or infinity" if layer else ""
        raise Diverged(
            f"{what} at step {step + 1} of {num_steps}{where}: {_CALMER.format(self._recipe.config.peak_learning_rate)}"
        )


def _fresh(recipe: Recipe, device: str, *, with_start: bool) -> nn.Module:
    torch.manual_seed(derived_seed(recipe.config.seed, "weights", 0))
    network = recipe.network()
    if with_start and recipe.start is not None:
        recipe.start.load(network)
    freeze(network, recipe.frozen)
    network = network.to(device)
    # Convolutions are twice as fast so; but weights that are spread over processes must be contiguous.
    layout = torch.contiguous_format if recipe.config.sharded else torch.channels_last
    return network.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]
