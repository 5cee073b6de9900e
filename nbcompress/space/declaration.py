"""One declaration, as it was found in the text."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from nbcompress.space.branches import Branch


@dataclass(frozen=True, eq=False)
class Declaration:
    """One statement that declares a parameter; a parameter may have several on exclusive branches.

    Attributes:
        name: The parameter's name.
        kind: `Float`, `Int` or `Choice`.
        statement: The assignment.
        call: Its right-hand side.
        line: Line in the cell as shown.
        column: Column of the call in that line, from 1.
        tests: The branches that lead to it, outermost first.
    """

    name: str
    kind: str
    statement: ast.Assign | ast.AnnAssign
    call: ast.Call
    line: int
    column: int
    tests: tuple[Branch, ...]

    @property
    def is_group(self) -> bool:
        """Whether it has `each=`, so that the cell sees a dict."""
        return any(
            keyword.arg == "each" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is None)
            for keyword in self.call.keywords
        )
