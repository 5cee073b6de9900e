"""Kept values: what trials on the front leave behind for later, in memory or in files beside the storage."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from nbcompress.errors import ArtifactError
from nbcompress.study.artifact_store import OUTPUTS, ArtifactStore
from nbcompress.study.front import example_pick, front
from nbcompress.study.goal import State, Trial

if TYPE_CHECKING:
    from torch import nn

    from nbcompress.artifact import Handle
    from nbcompress.study import Study

VERSION = 1
# A note holds the names of a few modules.
_MAX_NOTE_BYTES = 1 << 20
# An empty file of this name marks a trial whose values stay although it is not on the front.
_PIN = "pinned"
# The name of the folder of a trial. Other folders are not ours.
_IS_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")

Modules = Callable[[], "Mapping[str, nn.Module]"]
"""Returns the notebook's modules as they are now, by name."""


class MemoryArtifactStore:
    """Keeps the values in memory, as long as the study object exists."""

    def __init__(self) -> None:
        self._kept: dict[int, dict[str, Any]] = {}
        self._pinned: set[int] = set()

    def put(self, number: int, name: str, value: Any) -> None:
        self._kept.setdefault(number, {})[name] = value

    def get(self, number: int, name: str) -> Any:
        return self._kept[number][name]

    def names(self, number: int) -> tuple[str, ...]:
        return tuple(sorted(self._kept.get(number, {})))

    def drop(self, number: int) -> None:
        self._kept.pop(number, None)
        self._pinned.discard(number)

    def pin(self, number: int) -> None:
        self._pinned.add(number)

    def pinned(self) -> frozenset[int]:
        return frozenset(self._pinned)


class FolderArtifactStore:
    """Keeps each value in a file `<folder>/<number>/<name>.nbz`, with a JSON note next to it.

    The file of a module holds no class. The module is rebuilt in a copy of a module of the same class in the notebook;
    this works after a restart, too. A module without one, such as a module that a function made, stays in memory while
    its trial is on the front; after a restart it is a `Handle`, to be loaded into a new instance.

    Args:
        folder: Where; it need not exist.
        modules: The notebook's modules.
    """

    def __init__(self, folder: Path, modules: Modules = dict) -> None:
        self._folder, self._modules = folder, modules
        self._held: dict[tuple[int, str], Any] = {}

    def put(self, number: int, name: str, value: Any) -> None:
        """Keep a value.

        Raises:
            ArtifactError: A value of this type cannot be kept, or a file cannot be written.
            OSError: There can be no folder for the file.
        """
        from nbcompress.artifact import save_value
        from nbcompress.artifact.file import write_atomically

        path = self._path(number, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        origins = [self._origin(module) for module in _modules_in(value)]
        save_value(value, path)
        # The note is written last: a value without a note is incomplete.
        write_atomically(_note_path(path), [json.dumps({"version": VERSION, "origins": origins}).encode()])
        if None in origins:
            self._held[number, name] = value

    def get(self, number: int, name: str) -> Any:
        """Return the value; a module whose class the notebook does not have is a `Handle`.

        Raises:
            KeyError: Nothing is kept under that number and name.
            ArtifactError: The file is damaged, or from a newer version.
        """
        from nbcompress.artifact import load_value

        if (number, name) in self._held:
            return self._held[number, name]
        path = self._path(number, name)
        try:
            origins = iter(_read_origins(path))
        except FileNotFoundError:
            raise KeyError(f"trial {number} keeps no {name!r}") from None
        return _with_modules(load_value(path), lambda handle: self._rebuilt(handle, next(origins, None)))

    def names(self, number: int) -> tuple[str, ...]:
        # Most trials keep nothing, and a view asks for all of them.
        if not os.path.isdir(f"{self._folder}/{number}"):
            return ()
        return tuple(sorted(unquote(path.stem) for path in (self._folder / str(number)).glob("*.json")))

    def drop(self, number: int) -> None:
        folder = self._folder / str(number)
        if folder.is_dir():
            shutil.rmtree(folder)
        for key in [key for key in self._held if key[0] == number]:
            del self._held[key]

    def pin(self, number: int) -> None:
        folder = self._folder / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _PIN).touch()

    def pinned(self) -> frozenset[int]:
        if not self._folder.is_dir():
            return frozenset()
        folders = [path.parent.name for path in self._folder.glob(f"*/{_PIN}")]
        return frozenset(int(name) for name in folders if _IS_NUMBER.fullmatch(name))

    def remove_orphans(self, complete: Collection[int], running: Collection[int]) -> None:
        """Remove what killed processes left. The caller excludes other writers.

        Args:
            complete: Trials whose values are kept: without a note a value of theirs was not written to its end.
            running: Trials that may write now; theirs are left alone. All values of other trials are removed.
        """
        if not self._folder.is_dir():
            return
        for folder in self._folder.iterdir():
            if not _IS_NUMBER.fullmatch(folder.name) or not folder.is_dir() or int(folder.name) in running:
                continue
            if int(folder.name) not in complete:
                self.drop(int(folder.name))
                continue
            for path in folder.iterdir():
                is_value = path.suffix == ".nbz" and _note_path(path).exists()
                if not is_value and path.suffix in (".nbz", ".part"):
                    path.unlink(missing_ok=True)

    def _path(self, number: int, name: str) -> Path:
        return self._folder / str(number) / f"{quote(name, safe='')}.nbz"

    def _origin(self, value: nn.Module) -> str | None:
        """Return the name of the first module of the same class in the notebook."""
        kind = _kind(value)
        return next((name for name, module in self._modules().items() if _kind(module) == kind), None)

    def _rebuilt(self, handle: Handle, origin: str | None) -> Any:
        from nbcompress.compressors.copying import deep_copy

        modules = dict(self._modules())
        first = {origin: modules.pop(origin)} if origin is not None and origin in modules else {}
        for module in (first | modules).values():
            if _kind(module) == handle.class_name:
                try:
                    return handle.load(into=deep_copy(module))
                except ArtifactError:  # a class of the same name with other code or sizes
                    continue
        return handle


def wanted_values(kept: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the values whose names are wanted; without names, all."""
    return {name: value for name, value in kept.items() if not names or name in names}


class ArtifactWriter:
    """Writes the kept values of trials on the front, and removes those of trials that have left it."""

    def __init__(self, study: Study, names: Collection[str] = ()) -> None:
        self._study, self._names = study, frozenset(names)
        self._store: ArtifactStore | None = study.artifact_store
        self._numbers: set[int] = set()
        if self._store is not None:
            self._numbers = {trial.number for trial in study.all_trials if self._store.names(trial.number)}
        self._rejected: dict[tuple[str, str], list[int]] = {}  # name and reason -> trials

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each name that could not be stored, with the reason."""
        warnings = []
        for (name, reason), numbers in self._rejected.items():
            others = len(numbers) - 1
            more = f" and {others} other{'s' * (others > 1)}" if others else ""
            warnings.append(f"{name!r} of trial {numbers[0]}{more} could not be kept: {reason}")
        return tuple(warnings)

    def put(self, trial: Trial, kept: Mapping[str, Any], displayed: Sequence[Mapping[str, Any]] = ()) -> None:
        """Store what a trial keeps and has displayed if it will be on the front.

        Called before the end of the trial is recorded.
        """
        wanted = wanted_values(kept, self._names) | ({OUTPUTS: list(map(dict, displayed))} if displayed else {})
        if self._store is None or not wanted or trial.state is not State.COMPLETE:
            return
        others = [other for other in self._study.front if other.number != trial.number]
        if all(best.number != trial.number for best in front([*others, trial], self._study.goal)):
            return
        self._numbers.add(trial.number)
        for name, value in wanted.items():
            try:
                self._store.put(trial.number, name, value)
            except (ArtifactError, OSError) as error:
                self._rejected.setdefault((name, str(error)), []).append(trial.number)

    def remove_stale(self) -> None:
        """Remove the kept values of trials that are neither on the front nor pinned."""
        if self._store is None or not self._numbers:
            return
        on_front = {trial.number for trial in self._study.front}
        stale = self._numbers - on_front
        for number in sorted(stale - self._store.pinned() if stale else ()):
            self._store.drop(number)
        self._numbers &= on_front


_MAX_NAMES = 3


def where_kept(study: Study, variable: str = "study") -> str:
    """Return where the kept values are, such as `best: study.kept["small"]`; empty if the best trial keeps nothing.

    With several objectives it is the best in the first one, and a choice by a condition.

    Args:
        study: The study.
        variable: What the study is called in the notebook.
    """
    on_front = study.front
    names = [f'["{name}"]' for name in (on_front[0].kept if on_front else ())][:_MAX_NAMES]
    if not names:
        return ""
    best = best_kept(study, variable)
    text = "best: " + ", ".join(f"{best}{name}" for name in names)
    objectives = study.goal.objectives
    if len(objectives) == 1:
        return text
    pick = example_pick(on_front, study.goal)
    return f"{text} in {objectives[0].metric}; or by a condition: {variable}.{pick}.kept{names[0]}"


def best_kept(study: Study, variable: str) -> str:
    """Return the expression of what the best trial keeps; with several objectives, the best in the first one."""
    return f"{variable}.kept" if len(study.goal.objectives) == 1 else f"{variable}.front[0].kept"


def displayed_outputs(study: Study) -> list[dict[str, Any]]:
    """Return the mime bundles that the best trial has displayed; empty if there are none."""
    best, store = next(iter(study.front), None), study.artifact_store
    if best is None or store is None or OUTPUTS not in store.names(best.number):
        return []
    try:
        return list(store.get(best.number, OUTPUTS))
    except (ArtifactError, KeyError, OSError):  # a damaged file takes nothing else with it
        return []


def attach_artifact_store(study: Study, modules: Modules = dict) -> None:
    """Give a study the store of its kept values: a folder beside its storage, or memory if it is not stored."""
    folder = study.kept_folder
    if folder is None:
        study.artifact_store = MemoryArtifactStore()
        study.refresh()
        return
    study.artifact_store = store = FolderArtifactStore(folder, modules)
    if study.is_read_only:
        study.refresh()
        return
    with study.exclusive():
        study.refresh()
        running = {trial.number for trial in study.all_trials if trial.state is State.RUNNING}
        with suppress(OSError):  # what cannot be removed now does no harm, and may be removed the next time
            store.remove_orphans({trial.number for trial in study.front} | store.pinned(), running)


def _note_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _read_origins(path: Path) -> list[str | None]:
    """Return the names of the notebook's modules that the note of a kept file holds.

    Raises:
        FileNotFoundError: There is no note.
        ArtifactError: The note is damaged, or from a newer version.
    """
    try:
        with open(_note_path(path), "rb") as file:
            text = file.read(_MAX_NOTE_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ArtifactError(f"{_note_path(path)} cannot be read: {error.strerror or error}.") from error
    damaged = f"The note {_note_path(path)} of a kept value is damaged; load the value itself with load_value(path)."
    if len(text) > _MAX_NOTE_BYTES:
        raise ArtifactError(damaged)
    try:
        note = json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, not text, or nested too deeply
        raise ArtifactError(damaged) from error
    version = note.get("version") if isinstance(note, dict) else None
    if type(version) is not int or version < 1:
        raise ArtifactError(damaged)
    if version > VERSION:
        raise ArtifactError(f"{path} was kept by a newer nbcompress; update this one to read it.")
    origins = note.get("origins")
    if not isinstance(origins, list) or not all(origin is None or isinstance(origin, str) for origin in origins):
        raise ArtifactError(damaged)
    return origins


def _modules_in(value: Any) -> Iterator[nn.Module]:
    """Yield the modules of a value in the order in which they lie in its file."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.nn.Module):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _modules_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _modules_in(part)


def _with_modules(value: Any, rebuilt: Callable[[Handle], Any]) -> Any:
    """Return a loaded value with its handles replaced."""
    from nbcompress.artifact import Handle

    if isinstance(value, Handle):
        return rebuilt(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_with_modules(part, rebuilt) for part in value)
    if isinstance(value, dict):
        return {key: _with_modules(part, rebuilt) for key, part in value.items()}
    return value


def _kind(module: nn.Module) -> str:
    return type(module).__name__
