"""The body of a search cell, read and compiled once: parameters taken out, constraint checks put in.

Where a body binds a metric, so that a constraint is checked as soon as its metric is known.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import linecache
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import CodeType

from nbcompress.cell.parser import Declarations, find_declarations, without_declarations
from nbcompress.cell.source import bindings
from nbcompress.errors import GoalError, SpaceSyntaxError, did_you_mean
from nbcompress.space import RESERVED, Space
from nbcompress.study.goal import Goal

# A function or class of that name is no metric.
_DEFINITIONS = frozenset({"a function", "a class"})


def bound_names(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that `statement` gives a value in the body's own scope, also in the blocks inside it."""
    for binding in bindings(ast.Module([statement], [])):
        if not binding.deletes and binding.how not in _DEFINITIONS:
            yield binding.name


def last_binding(body: list[ast.stmt], name: str) -> int | None:
    """Return the index of the last top-level statement that contains a binding of `name`."""
    for index in range(len(body) - 1, -1, -1):
        if name in bound_names(body[index]):
            return index
    return None


def is_read_first(body: list[ast.stmt], name: str) -> bool:
    """Say whether the body reads `name` before, or while, it first binds it (as `+=` does)."""
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
                return True
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
                return True
        if name in bound_names(statement):
            return False
    return False


# Names that instrumented code looks up in the trial's globals; no user writes them by accident.
POINT_NAME = "__nbcompress_point__"
CHECK_NAME = "__nbcompress_check__"

# Calls into the notebook's shell, which is what a magic line becomes.
_SHELL_CALLS = frozenset({"run_line_magic", "run_cell_magic", "system", "getoutput"})


@dataclass(frozen=True)
class Origin:
    """The text of a cell and what is needed to read it again in another process.

    Attributes:
        source: The body's text, as Python (magics already turned into calls).
        goal: Objectives and constraints.
        first_line: The line of the cell, as shown, on which the body begins.
        filename: The name under which tracebacks show the text.
        flags: Compiler flags of the notebook, such as an earlier `from __future__ import annotations`.
    """

    source: str
    goal: Goal
    first_line: int = 2
    filename: str = "<%%bo_search>"
    flags: int = 0


class CellBody:
    """A body that can be run at any point of its space.

    Raises:
        SpaceSyntaxError: The text is not Python, or a declaration is refused.
        GoalError: An objective or constrained metric is never assigned, or is a parameter.
    """

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.goal = origin.goal
        self.declarations: Declarations = find_declarations(origin.source, origin.first_line)
        self._check_metrics()

    def space(self, evaluate: Callable[[ast.expr], object], known: Collection[str] = ()) -> Space:
        """Evaluate the arguments of the declarations, once, and return the space.

        Args:
            evaluate: Returns the value of an expression in the notebook's namespace.
            known: The names of that namespace, for hints.

        Raises:
            SpaceSyntaxError: There is no declaration, or one makes no sense.
        """
        return self.declarations.resolve(evaluate, known)

    def code(self) -> CodeType:
        """Compile the body with its declarations replaced by look-ups and its constraints checked early.

        Raises:
            SpaceSyntaxError: The body awaits something at its top level.
        """
        origin = self.origin
        text = "\n" * (origin.first_line - 1) + origin.source
        # Tracebacks find the lines of the cell here.
        linecache.cache[origin.filename] = (len(text), None, text.splitlines(keepends=True), origin.filename)
        tree = _with_checks(without_declarations(self.declarations, POINT_NAME), self.goal)
        ast.increment_lineno(tree, origin.first_line - 1)
        try:
            code: CodeType = compile(tree, origin.filename, "exec", flags=origin.flags, dont_inherit=True)
        except SyntaxError as err:  # a top-level await, which a cell may hold and a trial may not
            raise SpaceSyntaxError(f"A trial cannot run this: {err.msg}.", err.lineno or 1, err.offset or 1) from err
        return code

    @cached_property
    def assigned(self) -> frozenset[str]:
        """Every name that the body binds."""
        return frozenset(name for statement in self.declarations.tree.body for name in bound_names(statement))

    @cached_property
    def own(self) -> frozenset[str]:
        """Names that the body gives a value before it reads them, whatever the notebook calls by these names."""
        body = self.declarations.tree.body
        return frozenset(name for name in self.assigned if not is_read_first(body, name))

    @cached_property
    def hidden(self) -> frozenset[str]:
        """Metrics whose value in the notebook, if any, a trial must not take for its own."""
        return self.own & set(self.goal.metrics)

    @cached_property
    def magics(self) -> tuple[str, ...]:
        """The magics and shell commands in the body, by name."""
        found = []
        for node in ast.walk(self.declarations.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _SHELL_CALLS:
                first = node.args[0] if node.args else None
                name = str(first.value) if isinstance(first, ast.Constant) else node.func.attr
                sign = {"run_line_magic": "%", "run_cell_magic": "%%"}.get(node.func.attr, "!")
                found.append(f"{sign}{name}")
        return tuple(dict.fromkeys(found))

    @cached_property
    def digest(self) -> str:
        """A short hash of what the body says: comments, blank lines and layout do not change it."""
        return hashlib.sha256(ast.dump(self.declarations.tree).encode()).hexdigest()[:12]

    def _check_metrics(self) -> None:
        parameters = {declaration.name for declaration in self.declarations.declarations}
        for name in self.goal.metrics:
            if name in parameters:
                raise GoalError(f"{name!r} is a parameter of this cell and cannot be a metric too; rename one of them.")
            if name not in self.assigned:
                near = did_you_mean(name, self.assigned - parameters - RESERVED)
                raise GoalError(
                    f"The cell never assigns {name!r}.{near} A metric is a variable of the body: write '{name} = ...'."
                )


def _with_checks(tree: ast.Module, goal: Goal) -> ast.Module:
    """Return `tree` with a check of each constrained metric after the last statement that contains its binding."""
    body = list(tree.body)
    places = [(last_binding(body, name), name) for name in {constraint.metric for constraint in goal.constraints}]
    # From the end, so that earlier positions stay right.
    for index, name in sorted(((index, name) for index, name in places if index is not None), reverse=True):
        call = ast.Expr(ast.Call(ast.Name(CHECK_NAME, ast.Load()), [ast.Constant(name)], []))
        body.insert(index + 1, _placed_at(call, body[index]))
    checked = copy.copy(tree)
    checked.body = body
    return checked


def _placed_at(node: ast.stmt, statement: ast.stmt) -> ast.stmt:
    """Give every part of `node` the position of `statement`, which is what a traceback shows."""
    for part in ast.walk(node):
        if isinstance(part, (ast.expr, ast.stmt)):
            ast.copy_location(part, statement)
    return node
