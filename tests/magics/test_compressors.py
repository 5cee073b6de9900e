"""The options of the compressing magics reach their functions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import nbcompress as nc
from nbcompress.compressors import ActivationRange, LowRank, record_of


@pytest.fixture
def work(notebook: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    # Nothing here looks at the pictures of cards, and to draw them takes most of the time of a line.
    monkeypatch.setattr("nbcompress.panels.figures.png", lambda figure, dpi: "iVBORw0KGgo=")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    student = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    train = (torch.randn(64, 16), torch.randint(0, 4, (64,)))
    notebook.names.update(model=model, student=student, train=train, limit=1500)
    return notebook


def test_prune(work: Any) -> None:
    work.must("a = %prune model --granularity 2:4")
    weight = work.names["a"][0].weight
    assert bool(((weight.reshape(-1, 4) != 0).sum(1) == 2).all())
    for criterion in ("gradient", "activation", "hessian"):
        work.must(f"a = %prune model --amount 0.5 --criterion {criterion} --data train")
        assert 0.45 < float((work.names["a"][0].weight == 0).double().mean()) < 0.6
    work.must("a = %prune model --amount 0.5 --granularity channel --criterion mutual-information --data train")
    assert work.names["a"][0].out_features == 16
    work.names["normed"] = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 4))
    work.must("a = %prune normed --amount 0.5 --granularity channel --norms cut --data train")
    assert work.names["a"][1].normalized_shape == (16,)
    assert "Did you mean 'cut'?" in work.refused("a = %prune normed --amount 0.5 --norms cutt --data train")
    line = work.refused("a = %prune model --amount 0.5 --criterion hessian")
    assert "--criterion hessian needs data: pass --data, such as" in line
    line = work.refused("a = %prune model --amount 0.5 --criterion hesian --data train")
    assert "Did you mean 'hessian'?" in line


def test_quantize(work: Any) -> None:
    for budget in ("1.5kB", "limit"):
        work.must(f"b = %quantize model --bits auto --budget {budget} --data train")
        assert nc.size_bytes(work.names["b"]) <= 1500
    assert "--bits auto needs --budget, the length" in work.refused("%quantize model --bits auto")
    assert "--budget belongs to --bits auto, got --bits 4" in work.refused("%quantize model --bits 4 --budget 2kB")
    work.must("b = %quantize model --activations dynamic")
    assert record_of(work.names["b"]).activations == {"0": "dynamic", "2": "dynamic"}
    work.must("b = %quantize model --activations static --data train")
    assert isinstance(record_of(work.names["b"]).activations["2"], ActivationRange)


def test_factorize_and_distill(work: Any) -> None:
    work.must("c = %factorize model --energy 0.5")
    assert any(isinstance(layer, LowRank) for layer in work.names["c"])
    assert "pass one" in work.refused("%factorize model --energy 0.5 --rank 0.5")
    work.must("d = %distill model student --data train --epochs 2 --match 0:0 --match 1:1")
    expected = nc.distill(work.names["model"], work.names["student"], work.names["train"], 2, match=["0:0", "1:1"])
    assert torch.equal(work.names["d"][0].weight, expected[0].weight)
    assert "the student has no layer '3'" in work.refused("%distill model student --data train --match 0:3")


class Detector(nn.Module):
    """Boxes beside scores of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.boxes, self.scores = nn.Linear(16, 32), nn.Linear(32, 4), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"boxes": self.boxes(torch.relu(self.body(x))), "scores": self.scores(torch.relu(self.body(x)))}


def test_loss_and_output(work: Any) -> None:
    calls = []

    def loss(said: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(said.shape))
        return nn.functional.cross_entropy(said, label)

    work.names.update(mine=loss, detector=Detector())
    for line in (
        "%prune {} --amount 0.5 --criterion gradient",
        "%prune {} --amount 0.5 --finetune 1",
        "%prune {} --amount 0.5 --granularity channel --criterion gradient",
        "%quantize {} --bits 4 --finetune 1",
        "%quantize {} --bits auto --budget 1kB",
        "%cluster {} --finetune 1",
        "%factorize {} --rank 0.25 --finetune 1",
        "%distill {} {} --epochs 1",
    ):
        typed = line.replace("{}", "detector") + " --data train"
        calls.clear()
        work.must(f"e = {typed} --output scores --loss mine")
        assert {shape[1:] for shape in calls} == {(4,)}
        work.must(f"e = {typed} --output scores")
        text = work.refused(typed)
        assert "returns several tensors" in text
        assert "with --output, such as --output boxes, or pass --loss" in text
    assert "--loss must be a function" in work.refused("%quantize detector --data train --finetune 1 --loss 3")
    line = work.refused("%quantize detector --data train --finetune 1 --output score")
    assert "--output score must name a tensor among what the model returns" in line


def test_the_card_of_a_language_model(work: Any) -> None:
    torch.manual_seed(0)
    tokens = (torch.randint(0, 9, (16, 1)) + torch.arange(8)) % 9
    model = nn.Sequential(nn.Embedding(9, 16), nn.Linear(16, 9))
    work.names.update(lm=model, text=[(tokens, tokens)], pupil=nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9)))
    for line in ("%quantize lm --bits 4 --data text --finetune 2", "%distill lm pupil --data text --epochs 1"):
        card = work.must(f"f = {line}")
        text = card.shown[-1]["text/plain"]
        assert "perplexity" in text
        assert "loss and perplexity on 112 tokens" in text
        assert "text was trained on: on other data loss may be higher" in text
        assert "\naccuracy" not in text


def test_values_of_the_notebook_reach_the_options(work: Any) -> None:
    work.must("am, which, found = 0.5, 'weight', [2, 4]")
    for amount in ("{am}", "$am", "am", "{am:.1f}"):
        work.must(f"a = %prune model --amount {amount} --granularity {{which}}")
        assert float((work.names["a"][0].weight == 0).double().mean()) > 0.3
    work.must("b = %quantize model --bits auto --budget {limit} --data train")
    assert nc.size_bytes(work.names["b"]) <= 1500
    work.must("c = %sensitivity model --evaluate (lambda m: 1.0) --compressor quantize --levels {found}")
    assert "there is no variable 'bm'" in work.refused("%prune model --amount {bm}")
    body = "x = Float(0.5, 0.9)\nsmall = %prune model --amount {x}\nloss = (small[0].weight == 0).float().mean()\n"
    work.must(f"%%bo_search --panel off --sampler sobol --trials 2 --minimize loss\n{body}")
    assert len(set(work.names["study"].trials.loss)) == 2


def test_optimizers(work: Any) -> None:
    work.must("import torch\ndef mine(parameters): return torch.optim.RMSprop(parameters, lr=0.01)\nname = 'gd'")
    for typed, expected in (("momentum", "momentum"), ("mine", "mine"), ("name", "gd"), ("{name}", "gd")):
        card = work.must(f"g = %quantize model --bits 4 --data train --finetune 2 --optimizer {typed}")
        assert nc.record_of(work.names["g"]).training[0].optimizer == expected
        assert f"in 2 epochs of {expected} (" in card.shown[-1]["text/plain"]
        assert "Loss by epoch, training" in card.shown[-1]["text/html"]
    line = "--optimizer adamw --betas (0.8, 0.9) --eps 1e-6 --weight-decay 0.1"
    work.must(f"g = %cluster model --data train --finetune 1 {line}")
    names = work.names
    expected = nc.cluster(
        names["model"], data=names["train"], finetune=1, optimizer="adamw", betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1
    )
    assert torch.equal(names["g"][0].weight, expected[0].weight)
    body = (
        "optimizer = Choice('adam', 'sgd', 'momentum', 'gd')\nsmall = %prune model --amount 0.5 --data train "
        "--finetune 1 --optimizer optimizer\nkind = record_of(small).training[-1].optimizer\nassert kind == optimizer\n"
        "loss = evaluate_loss(small)\n"
    )
    names.update(evaluate_loss=lambda model: float(model[0].weight.detach().abs().sum()))
    work.must(f"%%bo_search --panel off --sampler grid --trials 4 --minimize loss\n{body}")
    assert list(names["study"].trials.state) == ["complete"] * 4
    assert "Did you mean 'adam'?" in work.refused(
        "%prune model --amount 0.5 --data train --finetune 1 --optimizer adan"
    )
    line = work.refused("%prune model --amount 0.5 --optimizer sgd")
    assert "--optimizer is an option of --finetune EPOCHS" in line


def test_distill_with_several_teachers_and_assistants(work: Any) -> None:
    torch.manual_seed(1)
    names = work.names
    names.update(other=nn.Linear(16, 4), assistant=nn.Linear(16, 4), images=names["train"][0])
    card = work.must("h = %distill [model, other] student --data images --targets hard --through assistant --epochs 2")
    expected = nc.distill(
        [names["model"], names["other"]],
        names["student"],
        names["images"],
        2,
        targets="hard",
        through=[names["assistant"]],
    )
    assert torch.equal(names["h"][0].weight, expected[0].weight)
    text = card.shown[-1]["text/plain"]
    assert text.splitlines()[2].split() == ["model", "other", "distilled"]
    line = work.refused("%distill model student --data images")
    assert "--alpha 1 or --targets hard learns from the teacher alone" in line
    assert "there is no variable 'asistant'" in work.refused("%distill model student --data train --through asistant")


def test_scales_shares_rounding_and_codebooks(work: Any) -> None:
    names = work.names
    for typed, options in (
        ("--bits 8 --scale 20", {"bits": 8, "scale": 20}),
        ("--bits 3 --scale pow2 --share 0.75", {"bits": 3, "scale": "pow2", "share": 0.75}),
        ("--bits 2 --rounding gptq --data train", {"bits": 2, "rounding": "gptq", "data": names["train"]}),
    ):
        work.must(f"i = %quantize model {typed}")
        assert torch.equal(names["i"][2].weight, nc.quantize(names["model"], **options)[2].weight)
    work.must("i = %cluster model --clusters 6 --codebook model")
    first, second = record_of(names["i"]).tensors.values()
    assert first.codebook is second.codebook
    assert "Fixed words: error, absmax, pow2" in work.refused("%quantize model --scale mse")
    assert "--rounding gptq needs the inputs of each layer: pass --data" in work.refused(
        "%quantize model --rounding gptq"
    )
    work.must("j = %weights model --layers 0")
    assert [layer.name for layer in names["j"].layers] == ["0.weight"]


def test_progress_bars_can_be_left_out(work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[float] = []
    monkeypatch.setattr("nbcompress.progress._DelayedBar.advance", lambda _, n: steps.append(n))
    work.must("a = %quantize model --bits 4 --no-progress")
    assert steps == []
    work.must("a = %quantize model --bits 4")
    assert steps
