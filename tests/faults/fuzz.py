"""Files that lie: mutated models, kept values and their notes, journals and databases, through every reader.

    python tests/faults/fuzz.py KIND [--seeds 0 10] [--inputs 1000] [--out FILE] [--seconds 800]

Each seed of a kind is a batch of so many inputs; a batch gives the same inputs on each machine. A line of JSON for each
batch is appended to the file, and batches that it holds already are left out, so a campaign goes on where it stopped.
The kinds are `model`, `kept`, `journal` and `database`; tests of the front end do the same with bundles.

A finding is: an exception that is no `NbcompressError`, a model that a refusal has changed, an import, a pickle, a
program or a connection while reading, a file that was written elsewhere than in the folder of the reader, more than
20 s or more than 1 GB.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import resource
import sqlite3
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

import nbcompress as nc
from nbcompress.artifact.container import checked_contents, file_parts
from nbcompress.artifact.file import MODEL_KEY
from nbcompress.artifact.header import _DICTIONARY, ByteReader, ByteWriter
from nbcompress.artifact.values import VALUE_KEY
from nbcompress.errors import NbcompressError
from nbcompress.panels.view import study_view
from nbcompress.run.kept import FolderArtifactStore
from nbcompress.study.reading import open_for_reading, studies_of

MAX_SECONDS, MAX_BYTES = 20.0, 1 << 30
NUMBERS = [0, 1, 2, 127, 128, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 2**64, -1, 10**30]
TEXTS = [
    "", "\0", "<script>x</script>", "__proto__", "\ud800", "\u202e", "../../etc/passwd", "a" * 1000, "NaN", "1e999",
    "0x1p99999", "int", "tensor", "array", "module", "dict", "|O", "<M8[s]", "weight", "x", "loss", "complete",
    "running",     "nbcompress:end", "~", "%s", "{0}",
]  # fmt: skip


# Mutations ------------------------------------------------------------------------------------------------------------


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one or several changes: flipped, replaced, cut off, inserted, removed, repeated."""
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        place = rng.randrange(len(found) + 1)
        kind = rng.randrange(7)
        if kind == 0 and found:
            found[place % len(found)] ^= 1 << rng.randrange(8)
        elif kind == 1 and found:
            found[place % len(found)] = rng.randrange(256)
        elif kind == 2 and rng.random() < 0.3:
            del found[place:]
        elif kind == 3:
            found[place:place] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 4:
            del found[place : place + rng.randrange(1, 9)]
        elif kind == 5:
            other = rng.randrange(len(found) + 1)
            found[place:place] = found[other : other + rng.randrange(1, 33)]
        else:
            number = (rng.choice(NUMBERS) % 2**64).to_bytes(8, rng.choice(["little", "big"]))
            found[place : place + 8] = number[: rng.choice([1, 2, 4, 8])]
    return bytes(found)


def any_json(rng: random.Random, depth: int = 2) -> Any:
    kind = rng.randrange(8)
    if kind == 0:
        return None
    if kind == 1:
        return rng.random() < 0.5
    if kind == 2:
        return rng.choice(NUMBERS)
    if kind == 3:
        return rng.choice([0.0, -0.0, 1e308, 1e-320, float("nan"), float("inf"), 0.5])
    if kind == 4 or depth == 0:
        return rng.choice(TEXTS)
    if kind == 5:
        return [any_json(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 6:
        nested: Any = []
        for _ in range(rng.choice([50, 101, 990])):
            nested = [nested]
        return nested
    return {rng.choice(TEXTS): any_json(rng, depth - 1) for _ in range(rng.randrange(4))}


def places_of(tree: Any) -> list[tuple[Any, Any]]:
    """Return each place of JSON as the list or dict that holds it and its index or key."""
    found, waiting = [], [tree]
    while waiting:
        owner = waiting.pop()
        items = list(owner.items()) if isinstance(owner, dict) else list(enumerate(owner))
        for key, value in items:
            found.append((owner, key))
            if isinstance(value, dict | list):
                waiting.append(value)
    return found


def changed_json(tree: Any, rng: random.Random) -> Any:
    """Return JSON with some places replaced, removed, renamed, repeated, or with another number or text."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = places_of(tree) if isinstance(tree, dict | list) else []
        if not places or rng.random() < 0.02:
            return any_json(rng)
        owner, key = rng.choice(places)
        kind, value = rng.randrange(6), owner[key]
        if kind <= 1:
            owner[key] = any_json(rng)
        elif kind == 2:
            del owner[key]
        elif kind == 3 and isinstance(owner, dict):
            owner[rng.choice(TEXTS)] = owner.pop(key)
        elif kind == 3:
            owner.insert(key, any_json(rng))
        elif isinstance(value, bool) or value is None:
            owner[key] = any_json(rng)
        elif isinstance(value, int):
            owner[key] = rng.choice([value + 1, -value, value * 2**40, rng.choice(NUMBERS)])
        elif isinstance(value, float):
            owner[key] = rng.choice([-value, value * 1e300, float("nan"), float("inf")])
        elif isinstance(value, str):
            owner[key] = rng.choice([value + rng.choice(TEXTS), value[:-1], rng.choice(TEXTS)])
    return tree


def json_bytes(tree: Any) -> bytes:
    try:
        return json.dumps(tree, separators=(",", ":")).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b"[" * 5000 + b"]" * 5000


# Readers --------------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.b(torch.relu(self.a(x))))


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.head(self.second(torch.relu(self.norm(self.first(x)))).flatten(1)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)
        self.last.weight = self.first.weight
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("empty", torch.zeros(0, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.last(self.first(x)))


def small_models() -> list[nn.Module]:
    torch.manual_seed(0)
    data, image = (torch.randn(8, 12), torch.zeros(8, dtype=torch.long)), torch.randn(8, 1, 4, 4)
    return [
        Net(),
        nc.quantize(nc.prune(Net(), amount=0.5), bits=3),
        nc.quantize(Net(), bits=4, scheme="affine"),
        nc.cluster(nc.prune(Net(), amount=0.7), clusters=4),
        nc.factorize(Net(), rank=0.25),
        nc.quantize(Net(), bits=8, activations="static", data=data),
        nc.prune(Conv(), amount=0.5, granularity="channel", example=image),
        nc.quantize(nc.prune(Conv(), amount=0.5, granularity="channel", example=image), bits=2, granularity="tensor"),
        Tied(),
        Net().to(torch.bfloat16),
    ]


class Reader:
    """Makes mutated inputs of one kind and reads them. `folder` is where it writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, rng: random.Random) -> bytes:
        raise NotImplementedError

    def whole(self) -> list[bytes]:
        """Return the inputs that are mutated."""
        raise NotImplementedError

    def read(self, data: bytes) -> None:
        """Read an input.

        Raises:
            NbcompressError: It is refused, which is right.
        """
        raise NotImplementedError


class ModelReader(Reader):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._path = folder / "model.nbz"
        self._files = [(type(model), nc.save(model, self._path).read_bytes()) for model in small_models()]
        self._class: type[nn.Module] = Net

    def whole(self) -> list[bytes]:
        return [data for _, data in self._files]

    def make(self, rng: random.Random) -> bytes:
        self._class, data = rng.choice(self._files)
        kind = rng.randrange(10)
        if kind == 0:
            return changed_bytes(data, rng)  # the checksum says so
        contents = bytes(checked_contents(data, MODEL_KEY, self._path))
        if kind <= 5:
            return b"".join(file_parts(MODEL_KEY, [changed_bytes(contents, rng)]))
        # As an attacker: the header is unpacked, changed, and stored as it is, with a checksum that agrees.
        reader = ByteReader(contents)
        header, rest = bytes(reader.block()), bytes(reader.left)
        flags, body = header[0], header[1:]
        if flags & 2:
            body = zlib.decompressobj(wbits=-15, zdict=_DICTIONARY if flags & 4 else b"").decompress(body)
        if kind <= 8:
            start = body.find(b"[[")
            if start > 0 and rng.random() < 0.6:
                with suppress(ValueError, RecursionError):
                    text = json_bytes(changed_json(json.loads(body[start:]), rng))
                    body = self._with_text(body[:start], text)
            else:
                body = changed_bytes(body, rng)
        else:
            rest = changed_bytes(rest, rng)
        writer = ByteWriter()
        writer.block(bytes([flags & 1]) + body)
        return b"".join(file_parts(MODEL_KEY, [bytes(writer.data), rest]))

    @staticmethod
    def _with_text(before: bytes, text: bytes) -> bytes:
        # The length of the old text stands before it, in one or two bytes; an odd one is refused, too.
        writer = ByteWriter()
        writer.block(text)
        return before[:-2] + bytes(writer.data)

    def read(self, data: bytes) -> None:
        self._path.write_bytes(data)
        torch.manual_seed(0)
        model = self._class()
        before = self._state(model)
        try:
            nc.load(self._path, model)
        except NbcompressError:
            if self._state(model) != before:
                raise AssertionError("a refusal has changed the model") from None
            raise
        nc.size_bytes(model)

    @staticmethod
    def _state(model: nn.Module) -> bytes:
        tensors = [value.reshape(-1).view(torch.uint8) for value in model.state_dict().values() if value.numel()]
        kinds = [(name, sorted(vars(module))) for name, module in model.named_modules()]
        return b"".join(tensor.numpy().tobytes() for tensor in tensors) + repr(kinds).encode()


class KeptReader(Reader):
    """A kept value and the note beside it, as a study reads them."""

    def __init__(self, folder: Path) -> None:
        import numpy as np

        super().__init__(folder)
        models = small_models()
        values = [
            {"a": 1, "b": [1.5, None, True, "text"], "c": (1, 2), 3: float("nan")},
            {"net": models[1], "t": torch.randn(2, 3), "n": np.arange(6).reshape(2, 3), "s": np.float32(2.5)},
            [torch.zeros(0, 3), torch.tensor([True]), torch.randn(2).bfloat16(), 10**40, -(2**70)],
            models[1],
        ]
        # The notebook has such a module, so that kept ones are rebuilt.
        self._store = FolderArtifactStore(folder, lambda: {"net": models[0]})
        self._files = []
        for value in values:
            self._store.put(0, "value", value)
            path = folder / "0" / "value.nbz"
            self._files.append((path.read_bytes(), path.with_suffix(".json").read_bytes()))

    def whole(self) -> list[bytes]:
        return [self._joined(*files) for files in self._files]

    @staticmethod
    def _joined(value: bytes, note: bytes) -> bytes:
        return len(note).to_bytes(4, "little") + note + value

    def make(self, rng: random.Random) -> bytes:
        value, note = rng.choice(self._files)
        kind = rng.randrange(10)
        if kind <= 1:
            note = changed_bytes(note, rng) if kind else json_bytes(changed_json(json.loads(note), rng))
        elif kind == 2:
            value = changed_bytes(value, rng)
        else:
            contents = bytes(checked_contents(value, VALUE_KEY, self.folder))
            if kind <= 5:
                contents = changed_bytes(contents, rng)
            else:
                reader, writer = ByteReader(contents), ByteWriter()
                writer.block(json_bytes(changed_json(json.loads(reader.text()), rng)))
                contents = bytes(writer.data) + bytes(reader.left)
            value = b"".join(file_parts(VALUE_KEY, [contents]))
        return self._joined(value, note)

    def read(self, data: bytes) -> None:
        n, path = int.from_bytes(data[:4], "little"), self.folder / "0" / "value.nbz"
        path.with_suffix(".json").write_bytes(data[4 : 4 + n])
        path.write_bytes(data[4 + n :])
        store = FolderArtifactStore(self.folder, self._store._modules)
        repr(store.get(0, "value"))[:100]


def searched(storage: str) -> None:
    """Write a small study of every kind of trial."""

    def body(x: float, kind: str, depth: int) -> dict[str, float]:
        nc.report(loss=x, step=0)
        if x < 0.15:
            raise ValueError("no good")
        print("text")
        return {"loss": x + depth, "size": x}

    space: dict[str, Any] = {"x": nc.Float(0, 1), "kind": nc.Choice("a", "b"), "depth": nc.Int(1, 4)}
    wanted: dict[str, Any] = {"minimize": ["loss", "size"], "subject_to": ["size <= 0.8"]}
    nc.search(body, space, **wanted, trials=6, sampler="sobol", storage=storage, study="s")


def read_studies(path: Path) -> None:
    """Read a file as the sidebar does, and draw what it holds as data."""
    for study in studies_of(open_for_reading(path)).values():
        json.dumps(study_view(study), allow_nan=False)


class JournalReader(Reader):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._path = folder / "a.journal"
        searched(str(self._path))
        self._data = self._path.read_bytes()
        self._lines = self._data.splitlines()

    def whole(self) -> list[bytes]:
        return [self._data]

    def make(self, rng: random.Random) -> bytes:
        kind = rng.randrange(10)
        if kind <= 2:
            return changed_bytes(self._data, rng)
        lines = list(self._lines)
        for _ in range(rng.choice([1, 1, 2])):
            i = rng.randrange(len(lines))
            if kind == 3:
                lines.insert(rng.randrange(len(lines)), lines[i])
            elif kind == 4:
                lines.pop(i)
            else:
                with suppress(ValueError, RecursionError):
                    lines[i] = json_bytes(changed_json(json.loads(lines[i]), rng))
        return b"\n".join(lines) + b"\n"

    def read(self, data: bytes) -> None:
        self._path.write_bytes(data)
        read_studies(self._path)


class DatabaseReader(Reader):
    TEXTS = (("trial_user_attributes", "value_json"), ("study_user_attributes", "value_json"),
             ("trial_params", "distribution_json"), ("trials", "state"), ("trial_values", "value"),
             ("study_directions", "direction"), ("trial_params", "param_value"))  # fmt: skip

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._path = folder / "a.db"
        searched(f"sqlite:///{self._path}")
        self._data = self._path.read_bytes()
        with sqlite3.connect(self._path) as database:
            self._rows = [
                (table, column, row, text)
                for table, column in self.TEXTS
                for row, text in database.execute(f"SELECT rowid, {column} FROM {table}")
            ]
        database.close()

    def whole(self) -> list[bytes]:
        return [self._data]

    def make(self, rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return changed_bytes(self._data, rng)
        self._path.write_bytes(self._data)
        database = sqlite3.connect(self._path)
        database.execute("PRAGMA journal_mode=OFF")
        database.execute("PRAGMA synchronous=OFF")
        for _ in range(rng.choice([1, 1, 2])):
            table, column, row, text = rng.choice(self._rows)
            try:
                new: Any = json_bytes(changed_json(json.loads(text), rng)).decode("utf-8", "replace")
            except (TypeError, ValueError):
                new = rng.choice([*TEXTS, None, -1, 2.5, 2**62])
            with suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
                database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (new, row))
        database.commit()
        database.close()
        return self._path.read_bytes()

    def read(self, data: bytes) -> None:
        self._path.write_bytes(data)
        read_studies(self._path)


READERS: dict[str, type[Reader]] = {
    "model": ModelReader,
    "kept": KeptReader,
    "journal": JournalReader,
    "database": DatabaseReader,
}


# The campaign ---------------------------------------------------------------------------------------------------------

_FORBIDDEN = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork",
              "socket.connect", "ctypes.dlopen", "import", "shutil.rmtree", "os.remove", "os.rename")  # fmt: skip


def _is_known(module: str) -> bool:
    """Say whether a module is loaded already, or is one of the text encodings, which NumPy loads when it needs them."""
    return module in sys.modules or module.startswith("encodings.")


class Watch:
    """What a reader does that it should not, by the audit hook of Python, which stays for the rest of the process."""

    def __init__(self) -> None:
        self.folder = ""
        self.is_on = False
        self.found: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and isinstance(path, str) and not os.path.abspath(path).startswith(self.folder):
                self.found.append(f"writes {path} ({mode})")
        elif event in _FORBIDDEN and not (event == "import" and _is_known(arguments[0])):
            self.found.append(f"{event} {arguments[:1]!r:.80}")

    @contextmanager
    def on(self, folder: Path) -> Iterator[None]:
        self.folder, self.is_on = str(folder), True
        try:
            yield
        finally:
            self.is_on = False


def peak_bytes(reset: bool) -> int:
    """Return the largest memory of this process since the last reset, or the present one with `reset`."""
    if reset:
        with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return int(psutil.Process().memory_info().rss)
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def batch(
    kind: str, seed: int, n: int, folder: Path, watch: Watch | None = None, keep: Callable[[bytes], None] | None = None
) -> dict[str, Any]:
    """Read `n` mutated inputs and return the counts, the slowest parse, the largest memory, and the findings.

    Args:
        kind: A key of `READERS`.
        seed: Equal seeds give equal inputs.
        n: How many.
        folder: For the files that are read.
        watch: Notes what a reader does that it should not.
        keep: Called with each input before it is read.
    """
    reader = READERS[kind](folder)
    for data in reader.whole():  # imports what reading needs
        with suppress(NbcompressError):
            reader.read(data)
    counts: Counter[str] = Counter()
    findings: dict[str, str] = {}
    slowest, largest = 0.0, 0
    rng = random.Random(f"{kind} {seed}")
    for _ in range(n):
        data = reader.make(rng)
        if keep is not None:
            keep(data)
        before, start = peak_bytes(reset=True), time.perf_counter()
        problem = ""
        try:
            if watch is None:
                reader.read(data)
            else:
                with watch.on(folder):
                    reader.read(data)
            counts["read"] += 1
        except NbcompressError as error:
            counts["refused"] += 1
            if "\n" in str(error).strip() or not str(error).strip():
                problem = f"the refusal is no line: {str(error)!r:.200}"
        except BaseException as error:  # noqa: BLE001 - each one is a finding
            where = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {str(error)[:200]}"
        seconds, growth = time.perf_counter() - start, peak_bytes(reset=False) - before
        slowest, largest = max(slowest, seconds), max(largest, growth)
        if seconds > MAX_SECONDS or growth > MAX_BYTES:
            problem = problem or f"took {seconds:.1f} s and {growth / 1e6:.0f} MB"
        if watch is not None and watch.found:
            problem = problem or watch.found[0]
            watch.found.clear()
        if problem:
            counts["findings"] += 1
            findings.setdefault(problem, data[:20_000].hex())
    return {
        "kind": kind,
        "seed": seed,
        "n": n,
        **counts,
        "slowest": round(slowest, 4),
        "largest": largest,
        "found": findings,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=list(READERS))
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 10))
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("fuzz.jsonl"))
    parser.add_argument("--seconds", type=float, default=800.0)
    options = parser.parse_args()
    end, watch, memory = time.monotonic() + options.seconds, Watch(), Path("/dev/shm")
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = {(line["kind"], line["seed"], line["n"]) for line in map(json.loads, lines)}
    for seed in range(*options.seeds):
        if (options.kind, seed, options.inputs) in done:
            continue
        if time.monotonic() > end:
            return
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            # Beside the folder, so that the input that ends this process can be found. Not on a disk: that takes more
            # time than reading it.
            last = Path(folder).with_suffix(f".{options.kind}")
            result = batch(options.kind, seed, options.inputs, Path(folder), watch, last.write_bytes)
            last.unlink()
        with options.out.open("a") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
