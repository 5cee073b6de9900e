"""One declaration, as it was found in the text.

Where a declaration stands: the tests of `if` and `match` that lead to it, and their answers.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import CodeType
from typing import Any

from nbcompress.cell.source import CellText, reads
from nbcompress.errors import SpaceSyntaxError, did_you_mean
from nbcompress.space.values import Value, shown_point

_LAW = "A test over a declaration reads only earlier Choices and constants"
_ANSWER = "__nbcompress_answer__"

# What a test, or a pattern, may be made of. Nothing here can call the notebook's code.
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
class Name:
    """What a test may meet under a name: a declaration, by its kind and line."""

    kind: str
    line: int


@dataclass(frozen=True, eq=False)
class Question:
    """An `if` or a `match`, as a question that the choices answer.

    Attributes:
        node: The statement.
        text: The text that it is in.
    """

    node: ast.If | ast.Match
    text: CellText

    @property
    def expressions(self) -> list[ast.AST]:
        """Everything that is evaluated to answer it."""
        if isinstance(self.node, ast.If):
            return [self.node.test]
        parts: list[ast.AST] = [self.node.subject]
        for case in self.node.cases:
            parts += [case.pattern] if case.guard is None else [case.pattern, case.guard]
        return parts

    @cached_property
    def names(self) -> list[ast.Name]:
        """The names that it reads; what a pattern captures is its own."""
        if isinstance(self.node, ast.If):
            return reads(self.node.test)
        found = reads(self.node.subject)
        for case in self.node.cases:
            own = _captured(case.pattern)
            inside = [node for node in ast.walk(case.pattern) if isinstance(node, ast.Name)]
            inside += [] if case.guard is None else [read for read in reads(case.guard) if read.id not in own]
            found += inside
        return found

    @cached_property
    def items(self) -> list[tuple[ast.Name, str | None]]:
        """The names that it reads, with the key where it reads a single one of a group: `methods["conv1"]`."""
        keys = {
            id(node.value): node.slice.value
            for expression in self.expressions
            for node in ast.walk(expression)
            if isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
        }
        return [(name, keys.get(id(name))) for name in self.names]

    def check(self, earlier: Mapping[str, Name], anywhere: Mapping[str, Name]) -> None:
        """Refuse what reads anything but Choices that are declared earlier, and constants.

        Args:
            earlier: The declarations above it.
            anywhere: All declarations of the body.

        Raises:
            SpaceSyntaxError: It does.
        """
        for expression in self.expressions:
            for node in ast.walk(expression):
                if not isinstance(node, _ALLOWED):
                    what = _REFUSED.get(type(node), f"a {type(node).__name__}")
                    raise self.text.error(node, f"{_LAW}, but here is {what}.", "Compare the Choice with constants.")
        for name in self.names:
            self._check_name(name, earlier, anywhere)

    def _check_name(self, node: ast.Name, earlier: Mapping[str, Name], anywhere: Mapping[str, Name]) -> None:
        found = earlier.get(node.id)
        if found is not None and found.kind == "Choice":
            return
        if found is not None:
            article = "an" if found.kind == "Int" else "a"
            raise self.text.error(node, f"{_LAW}, but {node.id!r} is {article} {found.kind}.")
        if node.id in anywhere:
            line = anywhere[node.id].line
            raise self.text.error(node, f"{_LAW}, but {node.id!r} is declared later, in line {line}.", "Move it up.")
        near = did_you_mean(node.id, [name for name, trial in earlier.items() if trial.kind == "Choice"]).strip()
        raise self.text.error(node, f"{_LAW}, but {node.id!r} is neither.", near)

    @cached_property
    def _code(self) -> CodeType:
        node: ast.stmt
        if isinstance(self.node, ast.If):
            node = _answered(self.node.test)
        else:
            # The same patterns and guards; what happens in a case is that its index is noted.
            cases = [
                ast.match_case(case.pattern, case.guard, [_answered(ast.Constant(index))])
                for index, case in enumerate(self.node.cases)
            ]
            node = ast.Match(self.node.subject, cases)
        tree = ast.fix_missing_locations(ast.Module([ast.copy_location(node, self.node)], []))
        with warnings.catch_warnings():
            # Such as `is` with a literal: it comes when the body is compiled to be run; once is enough.
            warnings.simplefilter("ignore")
            return compile(tree, "<test>", "exec", dont_inherit=True)

    def answer(self, names: Mapping[str, Any], point: Mapping[str, Value]) -> int | None:
        """Return 1 or 0 for an `if`, the index of the case for a `match` (None: no case).

        Args:
            names: The active choices, as the cell sees them.
            point: The same under flat names, for the text of an error.

        Raises:
            SpaceSyntaxError: It reads an inactive choice, or cannot be evaluated.
        """
        namespace: dict[str, Any] = {"__builtins__": {}, **names}
        try:
            exec(self._code, namespace)  # noqa: S102 - nothing but operators on choices and constants, see `check`
            answer = namespace.get(_ANSWER)
            return answer if answer is None or isinstance(self.node, ast.Match) else int(bool(answer))
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
    """One way out of a question: the declaration stands where the answer is this one."""

    question: Question
    answer: int

    def is_taken(self, names: Mapping[str, Any], point: Mapping[str, Value]) -> bool:
        return self.question.answer(names, point) == self.answer


def _answered(value: ast.expr) -> ast.Assign:
    return ast.Assign([ast.Name(_ANSWER, ast.Store())], value)


def _captured(pattern: ast.AST) -> set[str]:
    names = [getattr(node, "name", None) or getattr(node, "rest", None) for node in ast.walk(pattern)]
    return {name for name in names if isinstance(name, str)}


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
