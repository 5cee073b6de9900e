"""The text of a body: its syntax tree, positions as line and column of the cell, and the names it binds and reads."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nbcompress.errors import SpaceSyntaxError


class CellText:
    """The text of a body and its syntax tree.

    Args:
        source: The body as Python; magics are calls already.
        first_line: The line of the cell, as shown, on which the source begins.

    Raises:
        SpaceSyntaxError: The source is not Python.
    """

    def __init__(self, source: str, first_line: int = 1) -> None:
        self.source, self.first_line = source, first_line
        # As Python counts lines: unlike in `str.splitlines`, a form feed or a Unicode separator does not end a line.
        self._lines = re.split(r"\r\n|\r|\n", source)
        self.tree = self._parsed()

    def _parsed(self) -> ast.Module:
        # Warnings, as about an escape sequence, are issued when the body is compiled to be run; once is enough.
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
                # Some mistakes, such as a `return` outside a function, are found by the compiler, not by the parser.
                compile(tree, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
            except SyntaxError as err:
                # The parser counts characters, the compiler counts bytes.
                raise self._syntax_error(err, self._column(err.lineno or 1, (err.offset or 1) - 1)) from err
            except RecursionError as err:
                raise SpaceSyntaxError("This is nested too deeply for Python.", self.first_line, 1) from err
        return tree

    def _syntax_error(self, err: SyntaxError, column: int) -> SpaceSyntaxError:
        line = min(max(err.lineno or 1, 1), len(self._lines))
        return SpaceSyntaxError(f"This is not Python: {err.msg}.", line + self.first_line - 1, max(column, 1))

    def _column(self, row: int, offset: int) -> int:
        # The offsets of a syntax tree are bytes of UTF-8.
        before = self._lines[row - 1].encode("utf-8")[:offset]
        return len(before.decode("utf-8", errors="ignore")) + 1

    def parse_again(self) -> ast.Module:
        """Return another tree of the same text."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(self.source)

    def position(self, node: ast.AST) -> tuple[int, int]:
        """Return the line of a node in the cell, and its column; both are counted from 1."""
        row: int = getattr(node, "lineno", 1)
        offset: int = getattr(node, "col_offset", 0)
        return row + self.first_line - 1, self._column(row, offset)

    def line(self, node: ast.AST) -> int:
        return self.position(node)[0]

    def error(self, node: ast.AST, text: str, hint: str = "") -> SpaceSyntaxError:
        """Return an error at the position of a node."""
        line, column = self.position(node)
        return SpaceSyntaxError(text, line, column, hint)


_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(frozen=True)
class Binding:
    """A binding (assignment, import, definition, ...) or deletion of a name.

    Attributes:
        name: The name.
        node: The node that binds it.
        how: The kind of statement, as the subject of a sentence: `a for loop`.
        deletes: Whether it is a `del`.
    """

    name: str
    node: ast.AST
    how: str
    deletes: bool = False


def bindings(tree: ast.Module) -> list[Binding]:
    """Return all bindings in the scope of the body, in order of the text.

    Local names of functions, attributes of classes and loop variables of comprehensions are in other scopes, unless
    they are declared `global`. An assignment expression (`:=`) inside a comprehension binds in the scope of the body.
    The names of `from x import *` are not known.
    """
    binder = _BindingVisitor()
    binder.visit(tree)
    return binder.found


class _BindingVisitor(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found: list[Binding] = []
        self._how = "an assignment"
        # The names that the current function or class declares global; None in the scope of the body.
        self._global: frozenset[str] | None = None

    def _bind(self, name: str, node: ast.AST, how: str | None = None, deletes: bool = False) -> None:
        if self._global is None or name in self._global:
            self.found.append(Binding(name, node, how or self._how, deletes))

    @contextmanager
    def _scope(self, global_names: frozenset[str]) -> Iterator[None]:
        before, self._global = self._global, global_names
        yield
        self._global = before

    def _targets(self, how: str, *targets: ast.AST | None) -> None:
        before, self._how = self._how, how
        for target in targets:
            if target is not None:
                self.visit(target)
        self._how = before

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self._bind(node.id, node)
        elif isinstance(node.ctx, ast.Del):
            self._bind(node.id, node, "del", deletes=True)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.value)
        self._targets("an augmented assignment", node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.annotation)
        if node.value is not None:
            self.visit(node.value)
            self._targets("an assignment", node.target)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self._targets("an assignment expression (:=)", node.target)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self._targets("a for loop", node.target)
        for statement in [*node.body, *node.orelse]:
            self.visit(statement)

    visit_AsyncFor = visit_For  # noqa: N815 - the name that ast asks for

    def visit_withitem(self, node: ast.withitem) -> None:
        self.visit(node.context_expr)
        self._targets("a with statement", node.optional_vars)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self._bind(node.name, node, "an except clause")
        self.generic_visit(node)

    def visit_alias(self, node: ast.alias) -> None:
        if node.name != "*":
            self._bind(node.asname or node.name.split(".")[0], node, "an import")

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        if node.name:
            self._bind(node.name, node, "a pattern")
        self.generic_visit(node)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        if node.name:
            self._bind(node.name, node, "a pattern")

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        if node.rest:
            self._bind(node.rest, node, "a pattern")
        self.generic_visit(node)

    def visit_FunctionDef(self, node: _Function) -> None:
        self._bind(node.name, node, "a function")
        outside: list[ast.AST | None] = [*node.decorator_list, node.args, node.returns]
        for part in outside:
            if part is not None:
                self.visit(part)
        with self._scope(_declared_global(node)):
            for statement in node.body:
                self.visit(statement)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - the name that ast asks for

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        with self._scope(frozenset()):
            self.visit(node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._bind(node.name, node, "a class")
        for part in [*node.decorator_list, *node.bases, *node.keywords]:
            self.visit(part)
        with self._scope(_declared_global(node)):
            for statement in node.body:
                self.visit(statement)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        # Its target is local to it; a `:=` in the other parts binds outside.
        for part in [node.iter, *node.ifs]:
            self.visit(part)


def _declared_global(scope: _Function | ast.ClassDef) -> frozenset[str]:
    """Return the names that a function or class declares global, without those of functions and classes inside it."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(scope.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Global):
            found.update(node.names)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)
    return frozenset(found)


def names_read(expression: ast.expr) -> list[ast.Name]:
    """Return the free names of an expression, in order of the text.

    The arguments of a lambda and the loop variables of a comprehension are not free.
    """
    return list(_names_read(expression, frozenset()))


def _names_read(node: ast.AST, local: frozenset[str]) -> Iterator[ast.Name]:
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load) and node.id not in local:
            yield node
    elif isinstance(node, ast.Lambda):
        yield from _names_read(node.args, local)
        yield from _names_read(node.body, local | {arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)})
    elif isinstance(node, _Comprehension):
        # The first iterable is evaluated outside the comprehension, everything else inside.
        yield from _names_read(node.generators[0].iter, local)
        targets = [part for generator in node.generators for part in ast.walk(generator.target)]
        inside = local | {part.id for part in targets if isinstance(part, ast.Name)}
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        later: list[ast.AST] = [generator.iter for generator in node.generators[1:]]
        for part in [*later, *(test for generator in node.generators for test in generator.ifs), *results]:
            yield from _names_read(part, inside)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _names_read(child, local)
