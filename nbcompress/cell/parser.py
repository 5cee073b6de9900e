"""Find the declarations of a cell in its syntax tree, before anything runs.

`NAME = Float(...)`, `Int(...)` or `Choice(...)` declares a parameter. It may be annotated, and written as
`nc.Float(...)` or `nbcompress.Float(...)`. It stands at the top level of the body, or inside `if`, `elif`, `else` and
`match` whose tests read only earlier Choices and constants. A call of these three anywhere else is refused, with a
message that says where it stands.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection
from dataclasses import dataclass

from nbcompress.cell.branches import Branch, BranchTest, Declaration, DeclaredName
from nbcompress.cell.evaluate import argument_reads, check_form, check_spelling, kind_of, resolve
from nbcompress.cell.source import Binding, CellText, bindings
from nbcompress.errors import SpaceError, SpaceSyntaxError
from nbcompress.space import Space, check_name

_RULE = (
    "{kind}(...) declares a parameter only as 'NAME = {kind}(...)', at the top level or inside if, elif, else or match,"
    " but here it stands {where}."
)

# Blocks in which a declaration could run several times, or never.
_BLOCKS: dict[type[ast.AST], str] = {
    ast.FunctionDef: "inside a function",
    ast.AsyncFunctionDef: "inside a function",
    ast.Lambda: "inside a lambda",
    ast.ClassDef: "inside a class",
    ast.For: "inside a for loop",
    ast.AsyncFor: "inside a for loop",
    ast.While: "inside a while loop",
    ast.With: "inside a with block",
    ast.AsyncWith: "inside a with block",
    ast.Try: "inside a try block",
    ast.TryStar: "inside a try block",
    ast.ListComp: "inside a comprehension",
    ast.SetComp: "inside a comprehension",
    ast.DictComp: "inside a comprehension",
    ast.GeneratorExp: "inside a comprehension",
}
_EXPRESSIONS: dict[type[ast.AST], str] = {
    ast.Expr: "without a name",
    ast.AugAssign: "in an augmented assignment",
    ast.NamedExpr: "in an assignment expression (:=)",
    ast.Call: "as an argument",
    ast.keyword: "as an argument",
    ast.Starred: "behind a star",
    ast.If: "as a test",
    ast.Match: "as the subject of a match",
    ast.Assert: "in an assert",
    ast.Delete: "in a del",
}


def refuse_calls(node: ast.AST, text: CellText, parents: tuple[ast.AST, ...] = ()) -> None:
    """Check that `node` contains no call of `Float`, `Int` or `Choice`.

    Args:
        node: The node to search.
        text: The text of the body.
        parents: The nodes around it, outermost first; a statement has none.

    Raises:
        SpaceSyntaxError: It contains such a call.
    """
    kind = kind_of(node)
    if kind is not None:
        # Before Python 3.12 the parts of an f-string have no position of their own.
        positioned = next((parent for parent in parents if isinstance(parent, ast.JoinedStr)), node)
        raise text.error(positioned, _RULE.format(kind=kind, where=_where(node, parents)))
    for child in ast.iter_child_nodes(node):
        refuse_calls(child, text, (*parents, node))


def _where(call: ast.AST, parents: tuple[ast.AST, ...]) -> str:
    for parent in reversed(parents):
        if type(parent) in _BLOCKS:
            return _BLOCKS[type(parent)]
    nearest = parents[-1]
    if isinstance(nearest, (ast.Assign, ast.AnnAssign)) and nearest.value is call:
        return _assigned_where(nearest)
    if isinstance(nearest, ast.AnnAssign):
        return "in an annotation"
    if isinstance(nearest, (ast.Tuple, ast.List)) and len(parents) > 1 and isinstance(parents[-2], ast.Assign):
        targets = parents[-2].targets
        if any(isinstance(target, (ast.Tuple, ast.List)) for target in targets):
            return "in an assignment to several names"
    return _EXPRESSIONS.get(type(nearest), "as part of an expression")


def _assigned_where(statement: ast.Assign | ast.AnnAssign) -> str:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    if len(targets) > 1:
        return "in a chained assignment"
    kinds: dict[type[ast.AST], str] = {
        ast.Tuple: "in an assignment to several names",
        ast.List: "in an assignment to several names",
        ast.Attribute: "in an assignment to an attribute",
        ast.Subscript: "in an assignment to an item",
    }
    return kinds.get(type(targets[0]), "as part of an expression")


# The variable of the trial's globals that holds the point; no user writes this name by accident.
POINT_NAME = "__nbcompress_point__"


@dataclass(frozen=True, eq=False)
class Declarations:
    """The declarations of a body.

    Attributes:
        text: The text of the body with its syntax tree.
        declarations: All declarations, in order of the text.
        assigned: The names that the body assigns, parameters included.
    """

    text: CellText
    declarations: tuple[Declaration, ...]
    assigned: frozenset[str]

    @property
    def tree(self) -> ast.Module:
        """The syntax tree of the body, not modified."""
        return self.text.tree

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters as the cell sees them, each once."""
        return tuple(dict.fromkeys(declaration.name for declaration in self.declarations))

    def resolve(self, evaluate: Callable[[ast.expr], object], known: Collection[str] = ()) -> Space:
        """Evaluate all arguments, each once and in order, and return the space.

        Args:
            evaluate: Returns the value of an expression in the notebook's namespace.
            known: The names of that namespace, for hints and to recognize a misspelt `Float`, `Int` or `Choice`.

        Raises:
            SpaceSyntaxError: There is no declaration, or one is refused.
        """
        check_spelling(self.text, self.assigned, known)
        return resolve(self.text, self.declarations, evaluate, known)


def find_declarations(source: str, first_line: int = 1) -> Declarations:
    """Return the declarations of a body; nothing is evaluated.

    Args:
        source: The body as Python; magics are calls already.
        first_line: The line of the cell, as shown, on which `source` begins: 2 after a magic line.

    Raises:
        SpaceSyntaxError: The source is not Python, or a declaration is refused.
    """
    finder = _DeclarationFinder(CellText(source, first_line))
    try:
        finder.read(finder.text.tree.body, ())
        bound = bindings(finder.text.tree)
        finder.check_bindings(bound)
        finder.check_arguments(bound)
    except RecursionError as err:
        raise SpaceSyntaxError("The cell is nested too deeply to be searched for declarations.", first_line, 1) from err
    assigned = frozenset(name.name for name in bound if not name.deletes)
    return Declarations(finder.text, tuple(finder.found), assigned)


def without_declarations(declarations: Declarations, point_name: str = POINT_NAME) -> ast.Module:
    """Return a copy of the tree in which every declaration looks its value up: `lr = point_name["lr"]`.

    All positions stay, so that a traceback shows the cell. The variable holds `space.grouped(point)`.
    """
    names = {id(declaration.statement): declaration.name for declaration in declarations.declarations}
    # Parsed again and not copied: `copy.deepcopy` of a long sum exceeds the recursion limit.
    tree = declarations.text.parse_again()
    for old, new in list(zip(ast.walk(declarations.tree), ast.walk(tree), strict=True)):
        if id(old) in names and isinstance(new, (ast.Assign, ast.AnnAssign)) and new.value is not None:
            lookup = ast.Subscript(ast.Name(point_name, ast.Load()), ast.Constant(names[id(old)]), ast.Load())
            for part in (lookup, lookup.value, lookup.slice):
                ast.copy_location(part, new.value)
            new.value = lookup
    return tree


def target_of(statement: ast.stmt) -> tuple[str, ast.Call, str] | None:
    """Return name, call and kind if a statement has the form `NAME = Float(...)`, else None."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target: ast.expr = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign):
        target = statement.target
    else:
        return None
    kind = kind_of(statement.value)
    if kind is None or not isinstance(target, ast.Name) or not isinstance(statement.value, ast.Call):
        return None
    return target.id, statement.value, kind


class _DeclarationFinder:
    """Reads statements from top to bottom and collects the declarations."""

    def __init__(self, text: CellText) -> None:
        self.text = text
        self.found: list[Declaration] = []
        self._earlier: dict[str, DeclaredName] = {}
        self._anywhere: dict[str, DeclaredName] = {}
        for node in ast.walk(text.tree):
            found = target_of(node) if isinstance(node, ast.stmt) else None
            if found is not None:
                self._anywhere.setdefault(found[0], DeclaredName(found[2], text.line(node)))

    def read(self, body: list[ast.stmt], branches: tuple[Branch, ...]) -> None:
        """Find the declarations in a block, which stands in these branches."""
        for statement in body:
            found = target_of(statement)
            if found is not None and isinstance(statement, (ast.Assign, ast.AnnAssign)):
                self._declare(statement, *found, branches)
            elif isinstance(statement, (ast.If, ast.Match)):
                self._read_branches(statement, branches)
            else:
                refuse_calls(statement, self.text)

    def _declare(
        self, statement: ast.Assign | ast.AnnAssign, name: str, call: ast.Call, kind: str, branches: tuple[Branch, ...]
    ) -> None:
        for part in [*call.args, *call.keywords]:
            refuse_calls(part, self.text, (statement, call))
        if isinstance(statement, ast.AnnAssign):
            refuse_calls(statement.annotation, self.text, (statement,))
        check_form(call, kind, self.text)
        try:
            check_name(name)
        except SpaceError as err:
            raise self.text.error(statement, str(err)) from err
        self._check_branches(name, call, branches)
        declaration = Declaration(name, kind, statement, call, *self.text.position(call), branches)
        self.found.append(declaration)
        self._earlier[name] = DeclaredName(kind, declaration.line)

    def _check_branches(self, name: str, call: ast.Call, branches: tuple[Branch, ...]) -> None:
        """Refuse a second declaration of a name on a branch on which the first one runs, too."""
        for declaration in self.found:
            if declaration.name == name:
                shared = min(len(declaration.branches), len(branches))
                if declaration.branches[:shared] == branches[:shared]:
                    raise self.text.error(
                        call,
                        f"{name!r} is declared already, in line {declaration.line}.",
                        "The same name is allowed only on branches that exclude each other.",
                    )

    def _read_branches(self, statement: ast.If | ast.Match, branches: tuple[Branch, ...]) -> None:
        test = BranchTest(statement, self.text)
        for expression in test.expressions:
            refuse_calls(expression, self.text, (statement,))
        if isinstance(statement, ast.If):
            blocks = [(1, statement.body), (0, statement.orelse)]
        else:
            blocks = [(index, case.body) for index, case in enumerate(statement.cases)]
        if _declares(statement):
            test.check(self._earlier, self._anywhere)
        for outcome, body in blocks:
            self.read(body, (*branches, Branch(test, outcome)))

    def check_bindings(self, bound: list[Binding]) -> None:
        """Refuse a parameter that is assigned or deleted elsewhere in the body."""
        declaring = {id(target) for declaration in self.found for target in _targets(declaration.statement)}
        for binding in bound:
            if binding.name in self._earlier and id(binding.node) not in declaring:
                declared = next(declaration for declaration in self.found if declaration.name == binding.name)
                line, hint = declared.line, "Take another name."
                if declared.branches and binding.how == "an assignment":
                    new = f"its_{binding.name}"
                    hint = f"Take another name: '{new} = {binding.name}' where it is declared, '{new} = ...' here."
                does = "deletes it" if binding.deletes else "assigns it again"
                raise self.text.error(
                    binding.node,
                    f"{binding.name!r} is the parameter of line {line}, and {binding.how} {does} here.",
                    hint,
                )

    def check_arguments(self, bound: list[Binding]) -> None:
        """Refuse arguments that read names which the body assigns: arguments are evaluated before it runs."""
        how = {binding.name: binding for binding in reversed(bound) if not binding.deletes}
        for declaration in self.found:
            for node in argument_reads(declaration.call):
                if node.id not in how:
                    continue
                if node.id in self._earlier:
                    what = f"the parameter {node.id!r}"
                    hint = "Bounds and options are fixed before the search."
                else:
                    verb = "imports" if how[node.id].how == "an import" else "assigns"
                    what = f"{node.id!r}, which the body {verb} in line {self.text.line(how[node.id].node)}"
                    hint = f"{verb[:-1].capitalize()} it in a cell before."
                raise self.text.error(
                    node,
                    f"The arguments of {declaration.name!r} are evaluated before the body runs, but read {what}.",
                    hint,
                )


def _targets(statement: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return statement.targets if isinstance(statement, ast.Assign) else [statement.target]


def _declares(statement: ast.stmt) -> bool:
    """Say whether a block of an `if` or a `match`, at any depth of such, declares a parameter."""
    if isinstance(statement, ast.If):
        blocks = [statement.body, statement.orelse]
    elif isinstance(statement, ast.Match):
        blocks = [case.body for case in statement.cases]
    else:
        return target_of(statement) is not None
    return any(_declares(statement) for block in blocks for statement in block)
