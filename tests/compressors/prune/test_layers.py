"""Whole blocks are removed: the model without them is the model whose blocks return their inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.compressors.data import Batches
from nbcompress.compressors.inputs import inputs_from_example
from nbcompress.compressors.prune.block_search import Block, bypassed, find_blocks
from nbcompress.compressors.prune.layers import change_of_outputs, own_change
from nbcompress.errors import ArtifactError, CompressionError, DataError


class Scale(nn.Module):
    """Multiplies by a matrix that is a number times the identity."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.inner.weight)
        self.inner.weight.data *= factor

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def scales(*factors: float) -> nn.Sequential:
    return nn.Sequential(*map(Scale, factors))


X = torch.tensor([[1.0, 2.0], [3.0, -1.0]])


def test_scores_by_hand() -> None:
    """The product of 2, 1.1 and 3 is 6.6. Without a factor f the output is 6.6 / f: it changes by (1 - 1/f)^2."""
    model = scales(2.0, 1.1, 3.0)
    blocks = find_blocks(model, inputs_from_example(X))
    assert [block.name for block in blocks.found] == ["0", "1", "2"]
    changes = change_of_outputs(model, [], blocks.found, blocks.calls, Batches((X, X)))
    assert changes == pytest.approx([(1 - 1 / f) ** 2 for f in (2.0, 1.1, 3.0)], rel=1e-5)
    # Without the second, the output is 6, and then without the first 3 instead of 6.6.
    after = change_of_outputs(model, [blocks.found[1]], blocks.found[:1], blocks.calls, Batches((X, X)))
    assert after == pytest.approx([((6.6 - 3) / 6.6) ** 2], rel=1e-5)
    assert own_change(model, blocks.found, inputs_from_example(X)) == pytest.approx([1.0, 0.01, 4.0], rel=1e-5)


def test_the_least_important_goes_and_names_move_up(tmp_path: Path) -> None:
    model = scales(2.0, 1.1, 3.0)
    for keywords in ({"example": X}, {"data": (X, X)}):
        small = nc.prune(model, 1 / 3, granularity="layer", **keywords)
        assert [item.inner.weight[0, 0].item() for item in small] == [2.0, 3.0]
        assert nc.record_of(small).kept_indices[""].tolist() == [0, 2]
    assert nc.record_of(small).scores[""] == pytest.approx(((1 - 1 / 1.1) ** 2, (1 - 1 / 3) ** 2), rel=1e-5)
    loaded = nc.load(nc.save(small, tmp_path / "small.nbz"), scales(1, 1, 1))
    assert torch.equal(loaded(X), small(X))
    assert nc.record_of(loaded).kept_indices[""].tolist() == [0, 2]
    assert len(model) == 3
    with pytest.raises(ArtifactError, match=r"module '' has no items \(0, 2\) that could be kept"):
        nc.load(tmp_path / "small.nbz", scales(1, 1))


def test_what_was_done_before_moves_with_its_block(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = scales(2.0, 1.1, 3.0)
    for item in model:
        item.inner.weight.data += 0.01 * torch.randn(2, 2)
    before = nc.quantize(nc.prune(model, 0.25, layers="2"), bits=4, layers=["1", "2"])
    small = nc.prune(before, 1 / 3, granularity="layer", example=X)
    tensors = nc.record_of(small).tensors
    assert set(tensors) == {"1.inner.weight"}
    assert tensors["1.inner.weight"] == nc.record_of(before).tensors["2.inner.weight"]
    loaded = nc.load(nc.save(small, tmp_path / "small.nbz"), scales(1, 1, 1))
    assert torch.equal(loaded(X), small(X))
    again = nc.prune(small, 0.5, granularity="layer", example=X)
    assert len(again) == 1
    assert len(nc.record_of(again).kept_indices[""]) == 1


def test_a_cut_within_a_block_keeps_its_name_right(tmp_path: Path) -> None:
    class Bottleneck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(2, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(torch.relu(self.up(x)))

    def build() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(*(Bottleneck() for _ in range(4)))

    cut = nc.prune(build(), 0.5, granularity="channel", example=X)
    small = nc.prune(cut, 0.5, granularity="layer", example=X)
    record = nc.record_of(small)
    positions = record.kept_indices[""].tolist()
    for new, old in enumerate(positions):
        assert torch.equal(record.kept_indices[f"{new}.up"], nc.record_of(cut).kept_indices[f"{old}.up"])
        assert torch.equal(nc.record_of(small[new]).kept_indices["up"], record.kept_indices[f"{new}.up"])
    smaller = nc.prune(small, 0.5, granularity="channel", example=X)
    loaded = nc.load(nc.save(smaller, tmp_path / "small.nbz"), build())
    assert torch.equal(loaded(X), smaller(X))


class Residual(nn.Module):
    def __init__(self, n: int, n_out: int | None = None) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(n, n_out or n, 3, padding=1, bias=False), nn.BatchNorm2d(n_out or n)
        self.short = nn.Conv2d(n, n_out, 1) if n_out else None

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)) + (x if self.short is None else self.short(x)))


class Attributes(nn.Module):
    """Residual blocks that are attributes, of which the third changes the width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.block1, self.block2, self.block3, self.block4 = Residual(4), Residual(4), Residual(4, 6), Residual(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block4(self.block3(self.block2(self.block1(self.stem(x)))))
        return self.head(x.mean((2, 3)))


def test_residual_blocks_that_are_attributes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Attributes().eval(), torch.randn(2, 3, 8, 8)
    small = nc.prune(model, 0.6, granularity="layer", example=x)
    steps = nc.record_of(small).surgery
    assert [step.kind for step in steps] == ["bypass", "bypass"]
    assert all(isinstance(small.get_submodule(step.module), nn.Identity) for step in steps)
    assert {step.module for step in steps} < {"block1", "block2", "block4"}
    loaded = nc.load(nc.save(small, tmp_path / "small.nbz"), Attributes()).eval()
    assert torch.equal(loaded(x), small(x))


def test_layers_of_equal_shape_in_a_row() -> None:
    """A layer goes with the norm and the activation that follow it, and the first and last layer stay."""
    torch.manual_seed(0)
    hidden = [item for _ in range(3) for item in (nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1))]
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), *hidden, nn.Linear(8, 3)).eval()
    x = torch.randn(5, 4)
    small = nc.prune(model, 0.34, granularity="layer", example=x)
    assert [type(item).__name__ for item in small] == [
        "Linear", "ReLU", *("Linear", "BatchNorm1d", "ReLU", "Dropout") * 2, "Linear",
    ]  # fmt: skip
    kept = nc.record_of(small).kept_indices[""].tolist()
    assert torch.equal(small(x), nn.Sequential(*(model[index] for index in kept))(x))


class Row(nn.Module):
    """Layers of equal shape that are attributes; what `conv1` computes is read by two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.conv1, self.norm1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv3, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(torch.relu_(self.stem(x)))).relu()
        x = self.conv3(torch.tanh(self.norm2(self.conv2(x)))) * self.other(x)
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """Queries, keys and values read one tensor; the output layer reads a product of theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.q(x) @ self.k(x).mT).softmax(-1) @ self.v(x))


class EncoderLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = (nn.TransformerEncoderLayer(8, 2, 16, 0.0) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer3(self.layer2(self.layer1(x)))


@pytest.mark.parametrize(
    ("build", "x", "blocks"),
    [
        (Row, torch.randn(2, 3, 8, 8), [("conv2", "norm2"), ("conv3",)]),
        (EncoderLayers, torch.randn(5, 2, 8), [("layer1",), ("layer2",), ("layer3",)]),
        (Attention, torch.randn(2, 5, 8), []),
    ],
)
def test_layers_that_are_attributes(
    build: Callable[[], nn.Module], x: Tensor, blocks: list[tuple[str, ...]], tmp_path: Path
) -> None:
    """A layer goes with its norm. Without a row nothing goes."""
    torch.manual_seed(0)
    model = build().eval()
    assert [block.paths for block in find_blocks(model, inputs_from_example(x)).found] == blocks
    if not blocks:
        with pytest.raises(CompressionError, match=r"finds no block that can go.*layers of equal shape in a row"):
            nc.prune(model, 0.5, granularity="layer", example=x)
        return
    small = nc.prune(model, 0.5 if len(blocks) == 2 else 0.4, granularity="layer", example=x)
    gone = tuple(step.module for step in nc.record_of(small).surgery)
    assert gone in blocks
    with bypassed(model, [Block(None, gone)], find_blocks(model, inputs_from_example(x)).calls):
        assert torch.equal(small(x), model(x))
    loaded = nc.load(nc.save(small, tmp_path / "small.nbz"), build()).eval()
    assert torch.equal(loaded(x), small(x))


# Models of Hugging Face and torch, with more layers than the zoo's.


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 4}
    return BertForSequenceClassification(BertConfig(vocab_size=40, max_position_embeddings=16, **sizes))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=4, n_head=2, bos_token_id=0, eos_token_id=39)
    )


def qwen() -> nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=40, num_hidden_layers=4, max_position_embeddings=32, **sizes))


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=40,
            d_model=16,
            d_kv=8,
            d_ff=24,
            num_layers=3,
            num_decoder_layers=3,
            num_heads=2,
            decoder_start_token_id=0,
        )
    )


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 4), nn.Linear(16, 2)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        return self.head(self.encoder(x, src_key_padding_mask=padding).mean(1))


TOKENS = torch.randint(1, 39, (2, 7), generator=torch.Generator().manual_seed(0))
IDS = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}
SEQUENCES = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(1))

PADDING = torch.arange(7) > torch.tensor([[6], [4]])

MODELS: dict[str, tuple[Callable[[], nn.Module], object, str]] = {
    "BERT": (bert, IDS, "bert.encoder.layer"),
    "GPT-2": (gpt2, IDS, "transformer.h"),
    "Qwen2": (qwen, IDS, "model.layers"),
    "encoder of torch": (Encoder, SEQUENCES, "encoder.layers"),
    "encoder of torch with padding": (
        Encoder,
        (SEQUENCES, torch.arange(7) > torch.tensor([[6], [4]])),
        "encoder.layers",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_stacks_lose_layers(name: str, tmp_path: Path) -> None:
    build, example, container = MODELS[name]
    torch.manual_seed(0)
    model = build().eval()
    small = nc.prune(model, 0.5, granularity="layer", example=example).eval()
    kept = nc.record_of(small).kept_indices[container].tolist()
    assert len(small.get_submodule(container)) == len(kept) == 2
    inputs = inputs_from_example(example)
    blocks = find_blocks(model, inputs)
    gone = [block for block in blocks.found if block.positions[0] not in kept]
    with torch.no_grad():
        with bypassed(model, gone, blocks.calls):
            expected = first_of(inputs(model))
        torch.testing.assert_close(first_of(inputs(small)), expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(expected, first_of(inputs(model)), rtol=0, atol=1e-5)
        loaded = nc.load(nc.save(small, tmp_path / "small.nbz"), build()).eval()
        assert torch.equal(first_of(inputs(loaded)), first_of(inputs(small)))
    if not isinstance(example, tuple):  # torch's encoder leaves out padded positions only where it is not traced
        if hasattr(loaded, "config"):
            loaded.config.use_cache = False
        assert nc.export(loaded, tmp_path / "small.pt2", example=example).stat().st_size > 0


def first_of(result: Any) -> Tensor:
    return result if isinstance(result, Tensor) else next(iter(result.values()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("build", [gpt2, qwen])
def test_caches_and_configurations_know_the_new_depth(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    """A layer finds its cache by its index: with a wrong one, generating with a cache gives other tokens or fails."""
    torch.manual_seed(0)
    model: Any = build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    small: Any = nc.prune(model, 0.5, granularity="layer", data=[(IDS, TOKENS)], output="logits").eval()
    assert small.config.num_hidden_layers == 2
    assert model.config.num_hidden_layers == 4
    assert len(getattr(small.config, "layer_types", None) or [0, 0]) == 2
    indices = [module.layer_idx for module in small.modules() if hasattr(module, "layer_idx")]
    assert set(indices) == {0, 1}
    keywords = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    with_cache = small.generate(**IDS, use_cache=True, **keywords)
    assert torch.equal(with_cache, small.generate(**IDS, use_cache=False, **keywords))
    # The configuration describes the smaller model, so that the library's own format holds it.
    small.save_pretrained(tmp_path / "pretrained")
    again = type(small).from_pretrained(tmp_path / "pretrained").eval()
    assert torch.equal(again(**IDS).logits, small(**IDS).logits)


@pytest.mark.filterwarnings("ignore")
def test_a_block_that_later_blocks_need_stays(tmp_path: Path) -> None:
    """The first block of T5 computes the position bias of all blocks."""
    torch.manual_seed(0)
    model: Any = t5().eval()
    example = {**IDS, "decoder_input_ids": TOKENS[:, :4]}
    small: Any = nc.prune(model, 0.5, granularity="layer", example=example).eval()
    record = nc.record_of(small)
    kept = record.kept_indices
    assert kept["encoder.block"][0] == 0
    assert kept["decoder.block"][0] == 0
    assert "it returns more than its output, which a later layer needs" in record.left_out["encoder.block.0"]
    assert len(small.encoder.block) == small.encoder.config.num_layers == small.config.num_layers
    assert len(small.decoder.block) == small.decoder.config.num_layers == small.config.num_decoder_layers
    loaded: Any = nc.load(nc.save(small, tmp_path / "small.nbz"), t5()).eval()
    assert torch.equal(loaded(**example).logits, small(**example).logits)
    tokens = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(
        small.generate(**IDS, use_cache=True, **tokens), small.generate(**IDS, use_cache=False, **tokens)
    )


class Added(nn.Module):
    """Residual branches in a list: each adds its share of the input, so the model gives the product of 1 + share."""

    def __init__(self, *shares: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Sequential(nn.Linear(2, 2, bias=False)) for _ in shares])
        for branch, share in zip(self.branches, shares, strict=True):
            branch[0].weight.data = share * torch.eye(2)

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x)
        return x


@pytest.mark.parametrize("data", [None, (X, X)])
def test_residual_branches_in_a_list(data: Any, tmp_path: Path) -> None:
    model = Added(1.0, 0.1, 2.0, 0.25)
    small = nc.prune(model, 0.5, granularity="layer", data=data, example=X)
    assert nc.record_of(small).kept_indices["branches"].tolist() == [0, 2]
    torch.testing.assert_close(small(X), 6.0 * X)
    if data is None:
        # What a branch adds, as a share of its input.
        assert nc.record_of(small).scores["branches"] == pytest.approx((0.01, 4.0), rel=1e-5)
    assert torch.equal(nc.load(nc.save(small, tmp_path / "small.nbz"), Added(0, 0, 0, 0))(X), small(X))


class Alternating(nn.Module):
    """Code that uses the position of a layer: without one the others are used in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x) * (1 + index)
        return x


class Fixed(Alternating):
    def forward(self, x: Tensor) -> Tensor:
        for index in range(4):
            x = self.layers[index](x)
        return x


def test_code_that_counts_layers_is_refused_by_name() -> None:
    x = torch.randn(3, 4)
    # Only the last can go: the positions of the others stay. Its factor goes with it, so it is refused, too.
    with pytest.raises(
        CompressionError, match=r"finds no block that can go \(layers.\d: outputs differ from those of the"
    ):
        nc.prune(Alternating(), 0.5, granularity="layer", example=x)
    with pytest.raises(CompressionError, match=r"layers.\d: the model fails without it: .*index"):
        nc.prune(Fixed(), 0.5, granularity="layer", example=x)


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"amount": 0.1}, r"amount=0.1 rounds to none of 3 blocks, so pass at least 0.167"),
        ({"amount": 1}, r"amount must leave blocks, so it is below 1, got 1"),
        ({"amount": 0.5, "criterion": "activation", "data": (X, X)}, r"takes magnitude .* or random, got criterion="),
        ({"amount": 0.5, "scope": "layer"}, r"ranks all blocks together: leave out scope="),
        ({"threshold": 0.5}, r"granularity='layer' removes a share: pass amount= instead of threshold="),
        ({"amount": 0.5, "layers": "1"}, r"keeps at least one block, but there is only '1' to remove"),
        ({"amount": 0.5, "norms": "cut"}, r"norms='cut' concerns the width of channels"),
    ],
)
def test_refused(keywords: dict[str, Any], text: str) -> None:
    with pytest.raises(CompressionError, match=text):
        nc.prune(scales(2.0, 1.1, 3.0), granularity="layer", example=X, **keywords)


def test_needs_an_input() -> None:
    with pytest.raises(DataError, match=r"granularity='layer' runs the model once: pass example="):
        nc.prune(scales(2.0, 1.1), 0.5, granularity="layer")


def test_one_block_stays_and_patterns_choose() -> None:
    model = scales(2.0, 1.1, 3.0)
    assert len(nc.prune(model, 0.99, granularity="layer", example=X)) == 1
    small = nc.prune(model, 0.5, granularity="layer", example=X, layers=["0", "2"])
    assert [item.inner.weight[0, 0].item() for item in small] == pytest.approx([1.1, 3.0])
    copy = nc.prune(model, 0, granularity="layer", example=X)
    assert copy is not model
    assert len(copy) == 3
    first, second = (nc.prune(model, 0.5, granularity="layer", example=X, criterion="random", seed=3) for _ in range(2))
    assert torch.equal(first(X), second(X))


def test_trained_between_the_steps() -> None:
    """Four blocks, of which one goes before each of two epochs."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.Tanh()) for _ in range(4)), nn.Linear(2, 1))
    data = torch.randn(64, 2), torch.randn(64, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = nc.prune(model, granularity="layer", schedule=[0.25, 0.5], data=data, finetune=3)
    assert len(small) == 3
    assert len(nc.record_of(small).surgery) == 2
