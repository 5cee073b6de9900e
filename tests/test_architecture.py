"""The rule under the floors: a module imports from lower floors and its own folder, never upward."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "nbcompress"
FLOORS = [
    "space",
    "study",
    "optimize",
    "optuna",
    "compressors",
    "artifact",
    "measure",
    "run",
    "cell",
    "panels",
    "magics",
]
FLOORS += ["compat"]
GROUND = {"choices", "errors", "public", "_version"}

# Who alone may import what. A name stands for the package and everything in it.
ONLY_ON = {
    "IPython": {"magics"},
    "ipywidgets": {"panels"},
    "anywidget": {"panels"},
    "seaborn": {"panels"},
    "matplotlib": {"panels"},
}
NEVER_ON = {"torch": {"space", "study"}, "gpytorch": {"space", "study", "compressors"}, "optuna": {"space"}}
HEAVY = ["torch", "gpytorch", "botorch", "optuna", "pandas", "seaborn", "matplotlib", "scipy", "sklearn"]

MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if "labextension" not in path.parts)


def module_name(path: Path) -> str:
    parts = ["nbcompress", *path.with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def only_for_types(tree: ast.Module) -> set[ast.AST]:
    """All nodes under `if TYPE_CHECKING:`, which never run."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            found |= {inner for child in node.body for inner in ast.walk(child)}
    return found


def imports_of(path: Path, *, with_types: bool = False) -> Iterator[str]:
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    skipped = set() if with_types else only_for_types(tree)
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            yield from (f"{stem}.{name.name}" for name in node.names)


def floor_of(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "nbcompress" and parts[1] in FLOORS else None


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_no_import_goes_up(path: Path) -> None:
    own = floor_of(module_name(path))
    if own is None:
        return
    for target in imports_of(path):
        other = floor_of(target)
        if other is not None:
            assert FLOORS.index(other) <= FLOORS.index(own), f"{own} may not import {other}: {path} imports {target}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_parts_stay_on_their_floor(path: Path) -> None:
    own = floor_of(module_name(path))
    for target in imports_of(path):
        top = target.split(".")[0]
        if top in ONLY_ON:
            assert own in ONLY_ON[top], f"only {sorted(ONLY_ON[top])} may import {top}, but {path} does"
        if top in NEVER_ON:
            assert own not in NEVER_ON[top], f"{own} may not import {top}, but {path} does"


def test_no_cycle_between_modules() -> None:
    known = {module_name(path): path for path in MODULES}
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        found = set()
        for target in imports_of(path):
            for candidate in (target, target.rsplit(".", 1)[0]):
                # A package's `__init__` gathers its modules; they may name the package for its siblings' sake.
                if candidate in known and candidate != name and not name.startswith(candidate + "."):
                    found.add(candidate)
                    break
        graph[name] = found
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "import cycle: " + " -> ".join([*trail[trail.index(name) :], name])
        if name in done:
            return
        for other in sorted(graph[name]):
            visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", sorted(GROUND))
def test_the_ground_stands_alone(name: str) -> None:
    assert [target for target in imports_of(Path(f"{name}.py")) if target.startswith("nbcompress")] == []


def test_there_is_no_utils() -> None:
    assert [str(path) for path in MODULES if path.stem in ("utils", "util", "helpers", "misc", "common")] == []


def loaded_after(code: str, heavy: list[str]) -> list[str]:
    script = f"import sys\n{code}\nprint(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_import_is_light() -> None:
    assert loaded_after("import nbcompress", [*HEAVY, "IPython", "numpy"]) == []


def test_load_ext_is_light() -> None:
    # IPython loads matplotlib by itself when it finds it, so only what comes after its start counts.
    code = (
        "from IPython.testing.globalipapp import start_ipython\n"
        "shell = start_ipython()\n"
        "for name in [name for name in sys.modules if name.split('.')[0] == 'matplotlib']: del sys.modules[name]\n"
        "shell.run_line_magic('load_ext', 'nbcompress')\n"
        "assert 'bo_search' in shell.magics_manager.magics['cell']"
    )
    assert loaded_after(code, HEAVY) == []


@pytest.mark.parametrize("floor", ["space", "study"])
def test_low_floors_do_without_torch(floor: str) -> None:
    assert loaded_after(f"import nbcompress.{floor}", ["torch", "optuna", "pandas"]) == []
