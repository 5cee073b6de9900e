"""A small model learns from a large one.

A student's layer learns to hold what a teacher's layer holds.

Which outputs of a student learn from which of its teacher, and how each is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from nbcompress.compressors.calibration import evaluating
from nbcompress.compressors.data import NO_TARGET, Batch, Batches
from nbcompress.compressors.layers import (
    Patterns,
    check_count,
    check_model,
    check_number,
    check_patterns,
    copied,
    is_chosen,
    unique_parameters,
)
from nbcompress.compressors.losses import Kind, LossFunction, LossSpec, Reading, ending_beside, soft_loss
from nbcompress.compressors.modes import outside_inference, seeded
from nbcompress.compressors.outputs import Ending, Output, prediction_of, predictions_of, rows_of
from nbcompress.compressors.training import Plan, train_
from nbcompress.errors import CompressionError, DataError, LayerNotFound, did_you_mean, option


class Match:
    """One layer of the teacher beside one of the student.

    Args:
        text: `TEACHER_LAYER:STUDENT_LAYER`, dotted module names.
        teacher: Has the one.
        student: Has the other; the copy that is trained.

    Raises:
        CompressionError: The text is not of this form.
        LayerNotFound: There is no such layer.
    """

    def __init__(self, text: object, teacher: nn.Module, student: nn.Module) -> None:
        names = text.split(":") if isinstance(text, str) else []
        if len(names) != 2 or not all(names):
            raise CompressionError(
                f"{option('match')} must be TEACHER_LAYER:STUDENT_LAYER, such as 'layer3:layer2', got {text!r}"
            )
        self.text = text
        self._modules = (_layer(teacher, names[0], "teacher", text), _layer(student, names[1], "student", text))
        self._seen: list[Tensor | None] = [None, None]
        self._projection: nn.Linear | None = None
        self._axis = -1

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is learned beside the student."""
        return [] if self._projection is None else list(self._projection.parameters())

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note what both layers give, each time that they run."""

        def hook_for(side: int) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                self._seen[side] = self._features_in(output)

            return hook

        handles = [module.register_forward_hook(hook_for(side)) for side, module in enumerate(self._modules)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._seen = [None, None]

    def prepare(self, seed: int) -> None:
        """After both models ran once: check shapes, and make a projection where the widths differ.

        Raises:
            DataError: A layer was not called, or shapes differ in more than one dimension.
        """
        told, said = self._features()
        differing = [k for k in range(1, told.ndim) if told.ndim == said.ndim and told.shape[k] != said.shape[k]]
        if told.ndim != said.ndim or told.shape[0] != said.shape[0] or len(differing) > 1:
            raise DataError(
                f"{option('match', self.text)} needs features that differ in width alone, got {tuple(told.shape)} of "
                f"the teacher and {tuple(said.shape)} of the student"
            )
        if differing:
            self._axis = differing[0]
            with seeded(seed):
                widths = said.shape[self._axis], told.shape[self._axis]
                self._projection = nn.Linear(*widths, device=said.device, dtype=torch.float32)

    def loss(self) -> Tensor:
        """Squared distance of the features of the last batch, relative to the size of the teacher's."""
        told, said = (feature.float() for feature in self._features())
        if self._projection is not None:
            said = self._projection(said.movedim(self._axis, -1)).movedim(-1, self._axis)
        size = told.square().mean().clamp(min=torch.finfo(torch.float32).tiny)
        return (said - told).square().mean() / size

    def _features_in(self, output: Any) -> Tensor:
        """What a layer gives: a tensor, or the first of a tuple, as of recurrent layers and of attention."""
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if not isinstance(first, Tensor):
            raise DataError(
                f"match={self.text!r} needs layers that give a tensor, or a tuple that starts with one, "
                f"got {type(output).__name__}"
            )
        return first

    def _features(self) -> tuple[Tensor, Tensor]:
        told, said = self._seen
        if told is None or said is None:
            who = "teacher" if told is None else "student"
            raise DataError(
                f"{option('match', self.text)} needs layers that run, but the {who} does not call its layer"
            )
        return told.detach(), said


def matches_of(match: str | Iterable[str] | None, teacher: nn.Module, student: nn.Module) -> list[Match]:
    """The pairs that `match` names: none, one, or several."""
    if match is None:
        return []
    texts = [match] if isinstance(match, str) or not isinstance(match, Iterable) else list(match)
    return [Match(text, teacher, student) for text in texts]


def _layer(model: nn.Module, name: str, who: str, text: object) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name not in modules:
        hint = did_you_mean(name, [module for module in modules if module])
        raise LayerNotFound(f"{option('match', text)}: the {who} has no layer {name!r}.{hint}")
    return modules[name]


@dataclass(frozen=True)
class _Pair:
    """One output of each model.

    Attributes:
        told: Index or key of the teacher's.
        said: Index or key of the student's.
        teacher: How the teacher's ends.
        student: How the student's ends.
        reading: How the teacher's is read beside the targets, None if they are about another output or missing.
    """

    told: Output
    said: Output
    teacher: Ending
    student: Ending
    reading: Reading | None


@dataclass(frozen=True)
class Teaching:
    """How a student's results are compared with its teacher's.

    Attributes:
        pairs: Outputs that are compared; none if `given` compares all that the models return.
        reading: How the teacher is read beside the targets, None where that is not known.
        given: The user's own loss, where it takes the place of the soft one.
        has_targets: Whether the data has targets.
    """

    pairs: tuple[_Pair, ...]
    reading: Reading | None
    given: LossFunction | None
    has_targets: bool

    @classmethod
    def of(cls, teacher: nn.Module, student: nn.Module, batches: Batches, spec: LossSpec, seed: int) -> Teaching:
        """Decide by the first batch, on which both models run in evaluation mode, without a trace.

        Raises:
            DataError: Outputs do not go together, or how to compare them is not clear.
        """
        with seeded(seed, *batches.generators):
            batch = batches.first(student)
            with evaluating(student), torch.no_grad():
                results = batch(teacher), batch(student)
            has_targets = batch.target is not None
            if spec.loss is not None and not has_targets:
                return cls((), None, spec.loss, has_targets)
            told, said = _outputs(*results, batch, spec)
            if not told or not said:
                if spec.loss is not None:
                    return cls((), None, spec.loss, has_targets)
                prediction_of(results[0] if not told else results[1], None, rows_of(batch))
            main = _main(results[0], told, batch, spec)
            reading = _reading(teacher, batches, spec, seed) if has_targets and main is not None else None
            pairs = []
            for (told_key, aim), (said_key, value) in zip(told.items(), said.items(), strict=True):
                if aim.shape != value.shape:
                    raise DataError(
                        f"teacher and student must give outputs of one shape, got {tuple(aim.shape)} and "
                        f"{tuple(value.shape)}"
                    )
                endings = _ending(teacher, batch, aim, told_key), _ending(student, batch, value, said_key)
                own = reading if told_key == main else None
                if own is None and len(told) == 1:
                    own = _without_targets(aim)
                pair = _Pair(told_key, said_key, *endings, own)
                _check(pair)
                pairs.append(pair)
        return cls(tuple(pairs), reading, None, has_targets)

    def counts(self, batch: Batch) -> bool:
        """Whether any target of the batch does, or targets do not matter."""
        return self.reading is None or self.reading.counts(batch)

    def loss(self, result: Any, told: Any, batch: Batch, temperature: float) -> Tensor:
        """How far what the student returned is from what the teacher did."""
        if self.given is not None:
            return self.given(result, told)
        total: Tensor | None = None
        for pair in self.pairs:
            target = batch.target if pair.reading is self.reading else None
            part = soft_loss(
                prediction_of(result, pair.said),
                prediction_of(told, pair.told),
                temperature,
                pair.reading,
                target,
                student=pair.student,
                teacher=pair.teacher,
            )
            total = part if total is None else total + part
        if total is None:
            raise DataError("teacher and student have no output in common")
        return total


def _outputs(
    told: Any, said: Any, batch: Batch, spec: LossSpec
) -> tuple[Mapping[Output, Tensor], Mapping[Output, Tensor]]:
    """The tensors that are compared, in the same order."""
    found = predictions_of(told, rows_of(batch)), predictions_of(said, rows_of(batch))
    if spec.output is not None:
        named = prediction_of(told, spec.output)
        if len(found[0]) != len(found[1]) or not any(item is named for item in found[0].values()):
            # One of the models returns no more than the prediction.
            return {spec.output: named}, {spec.output: prediction_of(said, spec.output)}
    if found[0].keys() == found[1].keys():
        return found[0], {key: found[1][key] for key in found[0]}
    if len(found[0]) != len(found[1]) and found[0] and found[1]:
        raise DataError(
            f"teacher and student must return as many tensors, got {len(found[0])} and {len(found[1])}: pass output=, "
            "the index or key of the one to learn"
        )
    return found


def _main(result: Any, told: Mapping[Output, Tensor], batch: Batch, spec: LossSpec) -> Output | None:
    """The teacher's output that the targets are about; None where several could be it."""
    if spec.output is not None:
        named = prediction_of(result, spec.output, rows_of(batch))
        return next((key for key, one in told.items() if one is named), None)
    return next(iter(told)) if len(told) == 1 else None


def _reading(teacher: nn.Module, batches: Batches, spec: LossSpec, seed: int) -> Reading | None:
    """How the teacher is read; with a loss of the user's own, targets may be of a kind that only it knows."""
    try:
        return LossSpec(None, spec.output).reading(teacher, batches, seed)
    except DataError:
        if spec.loss is None:
            raise
        return None


def _without_targets(told: Tensor) -> Reading | None:
    """The only output of a teacher beside no targets: scores of classes, if it has several columns."""
    axis = 1 if told.ndim > 3 else -1
    return Reading(Kind.CLASSES) if told.ndim > 1 and told.shape[axis] > 1 else None


def _ending(model: nn.Module, batch: Batch, value: Tensor, key: Output) -> Ending:
    return ending_beside(model, value, lambda one: prediction_of(batch(one), key))


def _check(pair: _Pair) -> None:
    """Refuse a student that seems to give probabilities beside a teacher of labels, and is not known to."""
    kind = None if pair.reading is None else pair.reading.kind
    is_binary = pair.teacher is Ending.SIGMOID or kind in (Kind.LOGITS, Kind.PROBABILITIES)
    if is_binary and pair.student not in (Ending.SIGMOID, Ending.OPEN):
        raise DataError(
            "the teacher gives probabilities of labels, and all outputs of the student lie in [0, 1], but it does not "
            "end in a sigmoid: let it end in one, or return logits"
        )


@dataclass(frozen=True)
class Distillation:
    """A student with its control.

    Attributes:
        student: Trained with the teacher.
        control: The same student, trained on the same budget from the same start without the teacher.
    """

    student: nn.Module
    control: nn.Module


@overload
def distill(
    teacher: nn.Module,
    student: nn.Module,
    data: object,
    epochs: int = 10,
    temperature: float = 4.0,
    alpha: float = 0.9,
    lr: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
    control: Literal[False] = False,
    match: str | Iterable[str] | None = None,
    layers: Patterns = None,
    finetune: int = 0,
    loss: LossFunction | None = None,
    output: Output | None = None,
) -> nn.Module: ...


@overload
def distill(
    teacher: nn.Module,
    student: nn.Module,
    data: object,
    epochs: int = 10,
    temperature: float = 4.0,
    alpha: float = 0.9,
    lr: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
    *,
    control: Literal[True],
    match: str | Iterable[str] | None = None,
    layers: Patterns = None,
    finetune: int = 0,
    loss: LossFunction | None = None,
    output: Output | None = None,
) -> Distillation: ...


@outside_inference
def distill(
    teacher: nn.Module,
    student: nn.Module,
    data: object,
    epochs: int = 10,
    temperature: float = 4.0,
    alpha: float = 0.9,
    lr: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
    control: bool = False,
    match: str | Iterable[str] | None = None,
    layers: Patterns = None,
    finetune: int = 0,
    loss: LossFunction | None = None,
    output: Output | None = None,
) -> nn.Module | Distillation:
    """Return a copy of `student`, trained to say what `teacher` says.

    The loss is `alpha * soft + (1 - alpha) * hard`. The hard part is the loss on the targets, as in `finetune`. The
    soft part follows the teacher: for classes, also those of tokens, `T^2 * KL(teacher / T, student / T)`; for a
    sigmoid, one logit or several labels, binary cross-entropy with the teacher's probabilities; for other numbers,
    squared error. Of several outputs each has its own, and they add up. With `match`, `alpha` times the distance of
    features is added.

    Args:
        teacher: Stays as it is; runs in evaluation mode without gradients.
        student: Stays as it is. What its record promises is kept in training.
        data: A `DataLoader`, a data set, or a pair of tensors (inputs, targets); with `alpha=1` also without targets,
            where a single output of several columns that does not end in a sigmoid is taken for scores of classes.
        epochs: Passes over the data.
        temperature: T, above 0; larger ones show more of what the teacher thinks of wrong classes.
        alpha: Weight of the teacher, 0 to 1.
        lr: Step size of Adam.
        batch_size: Of data that is not in batches yet.
        seed: Equal seeds give equal students.
        control: Train a second copy without the teacher, for comparison.
        match: Features to learn, `TEACHER_LAYER:STUDENT_LAYER` by dotted module names, or several such pairs: the mean
            squared error of what the two layers give, relative to the teacher's mean square. Where they differ in one
            dimension, such as the number of channels, a linear map from the student's features is learned along.
        layers: Shell patterns on dotted module names: only parameters in these layers of the student are trained, the
            others stay as they are. All are without it.
        finetune: Epochs of training on the labels alone afterwards; the control gets them too.
        loss: As in `finetune`, for the hard part; where there are no targets, or outputs are no tensors that the soft
            part knows, it compares what the student returns with what the teacher does.
        output: Index or key of the prediction, where a model returns several tensors.

    Returns:
        The trained copy, or a `Distillation` of both copies if `control`.

    Raises:
        CompressionError: An option makes no sense, or the loss stops being finite.
        LayerNotFound: `match` or `layers` names a layer that there is not.
        DataError: The data does not fit, or teacher and student give outputs or features of different shapes.

    References:
        Hinton, Vinyals and Dean (2015), "Distilling the Knowledge in a Neural Network", section 2.
        Romero et al. (2015), "FitNets: Hints for Thin Deep Nets", equation 3.
    """
    check_number("temperature", temperature, 0, float("inf"), is_open_low=True)
    check_number("alpha", alpha, 0, 1)
    plan = Plan(epochs, lr, batch_size=batch_size, seed=seed)
    alone_after = replace(plan, epochs=check_count("finetune", finetune, 0))
    check_model(teacher)
    check_model(student)
    trained = copied(student)
    _check_layers(trained, layers)
    matches = matches_of(match, teacher, trained)
    spec = LossSpec(loss, output)
    batches = Batches(data, batch_size)
    with evaluating(teacher), ExitStack() as hooks:
        for one in matches:
            hooks.enter_context(one.listening())
        teaching = Teaching.of(teacher, trained, batches, spec, seed)
        if not teaching.has_targets and (alpha < 1 or control or finetune):
            raise DataError(NO_TARGET)
        own = spec.reading(trained, batches, seed) if alpha < 1 else None
        for one in matches:
            one.prepare(seed)

        def batch_loss(model: nn.Module, batch: Batch) -> Tensor | None:
            if not teaching.counts(batch):
                return None
            with torch.no_grad():
                told = batch(teacher)
            result = batch(model) if own is None else own.run(model, batch)
            taught = alpha * sum((match.loss() for match in matches), teaching.loss(result, told, batch, temperature))
            return taught if own is None else taught + (1 - alpha) * own.loss(result, batch)

        learned = [parameter for match in matches for parameter in match.parameters]
        with _only_these_train(trained, layers):
            train_(trained, data, plan, batch_loss=batch_loss, learned_along=learned)
            train_(trained, data, alone_after, spec=spec)
    if not control:
        return trained
    alone = copied(student)
    with _only_these_train(alone, layers):
        train_(alone, data, plan, spec=spec)
        train_(alone, data, alone_after, spec=spec)
    return Distillation(trained, alone)


def _check_layers(student: nn.Module, layers: Patterns) -> None:
    """Every pattern must match a parameter of the student."""
    for pattern in check_patterns(layers) or []:
        names = [name for name, _ in student.named_parameters(remove_duplicate=False)]
        if not any(is_chosen(name, [pattern]) for name in names):
            modules = [name for name, _ in student.named_modules() if name]
            hint = did_you_mean(pattern, [*modules, *names])
            raise LayerNotFound(f"{option('layers', pattern)} matches no layer of the student with parameters.{hint}")


@contextmanager
def _only_these_train(student: nn.Module, layers: Patterns) -> Iterator[None]:
    """Freeze every parameter outside `layers`, and let it be trainable again afterwards."""
    patterns = check_patterns(layers)
    frozen = [
        parameter
        for names, parameter in unique_parameters(student)
        if parameter.requires_grad and not any(is_chosen(name, patterns) for name in names)
    ]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
