from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from compress_zoo import ZOO, assert_constraints, perceptron
from torch import nn

from nbcompress.compressors import Distillation, distill, finetune, prune, quantize
from nbcompress.compressors.distill import FeatureMatch
from nbcompress.compressors.losses import OutputKind, ResolvedLoss
from nbcompress.compressors.outputs import FinalOperation
from nbcompress.compressors.soft_targets import soft_loss
from nbcompress.errors import CompressionError, DataError, LayerNotFound


def small() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4, 3))


def state(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


CLASSES, LABELS = ResolvedLoss(OutputKind.CLASSES), ResolvedLoss(OutputKind.LOGITS)


def test_soft_loss_of_classes_by_hand() -> None:
    """Teacher (3/4, 1/4) at T = 2, student (1/2, 1/2): 4 * (3/4 log 3/2 + 1/4 log 1/2)."""
    student, teacher, target = torch.zeros(1, 2), torch.tensor([[2 * np.log(3), 0.0]]), torch.tensor([0])
    expected = pytest.approx(4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5)), rel=1e-5)
    assert float(soft_loss(student, teacher, 2.0, CLASSES, target)) == expected
    assert float(soft_loss(teacher, teacher, 2.0, CLASSES, target)) == pytest.approx(0, abs=1e-6)
    # Without labels, and for a teacher that returns probabilities.
    assert float(soft_loss(student, teacher, 2.0, CLASSES)) == expected
    probabilities = teacher.softmax(1)
    assert float(soft_loss(student, probabilities, 2.0, teacher_end=FinalOperation.SOFTMAX)) == expected


def test_soft_loss_of_tokens_skips_labels_that_do_not_count() -> None:
    student, teacher = torch.zeros(1, 3, 2), torch.tensor([[[2 * np.log(3), 0.0], [9.0, 0.0], [5.0, 7.0]]])
    expected = pytest.approx(4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5)), rel=1e-5)
    target = torch.tensor([[0, -100, -100]])
    assert float(soft_loss(student, teacher, 2.0, CLASSES, target)) == expected
    # Next token: the scores at the first position belong to the target at the second.
    next_token = ResolvedLoss(OutputKind.CLASSES, is_next_token=True)
    target = torch.tensor([[-100, 0, -100]])
    assert float(soft_loss(student, teacher, 2.0, next_token, target)) == expected


def test_soft_loss_of_labels_by_hand() -> None:
    """The teacher's probability is 3/4, the student's 1/2: log 2, as logits and after a sigmoid."""
    unbounded, sigmoid = FinalOperation.UNBOUNDED, FinalOperation.SIGMOID
    logits, probabilities = torch.full((3, 2), np.log(3.0)), torch.full((3, 2), 0.75)
    for student, student_end in ((torch.zeros(3, 2), unbounded), (torch.full((3, 2), 0.5), sigmoid)):
        for teacher, teacher_end in ((logits, unbounded), (probabilities, sigmoid)):
            loss = soft_loss(student, teacher, 4.0, LABELS, student_end=student_end, teacher_end=teacher_end)
            assert float(loss) == pytest.approx(np.log(2), rel=1e-5)


def test_soft_loss_of_numbers_by_hand() -> None:
    numbers = ResolvedLoss(OutputKind.NUMBERS)
    assert float(soft_loss(torch.ones(2, 1), torch.zeros(2, 1), 2.0, numbers, torch.ones(2))) == 1.0
    assert float(soft_loss(torch.ones(2, 4), torch.zeros(2, 4), 2.0)) == 1.0


def test_teacher_and_student_stay() -> None:
    animal = ZOO["perceptron"]()
    student = small()
    animal.model.train()
    before = state(animal.model), state(student), torch.get_rng_state()
    trained = distill(animal.model, student, animal.data, epochs=2)
    assert same(state(animal.model), before[0])
    assert same(state(student), before[1])
    assert torch.equal(torch.get_rng_state(), before[2])
    assert animal.model.training
    assert student.training
    assert trained.training
    assert all(parameter.grad is None for parameter in animal.model.parameters())
    assert not same(state(trained), state(student))


def test_only_the_teacher_at_alpha_one() -> None:
    """Labels have no say then."""
    animal = ZOO["perceptron"]()
    x, y = animal.data
    first = distill(animal.model, small(), (x, y), epochs=2, alpha=1.0)
    other = distill(animal.model, small(), (x, (y + 1) % 3), epochs=2, alpha=1.0)
    assert same(state(first), state(other))


def test_no_teacher_at_alpha_zero() -> None:
    animal = ZOO["perceptron"]()
    pair = distill(animal.model, small(), animal.data, epochs=2, alpha=0.0, control=True)
    assert isinstance(pair, Distillation)
    assert same(state(pair.student), state(pair.control))


def test_the_student_comes_near_its_teacher() -> None:
    animal = ZOO["perceptron"]()
    finetune(animal.model, animal.data, epochs=30, lr=0.01)
    pair = distill(animal.model, small(), animal.data, epochs=30, lr=0.02, control=True)
    wanted = animal.output(animal.model).softmax(1)

    def distance(model: nn.Module) -> float:
        return float((animal.output(model).softmax(1) - wanted).abs().mean())

    assert distance(pair.student) < distance(small())
    assert distance(pair.student) < distance(pair.control)


def test_a_compressed_student_keeps_its_constraints() -> None:
    animal = ZOO["perceptron"]()
    student = quantize(prune(animal.model, 0.7), 3)
    trained = distill(animal.model, student, animal.data, epochs=2, lr=0.01)
    assert_constraints(trained)
    zeros = student.get_parameter("0.weight") == 0
    assert bool((trained.get_parameter("0.weight")[zeros] == 0).all())


def test_shapes_are_compared_before_training() -> None:
    animal = ZOO["perceptron"]()
    with pytest.raises(DataError, match=r"outputs of one shape, got \(40, 3\) and \(40, 4\)"):
        distill(animal.model, nn.Sequential(nn.Linear(6, 4)), animal.data)
    with pytest.raises(DataError, match="labels must be 0 to 2"):
        distill(animal.model, perceptron(), (animal.data[0], animal.data[1] + 1))


def test_feature_loss_by_hand() -> None:
    """Features 1, 2 against 3, 0: squares of differences 4 and 4, over 9 and 0: 4 / 4.5."""
    teacher, student = nn.Sequential(nn.Identity()), nn.Sequential(nn.Identity())
    match = FeatureMatch("0:0", teacher, student)
    with match.watching():
        teacher(torch.tensor([[3.0, 0.0]]))
        student(torch.tensor([[1.0, 2.0]]))
        match.prepare(0)
        assert match.parameters == []
        assert float(match.loss()) == pytest.approx(4 / 4.5)
    assert not teacher[0]._forward_hooks


def test_features_come_nearer() -> None:
    """A layer of the same width and one of another; the last one needs a map that is learned along."""
    animal = ZOO["perceptron"]()
    wide = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))
    for match in ("1:1", "3:3", ["1:1", "3:3"]):
        options = {"epochs": 30, "lr": 0.01, "alpha": 0.5}
        plain = distill(animal.model, wide, animal.data, **options)  # type: ignore[call-overload]
        matched = distill(animal.model, wide, animal.data, match=match, **options)  # type: ignore[call-overload]
        again = distill(animal.model, wide, animal.data, match=match, **options)  # type: ignore[call-overload]
        assert same(state(matched), state(again))
        assert not same(state(matched), state(plain))
        assert state(matched)[0].shape == state(plain)[0].shape
        if match == "1:1":
            with torch.no_grad():
                wanted, near, far = (model[:2](animal.example) for model in (animal.model, matched, plain))
            assert float((near - wanted).square().mean()) < 0.5 * float((far - wanted).square().mean())
        assert not any(module._forward_hooks for model in (animal.model, wide, matched) for module in model.modules())


def test_features_of_maps_and_sequences() -> None:
    """Channels are mapped where maps have other dimensions alike; a recurrent layer gives its outputs first."""
    animal = ZOO["convolutional"]()
    thin = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    assert distill(animal.model, thin, animal.data, epochs=1, match="0:0") is not None
    recurrent = ZOO["recurrent"]()
    assert distill(recurrent.model, recurrent.model, recurrent.data, epochs=1, match="gru:gru") is not None


def test_no_features_at_alpha_zero() -> None:
    animal = ZOO["perceptron"]()
    pair = distill(animal.model, small(), animal.data, epochs=2, alpha=0.0, control=True, match="3:1")
    assert same(state(pair.student), state(pair.control))


def test_a_compressed_student_with_features() -> None:
    animal = ZOO["bfloat16"]()
    student = quantize(prune(animal.model, 0.7), 3)
    assert_constraints(distill(animal.model, student, animal.data, epochs=2, lr=0.01, match="1:1"))


def test_layers_that_there_are_not() -> None:
    animal = ZOO["attention"]()
    with pytest.raises(LayerNotFound, match=r"match='haed:head': the teacher has no layer 'haed'. Did you mean 'head'"):
        distill(animal.model, animal.model, animal.data, match="haed:head")
    with pytest.raises(LayerNotFound, match=r"match='head:nrm': the student has no layer 'nrm'. Did you mean 'norm'"):
        distill(animal.model, animal.model, animal.data, match="head:nrm")
    text = "match='attention.out_proj:head' needs layers that run, but the teacher does not call its layer"
    with pytest.raises(DataError, match=text):
        distill(animal.model, animal.model, animal.data, match="attention.out_proj:head")


def test_features_of_other_shapes() -> None:
    animal = ZOO["convolutional"]()
    text = r"differ in width alone, got \(40, 8, 8, 8\) of the teacher and \(40, 12, 6, 6\) of the student"
    with pytest.raises(DataError, match=text):
        distill(animal.model, animal.model, animal.data, match="0:4")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperature": 0}, "temperature must be a number above 0, got 0"),
        ({"alpha": 1.5}, "alpha must be a number from 0 to 1, got 1.5"),
        ({"epochs": -1}, "epochs is an integer of at least 0, but got -1"),
        ({"match": "0"}, "match must be TEACHER_LAYER:STUDENT_LAYER, such as 'layer3:layer2', got '0'"),
        ({"match": "0:1:2"}, "match must be TEACHER_LAYER:STUDENT_LAYER"),
        ({"match": ":0"}, "match must be TEACHER_LAYER:STUDENT_LAYER"),
        ({"match": 3}, "match must be TEACHER_LAYER:STUDENT_LAYER, such as 'layer3:layer2', got 3"),
    ],
)
def test_options_refused(options: dict[str, object], text: str) -> None:
    animal = ZOO["perceptron"]()
    with pytest.raises(CompressionError, match=text):
        distill(animal.model, small(), animal.data, **options)  # type: ignore[call-overload]


def test_only_the_chosen_layers_are_trained() -> None:
    animal, student = ZOO["perceptron"](), small()
    found = distill(animal.model, student, animal.data, epochs=2, layers="3", finetune=1, control=True)
    for trained in (found.student, found.control):
        assert torch.equal(trained[0].weight, student[0].weight)
        assert torch.equal(trained[0].bias, student[0].bias)
        assert not torch.equal(trained[3].weight, student[3].weight)
        assert all(parameter.requires_grad for parameter in trained.parameters())


def test_a_layer_pattern_that_fits_nothing() -> None:
    animal = ZOO["perceptron"]()
    with pytest.raises(LayerNotFound, match="layers='2' matches no layer of the student with parameters"):
        distill(animal.model, small(), animal.data, layers=["3", "2"])


def test_finetuning_after_distillation_is_on_the_labels_alone() -> None:
    animal = ZOO["perceptron"]()
    both = distill(animal.model, small(), animal.data, epochs=2, finetune=2, lr=0.01)
    first = distill(animal.model, small(), animal.data, epochs=2, lr=0.01)
    finetune(first, animal.data, epochs=2, lr=0.01)
    assert same(state(both), state(first))
    with pytest.raises(CompressionError, match="finetune is an integer of at least 0, but got -1"):
        distill(animal.model, small(), animal.data, finetune=-1)


class Detector(nn.Module):
    """Boxes and the probabilities of three labels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body, self.boxes, self.labels = nn.Linear(6, width), nn.Linear(width, 4), nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.body(x))
        return 5 * self.boxes(hidden), torch.sigmoid(4 * self.labels(hidden))


def test_each_output_is_matched_by_its_own_loss() -> None:
    torch.manual_seed(0)
    teacher, student, x = Detector(16), Detector(8), torch.randn(64, 6)
    wanted = teacher(x)
    labels = (wanted[1] > 0.5).float()

    def distances(model: nn.Module) -> list[float]:
        return [
            float((output - other).detach().square().mean()) for output, other in zip(model(x), wanted, strict=True)
        ]

    learned = distill(teacher, student, (x, labels), epochs=60, lr=0.01, alpha=1.0)
    labelled = distill(teacher, student, (x, labels), epochs=60, lr=0.01, alpha=0.5, output=1)
    for trained in (learned, labelled):
        assert all(after < 0.3 * before for after, before in zip(distances(trained), distances(student), strict=True))
    with pytest.raises(DataError, match=r"the model returns several tensors, 0 of shape \(64, 4\), 1 of .* output="):
        distill(teacher, student, (x, labels))
    alone = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    assert distill(teacher, alone, (x, labels), epochs=1, output=1) is not None
    with pytest.raises(DataError, match="must return as many tensors, got 2 and 1: pass output="):
        distill(teacher, alone, (x, labels))


def test_a_teacher_that_ends_in_a_sigmoid_is_matched_by_its_probabilities() -> None:
    """Twenty bins with one blurred peak, as float targets; squared error hardly moves from all zeros."""
    torch.manual_seed(0)
    x, bins = torch.rand(256, 1), torch.linspace(0, 1, 20)
    blurred = torch.exp(-((x - bins) ** 2) / (2 * 0.05**2))

    def model(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, 20), nn.Sigmoid())

    teacher = finetune(model(64), (x, blurred), epochs=150, lr=0.02)
    student = distill(teacher, model(64), (x, blurred), epochs=80, lr=0.02, alpha=1.0)
    unlabelled = distill(teacher, model(64), [(part,) for part in x.split(64)], epochs=80, lr=0.02, alpha=1.0)
    for trained in (teacher, student, unlabelled):
        near = (trained(x).argmax(1) - blurred.argmax(1)).abs() <= 1
        assert float(near.float().mean()) > 0.8


def test_inputs_alone_teach_at_alpha_one() -> None:
    animal = ZOO["perceptron"]()
    x, y = animal.data
    first = distill(animal.model, small(), [(x, y)], epochs=2, alpha=1.0)
    other = distill(animal.model, small(), [(x,)], epochs=2, alpha=1.0)
    assert same(state(first), state(other))
    for options in ({"alpha": 0.9}, {"alpha": 1.0, "control": True}, {"alpha": 1.0, "finetune": 1}):
        with pytest.raises(DataError, match="targets are needed here, and the data has none"):
            distill(animal.model, small(), [(x,)], **options)  # type: ignore[call-overload]


def test_a_loss_of_ones_own() -> None:
    """For the targets where there are any, else for what the teacher says."""
    animal = ZOO["perceptron"]()
    x, y = animal.data
    plain = distill(animal.model, small(), (x, y), epochs=2)
    own = distill(animal.model, small(), (x, y), epochs=2, loss=nn.functional.cross_entropy)
    assert same(state(plain), state(own))
    calls = []

    def loss(said: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        calls.append(wanted.shape)
        return nn.functional.mse_loss(said, wanted)

    distill(animal.model, small(), [(x,)], epochs=2, alpha=1.0, loss=loss)
    assert calls == [(40, 3)] * 2


def test_a_student_that_may_say_anything_is_refused() -> None:
    x = torch.randn(8, 6)
    teacher = nn.Sequential(nn.Linear(6, 2), nn.Sigmoid())
    student = nn.Sequential(nn.Linear(6, 2), nn.Hardsigmoid())
    with pytest.raises(DataError, match=r"all outputs of the student lie in .* let it end in one, or return logits"):
        distill(teacher, student, (x, torch.rand(8, 2)), alpha=1.0)


def test_layers_that_are_not_trained_keep_their_statistics() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.BatchNorm1d(6, affine=False))
    student = nn.Sequential(backbone, nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)))
    x = 3 + torch.randn(40, 4)
    found = distill(teacher, student, (x, torch.arange(40) % 3), epochs=2, layers="1", finetune=1)
    assert torch.equal(found.eval()[0](x), student.eval()[0](x))
    assert not torch.equal(found[1][0].running_mean, student[1][0].running_mean)


def test_hard_targets_are_the_classes_that_the_teacher_predicts() -> None:
    """Without labels: as training on the predicted classes, whatever alpha and temperature are."""
    animal = ZOO["perceptron"]()
    x, y = animal.data
    student = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        predicted = animal.model.eval()(x).argmax(1)
    expected = finetune(copy.deepcopy(student), [(x, predicted)], epochs=3)
    for options in ({"alpha": 1.0}, {}, {"alpha": 0.3, "temperature": 9.0}):
        found = distill(animal.model, student, [x], epochs=3, targets="hard", **options)  # type: ignore[call-overload]
        assert same(state(found), state(expected))
    found = distill(animal.model, student, [(x, y)], epochs=3, targets="hard", alpha=1.0)
    assert same(state(found), state(expected))
    # With labels both count: equal parts of predicted classes and labels that say the same.
    found = distill(animal.model, student, [(x, predicted)], epochs=3, targets="hard", alpha=0.5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(state(found), state(expected), strict=True))
    # A loss of one's own gets the classes.
    calls = []

    def loss(said: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        calls.append(wanted)
        return nn.functional.cross_entropy(said, wanted)

    found = distill(animal.model, student, [x], epochs=3, targets="hard", loss=loss)
    assert same(state(found), state(expected))
    assert torch.equal(calls[0], predicted)


def test_hard_targets_of_labels_and_of_numbers() -> None:
    torch.manual_seed(3)
    x = torch.randn(20, 6)
    teacher, student = nn.Sequential(nn.Linear(6, 2), nn.Sigmoid()), nn.Linear(6, 2)
    with torch.no_grad():
        predicted = (teacher(x) > 0.5).float()
    bce = nn.functional.binary_cross_entropy_with_logits
    expected = finetune(copy.deepcopy(student), [(x, predicted)], epochs=2, loss=bce)
    found = distill(teacher, student, [x], epochs=2, targets="hard")
    assert same(state(found), state(expected))
    with pytest.raises(DataError, match="targets='hard' learns predicted classes, but the teacher returns numbers"):
        distill(nn.Linear(6, 1), nn.Linear(6, 1), [x], targets="hard")


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_several_teachers_teach_their_mean(kind: str) -> None:
    """A teacher of the mean of the probabilities, or of the numbers, gives the same gradients; three are one."""
    torch.manual_seed(5)
    n = 3 if kind == "classes" else 1
    teachers = [nn.Linear(6, n) for _ in range(3)]
    student, x = nn.Linear(6, n), torch.randn(30, 6)

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(teachers)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            outputs = torch.stack([part(x) for part in self.parts])
            return outputs.mean(0) if n == 1 else outputs.softmax(2).mean(0).log()

    options = {"epochs": 4, "alpha": 1.0, "temperature": 1.0, "optimizer": "sgd", "lr": 0.1}
    found = distill(teachers, student, [x], **options)  # type: ignore[call-overload]
    expected = distill(Mean(), student, [x], **options)  # type: ignore[call-overload]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(state(found), state(expected), strict=True))
    assert not same(state(found), state(distill(teachers[0], student, [x], **options)))  # type: ignore[call-overload]
    if n == 3:
        found = distill(teachers, student, [x], epochs=2, targets="hard")
        expected = distill(Mean(), student, [x], epochs=2, targets="hard")
        assert same(state(found), state(expected))


def test_an_assistant_learns_first_and_then_teaches() -> None:
    animal = ZOO["perceptron"]()
    assistant = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    student = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    before = state(assistant)
    learned = distill(animal.model, assistant, animal.data, epochs=2)
    expected = distill(learned, student, animal.data, epochs=2, match="0:0")
    found = distill(animal.model, student, animal.data, epochs=2, through=[assistant], match="0:0")
    assert same(state(found), state(expected))
    assert same(state(assistant), before)
    again = distill(animal.model, student, animal.data, epochs=2, through=(assistant, assistant))
    second = distill(learned, assistant, animal.data, epochs=2)
    assert same(state(again), state(distill(second, student, animal.data, epochs=2)))


def test_teachers_and_targets_that_make_no_sense() -> None:
    animal = ZOO["perceptron"]()
    x, y = animal.data
    for teacher, options, text in (
        ([], {}, "there must be a teacher, got an empty list"),
        ([animal.model, 3], {}, "the model must be a torch.nn.Module, got int"),
        (3, {}, "teacher must be a torch.nn.Module or a list of them, got int"),
        (animal.model, {"through": 3}, "through must be a torch.nn.Module or a list of them, got int"),
        (animal.model, {"targets": "hart"}, "targets must be one of soft, hard, got 'hart'. Did you mean 'hard'"),
        ([animal.model] * 2, {"match": "0:0"}, "match= compares layers of one teacher, got 2 teachers"),
    ):
        with pytest.raises(CompressionError, match=text):
            distill(teacher, small(), (x, y), **options)  # type: ignore[call-overload]
    with pytest.raises(DataError, match="without any, alpha=1 or targets='hard' learns from the teacher alone"):
        distill(animal.model, small(), [x], alpha=0.5)
    for options in ({"control": True}, {"finetune": 1}):
        with pytest.raises(DataError, match="targets are needed here"):
            distill(animal.model, small(), [x], targets="hard", **options)  # type: ignore[call-overload]


def test_at_alpha_one_a_loss_of_ones_own_compares_with_the_teacher() -> None:
    animal = ZOO["perceptron"]()
    x, y = animal.data
    with torch.no_grad():
        wanted = animal.model.eval()(x)
    student = nn.Linear(6, 3)
    expected = finetune(copy.deepcopy(student), [(x, wanted)], epochs=2, loss=nn.functional.l1_loss)
    found = distill(animal.model, student, [(x, y)], epochs=2, alpha=1.0, loss=nn.functional.l1_loss)
    assert same(state(found), state(expected))
