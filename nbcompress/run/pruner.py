from typing import Protocol
from collections.abc import Mapping


class Judge(Protocol):
    def verdict(self, reports: Mapping[str, Mapping[int, float]], step: int) -> str: ...
