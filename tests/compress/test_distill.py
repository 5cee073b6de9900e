from __future__ import annotations

import numpy as np
import pytest
import torch
from compress_zoo import ZOO, assert_promises, perceptron
from torch import nn

from nbcompress.compress import Distillation, distill, finetune, prune, quantize
from nbcompress.compress.distill.matching import Match
from nbcompress.compress.ending import Ending
from nbcompress.compress.losses import Kind, Reading, soft_loss
from nbcompress.errors import CompressionError, DataError, LayerNotFound


def small() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4, 3))


def state(model: nn.Module) -> list[torch.Tensor]:
    return [one.clone() for one in model.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


CLASSES, LABELS = Reading(Kind.CLASSES), Reading(Kind.LOGITS)


def test_soft_loss_of_classes_by_hand() -> None:
    """Teacher (3/4, 1/4) at T = 2, student (1/2, 1/2): 4 * (3/4 log 3/2 + 1/4 log 1/2)."""
    told = torch.tensor([[2 * np.log(3), 0.0]])
    expected = 4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert float(soft_loss(torch.zeros(1, 2), told, 2.0, CLASSES, torch.tensor([0]))) == pytest.approx(
        expected, rel=1e-5
    )
    assert float(soft_loss(told, told, 2.0, CLASSES, torch.tensor([0]))) == pytest.approx(0, abs=1e-6)
    # Without labels, and for a teacher that says probabilities.
    assert float(soft_loss(torch.zeros(1, 2), told, 2.0, CLASSES)) == pytest.approx(expected, rel=1e-5)
    sure = told.softmax(1)
    assert float(soft_loss(torch.zeros(1, 2), sure, 2.0, teacher=Ending.SOFTMAX)) == pytest.approx(expected, rel=1e-5)


def test_soft_loss_of_tokens_skips_what_does_not_count() -> None:
    told = torch.tensor([[[2 * np.log(3), 0.0], [9.0, 0.0], [5.0, 7.0]]])
    expected = 4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    target = torch.tensor([[0, -100, -100]])
    assert float(soft_loss(torch.zeros(1, 3, 2), told, 2.0, CLASSES, target)) == pytest.approx(expected, rel=1e-5)
    # One ahead: the scores at the first position are of the target at the second.
    ahead = Reading(Kind.CLASSES, is_ahead=True)
    target = torch.tensor([[-100, 0, -100]])
    assert float(soft_loss(torch.zeros(1, 3, 2), told, 2.0, ahead, target)) == pytest.approx(expected, rel=1e-5)


def test_soft_loss_of_labels_by_hand() -> None:
    """The teacher says 3/4, the student 1/2: log 2, whether they say it as logits or behind a sigmoid."""
    logits, sure = torch.full((3, 2), np.log(3.0)), torch.full((3, 2), 0.75)
    for value, student in ((torch.zeros(3, 2), Ending.OPEN), (torch.full((3, 2), 0.5), Ending.SIGMOID)):
        for told, teacher in ((logits, Ending.OPEN), (sure, Ending.SIGMOID)):
            found = soft_loss(value, told, 4.0, LABELS, student=student, teacher=teacher)
            assert float(found) == pytest.approx(np.log(2), rel=1e-5)


def test_soft_loss_of_numbers_by_hand() -> None:
    assert float(soft_loss(torch.ones(2, 1), torch.zeros(2, 1), 2.0, Reading(Kind.NUMBERS), torch.ones(2))) == 1.0
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
    assert all(one.grad is None for one in animal.model.parameters())
    assert not same(state(trained), state(student))


def test_only_the_teacher_at_alpha_one() -> None:
    """Labels have no say then."""
    animal = ZOO["perceptron"]()
    x, y = animal.data
    one = distill(animal.model, small(), (x, y), epochs=2, alpha=1.0)
    other = distill(animal.model, small(), (x, (y + 1) % 3), epochs=2, alpha=1.0)
    assert same(state(one), state(other))


def test_no_teacher_at_alpha_zero() -> None:
    animal = ZOO["perceptron"]()
    pair = distill(animal.model, small(), animal.data, epochs=2, alpha=0.0, control=True)
    assert isinstance(pair, Distillation)
    assert same(state(pair.student), state(pair.control))


def test_the_student_comes_near_its_teacher() -> None:
    animal = ZOO["perceptron"]()
    finetune(animal.model, animal.data, epochs=30, lr=0.01)
    pair = distill(animal.model, small(), animal.data, epochs=30, lr=0.02, control=True)
    told = animal.output(animal.model).softmax(1)

    def distance(model: nn.Module) -> float:
        return float((animal.output(model).softmax(1) - told).abs().mean())

    assert distance(pair.student) < distance(small())
    assert distance(pair.student) < distance(pair.control)


def test_a_compressed_student_keeps_its_promises() -> None:
    animal = ZOO["perceptron"]()
    student = quantize(prune(animal.model, 0.7), 3)
    trained = distill(animal.model, student, animal.data, epochs=2, lr=0.01)
    assert_promises(trained)
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
    match = Match("0:0", teacher, student)
    with match.listening():
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
                told, near, far = (one[:2](animal.example) for one in (animal.model, matched, plain))
            assert float((near - told).square().mean()) < 0.5 * float((far - told).square().mean())
        assert not any(one._forward_hooks for model in (animal.model, wide, matched) for one in model.modules())


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
    assert_promises(distill(animal.model, student, animal.data, epochs=2, lr=0.01, match="1:1"))


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
        ({"epochs": -1}, "epochs must be a whole number from 0, got -1"),
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
        assert all(one.requires_grad for one in trained.parameters())


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
    with pytest.raises(CompressionError, match="finetune must be a whole number from 0, got -1"):
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
    told = teacher(x)
    labels = (told[1] > 0.5).float()

    def distances(model: nn.Module) -> list[float]:
        return [float((one - other).detach().square().mean()) for one, other in zip(model(x), told, strict=True)]

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
    unlabelled = distill(teacher, model(64), [(one,) for one in x.split(64)], epochs=80, lr=0.02, alpha=1.0)
    for trained in (teacher, student, unlabelled):
        near = (trained(x).argmax(1) - blurred.argmax(1)).abs() <= 1
        assert float(near.float().mean()) > 0.8


def test_inputs_alone_teach_at_alpha_one() -> None:
    animal = ZOO["perceptron"]()
    x, y = animal.data
    one = distill(animal.model, small(), [(x, y)], epochs=2, alpha=1.0)
    other = distill(animal.model, small(), [(x,)], epochs=2, alpha=1.0)
    assert same(state(one), state(other))
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

    def loss(said: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        calls.append(told.shape)
        return nn.functional.mse_loss(said, told)

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
