"""All architectures, by name."""

from __future__ import annotations

from architectures.audio import AUDIO
from architectures.awkward import AWKWARD
from architectures.entry import Architecture
from architectures.keras_models import KERAS
from architectures.language import LANGUAGE
from architectures.vision import VISION

KINDS: dict[str, dict[str, Architecture]] = {
    "language": LANGUAGE,
    "vision": VISION,
    "audio": AUDIO,
    "hand-made": AWKWARD,
    "Keras 3": KERAS,
}

ZOO: dict[str, Architecture] = {name: architecture for kind in KINDS.values() for name, architecture in kind.items()}

__all__ = ["KINDS", "ZOO"]
