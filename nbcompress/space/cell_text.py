"""The text of a body: read once, and every place in it told as line and column of the cell as shown."""

from __future__ import annotations

import ast
import re
import warnings

from nbcompress.errors import SpaceSyntaxError


class CellText:
    """The source of a body and its syntax tree.

    Args:
        source: Python; magics are calls already.
        first_line: The line of the cell, as shown, on which the source begins.

    Raises:
        SpaceSyntaxError: The source is not Python.
    """

    def __init__(self, source: str, first_line: int = 1) -> None:
        self.source, self.first_line = source, first_line
        # As Python counts lines: a form feed or a Unicode line separator does not end one.
        self._lines = re.split(r"\r\n|\r|\n", source)
        self.tree = self._parsed()

    def _parsed(self) -> ast.Module:
        # Warnings, as about an escape sequence, come when the body is compiled to be run; once is enough.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                tree = ast.parse(self.source)
            except SyntaxError as err:
                raise self._syntax_error(err, err.offset or 1) from err
            except ValueError as err:
                raise SpaceSyntaxError(f"This is not Python: {err}.", self.first_line, 1) from err
            except (RecursionError, MemoryError) as err:
                raise SpaceSyntaxError("This is nested too deeply for Python.", self.first_line, 1) from err
            try:
                # Only the compiler finds some mistakes, such as a `return` outside a function.
                compile(tree, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
            except SyntaxError as err:
                # The parser counts characters, the compiler bytes.
                raise self._syntax_error(err, self._column(err.lineno or 1, (err.offset or 1) - 1)) from err
            except RecursionError as err:
                raise SpaceSyntaxError("This is nested too deeply for Python.", self.first_line, 1) from err
        return tree

    def _syntax_error(self, err: SyntaxError, column: int) -> SpaceSyntaxError:
        line = min(max(err.lineno or 1, 1), len(self._lines))
        return SpaceSyntaxError(f"This is not Python: {err.msg}.", line + self.first_line - 1, max(column, 1))

    def _column(self, row: int, offset: int) -> int:
        # A syntax tree counts bytes of UTF-8.
        before = self._lines[row - 1].encode("utf-8")[:offset]
        return len(before.decode("utf-8", errors="ignore")) + 1

    def parsed_again(self) -> ast.Module:
        """Return another tree of the same text."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(self.source)

    def place(self, node: ast.AST) -> tuple[int, int]:
        """Return line and column of a node, both as a person counts them, from 1."""
        row: int = getattr(node, "lineno", 1)
        offset: int = getattr(node, "col_offset", 0)
        return row + self.first_line - 1, self._column(row, offset)

    def line(self, node: ast.AST) -> int:
        return self.place(node)[0]

    def error(self, node: ast.AST, text: str, hint: str = "") -> SpaceSyntaxError:
        """Return the error that says `text` about a node."""
        line, column = self.place(node)
        return SpaceSyntaxError(text, line, column, hint)
