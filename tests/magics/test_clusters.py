"""Searches on a real Ray session and a real Dask cluster, as a person types them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import psutil
import pytest

import nbcompress as nc
from nbcompress.run import Controls
from nbcompress.study import Study

if TYPE_CHECKING:
    from conftest import Notebook

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PATIENCE = 60.0
SPACE = {"x": nc.Float(0, 1)}


@dataclass
class Cluster:
    """A cluster that runs beside the tests.

    Attributes:
        engine: What is typed after `--engine`.
        kill_workers: Kills the processes of its workers, and sees to it that there is one again.
        sent: Counts what is sent: the object and the name of its method.
    """

    engine: str
    kill_workers: Callable[[], None]
    sent: tuple[Any, str]
    processes: list[Any] = field(default_factory=list)


def a_ray_cluster() -> Iterator[Cluster]:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'nbcompress[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    options = {"num_cpus": 2, "object_store_memory": 100_000_000, "include_dashboard": False, "log_to_driver": False}
    for is_last in (False, True):
        try:
            ray.init(address="local", **options)
            break
        except Exception:  # noqa: BLE001 - it waits 30 s for its processes, and a busy machine needs longer
            ray.shutdown()
            if is_last:
                pytest.skip("Ray did not start within its own limit of 30 s, twice: the machine is too busy.")

    def kill_workers() -> None:
        for process in psutil.Process().children(recursive=True):
            if "RayTrialHost" in " ".join(process.cmdline()):
                process.kill()

    yield Cluster("ray", kill_workers, (ray, "put"))
    ray.shutdown()


def a_dask_cluster() -> Iterator[Cluster]:
    reason = "Dask is not installed: pip install 'nbcompress[dask]'"
    distributed = pytest.importorskip("distributed", reason=reason)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    run = [sys.executable, "-m", "distributed.cli.dask_spec", "--spec"]
    scheduler = subprocess.Popen(
        [*run, f'{{"cls": "dask.distributed.Scheduler", "opts": {{"host": "{address}", "dashboard": false}}}}'],
        stderr=subprocess.DEVNULL,
    )
    worker = [*run, '{"cls": "dask.distributed.Worker", "opts": {"nthreads": 2}}', address]
    cluster = Cluster(f"dask:{address}", lambda: None, (distributed.Client, "scatter"))

    def start_worker() -> None:
        cluster.processes.append(subprocess.Popen(worker, stderr=subprocess.DEVNULL))

    def kill_workers() -> None:
        cluster.processes.pop().kill()
        start_worker()

    cluster.kill_workers = kill_workers
    start_worker()
    yield cluster
    for process in (scheduler, *cluster.processes):
        process.kill()
        process.wait()


@pytest.fixture(scope="module", params=[a_ray_cluster, a_dask_cluster], ids=["ray", "dask"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    yield from request.param()


# What both do by the same code. A worker of Ray takes seconds to start.
DASK_ALONE = pytest.mark.parametrize("cluster", [a_dask_cluster], ids=["dask"], indirect=True)


CELL = """
kind = Choice("plain", "deep")
x = Float(0, 1)
ends = Choice("well", "badly", "fails", "loops", "sleeps", "dies", "exits")
if kind == "deep":
    depth = Int(1, 3)
import os, signal, time
print("this one", ends)
if ends == "fails":
    raise ValueError("no good")
while ends == "loops":
    pass
if ends == "sleeps":
    time.sleep(1000)
if ends == "dies":
    os.kill(os.getpid(), signal.SIGSEGV)
if ends == "exits":
    os._exit(3)
for epoch in range(3):
    report(loss=x + 10 * (ends == "badly"), step=epoch)
small = model
loss = x + float(data[3]) + (depth if kind == "deep" else 0)
"""


def start_points() -> list[dict[str, Any]]:
    ends = ["well", "well", "fails", "loops", "sleeps", "dies", "exits", "badly"]
    points: list[dict[str, Any]] = [{"kind": "plain", "x": 0.5, "ends": end} for end in ends]
    points[1] |= {"kind": "deep", "x": 0.25, "depth": 2}
    return points


def test_a_cell_with_every_way_to_end(cluster: Cluster, notebook: Notebook) -> None:
    notebook.must("import torch; data = torch.arange(100_000.0); model = torch.nn.Linear(3, 2)")
    notebook.names["points"] = start_points()
    options = "--minimize loss --trials 8 --start points --trial-timeout 4s --jobs 2 --pruner asha --keep small"
    notebook.must(f"%%bo_search --panel text --study s {options} --engine {cluster.engine}{CELL}")
    study: Study = notebook.names["study"]
    trials = study.all_trials
    ends = [(trial.state.value, str(trial.failure)) for trial in trials]
    assert [state for state, _ in ends] == ["complete"] * 2 + ["failed"] * 5 + ["stopped"], ends
    assert [str(trial.failure) for trial in trials[2:7]] == [
        "ValueError: no good",
        "Timeout: The trial ran over its limit of 4 s.",
        "Timeout: The trial ran over its limit of 4 s.",
        "Crash: The process of the trial was ended by the signal SIGSEGV.",
        "Crash: The process of the trial ended by itself with exit code 3.",
    ]
    assert [trials[0].values["loss"], trials[1].values["loss"]] == [3.5, 5.25]
    assert trials[2].printed == "this one fails\n"
    assert dict(trials[1].reports) == {"loss": {0: 0.25, 1: 0.25, 2: 0.25}}
    import torch

    assert torch.equal(study.best.kept["small"].weight, notebook.names["model"].weight)


class Told:
    """An observer that calls `on_report` at the first report of a trial."""

    def __init__(self, on_report: Callable[[], None]) -> None:
        self._on_report, self.n_reports = on_report, 0

    def trial_started(self, trial: Any) -> None: ...
    def trial_ended(self, trial: Any) -> None: ...
    def ended(self, ending: Any) -> None: ...

    def reported(self, number: int, step: int, values: Mapping[str, float]) -> None:
        self.n_reports += 1
        self._on_report()


def waiting_body(folder: Path) -> Callable[[float], dict[str, float]]:
    """Return a body that notes its process, reports, and sleeps in C; from the second run on it ends by itself."""
    runs = str(folder / "runs")

    def body(x: float) -> dict[str, float]:
        import os
        import time

        with open(runs, "a") as file:
            file.write(f"{os.getpid()}\n")
        with open(runs) as file:
            n_runs = len(file.readlines())
        nc.report(loss=x, step=0)
        if n_runs == 1:
            time.sleep(1000)
        return {"loss": x}

    return body


def processes_of(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "runs").read_text().split()]


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + PATIENCE
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.05)


def searched(cluster: Cluster, folder: Path, told: Told, **options: Any) -> Study:
    given = {"sampler": "sobol", "trials": 2, "engine": cluster.engine, "observers": [told], **options}
    return nc.search(waiting_body(folder), SPACE, minimize="loss", **given)


def test_a_report_arrives_while_the_trial_runs_and_a_skipped_trial_frees_its_worker(
    cluster: Cluster, tmp_path: Path
) -> None:
    controls = Controls()
    once = iter([controls.skip])
    told = Told(lambda: next(once, lambda: None)())
    study = searched(cluster, tmp_path, told, controls=controls)
    assert [trial.state.value for trial in study.all_trials] == ["stopped", "complete"]
    assert dict(study.all_trials[0].reports) == {"loss": {0: study.all_trials[0].params["x"]}}
    wait_until_gone(processes_of(tmp_path)[0])


@DASK_ALONE
def test_an_interrupt_ends_it_and_leaves_no_process(cluster: Cluster, tmp_path: Path) -> None:
    study = searched(cluster, tmp_path, Told(lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert [trial.state.value for trial in study.all_trials] == ["interrupted"]
    wait_until_gone(processes_of(tmp_path)[0])


def test_the_trial_of_a_lost_worker_runs_again(cluster: Cluster, tmp_path: Path) -> None:
    check_lost_worker(cluster, tmp_path, retries=1, state="complete")


@DASK_ALONE
def test_the_trial_of_a_lost_worker_fails_where_it_is_not_to_run_again(cluster: Cluster, tmp_path: Path) -> None:
    check_lost_worker(cluster, tmp_path, retries=0, state="failed")


def check_lost_worker(cluster: Cluster, tmp_path: Path, retries: int, state: str) -> None:
    once = iter([lambda: threading.Thread(target=cluster.kill_workers).start()])
    told = Told(lambda: next(once, lambda: None)())
    study = searched(cluster, tmp_path, told, retries=retries, trials=1)
    assert [trial.state.value for trial in study.all_trials] == [state]
    failure = study.all_trials[0].failure
    assert failure is None if retries else failure is not None and failure.kind == "WorkerLost"
    wait_until_gone(processes_of(tmp_path)[0])


def test_data_goes_once_and_changed_data_alone_again(cluster: Cluster) -> None:
    import numpy as np

    first, second = np.zeros(50_000), np.ones(50_000)

    def body(x: float) -> float:
        return x + float(first[0] + second[0])

    options: dict[str, Any] = {"sampler": "sobol", "trials": 1, "engine": cluster.engine}
    if cluster.engine.startswith("dask"):
        import distributed

        options["engine"] = distributed.Client(cluster.engine.removeprefix("dask:"), set_as_default=False)
    owner, method = cluster.sent
    n_sent = []
    for changed in (None, 5.0):
        if changed is not None:
            second = np.full(50_000, changed)
        with mock.patch.object(owner, method, autospec=True, side_effect=getattr(owner, method)) as sent:
            study = nc.maximize(body, SPACE, **options)
        n_sent.append(sent.call_count)
        assert study.best_value > 1
    # The pickle of the function and two arrays; then the pickle, which names the new array, and that one.
    assert n_sent == [3, 2]
    if cluster.engine.startswith("dask"):
        assert options["engine"].status == "running"  # it is the notebook's
        options["engine"].close()


@DASK_ALONE
def test_memory_of_a_trial(cluster: Cluster) -> None:
    def body(x: float) -> float:
        return float(len(bytearray(3_000_000_000)))

    study = nc.maximize(body, SPACE, trials=1, engine=cluster.engine, trial_memory="300MB")
    failure = study.all_trials[0].failure
    assert failure is not None
    assert failure.kind == "Memory"
    assert "limit of 300 MB" in failure.message


def test_resources_that_the_cluster_has_not(cluster: Cluster, notebook: Notebook) -> None:
    line = f'%%bo_search --minimize loss --panel off --engine {cluster.engine} --resources "gpus=64"'
    text = notebook.refused(f"{line}\nx = Float(0, 1)\nloss = x")
    assert "--resources asks for gpus=64" in text


def test_a_local_dask_cluster_of_its_own_is_stopped() -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    before = threading.active_count()
    study = nc.maximize(lambda x: x, SPACE, trials=2, jobs=2, sampler="sobol", engine="dask")
    assert [trial.state.value for trial in study.all_trials] == ["complete"] * 2
    with pytest.raises(ValueError, match="No clients"):
        distributed.default_client()
    assert threading.active_count() <= before + 4


def test_what_is_no_engine(notebook: Notebook) -> None:
    notebook.must(
        "import joblib, multiprocessing.pool; pool = multiprocessing.pool.ThreadPool(1); p = joblib.Parallel(1)"
    )
    body = "\nx = Float(0, 1)\nloss = x"
    line = "%%bo_search --minimize loss --panel off --engine "
    assert "pass a ProcessPoolExecutor, or write --engine process" in notebook.refused(f"{line}pool{body}")
    assert "pass joblib.externals.loky.get_reusable_executor()" in notebook.refused(f"{line}p{body}")
    notebook.names["pool"].terminate()
    assert "'cpus=2, gpus=1', but got 'many'" in notebook.refused(f"{line}ray --resources many{body}")
    assert "--resources needs the engine ray or dask" in notebook.refused(f"{line}process --resources cpus=1{body}")
    assert "--trial-memory needs the engine process" in notebook.refused(f"{line}inline --trial-memory 1GB{body}")
    assert "--trial-memory is a size of at least 50MB" in notebook.refused(f"{line}process --trial-memory 4{body}")


def test_a_ray_address_where_nothing_answers_or_a_token_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from nbcompress.errors import MissingPart
    from nbcompress.run.engines import EngineError
    from nbcompress.run.engines.ray import RayBackend

    def connecting(error: Exception) -> RayBackend:
        def init(*_: Any, **__: Any) -> None:
            raise error

        package = mock.Mock(init=init, is_initialized=lambda: False)
        monkeypatch.setattr("nbcompress.run.engines.ray.ray_package", lambda: package)
        return RayBackend(f"ray://127.0.0.1:{port}")

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        # Nobody listens yet: this is said at once, and Ray is not asked.
        with pytest.raises(EngineError, match=r"No Ray cluster answers at ray://127.0.0.1:\d+: ConnectionRefusedError"):
            connecting(AssertionError("asked")).connect(1, 0)
        listener.listen()
        with pytest.raises(EngineError, match="RAY_AUTH_MODE=token"):
            connecting(ConnectionError("ray client connection timeout")).connect(1, 0)
        with pytest.raises(MissingPart, match=r'pip install "ray\[client\]"'):
            connecting(ValueError("Ray Client requires pip package `ray[client]`.")).connect(1, 0)
