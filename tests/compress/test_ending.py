from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nbcompress.compress.ending import Ending, ending_of

X = torch.rand(3, 4)


class Ends(nn.Module):
    """A linear layer and what comes after it."""

    def __init__(self, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.after = nn.Linear(4, 4), after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.linear(x))


CASES: dict[str, tuple[Callable[[Tensor], Tensor], Ending]] = {
    "sigmoid": (torch.sigmoid, Ending.SIGMOID),
    "sigmoid, moved": (lambda x: torch.sigmoid(x).reshape(2, 6).T[:, 0].clone().unsqueeze(0), Ending.SIGMOID),
    "sigmoid in double": (lambda x: torch.sigmoid(x).double(), Ending.SIGMOID),
    "two sigmoids": (lambda x: torch.cat([torch.sigmoid(x), torch.sigmoid(-x)]), Ending.SIGMOID),
    "softmax": (lambda x: x.softmax(1), Ending.SOFTMAX),
    "log softmax": (lambda x: x.log_softmax(1), Ending.OPEN),
    "linear": (lambda x: x, Ending.OPEN),
    "linear, squeezed": (lambda x: x[:, :1].squeeze(-1), Ending.OPEN),
    "scaled": (lambda x: x * 3 + 1, Ending.OPEN),
    "residual": (lambda x: torch.relu(x) + x, Ending.OPEN),
    "convolution": (nn.Conv1d(3, 2, 1), Ending.OPEN),
    "mean": (lambda x: x.mean(1), Ending.OPEN),
    "clamp": (lambda x: x.clamp(0, 1), Ending.OTHER),
    "sigmoid, scaled": (lambda x: torch.sigmoid(x) * 1.0, Ending.OTHER),
    "tanh": (torch.tanh, Ending.OTHER),
    "detached": (lambda x: x.detach(), Ending.OTHER),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("is_frozen", [False, True])
def test_how_it_ends(name: str, is_frozen: bool) -> None:
    after, expected = CASES[name]
    model = Ends(after).train().requires_grad_(not is_frozen)
    with torch.no_grad():
        assert ending_of(model, lambda one: one(X)) is expected
    assert model.training
    assert all(one.requires_grad is not is_frozen for one in model.parameters())


def test_without_a_weight() -> None:
    assert ending_of(nn.Identity(), lambda one: one(X)) is Ending.OTHER
