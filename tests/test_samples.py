"""What older versions wrote is opened, equals what it was, and is gone on with.

The files were written by `samples/make.py` from what is in `sample_cases.py`. Only public names are used here, so that
this test stays as it is wherever modules move.
"""

from __future__ import annotations

import json
import math
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sample_cases as cases
import torch
from safetensors import safe_open
from torch import nn

import nbcompress as nc
from nbcompress.study.processes import DEFAULT_HEARTBEATS

SAMPLES = Path(__file__).parent / "samples"
VERSIONS = sorted(path.parent.name for path in SAMPLES.glob("*/files"))
FILES = sorted(path.relative_to(SAMPLES).as_posix() for path in SAMPLES.glob("*/files/*.nbz"))

N_MORE = 3  # how many more trials are run


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> Path:
    return SAMPLES / str(request.param)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[cases.Shell]:
    """A notebook in an empty folder."""
    with cases.shell_in(tmp_path) as shell:
        yield shell


def copied(folder: Path) -> dict[str, Any]:
    """Copy a journal, with what is kept, to the working directory; return what is expected of it."""
    shutil.copytree(folder, ".", dirs_exist_ok=True)
    expected: dict[str, Any] = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    return expected


def check_study(study: nc.Study, expected: dict[str, Any]) -> None:
    """Check everything that a study says about its trials."""
    assert study.name == expected["name"]
    assert cases.described(study) == expected["trials"]
    assert [trial.number for trial in study.front] == expected["front"]
    assert study.best is not None
    assert study.best.number == expected["front"][0]
    assert study.record.get("baseline") == expected["baseline"]
    assert study.record.get("cell") == expected["cell"]
    check_table(study, expected["trials"])


def check_table(study: nc.Study, trials: list[dict[str, Any]]) -> None:
    """Check the rows of the table; what a trial does not have is NaN or None there."""
    rows = study.trials.to_dict("records")
    assert len(rows) == len(trials)
    for row, trial in zip(rows, trials, strict=True):
        has = {"number": trial["number"], "state": trial["state"], "seconds": trial["seconds"]}
        has |= trial["params"] | trial["values"]
        for name, value in row.items():
            if has.get(name) is None:
                assert value is None or math.isnan(value)
            else:
                assert value == has[name]
        assert has.keys() <= row.keys()


def check_went_on(study: nc.Study, expected: dict[str, Any]) -> None:
    """Check that the earlier trials are what they were, that interrupted ones ended now, and that new ones came."""
    trials = expected["trials"]
    after = cases.described(study)
    for before, now in zip(trials, after, strict=False):
        if before["state"] == "interrupted":
            assert (now["params"], now["seed"]) == (before["params"], before["seed"])
        else:
            assert now | {"kept": []} == before | {"kept": []}  # what is kept changes with the front
    assert not {"interrupted", "running"} & {trial["state"] for trial in after}
    n_ended = sum(trial["state"] != "interrupted" for trial in trials)
    assert len(after) == n_ended + N_MORE
    check_no_difference(study, expected["python"])


def check_no_difference(study: nc.Study, python: str) -> None:
    """Check that the study sees the same values, models, functions and, by the same Python, the same body.

    The hash of a cell's body is that of `ast.dump`, which differs between versions of Python.
    """
    is_same_python = python.split(".")[:2] == platform.python_version().split(".")[:2]
    assert [text for text in study.warnings if is_same_python or "another body" not in text] == []


def check_outputs(model: nn.Module, path: Path) -> None:
    """Check a model against the stored hash of its weights, and against its stored output.

    The hash is exact. The output is compared within what the order of a sum changes, which depends on the machine.
    """
    with np.load(path) as stored:
        inputs, output = torch.from_numpy(stored["input"]), torch.from_numpy(stored["output"])
        assert cases.digest(model) == str(stored["digest"])
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        found = model.eval()(inputs.to(dtype) if inputs.is_floating_point() else inputs)
    accurate = {torch.bfloat16: 1e-2}.get(dtype, 1e-5)
    torch.testing.assert_close(found.float(), output, rtol=accurate, atol=accurate)


# Files ---------------------------------------------------------------------------------------------------------------


def test_every_kind_of_file_has_a_sample() -> None:
    assert {Path(path).stem for path in FILES} == set(cases.FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_opened_and_saved_again(name: str, tmp_path: Path) -> None:
    path = SAMPLES / name
    case = cases.FILES[path.stem]
    model = nc.load(path, case.fresh())
    check_outputs(model, path.with_suffix(".npz"))
    again = nc.save(model, tmp_path / "again.nbz")
    assert nc.size_bytes(model) == again.stat().st_size
    if format_of(again) == format_of(path):
        assert again.stat().st_size == path.stat().st_size
    check_outputs(nc.load(again, case.fresh()), path.with_suffix(".npz"))


def format_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def test_the_record_is_what_was_done(version: Path) -> None:
    records = {name: nc.record_of(opened(version, name)) for name in cases.FILES}
    weights = {name: record.tensors.get("fc1.weight") for name, record in records.items()}
    for name in ("dense", "dense-conv", "dense-dtypes", "dense-bfloat16", "tied", "distilled"):
        assert (records[name].tensors, records[name].surgery) == ({}, ())
    assert weights["pruned"].is_pruned
    assert records["pruned-2-4"].tensors["head.weight"].is_pruned
    assert {step.kind for step in records["channels"].surgery} == {"cut"}
    both = records["channels-pruned-quantized"]
    assert {step.kind for step in both.surgery} == {"cut"}
    assert both.tensors["conv2.weight"].is_pruned
    assert both.tensors["conv2.weight"].grid.bits == 3
    for name in (name for name in cases.FILES if name.startswith("quantized-") and name[10].isdigit()):
        assert weights[name].grid.bits == int(name[10])
    assert weights["quantized-1-pruned"].is_pruned
    assert not weights["quantized-1"].is_pruned
    assert weights["quantized-4"].grid.group == "channel"
    assert weights["quantized-4"].grid.scheme == "symmetric"
    assert weights["quantized-4-affine"].grid.scheme == "affine"
    assert weights["quantized-4-groups"].grid.group == 5
    assert weights["quantized-8-tensor"].grid.group == "tensor"
    assert (records["quantized-8"].rest, records["quantized-8-tensor"].rest) == ("float16", "float32")
    assert set(records["quantized-8-dynamic"].activations.values()) == {"dynamic"}
    for activation in records["quantized-8-static"].activations.values():
        assert activation.low <= 0 < activation.high
    assert set(records["quantized-8-static"].activations) == {"fc1", "fc2", "fc3"}
    bits = {name: one.grid.bits for name, one in records["quantized-by-layer"].tensors.items()}
    assert bits == cases.BITS
    assert len({one.grid.bits for one in records["quantized-to-budget"].tensors.values()}) > 1
    assert len(weights["clustered"].codebook.values) == 6
    assert 0 in weights["clustered-pruned"].codebook.values
    assert weights["clustered-quantized"].codebook.grid.bits == 4
    assert {step.kind for step in records["factorized"].surgery} == {"factorize"}
    assert records["tied-quantized"].tensors["embedding.weight"].grid.bits == 5
    assert records["recurrent-quantized"].tensors["gru.weight_hh_l0"].grid.bits == 4


def opened(version: Path, name: str) -> nn.Module:
    return nc.load(version / "files" / f"{name}.nbz", cases.FILES[name].fresh())


def test_a_tied_model_stays_tied(version: Path) -> None:
    for name in ("tied", "tied-quantized"):
        model = opened(version, name)
        assert isinstance(model, cases.Tied)
        assert model.out.weight is model.embedding.weight


@pytest.mark.parametrize("name", ["pruned", "quantized-4", "clustered", "factorized-quantized"])
def test_what_is_opened_is_trained_on_and_compressed_further(name: str, version: Path, tmp_path: Path) -> None:
    case = cases.FILES[name]
    model = opened(version, name)
    data = (case.inputs(), torch.arange(len(case.inputs())) % 3)
    nc.finetune(model, data, epochs=1)
    further = nc.quantize(model, bits=2)
    path = nc.save(further, tmp_path / "further.nbz")
    assert path.stat().st_size < (version / "files" / f"{name}.nbz").stat().st_size
    assert cases.digest(nc.load(path, case.fresh())) == cases.digest(further)


# Studies -------------------------------------------------------------------------------------------------------------


def test_a_search_cell_goes_on(version: Path, shell: cases.Shell) -> None:
    expected = copied(version / "cell")
    trials = expected["trials"]
    assert {trial["state"] for trial in trials} == {"complete", "stopped", "infeasible", "failed", "interrupted"}
    check_study(shell.stored("digits"), expected)
    shell.run(cases.SETUP)
    n_ended = sum(trial["state"] != "interrupted" for trial in trials)
    printed = shell.run(cases.CELL.format(trials=n_ended))
    assert cases.n_runs() == 0
    assert "none was run again" in printed
    shell.run(cases.CELL.format(trials=n_ended + N_MORE))
    assert cases.n_runs() == N_MORE
    check_went_on(shell.names["study"], expected)


def test_a_kept_model_is_opened(version: Path, shell: cases.Shell) -> None:
    copied(version / "cell")
    handle = shell.stored("digits").kept["small"]
    check_outputs(handle.load(into=cases.Net()), version / "cell" / "small.npz")
    shell.run(cases.SETUP)
    model = shell.stored("digits").kept["small"]  # loaded into a copy of the notebook's `model`
    assert isinstance(model, cases.Net)
    assert model is not shell.names["model"]
    check_outputs(model, version / "cell" / "small.npz")
    assert nc.record_of(model).tensors["fc1.weight"].grid.bits == 8


def test_a_search_with_two_objectives_goes_on(version: Path, shell: cases.Shell) -> None:
    expected = copied(version / "two objectives")
    trials = expected["trials"]
    check_study(shell.stored("two objectives"), expected)
    study = nc.search(cases.two_objectives, trials=len(trials) + N_MORE, storage=cases.JOURNAL, **cases.TWO_OBJECTIVES)
    assert cases.n_runs() == N_MORE
    check_went_on(study, expected)


def test_kept_values_of_every_type_are_opened(version: Path, shell: cases.Shell) -> None:
    expected = copied(version / "two objectives")
    for trial in shell.stored("two objectives").front:
        kept = trial.kept
        net = kept["net"].load(into=cases.Net())
        second, third = kept["parts"][0], kept["parts"][1]["second"]
        assert torch.equal(second.load(into=nn.Linear(16, 8)).weight, net.fc2.weight)
        assert torch.equal(third.load(into=nn.Linear(8, 3)).weight, net.fc3.weight)
        summary = kept["summary"]
        assert torch.equal(summary.pop("tensor"), torch.arange(6).view(2, 3) * 0.5)
        assert summary == {"text": "a summary", "numbers": [1, 2.5, None, True]}
        assert [type(number) for number in summary["numbers"]] == [int, float, type(None), bool]
        if trial.number == expected["front"][0]:
            check_outputs(net, version / "two objectives" / "net.npz")


def test_maximize_goes_on(version: Path, shell: cases.Shell) -> None:
    expected = copied(version / "one number")
    trials = expected["trials"]
    check_study(shell.stored("one number"), expected)
    study = nc.maximize(cases.one_number, trials=len(trials) + N_MORE, storage=cases.JOURNAL, **cases.ONE_NUMBER)
    assert cases.n_runs() == N_MORE * cases.ONE_NUMBER["repeats"]
    check_went_on(study, expected)


@contextmanager
def impatient() -> Iterator[None]:
    """Here a trial of another host is given up at once, not after a minute without a sign of life."""
    grace_period = DEFAULT_HEARTBEATS.grace_period
    object.__setattr__(DEFAULT_HEARTBEATS, "grace_period", 0.0)
    try:
        yield
    finally:
        object.__setattr__(DEFAULT_HEARTBEATS, "grace_period", grace_period)


def test_a_search_whose_process_was_killed_goes_on(version: Path, shell: cases.Shell) -> None:
    """The process of the running trial cannot be seen and is not heard from, so the trial is run again."""
    expected = copied(version / "killed")
    trials = expected["trials"]
    check_study(shell.stored("killed"), expected)
    assert [trial["state"] for trial in trials] == ["complete", "complete", "running"]
    with impatient():
        study = nc.search(cases.killed, trials=len(trials) + N_MORE, storage=cases.JOURNAL, **cases.KILLED)
    assert cases.n_runs() == N_MORE + 1
    found = cases.described(study)
    assert found[:2] == trials[:2]
    assert found[2]["params"] == trials[2]["params"]
    assert [trial["state"] for trial in found[2:]] == ["complete"] * (N_MORE + 1)


def test_all_studies_are_listed(version: Path, shell: cases.Shell) -> None:
    for name in ("cell", "two objectives", "one number", "killed"):
        study = copied(version / name)["name"]
        assert study in shell.run("%bo_study")


def test_a_study_of_optuna_goes_on_with_our_sampler(version: Path, shell: cases.Shell) -> None:
    expected: Any = copied(version / "optuna")
    study = cases.optuna_study()

    def described() -> list[dict[str, Any]]:
        return [{"state": one.state.name, "params": one.params, "values": one.values} for one in study.trials]

    assert described() == expected
    study.optimize(cases.optuna_objective, n_trials=N_MORE)
    assert cases.n_runs() == N_MORE
    assert described()[: len(expected)] == expected


def test_optuna_itself_reads_our_journals(version: Path, shell: cases.Shell) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    for folder in ("cell", "two objectives", "one number"):
        expected = copied(version / folder)
        study = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(cases.JOURNAL)))
        assert study.study_name == expected["name"]
        complete = [trial for trial in expected["trials"] if trial["state"] == "complete"]
        found = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
        assert [trial.params for trial in found] == [trial["params"] for trial in complete]
