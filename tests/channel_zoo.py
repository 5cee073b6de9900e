"""Small models whose channels are coupled in many ways, each with an example and the expected result of a cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class ChannelCase:
    """A model of the zoo, and the expected result of a cut.

    Attributes:
        build: Creates the model.
        example: Creates its input.
        cut: Layers whose weights must lose outputs, with the number of outputs that are left at amount=.5.
        kept: Weights that must not change, with a part of the reason.
        refused: A part of the error, for a model that is refused as a whole.
    """

    build: Callable[[], nn.Module]
    example: Callable[[], object]
    cut: dict[str, int]
    kept: dict[str, str]
    refused: str = ""


def image(channels: int = 3, size: int = 8, batch: int = 2) -> Callable[[], Tensor]:
    return lambda: torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(5))


def vectors(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape, generator=torch.Generator().manual_seed(6))


class PlainCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3)
        self.fc1, self.fc2 = nn.Linear(12 * 4, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        return self.fc2(torch.tanh(self.fc1(x.view(x.size(0), -1))))


def vgg() -> nn.Module:
    def block(i: int, o: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True), nn.MaxPool2d(2)]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(16, 4)]
    return nn.Sequential(*block(3, 8), *block(8, 16), *head)


class BasicBlock(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        nn.init.zeros_(self.bn2.weight)
        self.down = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)) if i != o else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (x if self.down is None else self.down(x)))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.layer1, self.layer2, self.layer3 = BasicBlock(8, 8, 1), BasicBlock(8, 16, 2), BasicBlock(16, 16, 1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(self.stem(x)))).mean((2, 3)))


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(12)
        self.conv3, self.fc = nn.Conv2d(12, 6, 3, padding=1), nn.Linear(18, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv1(x)
        b = torch.cat([a, self.conv2(F.relu(a))], 1)
        c = torch.cat([b, self.conv3(F.relu(self.bn(b)))], 1)
        return self.fc(F.adaptive_avg_pool2d(c, 1).flatten(1))


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.mid, self.down = nn.Linear(6, 32), nn.Linear(16, 24), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.up(x).chunk(2, dim=-1)
        return self.down(F.glu(self.mid(a * torch.sigmoid(b)), dim=-1))


class Halves(nn.Module):
    """A chunk whose pieces are used differently."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.left, self.right = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 6, 3), nn.Conv2d(8, 6, 3)
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        left, right = up[:, : up.size(1) // 2], up[:, up.size(1) // 2 :]
        return self.head(torch.cat([self.left(left), self.right(F.relu(right))], 1))


def mobile() -> nn.Module:
    def separable(i: int, o: int) -> list[nn.Module]:
        depthwise = nn.Conv2d(i, i, 3, padding=1, groups=i, bias=False)
        return [depthwise, nn.BatchNorm2d(i), nn.ReLU6(), nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU6()]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)]
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), *separable(8, 16), nn.Conv2d(16, 32, 1, groups=16), *separable(32, 24), *head
    )


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 3, groups=4), nn.Conv2d(32, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 2, 3)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv1(x))
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return self.conv2(x * F.hardsigmoid(gate))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.up, self.leave = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 10, 3, padding=1)
        self.norm, self.head = nn.InstanceNorm2d(10, affine=True), nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.enter(x))
        low = F.interpolate(F.avg_pool2d(F.relu(self.down(skip)), 2), scale_factor=2, mode="nearest")
        return self.head(F.relu(self.norm(self.leave(torch.cat([skip, self.up(low)], dim=1)))))


class Signal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv1d(2, 16, 3), nn.GroupNorm(4, 16), nn.Conv1d(16, 8, 3)
        self.prelu, self.fc = nn.PReLU(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.conv2(F.elu(self.norm(self.conv1(x)))))
        return self.fc(x.transpose(1, 2)).sum(1)


class ResidualMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.a, self.b, self.leave = (
            nn.Linear(5, 16),
            nn.Linear(16, 32),
            nn.Linear(32, 16),
            nn.Linear(16, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.enter(x))
        x = x + self.b(F.gelu(self.a(x)))
        return self.leave(x)


class Reused(nn.Module):
    """One layer three times, and one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again, self.leave = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.tied = nn.Linear(16, 16)
        self.tied.weight = self.again.weight

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.enter(x))
        for _ in range(3):
            x = F.relu(self.again(x))
        return self.leave(self.tied(x))


class TransformerBlock(nn.Module):
    """Embeddings, a learned position, pre-norm attention by hand without fixed head counts, a feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(20, 16), nn.Parameter(torch.randn(1, 10, 16))
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(16), nn.LayerNorm(16), nn.LayerNorm(16)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.token.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids) + self.position[:, : ids.size(1)]
        y = self.norm1(x)
        q, k, v = (part(y).view(*y.shape[:2], -1, 4).transpose(1, 2) for part in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(self.norm3(x))


class PackedAttention(nn.Module):
    """Heads with their count in the code, packed into one layer, with a softmax by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.n_heads = 16, 8
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.scale = 2**-0.5

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        shares = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.out((shares @ v).transpose(1, 2).reshape(n, length, -1))


class GroupedQuery(nn.Module):
    """Two query heads for each key head."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(12, 32), nn.Linear(12, 16), nn.Linear(12, 16), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (-1, 4)).transpose(1, 2) for part in (self.q, self.k, self.v))
        k = k[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2)
        v = torch.repeat_interleave(v, 2, dim=1)
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class WithMultihead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 32, dropout=0.1, batch_first=True)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.encoder(self.enter(x)))


class Recurrent(nn.Module):
    def __init__(self, kind: str, hidden_size: int = 12, **options: Any) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 8)
        self.rnn = getattr(nn, kind)(8, hidden_size, num_layers=2, batch_first=True, **options)
        self.mid, self.leave = nn.Linear(24 if self.rnn.bidirectional else 12, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(F.relu(self.mid(self.rnn(F.relu(self.enter(x)))[0][:, -1])))


class HardView(nn.Module):
    """The flattened size is in the code: the call gets another one when the last convolution is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.fc1, self.fc2 = nn.Linear(128, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x)))).view(-1, 128)
        return self.fc2(F.relu(self.fc1(x)))


class SoftView(HardView):
    """The flattened size is an attribute, which can be changed."""

    def __init__(self) -> None:
        super().__init__()
        self.n_flat = 128

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x)))).view(-1, self.n_flat)
        return self.fc2(F.relu(self.fc1(x)))


class BranchOnData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x) if x.sum() > 0 else self.b(-x)


class TwoIn(nn.Module):
    """Keyword inputs, a dict of outputs, and a bare parameter that is added."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.bias = nn.Linear(4, 12), nn.Linear(3, 12), nn.Parameter(torch.randn(12))
        self.one, self.two = nn.Linear(12, 2), nn.Linear(12, 5)

    def forward(self, left: Tensor, right: Tensor | None = None, scale: float = 1.0) -> dict[str, Tensor]:
        x = self.left(left) * scale + self.bias
        x = x if right is None else x + self.right(right)
        return {"one": self.one(F.relu(x)), "two": self.two(torch.sin(x))}


class Shuffle(nn.Module):
    """Grouped 1x1 convolutions with a channel shuffle between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1, groups=2)
        self.depth, self.conv3 = nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.conv3(self.depth(x))


class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 32, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.pixel_shuffle(self.conv2(F.leaky_relu(self.conv1(x))), 2)).clamp(-1, 1)


class Decoder(nn.Module):
    """A linear layer whose outputs become channels and positions; the positions stay."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.up = nn.Linear(6, 16 * 4), nn.ConvTranspose2d(16, 8, 4, 2, 1, groups=2)
        self.head = nn.ConvTranspose2d(8, 1, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.head(F.relu(self.up(F.relu(self.fc(z)).view(z.size(0), -1, 2, 2)))))


class MaxOverChannels(nn.Module):
    """A maximum and a mean over channels, which change if a channel is removed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(2, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(F.relu(self.conv1(x)))
        return self.conv3(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1))


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.weight, self.leave = nn.Linear(4, 8), nn.Parameter(torch.randn(12, 8)), nn.Linear(12, 2)
        self.register_buffer("gain", torch.rand(12), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.einsum("nli,oi->nlo", self.enter(x), self.weight).relu() * self.gain)


class NamedHeads(nn.Module):
    """Attention whose code names the number of heads, their width and the width of all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size, self.n_attention_heads, self.attention_head_size, self.all_head_size = 16, 8, 2, 16
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.norm = nn.LayerNorm(16)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.n_attention_heads, self.attention_head_size).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.heads(self.query(x)), self.heads(self.key(x)), self.heads(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / self.attention_head_size**0.5
        shares = F.dropout(torch.softmax(scores + mask[:, None, None, :], -1), 0.1, self.training)
        context = torch.matmul(shares, v).permute(0, 2, 1, 3).contiguous()
        return self.norm(x + self.out(context.view(*context.shape[:-2], self.all_head_size)))


class TransposedLinear(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.weight, self.bias, self.n_out = nn.Parameter(torch.randn(i, o) / i), nn.Parameter(torch.randn(o)), o

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return flat.view(*x.shape[:-1], self.n_out)


class PackedSplit(nn.Module):
    """Queries, keys and values from one transposed layer, split by a number in the code, with a causal buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.n_heads, self.head_width = 24, 4, 6
        self.attn, self.proj = TransposedLinear(24, 72), TransposedLinear(24, 24)
        self.up, self.down, self.norm = TransposedLinear(24, 96), TransposedLinear(96, 24), nn.LayerNorm(24)
        self.register_buffer("causal", torch.tril(torch.ones(1, 1, 9, 9)).bool(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n = x.size(1)
        q, k, v = self.attn(self.norm(x)).split(self.width, dim=2)
        q, k, v = (part.view(*part.shape[:2], self.n_heads, self.head_width).transpose(1, 2) for part in (q, k, v))
        scores = (q @ k.transpose(-2, -1)).masked_fill(~self.causal[:, :, :n, :n], -1e4)
        x = x + self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(x), approximate="tanh"))


class Rotary(nn.Module):
    """Root-mean-square norms, rotated queries and keys, grouped heads, a gated feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        self.gain1, self.gain2 = nn.Parameter(torch.ones(16)), nn.Parameter(torch.ones(16))
        self.q, self.k, self.v = nn.Linear(16, 32, False), nn.Linear(16, 16, False), nn.Linear(16, 16, False)
        self.o, self.gate, self.up, self.down = (
            nn.Linear(32, 16),
            nn.Linear(16, 40),
            nn.Linear(16, 40),
            nn.Linear(40, 16),
        )
        self.register_buffer("speeds", 1.0 / 100 ** torch.linspace(0, 1, 2), persistent=False)

    def norm(self, x: Tensor, gain: Tensor) -> Tensor:
        return gain * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    @torch.no_grad()
    def angles(self, length: int) -> tuple[Tensor, Tensor]:
        angles = torch.outer(torch.arange(length).to(self.speeds), self.speeds)
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()

    def turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin

    def forward(self, x: Tensor) -> Tensor:
        y, (cos, sin) = self.norm(x, self.gain1), self.angles(x.size(1))
        q, k, v = (part(y).view(*x.shape[:2], -1, 4).transpose(1, 2) for part in (self.q, self.k, self.v))
        q, k = self.turned(q, cos, sin), self.turned(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(*x.shape[:2], -1))
        y = self.norm(x, self.gain2)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Window(nn.Module):
    """Shifted windows with a table of relative positions that has a column for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Conv2d(3, 16, 1), nn.LayerNorm(16)
        self.qkv, self.proj, self.n_heads = nn.Linear(16, 48), nn.Linear(16, 16), 4
        self.table = nn.Parameter(torch.randn(49, 4))
        self.register_buffer("places", torch.randint(0, 49, (16, 16)))
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.enter(x).permute(0, 2, 3, 1))
        x = torch.roll(x, (-2, -2), (1, 2))
        n, h, w, c = x.shape
        x = x.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.qkv(x).reshape(len(x), 16, 3, self.n_heads, 4).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.places.view(-1)].view(16, 16, -1).permute(2, 0, 1)
        shares = (q @ k.transpose(-2, -1) + bias.unsqueeze(0)).softmax(-1)
        x = x + self.proj((shares @ v).transpose(1, 2).reshape(len(x), 16, -1))
        return x + self.down(F.gelu(self.up(x)))


class ConvNext(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth, self.norm = (
            nn.Conv2d(3, 12, 2, 2),
            nn.Conv2d(12, 12, 3, 1, 1, groups=12),
            nn.LayerNorm(12),
        )
        self.up, self.down, self.gamma = nn.Linear(12, 48), nn.Linear(48, 12), nn.Parameter(1e-6 * torch.ones(12))
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.gamma * self.down(F.gelu(self.up(self.norm(self.depth(x).permute(0, 2, 3, 1)))))
        return self.head((x + y.permute(0, 3, 1, 2)).mean((-2, -1)))


class ShuffleUnit(nn.Module):
    """Half of the channels skip the layers; then all are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.depth, self.norm, self.leave = nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        passed, worked = self.enter(x).chunk(2, dim=1)
        worked = F.relu(self.b(self.norm(self.depth(F.relu(self.a(worked))))))
        x = torch.cat([passed, worked], dim=1)
        n, c, h, w = x.shape
        return self.leave(x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w))


class Video(nn.Module):
    """Three dimensions, a lazy list of outputs, a transposed depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.mid = nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.Conv3d(8, 6, 1)
        self.up, self.out = nn.ConvTranspose3d(6, 6, 2, 2, groups=6), nn.Conv3d(6, 2, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.mid(F.max_pool3d(F.hardswish(self.norm(self.conv(x))), 2))
        return [self.out(x), self.out(self.up(x))]


class SequenceToSequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.encoder, self.decoder = nn.Embedding(11, 8), nn.GRU(8, 10), nn.GRU(8, 10)
        self.head = nn.Linear(10, 11)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        _, state = self.encoder(self.token(source))
        return self.head(self.decoder(self.token(target), state)[0])


class WeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)), nn.Linear(8, 6)
        self.c = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


class FixedBatch(nn.Module):
    """The batch size is in the code, so the comparison cannot use a larger one; and an in-place write to a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x.view(3, 4))
        x[1:] *= 2.0
        return self.b(x.relu_())


class LinearAttention(nn.Module):
    """A softmax over the width of heads, so that only whole heads can be removed, and code without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = 4, nn.Conv2d(3, 24, 1, bias=False), nn.Conv2d(8, 3, 1)
        self.frozen, self.back = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.back(F.relu(self.frozen(x)))
        n, _, h, w = x.shape
        q, k, v = (part.reshape(n, self.heads, -1, h * w) for part in self.qkv(x + y).chunk(3, dim=1))
        context = torch.einsum("nhdl,nhel->nhde", k.softmax(-1), v)
        return self.out(torch.einsum("nhde,nhdl->nhel", context, q.softmax(-2)).reshape(n, -1, h, w)) + y


class SharedModule(nn.Module):
    """One module under two names, a vector whose sum counts, and outputs with large constants."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.vector = nn.Linear(4, 10), nn.Linear(10, 3), nn.Parameter(torch.randn(6))
        self.again = self.a
        self.norm = nn.BatchNorm1d(10, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.norm(torch.relu(self.a(x) + self.again(-x)))) + self.vector.sum()
        return torch.cat([y, torch.full_like(y, -1e9)], dim=1)


OUT = "outputs keep their shape"

ZOO: dict[str, ChannelCase] = {
    "plain cnn": ChannelCase(PlainCnn, image(), {"conv1": 4, "conv2": 6, "fc1": 10}, {"fc2.weight": OUT}),
    "vgg": ChannelCase(vgg, image(), {"0": 4, "4": 8}, {"11.weight": OUT}),
    "resnet": ChannelCase(
        ResNet,
        image(),
        {"stem.0": 4, "layer1.conv1": 4, "layer1.conv2": 4, "layer2.conv1": 8, "layer2.down.0": 8, "layer3.conv2": 8},
        {"fc.weight": OUT},
    ),
    "densenet": ChannelCase(DenseNet, image(), {"conv1": 4, "conv2": 2, "conv3": 3}, {}),
    "gate": ChannelCase(Gate, vectors(3, 6), {"up": 16, "mid": 12}, {}),
    "halves": ChannelCase(Halves, image(), {"up": 8, "left": 3, "right": 3}, {}),
    "mobile": ChannelCase(mobile, image(), {"0": 4, "1": 4, "4": 8, "7": 16, "8": 16, "11": 12}, {}),
    "grouped": ChannelCase(Grouped, image(), {"conv1": 8, "conv2": 16}, {}),
    "squeeze-excite": ChannelCase(SqueezeExcite, image(), {"conv1": 6, "squeeze": 2, "excite": 6}, {}),
    "unet": ChannelCase(UNet, image(), {"enter": 4, "down": 8, "leave": 5}, {}),
    "signal": ChannelCase(Signal, vectors(2, 2, 12), {"conv1": 8, "conv2": 4}, {}),
    "residual mlp": ChannelCase(ResidualMlp, vectors(3, 5), {"enter": 8, "a": 16, "b": 8}, {}),
    "reused": ChannelCase(Reused, vectors(3, 6), {"enter": 8, "again": 8, "tied": 8}, {}),
    "transformer": ChannelCase(
        TransformerBlock,
        lambda: torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(3)),
        {"up": 32, "q": 8, "k": 8, "v": 8},
        {"o.weight": "layer_norm"},
    ),
    "packed attention": ChannelCase(PackedAttention, vectors(2, 5, 16), {"qkv": 24}, {"out.weight": OUT}),
    "grouped query": ChannelCase(GroupedQuery, vectors(2, 5, 12), {"q": 16, "k": 8, "v": 8}, {}),
    "multihead": ChannelCase(WithMultihead, vectors(2, 5, 6), {"encoder.linear1": 16, "encoder.self_attn": 12}, {}),
    "lstm": ChannelCase(lambda: Recurrent("LSTM"), vectors(2, 4, 5), {"enter": 4, "mid": 8}, {}),
    "gru": ChannelCase(lambda: Recurrent("GRU", bidirectional=True), vectors(2, 4, 5), {"enter": 4, "mid": 8}, {}),
    "projected lstm": ChannelCase(
        lambda: Recurrent("LSTM", proj_size=12, hidden_size=14), vectors(2, 4, 5), {"mid": 8}, {"enter.weight": "lstm"}
    ),
    "hard view": ChannelCase(HardView, image(), {"conv1": 4, "conv2": 4, "fc1": 8}, {}),
    "soft view": ChannelCase(SoftView, image(), {"conv1": 4, "conv2": 4, "fc1": 8}, {}),
    "branch on data": ChannelCase(BranchOnData, vectors(3, 4), {}, {}, refused="cannot be traced"),
    "two in": ChannelCase(
        TwoIn,
        lambda: {"left": vectors(3, 4)(), "right": vectors(3, 3)(), "scale": 0.5},
        {"left": 6, "right": 6},
        {"one.weight": OUT, "two.weight": OUT},
    ),
    "shuffle": ChannelCase(Shuffle, image(), {"conv1": 8, "conv2": 8, "depth": 8}, {}),
    "super-resolution": ChannelCase(SuperResolution, image(), {"conv1": 4, "conv2": 16}, {"conv3.weight": OUT}),
    "decoder": ChannelCase(Decoder, vectors(2, 6), {"fc": 32, "head": 4}, {}),
    "max over channels": ChannelCase(
        MaxOverChannels, image(), {"conv1": 4}, {"conv2.weight": "reduces it to one number"}
    ),
    "einsum": ChannelCase(Einsum, vectors(2, 3, 4), {"enter": 4}, {}),
    "named heads": ChannelCase(
        NamedHeads,
        lambda: (vectors(2, 5, 16)(), torch.zeros(2, 5)),
        {"query": 8, "key": 8, "value": 8},
        {"out.weight": "add joins"},
    ),
    "packed split": ChannelCase(PackedSplit, vectors(2, 5, 24), {}, {}),
    "rotary": ChannelCase(Rotary, vectors(2, 5, 16), {"q": 16, "k": 8, "v": 8, "gate": 20, "up": 20}, {}),
    "window": ChannelCase(Window, image(), {"qkv": 24, "up": 16}, {"proj.weight": "layer_norm"}),
    "convnext": ChannelCase(ConvNext, image(), {"up": 24}, {"stem.weight": "layer_norm"}),
    "shuffle unit": ChannelCase(ShuffleUnit, image(), {"enter": 8, "a": 4, "b": 4}, {}),
    "video": ChannelCase(Video, vectors(2, 1, 4, 4, 4), {"conv": 4, "mid": 3, "up": 3}, {"out.weight": OUT}),
    "sequence to sequence": ChannelCase(
        SequenceToSequence, lambda: (torch.ones(4, 2).long(), torch.ones(3, 2).long()), {}, {"head.weight": OUT}
    ),
    "weight norm": ChannelCase(WeightNorm, vectors(3, 4), {"b": 3}, {}),
    "fixed batch": ChannelCase(FixedBatch, vectors(3, 4), {"a": 4}, {}),
    "linear attention": ChannelCase(LinearAttention, image(), {"qkv": 12, "frozen": 3}, {"out.weight": "add joins"}),
    "shared module": ChannelCase(SharedModule, vectors(3, 4), {"a": 5}, {"b.weight": OUT}),
}
