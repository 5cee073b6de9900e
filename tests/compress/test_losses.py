"""What decides on a loss, each case with a value worked by hand."""

from __future__ import annotations

from math import log
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from nbcompress.compress import finetune, prune, quantize
from nbcompress.compress.data import Batches
from nbcompress.compress.losses import Kind, LossSpec, Reading, class_scores
from nbcompress.errors import CompressionError, DataError
from nbcompress.measure import accuracy


class Says(nn.Module):
    """Gives back its input, as a layer that could say anything, behind a last operation."""

    def __init__(self, after: nn.Module | None = None) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))
        self.zero = nn.Parameter(torch.zeros(()))
        self.after = after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        # A product with a matrix, so that it can be seen to be open.
        flat = x.reshape(-1, 1) @ self.one.reshape(1, 1)
        return self.after(flat.reshape(x.shape))


def loss_of(output: Any, target: Any, after: nn.Module | None = None, **options: Any) -> float:
    model = Says(after)
    data = [(torch.as_tensor(output, dtype=torch.float32), torch.as_tensor(target))]
    found = LossSpec(**options).reading(model, data)(model, Batches(data).first(model))
    assert found is not None
    return float(found.detach())


def test_classes_by_hand() -> None:
    """Two equal scores: log 2. A score of log 3 against 0: -log(3/4)."""
    assert loss_of([[0.0, 0.0]], [0]) == pytest.approx(log(2))
    assert loss_of([[log(3), 0.0]], [[0]]) == pytest.approx(log(4 / 3))
    assert loss_of([[log(3), 0.0]], torch.tensor([0], dtype=torch.int32)) == pytest.approx(log(4 / 3))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape", ["(N,) (N,)", "(N, 1) (N,)", "(N,) (N, 1)", "(N, 1) (N, 1)", "(N, 1, H, W) (N, H, W)"]
)
def test_one_logit_by_hand(dtype: torch.dtype, shape: str) -> None:
    """log 3 of a one: -log(3/4); of a zero: -log(1/4)."""
    shapes = {
        "(N,) (N,)": ((4,), (4,)),
        "(N, 1) (N,)": ((4, 1), (4,)),
        "(N,) (N, 1)": ((4,), (4, 1)),
        "(N, 1) (N, 1)": ((4, 1), (4, 1)),
        "(N, 1, H, W) (N, H, W)": ((1, 1, 2, 2), (1, 2, 2)),
    }
    first, second = shapes[shape]
    output, target = torch.full(first, log(3.0)), torch.tensor([1, 1, 1, 0], dtype=dtype).reshape(second)
    expected = (3 * log(4 / 3) + log(4)) / 4
    assert loss_of(output, target) == pytest.approx(expected, rel=1e-5)
    # Behind a sigmoid these are probabilities of 3/4.
    assert loss_of(output, target, nn.Sigmoid()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_several_labels_by_hand(dtype: torch.dtype) -> None:
    target = torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=dtype)
    output = torch.full((2, 3), log(3.0))
    expected = (2 * log(4 / 3) + 4 * log(4)) / 6
    assert loss_of(output, target) == pytest.approx(expected, rel=1e-5)
    assert loss_of(output, target, nn.Sigmoid()) == pytest.approx(expected, rel=1e-5)
    if dtype is torch.int64:
        target[1] = -100
        assert loss_of(output, target) == pytest.approx((2 * log(4 / 3) + log(4)) / 3, rel=1e-5)


def test_numbers_by_hand() -> None:
    assert loss_of([[1.0], [3.0]], [0.5, 0.0]) == pytest.approx((0.25 + 9) / 2)
    assert loss_of([1.0, 3.0], torch.tensor([[2.0], [0.0]]).double()) == 5.0
    # Behind a sigmoid, what is to be said is a probability: 1/2 against 1/4.
    assert loss_of([0.0], [0.25], nn.Sigmoid()) == pytest.approx(log(2))
    # Between 0 and 1 by another operation, numbers are numbers.
    assert loss_of([0.5], [0.25], nn.Hardtanh(0, 1)) == pytest.approx(0.0625)


def test_a_loss_of_ones_own() -> None:
    def loss(said: Tensor, target: Tensor) -> Tensor:
        return (said - target).abs().sum()

    assert loss_of([[1.0], [3.0]], [[0.0], [1.0]], loss=loss) == 3.0
    with pytest.raises(CompressionError, match=r"the loss must be a tensor with one number, got shape \(2, 1\)"):
        loss_of([[1.0], [3.0]], [[0.0], [1.0]], loss=lambda said, target: said)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5, 5)])
def test_rows_of_one_1_may_be_classes(shape: tuple[int, ...]) -> None:
    places = torch.randint(0, 3, (4, *shape[2:]))
    target = functional.one_hot(places, 3).movedim(-1, 1).float()
    with pytest.raises(DataError, match=r"every row of the targets holds exactly one 1, .*argmax.* loss="):
        loss_of(torch.randn(shape), target)
    assert loss_of(torch.zeros(shape), target, loss=functional.cross_entropy) == pytest.approx(log(3))
    # The next batch tells that these are several labels.
    model, x = Says(), torch.randn(shape)
    more = [(x, target), (x, torch.ones(shape))]
    assert LossSpec().reading(model, more).kind is Kind.LOGITS
    together = (torch.cat([x, x]), torch.cat([target, torch.ones(shape)]))
    assert LossSpec().reading(model, together).kind is Kind.LOGITS


@pytest.mark.parametrize(
    ("output", "target", "after", "text"),
    [
        ([[0.5], [0.2]], [1, 0], nn.Hardtanh(0, 1), r"lie in \[0, 1\], but .* not end in a sigmoid, .* pass loss="),
        ([[0.5], [0.2]], [1.0, 0.0], nn.Hardsigmoid(), r"lie in \[0, 1\], but .* not end in a sigmoid"),
        ([[0.5, 0.2]], [1], nn.Softmax(1), "cross-entropy needs scores of classes, but the model ends in a softmax"),
        ([[0.5, 0.2]], [1], nn.Sigmoid(), "the model ends in a sigmoid, so they seem to be .* pass loss="),
        ([[0.5, 0.2]], [1], nn.Hardtanh(0, 1), r"all outputs lie in \[0, 1\], so they seem to be"),
        (
            [[0.5], [0.2]],
            [2.5, 0.0],
            nn.Sigmoid(),
            r"the model ends in a sigmoid, .* the targets run from 0 to 2.5: pass",
        ),
        (
            [[0.5], [0.2]],
            [2, 0],
            None,
            "one output takes integer targets of 0 and 1, but they run from 0 to 2: return a",
        ),
        ([[0.5, 0.1]], [[2, 0]], None, "0 and 1 for several labels, but they run from 0 to 2"),
        (torch.zeros(4, 3), [0, 1, 2, 3], None, "labels must be 0 to 2 for a model with 3 .* run from 0 to 3"),
        (torch.zeros(4, 3), [-1, 1, 2, 0], None, "they run from -1 to 2"),
        (torch.zeros(4, 3), [0, 1, 255, 0], None, r"CrossEntropyLoss\(ignore_index=255\)"),
        (torch.zeros(4, 3), torch.zeros(5).long(), None, r"with one axis more.*got targets \(5,\)"),
        (torch.zeros(4, 3), torch.zeros(4, 2), None, r"the shape of the outputs, got targets \(4, 2\)"),
        (torch.zeros(4), torch.zeros(4).bool(), None, "must be integer labels or float values, got torch.bool"),
    ],
)
def test_unclear(output: Any, target: Any, after: nn.Module | None, text: str) -> None:
    with pytest.raises(DataError, match=text):
        loss_of(output, target, after)


def test_targets_that_are_no_tensor() -> None:
    with pytest.raises(DataError, match="must be integer labels or float values, got list"):
        LossSpec().reading(Says(), [(torch.zeros(4), ["a", "b", "c", "d"])])


def test_a_logit_that_is_small_is_a_logit() -> None:
    """A fresh linear layer may say 0.1 of everything: that it is no probability shows by how it ends."""
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.fill_(0.1)
    assert LossSpec().reading(model, (torch.randn(8, 2), torch.randint(0, 2, (8,)))).kind is Kind.LOGITS


def test_targets_that_turn_out_to_be_numbers() -> None:
    x = torch.randn(4, 2)
    first, later = torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([2.0, 1.0, 3.0, 0.0])
    with pytest.raises(DataError, match="0 and 1 in the first batch, but now they run from 0 to 3: pass loss="):
        finetune(nn.Linear(2, 1), [(x, first), (x, later)])
    # In memory all of them are seen at once.
    for data in (
        (torch.cat([x, x]), torch.cat([first, later])),
        DataLoader(TensorDataset(torch.cat([x, x]), torch.cat([first, later])), 4),
    ):
        assert LossSpec().reading(nn.Linear(2, 1), data).kind is Kind.NUMBERS


def test_classes_last_or_second() -> None:
    tokens = torch.randn(2, 5, 3)
    labels = torch.randint(0, 3, (2, 5))
    last, _ = class_scores(tokens, labels)
    second, _ = class_scores(tokens.movedim(-1, 1), labels)
    assert torch.equal(last, second)


def test_labels_that_do_not_count() -> None:
    """A batch without any label that counts is left out; data of only such batches is refused."""
    x, labels, none = torch.randn(4, 2), torch.tensor([0, 1, -100, 1]), torch.full((4,), -100)
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.load_state_dict(one.state_dict())
    finetune(one, [(x, labels)], epochs=2)
    finetune(other, [(x, labels), (x, none)], epochs=2)
    assert torch.equal(one.weight, other.weight)
    for use in (
        lambda: finetune(one, [(x, none)]),
        lambda: prune(one, 0.5, criterion="gradient", data=[(x, none)]),
        lambda: finetune(one, [(x, labels)], valid=[(x, none)], patience=1),
    ):
        with pytest.raises(DataError, match="at least one label, but all labels are -100, which stands for none"):
            use()
    void = torch.tensor([0, 1, 255, 1])
    loss = nn.CrossEntropyLoss(ignore_index=255)
    third = nn.Linear(2, 2)
    third.load_state_dict(one.state_dict())
    finetune(one, (x, labels))
    finetune(third, (x, void), loss=loss)
    assert torch.equal(one.weight, third.weight)
    assert accuracy(one, (x, void), loss=loss).is_right.tolist()[3:] == accuracy(one, (x, labels)).is_right.tolist()[3:]
    assert accuracy(one, (x, void), loss=loss).n == 3


class Tokens(nn.Module):
    """Says log 3 for one token after the one that it reads, 0 for the other two; of the last one its own."""

    def __init__(self, sees_ahead: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 3)
        self.sees_ahead = sees_ahead
        with torch.no_grad():
            self.embedding.weight.copy_(log(3.0) * torch.eye(3).roll(1, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        said = self.embedding(tokens)
        return said + said.mean(1, keepdim=True) if self.sees_ahead else said


# Each next token is the one that the model says: 0 1 2 0.
IDS = torch.tensor([[0, 1, 2, 0], [1, 2, 0, 1]])
NEXT = -log(3 / 5)


class OfItsOwn(Tokens):
    """As language models of Hugging Face."""

    is_shifting = True

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Any:
        logits = super().forward(input_ids)
        found: dict[str, Any] = {"logits": logits, "past_key_values": (logits, logits)}
        if labels is not None:
            said, right = (logits[:, :-1], labels[:, 1:]) if self.is_shifting else (logits, labels)
            found["loss"] = functional.cross_entropy(said.reshape(-1, 3), right.reshape(-1))
        return found


def read(model: nn.Module, data: Any) -> tuple[Reading, float]:
    reading = LossSpec().reading(model, data)
    found = reading(model, Batches(data).first(model))
    assert found is not None
    return reading, float(found.detach())


def test_a_causal_model_without_a_loss_of_its_own() -> None:
    """Labels that are the inputs are shifted by one, those that are ahead already are not."""
    model = Tokens()
    reading, loss = read(model, [(IDS, IDS)])
    assert loss == pytest.approx(NEXT)
    assert reading.is_ahead
    assert reading.is_language
    reading, loss = read(model, [(IDS[:, :-1], IDS[:, 1:])])
    assert loss == pytest.approx(NEXT)
    assert not reading.is_ahead
    assert reading.is_language
    masked = IDS.clone()
    masked[:, :2] = -100
    assert read(model, [(IDS, masked)])[1] == pytest.approx(NEXT)
    assert float(accuracy(model, [(IDS, IDS)])) == 1.0
    assert accuracy(model, [(IDS, IDS)]).n == 6
    with pytest.raises(DataError, match="the targets are the inputs, but the model sees all positions at once"):
        read(Tokens(sees_ahead=True), [(IDS, IDS)])


def test_a_tagger_is_no_language_model() -> None:
    model = nn.Embedding(5, 3)
    tags = torch.tensor([[2, 1, 0, 2], [1, 2, 2, 1]])
    reading, _ = read(model, [(IDS, tags)])
    assert reading.kind is Kind.CLASSES
    assert not reading.is_ahead
    assert not reading.is_language


def test_the_models_own_loss() -> None:
    model = OfItsOwn()
    mask = torch.ones_like(IDS)
    for data in (
        [{"input_ids": IDS, "attention_mask": mask, "labels": IDS}],
        [({"input_ids": IDS, "attention_mask": mask}, IDS)],
        [(IDS, IDS)],
    ):
        reading, loss = read(model, data)
        assert loss == pytest.approx(NEXT)
        assert (reading.is_own, reading.is_ahead, reading.is_language) == (True, True, True)
        assert float(accuracy(model, data)) == 1.0
    # A pair whose targets are one ahead already is not moved twice.
    reading, loss = read(model, [(IDS[:, :-1], IDS[:, 1:])])
    assert loss == pytest.approx(NEXT)
    assert not reading.is_own
    # A model that does not move its labels, as nanoGPT's.
    model.is_shifting = False
    reading, loss = read(model, [(IDS[:, :-1], IDS[:, 1:])])
    assert loss == pytest.approx(NEXT)
    assert (reading.is_own, reading.is_ahead) == (True, False)


def test_an_argument_that_is_no_label_stays_an_input() -> None:
    class Guided(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
            assert y is None
            return x

    assert LossSpec().reading(Guided(), [(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))]).kind is Kind.CLASSES


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=17, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model: nn.Module = transformers.GPT2LMHeadModel(config)
    return model


def test_gpt2_survives_finetuning() -> None:
    model = gpt2()
    tokens = (torch.randint(0, 17, (64, 1)) + 3 * torch.arange(12)) % 17
    data = [{"input_ids": part, "attention_mask": torch.ones_like(part), "labels": part} for part in tokens.split(16)]

    def own(one: nn.Module) -> float:
        with torch.no_grad():
            return sum(float(one.eval()(**batch).loss) for batch in data) / len(data)

    reading, loss = read(model.eval(), data)
    assert (reading.is_own, reading.is_ahead, reading.is_language) == (True, True, True)
    assert loss == pytest.approx(float(model(**data[0]).loss.detach()), rel=1e-5)
    finetune(model, data, epochs=15, lr=3e-3)
    before = own(model)
    assert before < 0.5
    small = quantize(model, 4, data=data, finetune=2)
    assert own(small) < 1.2 * before
    assert float(accuracy(small, data)) > 0.95
    pairs = (tokens[:, :-1], tokens[:, 1:])
    assert LossSpec().reading(model, pairs).is_own is False
    assert float(accuracy(small, pairs)) > 0.95


def test_other_models_of_hugging_face() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=17,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
        max_position_embeddings=16,
    )
    tokens = torch.randint(0, 17, (8, 12))
    labels = {
        transformers.BertForSequenceClassification: torch.randint(0, 3, (8,)),
        transformers.BertForTokenClassification: torch.randint(0, 3, (8, 12)),
        transformers.BertForMaskedLM: torch.where(torch.rand(8, 12) < 0.3, tokens, -100),
    }
    for cls, target in labels.items():
        model = cls(config).eval()
        data = [{"input_ids": tokens, "labels": target}]
        reading, loss = read(model, data)
        assert (reading.is_own, reading.is_ahead) == (True, False)
        assert loss == pytest.approx(float(model(input_ids=tokens, labels=target).loss.detach()), rel=1e-5)
        assert reading.is_language is (cls is transformers.BertForMaskedLM)
        assert accuracy(model, data).n == int((target != -100).sum())
        finetune(model, data, epochs=1)
    config.problem_type = "multi_label_classification"
    model = transformers.BertForSequenceClassification(config).eval()
    data = [{"input_ids": tokens, "labels": torch.randint(0, 2, (8, 3)).float()}]
    assert read(model, data)[0].kind is Kind.LOGITS
    assert accuracy(model, data).n == 24


def test_a_classifier_with_one_logit_holds_its_accuracy() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_breast_cancer(return_X_y=True)
    x = torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)
    labels = torch.tensor(y)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 1))
    finetune(model, (x, labels), epochs=10, lr=0.01)
    assert float(accuracy(model, (x, labels))) > 0.98
    for target in (labels, labels.float(), labels[:, None], labels[:, None].float()):
        small = quantize(model, 4, data=(x, target), finetune=3)
        assert float(((small(x)[:, 0] > 0) == (labels == 1)).float().mean()) > 0.98
        assert float(accuracy(small, (x, target))) > 0.98
    with_sigmoid = nn.Sequential(*model, nn.Sigmoid())
    assert float(accuracy(with_sigmoid, (x, labels))) == float(accuracy(model, (x, labels)))


def test_labels_of_several_columns_count_one_by_one() -> None:
    scores = torch.tensor([[1.0, -1.0, 2.0], [-3.0, 1.0, -1.0]])
    target = torch.tensor([[1, 1, 1], [0, 1, 0]])
    found = accuracy(Says(), (scores, target))
    assert found.is_right.tolist() == [True, False, True, True, True, True]
    assert [(one.label, one.n) for one in found.per_class] == [(0, 2), (1, 4)]
    # Logits are over 0, probabilities over 1/2; a loss tells which they are where nothing else does.
    between = torch.tensor([[0.3], [0.9]])
    for loss, right in ((nn.BCELoss(), [True, True]), (nn.BCEWithLogitsLoss(), [False, True])):
        found = accuracy(nn.Identity(), (between, torch.tensor([0, 1])), loss=loss)
        assert found.is_right.tolist() == right
    with pytest.raises(DataError, match="probabilities or logits: pass loss="):
        accuracy(nn.Identity(), (between, torch.tensor([0, 1])))


def test_a_score_may_be_clear_where_a_loss_is_not() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Softmax(1))
    x = torch.randn(8, 2)
    labels = model(x).argmax(1)
    assert float(accuracy(model, (x, labels))) == 1.0
    with pytest.raises(DataError, match="the model ends in a softmax"):
        finetune(model, (x, labels))
    finetune(model, (x, labels), loss=lambda said, label: functional.nll_loss(said.log(), label))


def test_nothing_is_left_behind() -> None:
    """The decision draws no random number, moves no statistic, and leaves modes and gradients alone."""
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1), nn.Sigmoid())
    model[1].eval()
    before = [one.clone() for one in model.state_dict().values()]
    modes, random = [one.training for one in model.modules()], torch.get_rng_state()
    data = DataLoader(TensorDataset(torch.randn(8, 2), torch.randint(0, 2, (8,))), 4, shuffle=True)
    random = torch.get_rng_state()
    LossSpec().reading(model, data)
    assert all(torch.equal(one, other) for one, other in zip(before, model.state_dict().values(), strict=True))
    assert [one.training for one in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(one.requires_grad and one.grad is None for one in model.parameters())
