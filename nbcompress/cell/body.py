"""The body of a search cell: parsed and compiled once.

The compiled body looks the values of its parameters up instead of evaluating the declarations, and checks each
constraint after the statement that assigns its metric.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import linecache
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import CodeType

from nbcompress.cell.parser import POINT_NAME, Declarations, find_declarations, without_declarations
from nbcompress.cell.source import bindings
from nbcompress.errors import GoalError, SpaceSyntaxError, did_you_mean
from nbcompress.space import RESERVED, Space
from nbcompress.study.goal import Goal

# A definition of a function or class does not assign a metric.
_DEFINITIONS = frozenset({"a function", "a class"})


def bound_names(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that `statement`, or a block inside it, assigns in the scope of the body."""
    for binding in bindings(ast.Module([statement], [])):
        if not binding.deletes and binding.how not in _DEFINITIONS:
            yield binding.name


def last_binding(body: list[ast.stmt], name: str) -> int | None:
    """Return the index of the last top-level statement that assigns `name`, or None."""
    for index in range(len(body) - 1, -1, -1):
        if name in bound_names(body[index]):
            return index
    return None


def is_read_before_assigned(body: list[ast.stmt], name: str) -> bool:
    """Return whether the body reads `name` before it first assigns it, or in the same statement (as `+=` does)."""
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
                return True
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
                return True
        if name in bound_names(statement):
            return False
    return False


_READERS = frozenset({"copy", "count", "fromkeys", "get", "index", "items", "keys", "maxlen", "values"})
# Methods that change a list, a dict, a set or a deque in place.
_MUTATORS = frozenset(
    name
    for kind in (list, dict, set, deque)
    for name in vars(kind)
    if not name.startswith("_") and name not in vars(frozenset) and name not in _READERS
)


def written_into(tree: ast.AST) -> frozenset[tuple[str, ...]]:
    """Return where statements write into what a name holds: `log.append(x)` is `("log",)`, `c.n += 1` `("c", "n")`."""
    found = set()
    for node in ast.walk(tree):
        target: ast.expr | None = None
        if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
            target = node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MUTATORS:
            target = node.func.value
        if target is not None and (path := _path(target)):
            found.add(path)
    return frozenset(found)


def _path(node: ast.expr) -> tuple[str, ...]:
    """Return the name and the constant keys that lead to what a target names, as far as they are known."""
    keys: list[str | None] = []
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        if isinstance(node, ast.Attribute):
            keys.append(node.attr)
        else:
            keys.append(str(node.slice.value) if isinstance(node.slice, ast.Constant) else None)
        node = node.value
    if not isinstance(node, ast.Name):
        return ()
    known = [node.id]
    for key in reversed(keys):
        if key is None:
            break
        known.append(key)
    return tuple(known)


# The name under which the compiled body finds the function that checks a constraint, in the trial's globals.
CHECK_NAME = "__nbcompress_check__"

# Methods of the shell: IPython turns a magic line into a call of one of them.
_SHELL_CALLS = frozenset({"run_line_magic", "run_cell_magic", "system", "getoutput"})


@dataclass(frozen=True)
class CellSource:
    """The text of a body and what is needed to compile it again in another process.

    Attributes:
        text: The body as Python; magics are calls already.
        goal: Objectives and constraints.
        first_line: The line of the cell, as shown, on which the body begins.
        filename: The name of the text in tracebacks.
        flags: Compiler flags of the notebook, such as an earlier `from __future__ import annotations`.
    """

    text: str
    goal: Goal
    first_line: int = 2
    filename: str = "<%%bo_search>"
    flags: int = 0


class CellBody:
    """A parsed body.

    Args:
        source: Its text and goal.

    Raises:
        SpaceSyntaxError: The text is not Python, or a declaration is refused.
        GoalError: An objective or constrained metric is never assigned.
    """

    def __init__(self, source: CellSource) -> None:
        self.source = source
        self.goal = source.goal
        self.declarations: Declarations = find_declarations(source.text, source.first_line)
        self._check_metrics()

    def space(self, evaluate: Callable[[ast.expr], object], known: Collection[str] = ()) -> Space:
        """Evaluate the arguments of the declarations and return the space.

        Args:
            evaluate: Returns the value of an expression in the notebook's namespace.
            known: The names of that namespace, for hints.

        Raises:
            SpaceSyntaxError: There is no declaration, or one is refused.
        """
        return self.declarations.resolve(evaluate, known)

    def code(self) -> CodeType:
        """Compile the body, with declarations replaced by look-ups and with checks of the constraints.

        Raises:
            SpaceSyntaxError: The body awaits something at its top level.
        """
        source = self.source
        text = "\n" * (source.first_line - 1) + source.text
        # Tracebacks read the lines of the cell from this cache.
        linecache.cache[source.filename] = (len(text), None, text.splitlines(keepends=True), source.filename)
        tree = _with_checks(without_declarations(self.declarations, POINT_NAME), self.goal)
        ast.increment_lineno(tree, source.first_line - 1)
        try:
            code: CodeType = compile(tree, source.filename, "exec", flags=source.flags, dont_inherit=True)
        except SyntaxError as err:  # a top-level await, which IPython allows in a cell
            raise SpaceSyntaxError(f"A trial cannot run this: {err.msg}.", err.lineno or 1, err.offset or 1) from err
        return code

    @cached_property
    def assigned(self) -> frozenset[str]:
        """The names that the body assigns."""
        return frozenset(name for statement in self.declarations.tree.body for name in bound_names(statement))

    @cached_property
    def assigned_before_read(self) -> frozenset[str]:
        """The names that the body assigns before it reads them: their values in the notebook are never used."""
        body = self.declarations.tree.body
        return frozenset(name for name in self.assigned if not is_read_before_assigned(body, name))

    @cached_property
    def metrics_to_hide(self) -> frozenset[str]:
        """The metrics to remove from the globals of a trial, so that it cannot report a value of the notebook."""
        return self.assigned_before_read & set(self.goal.metrics)

    @cached_property
    def magics(self) -> tuple[str, ...]:
        """The names of the magics and shell commands in the body."""
        found = []
        for node in ast.walk(self.declarations.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _SHELL_CALLS:
                first = node.args[0] if node.args else None
                name = str(first.value) if isinstance(first, ast.Constant) else node.func.attr
                prefix = {"run_line_magic": "%", "run_cell_magic": "%%"}.get(node.func.attr, "!")
                found.append(f"{prefix}{name}")
        return tuple(dict.fromkeys(found))

    @cached_property
    def digest(self) -> str:
        """A short hash of the syntax tree: comments, blank lines and layout do not change it."""
        return hashlib.sha256(ast.dump(self.declarations.tree).encode()).hexdigest()[:12]

    def _check_metrics(self) -> None:
        parameters = {declaration.name for declaration in self.declarations.declarations}
        for name in self.goal.metrics:
            if name not in self.assigned:
                near = did_you_mean(name, self.assigned - parameters - RESERVED)
                raise GoalError(
                    f"The cell never assigns {name!r}.{near} A metric is a variable of the body: write '{name} = ...'."
                )


def _with_checks(tree: ast.Module, goal: Goal) -> ast.Module:
    """Return `tree` with a check of each constrained metric after the last statement that assigns it."""
    body = list(tree.body)
    positions = [(last_binding(body, name), name) for name in {constraint.metric for constraint in goal.constraints}]
    # From the end, so that the other indices stay valid.
    for index, name in sorted(((index, name) for index, name in positions if index is not None), reverse=True):
        call = ast.Expr(ast.Call(ast.Name(CHECK_NAME, ast.Load()), [ast.Constant(name)], []))
        body.insert(index + 1, _at_position_of(call, body[index]))
    checked = copy.copy(tree)
    checked.body = body
    return checked


def _at_position_of(node: ast.stmt, statement: ast.stmt) -> ast.stmt:
    """Give every part of `node` the position of `statement`, so that a traceback shows that line."""
    for part in ast.walk(node):
        if isinstance(part, (ast.expr, ast.stmt)):
            ast.copy_location(part, statement)
    return node
