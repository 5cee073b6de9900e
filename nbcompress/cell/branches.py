"""A declaration in a cell, and the branches of `if` and `match` in which it stands.

The test of a branch is evaluated for each combination of the Choices that it reads, to learn where the declaration is
active.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import CodeType
from typing import Any

from nbcompress.cell.source import CellText, names_read
from nbcompress.errors import SpaceSyntaxError, did_you_mean
from nbcompress.space.values import Value, shown_point

_RULE = "A test over a declaration reads only earlier Choices and constants"
_OUTCOME = "__nbcompress_outcome__"

# The nodes that a test or a pattern may contain. None of them can call code of the notebook.
_ALLOWED = (
    ast.BoolOp,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.IfExp,
    ast.Constant,
    ast.Name,
    ast.Tuple,
    ast.List,
    ast.Set,
    ast.Dict,
    ast.Subscript,
    ast.Slice,
    ast.boolop,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
    ast.expr_context,
    ast.MatchValue,
    ast.MatchSingleton,
    ast.MatchSequence,
    ast.MatchMapping,
    ast.MatchStar,
    ast.MatchAs,
    ast.MatchOr,
)
_REFUSED = {
    ast.Call: "a call",
    ast.Attribute: "an attribute",
    ast.NamedExpr: "an assignment (:=)",
    ast.Lambda: "a lambda",
    ast.JoinedStr: "an f-string",
    ast.Starred: "a star",
    ast.Await: "await",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
    ast.MatchClass: "a class pattern",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
}


@dataclass(frozen=True)
class DeclaredName:
    """The kind (such as `Choice`) and the line of the declaration of a name."""

    kind: str
    line: int


@dataclass(frozen=True, eq=False)
class BranchTest:
    """The test of an `if`, or the subject and the cases of a `match`.

    Attributes:
        node: The statement.
        text: The text of the body.
    """

    node: ast.If | ast.Match
    text: CellText

    @property
    def expressions(self) -> list[ast.AST]:
        """The expressions and patterns that are evaluated."""
        if isinstance(self.node, ast.If):
            return [self.node.test]
        parts: list[ast.AST] = [self.node.subject]
        for case in self.node.cases:
            parts += [case.pattern] if case.guard is None else [case.pattern, case.guard]
        return parts

    @cached_property
    def names(self) -> list[ast.Name]:
        """The names that it reads, except those that a pattern captures."""
        if isinstance(self.node, ast.If):
            return names_read(self.node.test)
        found = names_read(self.node.subject)
        for case in self.node.cases:
            captured = _captured_names(case.pattern)
            inside = [node for node in ast.walk(case.pattern) if isinstance(node, ast.Name)]
            inside += [] if case.guard is None else [read for read in names_read(case.guard) if read.id not in captured]
            found += inside
        return found

    @cached_property
    def keyed_names(self) -> list[tuple[ast.Name, str | None]]:
        """The names that it reads; with the key where it reads one member of a group: `methods["conv1"]`."""
        keys = {
            id(node.value): node.slice.value
            for expression in self.expressions
            for node in ast.walk(expression)
            if isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
        }
        return [(name, keys.get(id(name))) for name in self.names]

    def check(self, earlier: Mapping[str, DeclaredName], anywhere: Mapping[str, DeclaredName]) -> None:
        """Check that it reads only constants and Choices that are declared earlier.

        Args:
            earlier: The declarations above it.
            anywhere: All declarations of the body.

        Raises:
            SpaceSyntaxError: It reads something else.
        """
        for expression in self.expressions:
            for node in ast.walk(expression):
                if not isinstance(node, _ALLOWED):
                    what = _REFUSED.get(type(node), f"a {type(node).__name__}")
                    raise self.text.error(node, f"{_RULE}, but here is {what}.", "Compare the Choice with constants.")
        for name in self.names:
            self._check_name(name, earlier, anywhere)

    def _check_name(
        self, node: ast.Name, earlier: Mapping[str, DeclaredName], anywhere: Mapping[str, DeclaredName]
    ) -> None:
        found = earlier.get(node.id)
        if found is not None and found.kind == "Choice":
            return
        if found is not None:
            article = "an" if found.kind == "Int" else "a"
            raise self.text.error(node, f"{_RULE}, but {node.id!r} is {article} {found.kind}.")
        if node.id in anywhere:
            line = anywhere[node.id].line
            raise self.text.error(node, f"{_RULE}, but {node.id!r} is declared later, in line {line}.", "Move it up.")
        near = did_you_mean(node.id, [name for name, declared in earlier.items() if declared.kind == "Choice"]).strip()
        raise self.text.error(node, f"{_RULE}, but {node.id!r} is neither.", near)

    @cached_property
    def _code(self) -> CodeType:
        node: ast.stmt
        if isinstance(self.node, ast.If):
            node = _assign_outcome(self.node.test)
        else:
            # The same patterns and guards; the body of each case stores its index.
            cases = [
                ast.match_case(case.pattern, case.guard, [_assign_outcome(ast.Constant(index))])
                for index, case in enumerate(self.node.cases)
            ]
            node = ast.Match(self.node.subject, cases)
        tree = ast.fix_missing_locations(ast.Module([ast.copy_location(node, self.node)], []))
        with warnings.catch_warnings():
            # Such as one about `is` with a literal: it is issued when the body is compiled to be run.
            warnings.simplefilter("ignore")
            return compile(tree, "<test>", "exec", dont_inherit=True)

    def outcome(self, names: Mapping[str, Any], point: Mapping[str, Value]) -> int | None:
        """Return 1 or 0 for an `if`, the index of the case for a `match` (None: no case).

        Args:
            names: The active Choices, as the cell sees them.
            point: The same values under flat names, for the text of an error.

        Raises:
            SpaceSyntaxError: It reads an inactive Choice, or evaluating it raised an exception.
        """
        namespace: dict[str, Any] = {"__builtins__": {}, **names}
        try:
            exec(self._code, namespace)  # noqa: S102 - nothing but operators on choices and constants, see `check`
            outcome = namespace.get(_OUTCOME)
            return outcome if outcome is None or isinstance(self.node, ast.Match) else int(bool(outcome))
        except NameError as err:
            node = next(name for name in self.names if name.id == err.name)
            raise self.text.error(
                node,
                f"This test reads {err.name!r}, which is not active when {shown_point(point)}.",
                f"Test first what makes {err.name!r} active.",
            ) from err
        except Exception as err:
            raise self._failed(err, point) from err

    def _failed(self, err: Exception, point: Mapping[str, Value]) -> SpaceSyntaxError:
        where = f" when {shown_point(point)}" if point else ""
        return self.text.error(
            self.expressions[0], f"This test cannot be evaluated{where}: {type(err).__name__}: {err}."
        )


@dataclass(frozen=True)
class Branch:
    """The block of an `if` or `match` that runs where the test has this outcome (see `BranchTest.outcome`)."""

    test: BranchTest
    outcome: int

    def is_taken(self, names: Mapping[str, Any], point: Mapping[str, Value]) -> bool:
        return self.test.outcome(names, point) == self.outcome


def _assign_outcome(value: ast.expr) -> ast.Assign:
    return ast.Assign([ast.Name(_OUTCOME, ast.Store())], value)


def _captured_names(pattern: ast.AST) -> set[str]:
    names = [getattr(node, "name", None) or getattr(node, "rest", None) for node in ast.walk(pattern)]
    return {name for name in names if isinstance(name, str)}


@dataclass(frozen=True, eq=False)
class Declaration:
    """A statement that declares a parameter. A parameter may have several, on branches that exclude each other.

    Attributes:
        name: The parameter's name.
        kind: `Float`, `Int` or `Choice`.
        statement: The assignment.
        call: Its right-hand side.
        line: Line in the cell as shown.
        column: Column of the call in that line, from 1.
        branches: The branches in which it stands, outermost first.
    """

    name: str
    kind: str
    statement: ast.Assign | ast.AnnAssign
    call: ast.Call
    line: int
    column: int
    branches: tuple[Branch, ...]

    @property
    def is_group(self) -> bool:
        """Whether it has `each=`, so that the cell sees a dict."""
        return any(
            keyword.arg == "each" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is None)
            for keyword in self.call.keywords
        )
