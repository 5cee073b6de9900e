"""What a wheel holds beside the code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib import import_module
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from oldest_versions import oldest_versions

import nbcompress

ROOT = Path(__file__).parents[1]


def test_a_wheel_has_the_mark_of_typed_packages_and_the_schema() -> None:
    files = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {"nbcompress/py.typed", "nbcompress/panels/schema/study.v1.schema.json"} <= files


def test_continuous_integration_runs_make_test_from_the_oldest_python_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    versions = re.findall(r'"(3\.\d+)"', text)
    assert project["requires-python"] == f">={versions[0]}"
    assert versions == [f"3.{minor}" for minor in range(11, 11 + len(versions))]
    assert "run: make test" in text


def test_the_oldest_versions_that_are_tested_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = oldest_versions()
    assert [line.replace("==", ">=") for line in found] == project["dependencies"]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", line) for line in found)
    assert "run: make nightly" in (ROOT / ".github" / "workflows" / "nightly.yml").read_text(encoding="utf-8")
    assert "make oldest-tests" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_a_wheel_switches_on_the_part_for_jupyter_server() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    ((source, target),) = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"].items()
    assert target == "etc/jupyter/jupyter_server_config.d/nbcompress.json"
    config = json.loads((ROOT / source).read_text(encoding="utf-8"))
    assert config == {"ServerApp": {"jpserver_extensions": {"nbcompress": True}}}
    (point,) = nbcompress._jupyter_server_extension_points()
    assert hasattr(import_module(point["module"]), "_load_jupyter_server_extension")


@pytest.mark.skipif("NBCOMPRESS_FAULTS" not in os.environ, reason="takes minutes; run by `make nightly`")
@pytest.mark.timeout(1200)
def test_a_wheel_of_a_clean_environment_works_without_node(tmp_path: Path) -> None:
    """Built from what is committed, in an environment of its own, and installed in another one."""

    def run(*command: str | Path, path: str = "/usr/bin:/bin", cwd: Path = tmp_path) -> str:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, env={**env, "PATH": path}, cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run("git", "clone", "--quiet", ROOT, tmp_path / "source")
    builder, user = ((tmp_path / name / "bin").absolute() for name in ("builder", "user"))
    for place in (builder, user):
        venv.create(place.parent, with_pip=True)
    run(builder / "python", "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, tmp_path / "source")
    (wheel,) = tmp_path.glob("*.whl")
    # The other packages are those of this environment.
    packages = run(user / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(packages) / "others.pth").write_text(sysconfig.get_path("purelib"))
    run(user / "python", "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    assert str(user.parent) in run(user / "python", "-c", "import nbcompress; print(nbcompress.__file__)")
    for module in ("jupyterlab.labextensions", "jupyter_server.extension.serverextension"):
        listed = run(user / "python", "-m", module, "list", path=str(user))
        plain = re.sub(r"\x1b\[[0-9;]*m", "", listed).partition(str(user.parent))[2]
        assert re.search(r"nbcompress\b[^\n]*enabled", plain), listed
        assert re.search(r"nbcompress v?0\.1\.0[^\n]* OK", plain), listed


def test_nothing_but_the_server_part_imports_jupyter_server() -> None:
    modules = "nbcompress.server, nbcompress.study.reading, nbcompress.magics"
    code = f"import sys, {modules}; print('jupyter_server' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


WITHOUT_EXTRAS = """
import sys
MISSING = {missing!r}


class Without:
    # A finder that does not find some packages.

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in MISSING else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = map(Without, sys.meta_path)
import torch
from torch import nn
import nbcompress as nc
from nbcompress.errors import MissingPart

model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
x = torch.randn(16, 8)
small = nc.quantize(nc.prune(model, amount=0.5, granularity="channel", example=x), bits=4)
nc.finetune(small, (x, torch.arange(16) % 2), epochs=1)
nc.save(small, "small.nbz")
assert torch.equal(nc.load("small.nbz", nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)))(x), small.eval()(x))
nc.footprint(small, x)
nc.export(small, "small.pt2", example=x)
study = nc.search(lambda x: {{"loss": x}}, {{"x": nc.Float(0, 1)}}, minimize="loss", trials=4, study="s", keep="y")
assert len(study.trials) == 4
for refused in (
    lambda: nc.export(small, "small.onnx", example=x),
    lambda: nc.latency_ms(small, x, runtime="onnx"),
    lambda: nc.search(lambda x: {{"loss": x}}, {{"x": nc.Float(0, 1)}}, minimize="loss", trials=4, engine="ray"),
    lambda: nc.search(lambda x: {{"loss": x}}, {{"x": nc.Float(0, 1)}}, minimize="loss", trials=4, engine="dask"),
):
    try:
        refused()
    except MissingPart as error:
        print(error)
"""


def test_everything_else_works_without_the_optional_packages(tmp_path: Path) -> None:
    """What a plain `pip install nbcompress` lacks: each part that needs it says which extra to install."""
    missing = {
        *("ml_dtypes", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "ray", "dask", "distributed"),
        *("jupyter_server", "jupyterlab", "keras", "transformers", "redis", "psycopg", "psycopg2", "sklearn"),
    }
    code = WITHOUT_EXTRAS.format(missing=missing)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    extras = [line.partition("nbcompress[")[2].partition("]")[0] for line in done.stdout.splitlines()]
    assert extras == ["onnx", "onnx", "ray", "dask"]
