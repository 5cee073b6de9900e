"""The rules of the tree: which folder may import which, how large it is, and that names mean one thing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from nbcompress.public import HOMES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nbcompress"

# The folders from the lowest floor to the highest. A module imports from lower floors and from its own folder.
FLOORS = [
    "space",
    "study",
    "optimize",
    "compressors",
    "artifact",
    "measure",
    "run",
    "cell",
    "panels",
    "magics",
    "server",
    "optuna",
    "compat",
]
# Which folders alone may import a package. A name stands for the package and everything in it.
ONLY_ON = {
    "IPython": {"magics"},
    "ipywidgets": {"panels"},
    "anywidget": {"panels"},
    "seaborn": {"panels"},
    "matplotlib": {"panels"},
    "jupyter_server": {"server"},
}
NEVER_ON = {"torch": {"space", "study"}, "gpytorch": {"space", "study", "compressors"}, "optuna": {"space"}}
HEAVY = ["torch", "gpytorch", "botorch", "optuna", "pandas", "seaborn", "matplotlib", "scipy", "sklearn"]

MOST_MODULES = 250
MOST_LINES = 600
# Share of comprehension targets that may be called `one`, which says nothing about the item.
MOST_ONES = 0.03

MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if "labextension" not in path.parts)
# The modules beside the folders. They import nothing of ours, so every floor may import them.
GROUND = [path for path in MODULES if len(path.parts) == 1 and path.name != "__init__.py"]


def parsed(path: Path) -> ast.Module:
    return ast.parse((PACKAGE / path).read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    parts = ["nbcompress", *path.with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def only_for_types(tree: ast.Module) -> set[ast.AST]:
    """Return all nodes under `if TYPE_CHECKING:`, which never run."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            found |= {inner for child in node.body for inner in ast.walk(child)}
    return found


@cache
def imports_of(path: Path, *, with_types: bool = False) -> tuple[str, ...]:
    """Return the dotted names that a module imports, also inside functions."""
    return tuple(_imports_of(path, with_types))


def _imports_of(path: Path, with_types: bool) -> Iterator[str]:
    tree = parsed(path)
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


def folders() -> list[str]:
    """Return the folders of the package that hold modules."""
    return sorted({path.parts[0] for path in MODULES if len(path.parts) > 1})


def test_every_folder_has_a_floor() -> None:
    assert set(folders()) <= set(FLOORS)


def test_the_readme_lists_the_folders_from_the_lowest_floor_to_the_highest() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where things are")[2]
    listed = re.findall(r"`nbcompress/(\w+)`", "\n".join(line for line in table.splitlines() if line.startswith("|")))
    assert listed == [floor for floor in FLOORS if floor in folders()]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_no_import_goes_up(path: Path) -> None:
    """Also no import for types alone: a type of a higher floor would be knowledge of it."""
    floor = floor_of(module_name(path))
    if floor is None:
        return
    for target in imports_of(path, with_types=True):
        other = floor_of(target)
        if other is not None:
            assert FLOORS.index(other) <= FLOORS.index(floor), (
                f"{floor} may not import {other}: {path} imports {target}"
            )


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_package_is_imported_on_its_floors_only(path: Path) -> None:
    floor = floor_of(module_name(path))
    for target in imports_of(path):
        top = target.split(".")[0]
        if top in ONLY_ON:
            assert floor in ONLY_ON[top], f"only {sorted(ONLY_ON[top])} may import {top}, but {path} does"
        if top in NEVER_ON:
            assert floor not in NEVER_ON[top], f"{floor} may not import {top}, but {path} does"


def import_graph(*, with_types: bool) -> dict[str, set[str]]:
    """Return the modules of ours that each module imports, by name."""
    known = {module_name(path): path for path in MODULES}
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        found = set()
        for target in imports_of(path, with_types=with_types):
            for candidate in (target, target.rsplit(".", 1)[0]):
                # A package's `__init__` gathers its modules. They may name the package to import a sibling.
                if candidate in known and candidate != name and not name.startswith(candidate + "."):
                    found.add(candidate)
                    break
        graph[name] = found
    return graph


@pytest.mark.parametrize("with_types", [False, True], ids=["at run time", "with types"])
def test_no_cycle_between_modules(with_types: bool) -> None:
    graph = import_graph(with_types=with_types)
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


@pytest.mark.parametrize("path", GROUND, ids=str)
def test_the_ground_stands_alone(path: Path) -> None:
    assert [target for target in imports_of(path) if target.startswith("nbcompress")] == []


def test_there_are_few_modules() -> None:
    assert len(MODULES) <= MOST_MODULES


def test_no_module_is_long() -> None:
    lengths = {str(path): len((PACKAGE / path).read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {path: n for path, n in lengths.items() if n > MOST_LINES} == {}


def test_there_is_no_utils() -> None:
    assert [str(path) for path in MODULES if path.stem in ("utils", "util", "helpers", "misc", "common")] == []


def test_no_two_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(str(path))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def test_items_of_comprehensions_have_names_that_say_what_they_are() -> None:
    n_targets = 0
    ones: dict[str, int] = {}
    for path in MODULES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.comprehension):
                n_targets += 1
                if any(isinstance(inner, ast.Name) and inner.id == "one" for inner in ast.walk(node.target)):
                    ones[str(path)] = ones.get(str(path), 0) + 1
    assert sum(ones.values()) <= MOST_ONES * n_targets, f"`one` in {sum(ones.values())} of {n_targets}: {ones}"


def test_no_folder_has_the_name_of_a_public_function() -> None:
    """`nbcompress.search` as a package would hide the function `nc.search` as soon as it is imported."""
    assert set(folders()) & set(HOMES) == set()


def printed_by(code: str) -> list[str]:
    """Run `code` in a new process and return the words that it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_public_names_stay_what_they_are_after_every_module_is_imported() -> None:
    """A submodule that is imported becomes an attribute of its package and may hide a function of the same name."""
    names = [module_name(path) for path in MODULES]
    code = (
        "from importlib import import_module\n"
        "from types import ModuleType\n"
        f"for name in {names!r}: import_module(name)\n"
        "import nbcompress\n"
        "from nbcompress.public import HOMES, MODULES, public\n"
        "for name in HOMES:\n"
        "    value = getattr(nbcompress, name)\n"
        "    if isinstance(value, ModuleType) or value.__name__ != name or value is not public(name): print(name)\n"
        "for name in MODULES:\n"
        "    if getattr(nbcompress, name).__name__ != f'nbcompress.{name}': print(name)\n"
    )
    assert printed_by(code) == []


def loaded_after(code: str, heavy: list[str]) -> list[str]:
    """Return which of the packages `heavy` are loaded after `code` ran in a new process."""
    return printed_by(f"import sys\n{code}\nprint(*[name for name in {heavy!r} if name in sys.modules])")


def test_import_is_light() -> None:
    assert loaded_after("import nbcompress", [*HEAVY, "IPython", "numpy"]) == []


def test_load_ext_is_light() -> None:
    # IPython loads matplotlib by itself where it is installed, so only what comes after its start counts.
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
