"""Passages of Python's own documentation, and the module of the standard library that each one comes from.

They are the docstrings that lie in the source of every Python, so nothing is downloaded; the wording differs a little
from version to version.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from torch import Tensor

MODULES = (
    *("asyncio", "difflib", "email", "http", "importlib"),
    *("logging", "turtle", "typing", "unittest", "_pydecimal"),
)
N_WORDS = 30
# With the marks of beginning and end, and the one for words that were not seen in training.
N_TOKENS = N_WORDS + 2
_PAD, _BEGIN, _END, _UNKNOWN = range(4)

# Token numbers, mask, labels.
Texts = tuple[Tensor, Tensor, Tensor]


def texts(n_modules: int, n_passages: int, n_test: int, seed: int) -> tuple[Texts, Texts, int]:
    """Passages to train on and to test, as numbers of words, and the size of the vocabulary.

    Args:
        n_modules: How many modules there are to tell apart.
        n_passages: At most so many of each.
        n_test: How many of all are for the test.
        seed: Of the choice and of the split.
    """
    random = Random(seed)
    labelled = []
    for label, module in enumerate(MODULES[:n_modules]):
        found = list(dict.fromkeys(passages(module)))
        labelled += [(passage, label) for passage in random.sample(found, min(n_passages, len(found)))]
    random.shuffle(labelled)
    train, test = labelled[n_test:], labelled[:n_test]
    words = Counter(word for passage, _ in train for word in passage)
    numbers = {word: _UNKNOWN + 1 + place for place, (word, _) in enumerate(words.most_common())}
    return _encoded(train, numbers), _encoded(test, numbers), _UNKNOWN + 1 + len(numbers)


def passages(module: str) -> Iterator[tuple[str, ...]]:
    """The docstrings of a module or package, cut into runs of words, signs and figures; short ends are left out."""
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted((root / module).rglob("*.py")) or [root / f"{module}.py"]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            words = re.findall(r"[a-z]+|[0-9]+|[^\sa-z0-9]", (ast.get_docstring(node) or "").lower())
            for start in range(0, len(words), N_WORDS):
                passage = tuple(words[start : start + N_WORDS])
                if 2 * len(passage) >= N_WORDS:
                    yield passage


def _encoded(labelled: list[tuple[tuple[str, ...], int]], numbers: dict[str, int]) -> Texts:
    tokens = torch.full((len(labelled), N_TOKENS), _PAD)
    for row, (passage, _) in zip(tokens, labelled, strict=True):
        known = [_BEGIN, *(numbers.get(word, _UNKNOWN) for word in passage), _END]
        row[: len(known)] = torch.tensor(known)
    return tokens, (tokens != _PAD).long(), torch.tensor([label for _, label in labelled])
