"""The body of a search cell, read and compiled once: parameters taken out, constraint checks put in."""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType

from nbcompress.cell.bindings import bound_names, is_read_first, last_binding
from nbcompress.errors import GoalError, did_you_mean
from nbcompress.space import Declarations, Space, find_declarations, without_declarations
from nbcompress.study.goal import RESERVED, Goal

# Names that instrumented code looks up in the trial's globals; no user writes them by accident.
POINT_NAME = "__nbcompress_point__"
CHECK_NAME = "__nbcompress_check__"


@dataclass(frozen=True)
class CellBody:
    """A body that can be run at any point of its space.

    Attributes:
        source: The body's text, as Python (magics already turned into calls).
        first_line: The line of the cell, as shown, on which the body begins.
        filename: The name under which tracebacks find the text.
        flags: Compiler flags of the notebook, such as an earlier `from __future__ import annotations`.
        goal: Objectives and constraints.
        declarations: The parameters as they stand in the text.
        hidden: Metrics whose value in the notebook, if any, a trial must not take for its own.
    """

    source: str
    first_line: int
    filename: str
    flags: int
    goal: Goal
    declarations: Declarations
    hidden: frozenset[str]

    @classmethod
    def read(
        cls, source: str, goal: Goal, *, first_line: int = 2, filename: str = "<bo_search>", flags: int = 0
    ) -> CellBody:
        """Parse a body.

        Raises:
            SpaceSyntaxError: The text is not Python, or a declaration is refused.
            GoalError: An objective or constrained metric is never assigned, or is a parameter.
        """
        declarations = find_declarations(source, first_line)
        _check_metrics(goal, declarations)
        body = declarations.tree.body
        hidden = frozenset(name for name in goal.metrics if not is_read_first(body, name))
        return cls(source, first_line, filename, flags, goal, declarations, hidden)

    def space(self, evaluate: Callable[[ast.expr], object]) -> Space:
        """Evaluate the arguments of the declarations, once, and return the space."""
        return self.declarations.resolve(evaluate)

    def code(self) -> CodeType:
        """Compile the body with its declarations replaced by look-ups and its constraints checked early."""
        tree = without_declarations(self.declarations, POINT_NAME)
        return compile(_with_checks(tree, self.goal), self.filename, "exec", flags=self.flags, dont_inherit=True)

    @property
    def digest(self) -> str:
        """A short hash of what the body says: comments, blank lines and layout do not change it."""
        return hashlib.sha256(ast.dump(self.declarations.tree).encode()).hexdigest()[:12]


def _check_metrics(goal: Goal, declarations: Declarations) -> None:
    parameters = {one.name for one in declarations.declarations}
    assigned = {name for statement in declarations.tree.body for name in bound_names(statement)}
    for name in goal.metrics:
        if name in parameters:
            raise GoalError(f"{name!r} is a parameter of this cell and cannot be a metric too; rename one of them.")
        if name not in assigned:
            known = assigned - parameters - RESERVED
            raise GoalError(
                f"The cell never assigns {name!r}.{did_you_mean(name, known)} "
                f"Write '{name} = ...' in the body: a metric is a variable that the body assigns."
            )


def _with_checks(tree: ast.Module, goal: Goal) -> ast.Module:
    """Return `tree` with a check of each constrained metric after the last statement that contains its binding."""
    body = list(tree.body)
    places = {name: last_binding(body, name) for name in {one.metric for one in goal.constraints}}
    # From the end, so that earlier positions stay right.
    for name, index in sorted(
        places.items(), key=lambda item: (-1 if item[1] is None else item[1], item[0]), reverse=True
    ):
        if index is not None:
            call = ast.Expr(ast.Call(ast.Name(CHECK_NAME, ast.Load()), [ast.Constant(name)], []))
            body.insert(index + 1, _placed_at(call, body[index]))
    checked = copy.copy(tree)
    checked.body = body
    return checked


def _placed_at(node: ast.stmt, statement: ast.stmt) -> ast.stmt:
    """Give every part of `node` the position of the end of `statement`, which is what a traceback shows."""
    line = statement.end_lineno or statement.lineno
    for part in ast.walk(node):
        if isinstance(part, (ast.expr, ast.stmt)):
            part.lineno = part.end_lineno = line
            part.col_offset, part.end_col_offset = 0, statement.end_col_offset or 0
    return node
