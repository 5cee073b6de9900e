"""Models in which the size of a tensor depends on the data: such a dimension holds no channels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import nbcompress as nc
from nbcompress.errors import CompressionError

OUTPUT = "it is an output of the model, and outputs keep their shape"


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        chosen: Tensor = self.choose(self.a(x).relu(), x[:, 0] > 0)
        return self.c(self.b(chosen).relu())  # type: ignore[no-any-return]

    def choose(self, h: Tensor, mask: Tensor) -> Tensor:
        return h[mask]


class Where(Layers):
    def choose(self, h: Tensor, mask: Tensor) -> Tensor:
        return h[torch.where(mask)[0]]


class Nonzero(Layers):
    def choose(self, h: Tensor, mask: Tensor) -> Tensor:
        return h.index_select(0, torch.nonzero(mask).squeeze(1))


class Repeat(Layers):
    def choose(self, h: Tensor, mask: Tensor) -> Tensor:
        return torch.repeat_interleave(h, mask.long() + 1, dim=0)


class Reshaped(Layers):
    """The size goes through reshapes, a concatenation and a sum."""

    def choose(self, h: Tensor, mask: Tensor) -> Tensor:
        rows = h[mask].unsqueeze(0).expand(3, -1, -1).reshape(-1, h.shape[1])
        return torch.cat([rows, rows.t().mul(2).t()]) + rows.new_ones(6, 1)[:1]


class Parts(Layers):
    def choose(self, h: Tensor, mask: Tensor) -> Tensor:
        n = mask.sum().item()
        return h.split([n, len(h) - n])[0]  # type: ignore[list-item]


class Images(nn.Module):
    """A mask for two of four dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(8, 16, 3, padding=1), nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x[:, :, None, None].expand(-1, -1, 4, 4)).relu().permute(0, 2, 3, 1)
        return self.c(self.b(h[(x[:, 0] > 0)[:, None].expand(-1, 4)]).relu())  # type: ignore[no-any-return]


class Pooled(Layers):
    """What the code makes of a literal width stays whole, by name."""

    def choose(self, h: Tensor, mask: Tensor) -> Tensor:
        values, places = torch.unique(mask, return_inverse=True)
        return torch.zeros(values.shape[0], 16, dtype=h.dtype).index_add(0, places, h)


class Selected(Layers):
    def choose(self, h: Tensor, mask: Tensor) -> Tensor:
        return torch.masked_select(h, mask[:, None]).view(-1, 16)


class OverChannels(Layers):
    """The data decide which channels are taken."""

    def choose(self, h: Tensor, mask: Tensor) -> Tensor:
        return F.pad(h[:, h.sum(0) > 0].sum(1, keepdim=True), (0, 15))


@pytest.mark.parametrize("kind", [Layers, Where, Nonzero, Repeat, Reshaped, Parts, Images])
@pytest.mark.parametrize("norms", ["keep", "cut"])
def test_channels_beside_a_size_that_depends_on_the_data_are_cut(
    kind: type[nn.Module], norms: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(6, 8)
    small = nc.prune(model, 0.5, granularity="channel", norms=norms, example=x)
    assert nc.record_of(small).left_out == {"c.weight": OUTPUT}
    assert [len(layer.weight) for layer in (small.a, small.b)] == [8, 6]
    y = torch.randn(9, 8)
    loaded = nc.load(nc.save(small, tmp_path / "small.nbz"), kind()).eval()
    assert torch.equal(loaded(y), small(y))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Pooled, "the cut model fails"),
        (Selected, "masked_select is an operator"),
        (OverChannels, "selects from it by a mask"),
    ],
)
def test_what_cannot_follow_is_left_whole_by_name(kind: type[nn.Module], reason: str) -> None:
    torch.manual_seed(0)
    small = nc.prune(kind().eval(), 0.5, granularity="channel", example=torch.randn(6, 8))
    assert [len(layer.weight) for layer in (small.a, small.b)] == [16, 6]
    assert reason in nc.record_of(small).left_out["a.weight"]


class Branching(Layers):
    def choose(self, h: Tensor, mask: Tensor) -> Tensor:
        return h[: int(mask.sum())]


def test_a_number_made_of_the_data_is_named_with_its_line() -> None:
    line = r"its code branches on the data \(choose, line \d+: return h\[: int\(mask.sum\(\)\)\]\)"
    with pytest.raises(CompressionError, match=line):
        nc.prune(Branching(), 0.5, granularity="channel", example=torch.randn(6, 8))


class Messages(nn.Module):
    """A graph network: a node sums the messages of its neighbours."""

    def __init__(self, reduce: str = "") -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(12, 3)
        self.reduce = reduce

    def passed(self, h: Tensor, edges: Tensor) -> Tensor:
        edges = edges[:, edges[0] != edges[1]]
        messages, places = h.index_select(0, edges[0]), edges[1].view(-1, 1)
        zeros = torch.zeros_like(h)
        if self.reduce:
            return zeros.scatter_reduce(0, places.expand_as(messages), messages, self.reduce)
        return zeros.scatter_add_(0, places.expand_as(messages), messages)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.passed(self.a(x), edges).relu()
        return self.c(self.passed(self.b(h), edges).relu())  # type: ignore[no-any-return]


EDGES = torch.tensor([[0, 1, 2, 3, 1, 4, 2], [1, 0, 3, 2, 4, 1, 2]])


@pytest.mark.parametrize("reduce", ["", "amax"])
def test_messages_that_are_gathered_by_number_carry_channels(reduce: str) -> None:
    torch.manual_seed(0)
    small = nc.prune(Messages(reduce).eval(), 0.5, granularity="channel", example=(torch.randn(5, 8), EDGES))
    assert nc.record_of(small).left_out == {"c.weight": OUTPUT}
    assert [len(layer.weight) for layer in (small.a, small.b)] == [8, 6]


@pytest.mark.parametrize("kind", ["GCNConv", "GATConv", "SAGEConv"])
def test_layers_of_pytorch_geometric(kind: str, tmp_path: Path) -> None:
    layer = getattr(pytest.importorskip("torch_geometric.nn"), kind)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = layer(8, 16), layer(16, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            return self.c(self.b(self.a(x, edges).relu(), edges).relu())  # type: ignore[no-any-return]

    inputs = (torch.randn(5, 8), EDGES)
    small = nc.prune(Net().eval(), 0.5, granularity="channel", example=inputs)
    assert nc.record_of(small).left_out == {"c.weight": OUTPUT}
    assert torch.equal(nc.load(nc.save(small, tmp_path / "small.nbz"), Net()).eval()(*inputs), small(*inputs))
