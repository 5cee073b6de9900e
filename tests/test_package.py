"""What a wheel holds beside the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

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


def test_a_wheel_switches_on_the_part_for_jupyter_server() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    ((source, target),) = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"].items()
    assert target == "etc/jupyter/jupyter_server_config.d/nbcompress.json"
    config = json.loads((ROOT / source).read_text(encoding="utf-8"))
    assert config == {"ServerApp": {"jpserver_extensions": {"nbcompress": True}}}
    (point,) = nbcompress._jupyter_server_extension_points()
    assert hasattr(import_module(point["module"]), "_load_jupyter_server_extension")


def test_nothing_but_the_server_part_imports_jupyter_server() -> None:
    modules = "nbcompress.server, nbcompress.study.reading, nbcompress.magics"
    code = f"import sys, {modules}; print('jupyter_server' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
