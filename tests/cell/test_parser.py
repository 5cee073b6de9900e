"""The grammar of declarations, as two lists: cells that are accepted and cells that are refused."""

from __future__ import annotations

import ast
import math
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from strategies import spaces

from nbcompress.cell.parser import find_declarations, without_declarations
from nbcompress.errors import SpaceSyntaxError
from nbcompress.space import Choice, Float, Int, Space

NOTEBOOK: dict[str, Any] = {
    "layers": ["conv1", "fc"],
    "widths": [16, 32],
    "low": 0.5,
    "math": math,
    "model": object(),
    "Float": "the notebook's own",
    "Int": None,
}


def evaluate(node: ast.expr) -> object:
    return eval(compile(ast.Expression(node), "<argument>", "eval"), dict(NOTEBOOK))


def space_of(cell: str) -> Space:
    return find_declarations(cell).resolve(evaluate, NOTEBOOK)


def refusal(cell: str) -> tuple[int, int, str]:
    """Return where a cell, as shown below a magic line, is refused, and why."""
    with pytest.raises(SpaceSyntaxError) as caught:
        find_declarations(cell, first_line=2).resolve(evaluate, NOTEBOOK)
    error = caught.value
    assert str(error).startswith(f"line {error.line}, column {error.column}: ")
    return error.line, error.column, f"{error.text} {error.hint}".strip()


# --- cells that are read

READ: list[tuple[str, str]] = [
    # one declaration in all its spellings
    ("a = Float(0, 1)", "a = Float(0.0, 1.0)"),
    ("a = Float(low=0, high=1, log=False, step=0.5)", "a = Float(0.0, 1.0, step=0.5)"),
    ("a = Float(1e-4, 1e-1, True)", "a = Float(0.0001, 0.1, log=True)"),
    ("a = Float(1, 2, False, 0.5)", "a = Float(1.0, 2.0, step=0.5)"),
    ("a = nc.Float(0, 1)", "a = Float(0.0, 1.0)"),
    ("a = nbcompress.Int(0, 1)", "a = Int(0, 1)"),
    ("a = nbcompress.space.Choice(2)", "a = Choice(2)"),
    ("a: float = Float(0, 1)", "a = Float(0.0, 1.0)"),
    ("a: nc.Float = nc.Float(0, 1)", "a = Float(0.0, 1.0)"),
    ("(a) = Float(0, 1)", "a = Float(0.0, 1.0)"),
    ("a  =  Float (\n  0,\n  1,\n)", "a = Float(0.0, 1.0)"),
    ("a = Float(0, 1); b = Int(0, 1)", "a = Float(0.0, 1.0)\nb = Int(0, 1)"),
    ("a = \\\n  Float(0, 1)  # type: float", "a = Float(0.0, 1.0)"),
    ("größe = Int(0, 1)", "größe = Int(0, 1)"),
    ("ﬁt = Int(0, 1)", "fit = Int(0, 1)"),
    ("'''A text.'''\nfrom __future__ import annotations\na = Int(0, 1)", "a = Int(0, 1)"),
    ("a = Int(0, 1)\r\nb = Int(0, 2)\r\n", "a = Int(0, 1)\nb = Int(0, 2)"),
    ("a = Int(0, 1)\nget_ipython().run_line_magic('time', 'f(a)')", "a = Int(0, 1)"),
    # whatever these names mean elsewhere
    ("from torch import Float\na = Float(0, 1)", "a = Float(0.0, 1.0)"),
    ("import nbcompress as nc\na = nc.Float(0, 1)", "a = Float(0.0, 1.0)"),
    ("class Int: pass\na = Int(0, 1)", "a = Int(0, 1)"),
    ("a = Int(0, 1)\nb = torch.Float(3)\nc = Float\nd = T.nc.Int(2)\ne: Float = 3", "a = Int(0, 1)"),
    # arguments are expressions of the notebook
    ("a = Float(low, 2 * math.sqrt(4))", "a = Float(0.5, 4.0)"),
    ("a = Choice(*widths, 64)", "a = Choice(16, 32, 64)"),
    ("a = Choice(*[w * 2 for w in widths])\nw = 3", "a = Choice(32, 64)"),
    ("a = Choice(*map(lambda w: w + 1, widths))\nw = 3", "a = Choice(17, 33)"),
    ("a = Choice(*(w + v for w in widths for v in (0, w + 1)))\nv = w = 3", "a = Choice(16, 33, 32, 65)"),
    ("a = Choice('x', ordered=True)", "a = Choice('x', ordered=True)"),
    ("a = Float(0, 1, each=layers)", "a = Float(0.0, 1.0, each=['conv1', 'fc'])"),
    ("a = Float(0, 1, each=None)", "a = Float(0.0, 1.0)"),
    # names that are not assigned again
    ("a = Int(0, 1)\ndef f(a):\n  a = 3\n  return a", "a = Int(0, 1)"),
    ("a = Int(0, 1)\ndef f():\n  global a\n  return a", "a = Int(0, 1)"),
    ("a = Int(0, 1)\nf = lambda a: (a := 3)", "a = Int(0, 1)"),
    ("a = Int(0, 1)\nclass C:\n  a = 3\n  def a(self): ...", "a = Int(0, 1)"),
    ("a = Int(0, 1)\nb = [a for a in range(3)]", "a = Int(0, 1)"),
    ("a = Int(0, 1)\nb = {a: c for a, c in ()}", "a = Int(0, 1)"),
    ("a = Int(0, 1)\nx.a = 3\nx[a] = 4\nf(a=5)", "a = Int(0, 1)"),
    ("a: int\na = Int(0, 1)", "a = Int(0, 1)"),
    ("a = Int(0, 1)\nasync def f():\n  a = await g()", "a = Int(0, 1)"),
    ("a = Int(0, 1)\nr = await g(a)", "a = Int(0, 1)"),
    ("a = Int(0, 1)\ndef f():\n  def g():\n    global b\n    b = 1\n  a = 3", "a = Int(0, 1)"),
]

BRANCHES: list[tuple[str, str]] = [
    (
        "if m == 'y': n = Int(0, 1)",
        "if m == 'y':\n    n = Int(0, 1)",
    ),
    (
        "if m == 'x': pass\nelif b > 2: n = Int(0, 1)\nelse: k = Int(0, 1)",
        "if m in ('y', 'z') and b in (4, 8):\n    n = Int(0, 1)\nif m in ('y', 'z') and b == 2:\n    k = Int(0, 1)",
    ),
    (
        "if m != 'x':\n  s = Choice(None, True)\n  if s: n = Int(0, 1)",
        "if m in ('y', 'z'):\n    s = Choice(None, True)\nif m in ('y', 'z') and s == True:\n    n = Int(0, 1)",
    ),
    # a test that guards what it reads
    (
        "if m == 'y': s = Choice(1, 2)\nif m == 'y' and s == 1: n = Int(0, 1)",
        "if m == 'y':\n    s = Choice(1, 2)\nif m == 'y' and s == 1:\n    n = Int(0, 1)",
    ),
    # a condition that always holds is none
    ("if True: n = Int(0, 1)", "n = Int(0, 1)"),
    ("if b > 0: n = Int(0, 1)", "n = Int(0, 1)"),
    ("if 1 < 2 <= 3 or m: n = Int(0, 1)\nelse: pass", "n = Int(0, 1)"),
    ("if b is not None: n = Int(0, 1)", "n = Int(0, 1)"),
    # operators and literals
    ("if m in {'x', 'y'}: n = Int(0, 1)", "if m in ('x', 'y'):\n    n = Int(0, 1)"),
    ("if b % 4 == 0: n = Int(0, 1)", "if b in (4, 8):\n    n = Int(0, 1)"),
    ("if {'x': True}[m] if m == 'x' else False: n = Int(0, 1)", "if m == 'x':\n    n = Int(0, 1)"),
    ("if (m, b) == ('x', 2): n = Int(0, 1)", "if m == 'x' and b == 2:\n    n = Int(0, 1)"),
    ("if m[0] == 'x': n = Int(0, 1)", "if m == 'x':\n    n = Int(0, 1)"),
    (
        "if (m == 'x') != (b == 2): n = Int(0, 1)",
        "if m == 'x' and b == 4 or m == 'x' and b == 8 or m == 'y' and b == 2 or m == 'z' and b == 2:\n"
        "    n = Int(0, 1)",
    ),
    # groups
    ("g = Choice(1, 2, each=layers)\nif g['fc'] == 2: n = Int(0, 1)", None),
    ("g = Choice(1, 2, each=layers)\nif g == {'conv1': 1, 'fc': 2}: n = Int(0, 1)", None),
    ("if m == 'x': n = Float(0, 1, each=layers)", "if m == 'x':\n    n = Float(0.0, 1.0, each=['conv1', 'fc'])"),
    # match
    ("match m:\n  case 'x' | 'y': n = Int(0, 1)", "if m in ('x', 'y'):\n    n = Int(0, 1)"),
    ("match m:\n  case 'x': pass\n  case _: n = Int(0, 1)", "if m in ('y', 'z'):\n    n = Int(0, 1)"),
    ("match b:\n  case c if c > 2 and m == 'x': n = Int(0, 1)", "if m == 'x' and b in (4, 8):\n    n = Int(0, 1)"),
    ("match (m, b):\n  case ('x', 2): n = Int(0, 1)", "if m == 'x' and b == 2:\n    n = Int(0, 1)"),
    ("match [m, b]:\n  case ['x', *rest] if rest == [2]: n = Int(0, 1)", "if m == 'x' and b == 2:\n    n = Int(0, 1)"),
    ("match {'m': m}:\n  case {'m': 'x', **more}: n = Int(0, 1)", "if m == 'x':\n    n = Int(0, 1)"),
    (
        "match m:\n  case 'x':\n    if b == 2: n = Int(0, 1)\n  case 'y' as which: k = Int(0, 1)",
        "if m == 'x' and b == 2:\n    n = Int(0, 1)\nif m == 'y':\n    k = Int(0, 1)",
    ),
    # the same name on exclusive branches is one parameter
    ("if m == 'x': n = Int(0, 1)\nelse: n = Int(0, 2 - 1)", "n = Int(0, 1)"),
    ("if m == 'x': n = Int(0, 1)\nif m == 'y': n = Int(0, 1)", "if m in ('x', 'y'):\n    n = Int(0, 1)"),
    ("match m:\n  case 'x': n = Int(0, 1)\n  case 'y': n = Int(0, 1)", "if m in ('x', 'y'):\n    n = Int(0, 1)"),
    (
        "if m == 'x': s = Choice(1, 2)\nelif b == 2: s = Choice(1, 2)\nif m == 'x' and s == 1: n = Int(0, 1)",
        None,
    ),
    ("if m == 'x': n = Float(0, 1, each=layers)\nelse: n = Float(0, 1, each=['conv1', 'fc'])", None),
    # a choice of two branches is declared after what the second one reads
    ("if m == 'x': s = Choice(1, 2)\nc = Choice(3, 4)\nif m == 'y' and c == 3: s = Choice(1, 2)", None),
    # a branch that never runs may repeat a name
    ("if m == 'x': n = Int(0, 1)\nelif m == 'x': n = Int(0, 1)", "if m == 'x':\n    n = Int(0, 1)"),
    # tests without declarations may read anything
    ("if model: k = 3\nelif f(b): k = 4\nn = Int(0, 1)", "n = Int(0, 1)"),
    ("match model:\n  case str(): k = 3\nn = Int(0, 1)", "n = Int(0, 1)"),
]
HEAD = "m = Choice('x', 'y', 'z')\nb = Choice(2, 4, 8)\n"


@pytest.mark.parametrize(("cell", "text"), READ, ids=[cell for cell, _ in READ])
def test_read(cell: str, text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert str(space_of(cell)) == text


@pytest.mark.parametrize(("cell", "text"), BRANCHES, ids=[cell for cell, _ in BRANCHES])
def test_branches(cell: str, text: str | None) -> None:
    space = space_of(HEAD + cell)
    if text is not None:
        assert str(space) == HEAD + text
    runs_as_it_says(HEAD + cell, space)


def runs_as_it_says(cell: str, space: Space) -> None:
    """Run a cell at points of its space: it must bind exactly the active parameters, to their values."""
    declarations = find_declarations(cell)
    code = compile(without_declarations(declarations, "__point__"), "<cell>", "exec")
    finite = Space(
        {name: parameter if parameter.n_values else Int(0, 1) for name, parameter in space.declared().items()}
    )
    assert finite.n_points is None or finite.n_points > 0
    rows = [[u] * len(space) for u in (0.0, 1.0)] if not all(space[name].n_values for name in space) else []
    for point in [space.decode(row) for row in rows] or space.points():
        namespace: dict[str, Any] = {**NOTEBOOK, "f": bool, "__point__": space.grouped(point)}
        exec(code, namespace)
        bound = {name: namespace[name] for name in declarations.names if name in namespace}
        assert bound == space.grouped(point)


def test_groups_by_hand() -> None:
    space = space_of("g = Choice(1, 2, each=layers)\nif g['fc'] == 2: n = Int(0, 1)\n")
    assert space.parents("n") == ("g[fc]",)
    assert str(space) == "g = Choice(1, 2, each=['conv1', 'fc'])\nif g['fc'] == 2:\n    n = Int(0, 1)"


def test_positions_count_characters_and_shown_lines() -> None:
    declarations = find_declarations("x = 1\n'ä€𝄞'; größe = Float(0, 1)", first_line=2)
    (declaration,) = declarations.declarations
    assert (declaration.name, declaration.kind, declaration.line, declaration.column, declaration.branches) == (
        "größe",
        "Float",
        3,
        16,
        (),
    )
    assert not declaration.is_group
    assert declarations.assigned == {"x", "größe"}


def test_a_form_feed_ends_no_line() -> None:
    assert find_declarations("x = 'a\x0cb\u2028c'\na = Int(0, 1)").declarations[0].line == 2


def test_assigned() -> None:
    cell = (
        "a = Int(0, 1)\nimport os.path, sys as system\nfrom x import y as z\nb, (c, *d) = e.f = g[0] = 1\nh += 1\n"
        "for i in (j := []): pass\nwith o as p: pass\ntry: pass\nexcept E as q: pass\ndef r(s=(t := 1)): u = 1\n"
        "class V(W): w = 1\n[x for x in y if (yy := x)]\ndel zz\nmatch a:\n"
        "  case {'k': kk, **mm}: pass\n  case [*nn]: pass\n"
        "def gg():\n  global hh\n  hh = 1\nnot_yet: int\n"
    )
    expected = "a os system z b c d h i j p q r t V yy kk mm nn gg hh"
    assert find_declarations(cell).assigned == set(expected.split())


def test_every_argument_is_evaluated_once_and_in_order() -> None:
    seen = []

    def watching(node: ast.expr) -> object:
        seen.append(ast.unparse(node))
        return evaluate(node)

    find_declarations("a = Float(low, high=1)\nb = Choice(*widths, 3, each=layers)").resolve(watching)
    assert seen == ["low", "1", "widths", "3", "layers"]


def test_finding_evaluates_nothing() -> None:
    assert len(find_declarations("a = Float(1 / 0, nowhere)\nb = Choice(a_call())").declarations) == 2


def test_replaced_declarations_keep_their_place() -> None:
    source = "x = 1\na: float = Float(\n  0, 1)\nif x:\n  y = a\n"
    declarations = find_declarations(source)
    before = ast.dump(declarations.tree, include_attributes=True)
    tree = without_declarations(declarations)
    assert ast.unparse(tree) == "x = 1\na: float = __nbcompress_point__['a']\nif x:\n    y = a"
    assert ast.dump(declarations.tree, include_attributes=True) == before
    assign = tree.body[1]
    assert isinstance(assign, ast.AnnAssign)
    assert assign.value is not None
    assert (assign.value.lineno, assign.value.col_offset, assign.value.end_lineno) == (2, 11, 3)
    compile(tree, "<cell>", "exec")


def test_long_sums_do_not_run_out_of_depth() -> None:
    declarations = find_declarations("a = Int(0, 1)\nx = " + " + ".join(["a"] * 400))
    namespace: dict[str, Any] = {"__nbcompress_point__": {"a": 1}}
    exec(compile(without_declarations(declarations), "<cell>", "exec"), namespace)
    assert namespace["x"] == 400


@settings(deadline=None, max_examples=50)
@given(spaces(finite=True, max_size=4))
def test_printed_spaces_run_as_they_say(space: Space) -> None:
    runs_as_it_says(str(space), space)


# --- cells that are refused: text, line, column, sentence. The magic line is line 1.


def only(kind: str, where: str) -> str:
    return (
        f"{kind}(...) declares a parameter only as 'NAME = {kind}(...)', at the top level or inside if, elif, else or "
        f"match, but here it stands {where}."
    )


FLOAT = "Write Float(low, high, log=False, step=None)."
INT = "Write Int(low, high, log=False, step=1)."
CHOICE = "Write Choice(*options, ordered=None)."

REFUSED: list[tuple[str, int, int, str]] = [
    # no Python
    ("a = (1", 2, 5, "This is not Python: '(' was never closed."),
    ("x = 1\nä = b c", 3, 7, "This is not Python: invalid syntax."),
    ("a = Int(0, 1)\nreturn a", 3, 1, "This is not Python: 'return' outside function."),
    ("'ä'; return a", 2, 6, "This is not Python: 'return' outside function."),
    ("if a:\nb = 1", 3, 1, "This is not Python: expected an indented block after 'if' statement on line 1."),
    ("a = Float(0, low=1, low=2)", 2, 21, "This is not Python: keyword argument repeated: low."),
    ("a = '\0'", 2, 1, "This is not Python: source code string cannot contain null bytes."),
    # nothing declared
    ("", 2, 1, "The cell declares no parameter. Write for example 'lr = Float(1e-4, 1e-1, log=True)'."),
    ("a = 1", 2, 1, "The cell declares no parameter. Write for example 'lr = Float(1e-4, 1e-1, log=True)'."),
    ("a = Flaot(0, 1)", 2, 5, "The notebook has no name 'Flaot'. Did you mean 'Float'?"),
    ("b = Int(0, 1)\na = Choise(0, 1)", 3, 5, "The notebook has no name 'Choise'. Did you mean 'Choice'?"),
    # the call elsewhere
    ("Float(0, 1)", 2, 1, only("Float", "without a name")),
    ("f(x, Int(0, 1))", 2, 6, only("Int", "as an argument")),
    ("f(x=nc.Int(0, 1))", 2, 5, only("Int", "as an argument")),
    ("a = Choice(Int(0, 1))", 2, 12, only("Int", "as an argument")),
    ("a = Float(low=Int(0, 1), high=2)", 2, 15, only("Int", "as an argument")),
    ("a = Choice(*Choice(1))", 2, 13, only("Choice", "behind a star")),
    ("a = 2 * Float(0, 1)", 2, 9, only("Float", "as part of an expression")),
    ("a = Float(0, 1).low", 2, 5, only("Float", "as part of an expression")),
    ("a = Float(0, 1) if b else 2", 2, 5, only("Float", "as part of an expression")),
    ("a = {'x': Float(0, 1)}", 2, 11, only("Float", "as part of an expression")),
    ("a = (Float(0, 1),)", 2, 6, only("Float", "as part of an expression")),
    ("a += Float(0, 1)", 2, 6, only("Float", "in an augmented assignment")),
    ("a = b = Float(0, 1)", 2, 9, only("Float", "in a chained assignment")),
    ("a, b = Float(0, 1), Int(0, 1)", 2, 8, only("Float", "in an assignment to several names")),
    ("a, b = Float(0, 1)", 2, 8, only("Float", "in an assignment to several names")),
    ("[a] = Float(0, 1)", 2, 7, only("Float", "in an assignment to several names")),
    ("x.a = Float(0, 1)", 2, 7, only("Float", "in an assignment to an attribute")),
    ("x.a: float = Float(0, 1)", 2, 14, only("Float", "in an assignment to an attribute")),
    ("x['a'] = Float(0, 1)", 2, 10, only("Float", "in an assignment to an item")),
    ("(a := Float(0, 1))", 2, 7, only("Float", "in an assignment expression (:=)")),
    ("a: Float(0, 1) = 3", 2, 4, only("Float", "in an annotation")),
    ("a: Int(0, 1) = Float(0, 1)", 2, 4, only("Int", "in an annotation")),
    ("def f():\n  a = Float(0, 1)", 3, 7, only("Float", "inside a function")),
    ("async def f():\n  a = Float(0, 1)", 3, 7, only("Float", "inside a function")),
    ("def f(a=Float(0, 1)): pass", 2, 9, only("Float", "inside a function")),
    ("f = lambda: Float(0, 1)", 2, 13, only("Float", "inside a lambda")),
    ("class C:\n  a = Float(0, 1)", 3, 7, only("Float", "inside a class")),
    ("for i in x:\n  a = Float(0, 1)", 3, 7, only("Float", "inside a for loop")),
    ("while True:\n  a = Float(0, 1)", 3, 7, only("Float", "inside a while loop")),
    ("with x:\n  a = Float(0, 1)", 3, 7, only("Float", "inside a with block")),
    ("try:\n  a = Float(0, 1)\nfinally: pass", 3, 7, only("Float", "inside a try block")),
    ("try: pass\nexcept* E:\n  a = Float(0, 1)", 4, 7, only("Float", "inside a try block")),
    ("a = [Float(0, 1) for i in x]", 2, 6, only("Float", "inside a comprehension")),
    ("for i in x:\n  if y:\n    a = Float(0, 1)", 4, 9, only("Float", "inside a for loop")),
    ("if x:\n  for i in y: a = Float(0, 1)", 3, 19, only("Float", "inside a for loop")),
    ("if Float(0, 1): pass", 2, 4, only("Float", "as a test")),
    ("match Float(0, 1):\n  case _: pass", 2, 7, only("Float", "as the subject of a match")),
    ("x = f'ä{Float(0, 1)}'", 2, 5, only("Float", "as part of an expression")),
    ("assert Float(0, 1)", 2, 8, only("Float", "in an assert")),
    # the form of the arguments
    ("a = Float()", 2, 5, f"Float needs low and high. {FLOAT}"),
    ("a = Int(3)", 2, 5, f"Int needs high. {INT}"),
    ("a = Int(high=3)", 2, 5, f"Int needs low. {INT}"),
    ("a = Choice()", 2, 5, "A Choice has at least one option. Write for example Choice(2, 4, 8)."),
    ("a = Choice(ordered=True)", 2, 5, "A Choice has at least one option. Write for example Choice(2, 4, 8)."),
    ("a = Float(0, 1, False, 1, 2)", 2, 27, f"Float takes at most 4 positional arguments, but got 5. {FLOAT}"),
    ("a = Float(0, 1, low=2)", 2, 17, "Float got 'low' twice."),
    ("a = Float(0, 1, logg=True)", 2, 17, "Float has no argument 'logg'. Did you mean 'log'?"),
    ("a = Int(0, 1, width=True)", 2, 15, f"Int has no argument 'width'. {INT}"),
    ("a = Choice(1, log=True)", 2, 15, f"Choice has no argument 'log'. {CHOICE}"),
    ("a = Float(*low)", 2, 11, f"Float takes its arguments one by one, without a star. {FLOAT}"),
    ("a = Float(0, 1, **low)", 2, 19, f"Float takes its keywords one by one, without **. {FLOAT}"),
    ("a = Int(0, 1, when={'m': 1})", 2, 15, "A cell has no when=. Put the declaration inside an if over the Choice."),
    ("a = Int(0, (k := 3))", 2, 13, "The arguments of a declaration may not assign (:=). Do it in a cell before."),
    ("a = Int(0, await x)", 2, 12, "The arguments of a declaration may not wait or yield. Do it in a cell before."),
    # the values of the arguments
    ("ä = Float(2, 1)", 2, 11, "low <= high must hold, but got 2.0 and 1.0. Write Float(1.0, 2.0)."),
    ("a = Float(high=1, low=0, log=True)", 2, 23, "With log, low is above 0, but got 0.0."),
    ("a = Int(0, 1,\n  step=None)", 3, 8, "step is a number, but got None."),
    (
        "a = Choice(1, 2, 'x', 2)",
        2,
        23,
        "The options of a Choice differ, but got 2 and 2, which are equal. Leave out one of them.",
    ),
    (
        "a = Choice(1, *widths, len)",
        2,
        24,
        "An option of a Choice is None, a bool, an int, a float or a str, but got <built-in function len>.",
    ),
    ("a = Int(0, 1, each='fc')", 2, 20, "each= is a list of names, but got 'fc'. Write each=[...]."),
    ("a = Choice(*3)", 2, 12, "What follows the star is a list of options, but got 3."),
    ("a = Choice(*'xy')", 2, 12, "What follows the star is a list of options, but got 'xy'."),
    ("a = Float(0, 1 / 0)", 2, 14, "1 / 0 cannot be evaluated: ZeroDivisionError: division by zero."),
    ("a = Float(0, 2 * lwo)", 2, 18, "The notebook has no name 'lwo'. Did you mean 'low'?"),
    ("a = Float(0, 2 * elsewhere)", 2, 18, "The notebook has no name 'elsewhere'."),
    # arguments that read what the body makes
    (
        "n = 3\na = Int(0, n)",
        3,
        12,
        "The arguments of 'a' are evaluated before the body runs, but read 'n', which the body assigns in line 2. "
        "Assign it in a cell before.",
    ),
    (
        "a = Int(0, n)\nif x:\n  for n in y: pass",
        2,
        12,
        "The arguments of 'a' are evaluated before the body runs, but read 'n', which the body assigns in line 4. "
        "Assign it in a cell before.",
    ),
    (
        "from math import pi\na = Float(0, pi)",
        3,
        14,
        "The arguments of 'a' are evaluated before the body runs, but read 'pi', which the body imports in line 2. "
        "Import it in a cell before.",
    ),
    (
        "b = Int(0, 1)\na = Float(0, b)",
        3,
        14,
        "The arguments of 'a' are evaluated before the body runs, but read the parameter 'b'. "
        "Bounds and options are fixed before the search.",
    ),
    (
        "w = 3\na = Choice(*[v for v in w])",
        3,
        25,
        "The arguments of 'a' are evaluated before the body runs, but read 'w', which the body assigns in line 2. "
        "Assign it in a cell before.",
    ),
    # taken names
    ("seconds = Int(0, 1)", 2, 1, "The name 'seconds' is taken by a column of the trials; choose another."),
]

AGAIN: list[tuple[str, int, int, str]] = [
    ("a = 3", 3, 1, "an assignment assigns it again"),
    ("a: int = 3", 3, 1, "an assignment assigns it again"),
    ("b = a = 3", 3, 5, "an assignment assigns it again"),
    ("b, (a, *c) = x", 3, 5, "an assignment assigns it again"),
    ("*a, b = x", 3, 2, "an assignment assigns it again"),
    ("a += 1", 3, 1, "an augmented assignment assigns it again"),
    ("f((a := 3))", 3, 4, "an assignment expression (:=) assigns it again"),
    ("[b for b in x if (a := b)]", 3, 19, "an assignment expression (:=) assigns it again"),
    ("for a in x: pass", 3, 5, "a for loop assigns it again"),
    ("for b, a in x: pass", 3, 8, "a for loop assigns it again"),
    ("while x:\n  a = 3", 4, 3, "an assignment assigns it again"),
    ("with x as a: pass", 3, 11, "a with statement assigns it again"),
    ("try: pass\nexcept E as a: pass", 4, 1, "an except clause assigns it again"),
    ("import a", 3, 8, "an import assigns it again"),
    ("import a.b", 3, 8, "an import assigns it again"),
    ("import b as a", 3, 8, "an import assigns it again"),
    ("from b import a", 3, 15, "an import assigns it again"),
    ("from b import c as a", 3, 15, "an import assigns it again"),
    ("def a(): pass", 3, 1, "a function assigns it again"),
    ("class a: pass", 3, 1, "a class assigns it again"),
    ("del a", 3, 5, "del deletes it"),
    ("def f():\n  global a\n  a = 3", 5, 3, "an assignment assigns it again"),
    ("class C:\n  global a\n  a = 3", 5, 3, "an assignment assigns it again"),
    ("match x:\n  case a: pass", 4, 8, "a pattern assigns it again"),
    ("match x:\n  case [*a]: pass", 4, 9, "a pattern assigns it again"),
    ("match x:\n  case {**a}: pass", 4, 8, "a pattern assigns it again"),
    ("match x:\n  case 3 as a: pass", 4, 8, "a pattern assigns it again"),
    ("if x:\n  a = 3", 4, 3, "an assignment assigns it again"),
    ("def f(b=(a := 3)): pass", 3, 10, "an assignment expression (:=) assigns it again"),
]

LAW = "A test over a declaration reads only earlier Choices and constants, but"
COMPARE = "Compare the Choice with constants."
EXCLUDE = "The same name is allowed only on branches that exclude each other."

# Below HEAD, so that these cells begin in line 4.
REFUSED_BRANCHES: list[tuple[str, int, int, str]] = [
    ("if model: n = Int(0, 1)", 4, 4, f"{LAW} 'model' is neither."),
    ("if mm == 'x': n = Int(0, 1)", 4, 4, f"{LAW} 'mm' is neither. Did you mean 'm'?"),
    ("k = 3\nif k: n = Int(0, 1)", 5, 4, f"{LAW} 'k' is neither."),
    ("f = Float(0, 1)\nif m == 'x' and f > 0.5: n = Int(0, 1)", 5, 17, f"{LAW} 'f' is a Float."),
    ("i = Int(0, 1)\nif i: n = Int(0, 1)", 5, 4, f"{LAW} 'i' is an Int."),
    (
        "if later == 1: n = Int(0, 1)\nlater = Choice(1, 2)",
        4,
        4,
        f"{LAW} 'later' is declared later, in line 5. Move it up.",
    ),
    ("if m.startswith('x'): n = Int(0, 1)", 4, 4, f"{LAW} here is a call. {COMPARE}"),
    ("if len(m) == 1: n = Int(0, 1)", 4, 4, f"{LAW} here is a call. {COMPARE}"),
    ("if b.real > 2: n = Int(0, 1)", 4, 4, f"{LAW} here is an attribute. {COMPARE}"),
    ("if (k := m) == 'x': n = Int(0, 1)", 4, 5, f"{LAW} here is an assignment (:=). {COMPARE}"),
    ("if [c for c in m]: n = Int(0, 1)", 4, 4, f"{LAW} here is a comprehension. {COMPARE}"),
    ("if (lambda: m): n = Int(0, 1)", 4, 5, f"{LAW} here is a lambda. {COMPARE}"),
    ("if f'{m}': n = Int(0, 1)", 4, 4, f"{LAW} here is an f-string. {COMPARE}"),
    ("if (*m, 1): n = Int(0, 1)", 4, 5, f"{LAW} here is a star. {COMPARE}"),
    ("if await m: n = Int(0, 1)", 4, 4, f"{LAW} here is await. {COMPARE}"),
    ("if m == 'x': pass\nelif model: pass\nelse: n = Int(0, 1)", 5, 6, f"{LAW} 'model' is neither."),
    ("if model:\n  if m == 'x': n = Int(0, 1)", 4, 4, f"{LAW} 'model' is neither."),
    ("match model:\n  case 1: n = Int(0, 1)", 4, 7, f"{LAW} 'model' is neither."),
    ("match m:\n  case str(): n = Int(0, 1)", 5, 8, f"{LAW} here is a class pattern. {COMPARE}"),
    ("match m:\n  case model.x: n = Int(0, 1)", 5, 8, f"{LAW} here is an attribute. {COMPARE}"),
    ("match m:\n  case _ if model: n = Int(0, 1)", 5, 13, f"{LAW} 'model' is neither."),
    ("match m:\n  case k:\n    if k == 'x': n = Int(0, 1)", 6, 8, f"{LAW} 'k' is neither."),
    # tests that have no answer
    (
        "if m > 2: n = Int(0, 1)",
        4,
        4,
        "This test cannot be evaluated when m = 'x': TypeError: '>' not supported between instances of "
        "'str' and 'int'.",
    ),
    ("if 1 / 0: n = Int(0, 1)", 4, 4, "This test cannot be evaluated: ZeroDivisionError: division by zero."),
    (
        "if m == 'y': s = Choice(1, 2)\nif s == 1: n = Int(0, 1)",
        5,
        4,
        "This test reads 's', which is not active when m = 'x'. Test first what makes 's' active.",
    ),
    (
        "if m == 'y': s = Choice(1, 2)\nelif s == 1: n = Int(0, 1)",
        5,
        6,
        "This test reads 's', which is not active when m = 'x'. Test first what makes 's' active.",
    ),
    (
        "g = Choice(1, 2, each=layers)\nif g['conv'] == 1: n = Int(0, 1)",
        5,
        4,
        "'g' has nothing for 'conv'. Did you mean 'conv1'?",
    ),
    (
        "g = Choice(*range(25), each=['c1', 'c2', 'c3'])\nif g == {}: n = Int(0, 1)",
        5,
        4,
        "A condition may read choices with at most 10,000 combinations in all, but g[c1], g[c2], g[c3] have more.",
    ),
    # branches that nothing takes
    ("if False: n = Int(0, 1)", 4, 15, "'n' is never active: no combination of the Choices leads here."),
    (
        "if m == 'x':\n  if m == 'y': n = Int(0, 1)",
        5,
        20,
        "'n' is never active: no combination of the Choices leads here.",
    ),
    # the same name again
    ("m = Int(0, 1)", 4, 5, f"'m' is declared already, in line 2. {EXCLUDE}"),
    ("if b == 2: m = Int(0, 1)", 4, 16, f"'m' is declared already, in line 2. {EXCLUDE}"),
    ("if b == 2:\n  n = Int(0, 1)\n  n = Int(0, 1)", 6, 7, f"'n' is declared already, in line 5. {EXCLUDE}"),
    (
        "if b == 2: n = Int(0, 1)\nif m == 'x': n = Int(0, 1)",
        5,
        18,
        f"'n' is declared already, in line 4, and both run when m = 'x', b = 2. {EXCLUDE}",
    ),
    (
        "if b > 0: n = Int(0, 1)\nif m: n = Int(0, 1)",
        5,
        11,
        f"'n' is declared already, in line 4, and both run. {EXCLUDE}",
    ),
    (
        "if b == 2: n = Int(0, 1)\nelse: n = Int(0, 2)",
        5,
        11,
        "'n' was declared as Int(0, 1) in line 4, and is Int(0, 2) here. "
        "Write the same on both branches, or take another name.",
    ),
    (
        "if b == 2: n = Choice(0, 1)\nelse: n = Choice(0.0, 1)",
        5,
        11,
        "'n' was declared as Choice(0, 1) in line 4, and is Choice(0.0, 1) here. "
        "Write the same on both branches, or take another name.",
    ),
    (
        "if b == 2: n = Int(0, 1)\nelse: n = 3",
        5,
        7,
        "'n' is the parameter of line 4, and an assignment assigns it again here. "
        "Take another name: 'its_n = n' where it is declared, 'its_n = ...' here.",
    ),
]


@pytest.mark.parametrize(("cell", "line", "column", "text"), REFUSED, ids=[cell for cell, *_ in REFUSED])
def test_refused(cell: str, line: int, column: int, text: str) -> None:
    assert refusal(cell) == (line, column, text)


@pytest.mark.parametrize(("statement", "line", "column", "how"), AGAIN, ids=[cell for cell, *_ in AGAIN])
def test_assigned_again(statement: str, line: int, column: int, how: str) -> None:
    text = f"'a' is the parameter of line 2, and {how} here. Take another name."
    assert refusal(f"a = Int(0, 1)\n{statement}") == (line, column, text)


@pytest.mark.parametrize(
    ("cell", "line", "column", "text"), REFUSED_BRANCHES, ids=[cell for cell, *_ in REFUSED_BRANCHES]
)
def test_refused_branches(cell: str, line: int, column: int, text: str) -> None:
    assert refusal(HEAD + cell) == (line, column, text)


def test_assigned_before_is_assigned_again() -> None:
    text = "'a' is the parameter of line 3, and an assignment assigns it again here. Take another name."
    assert refusal("a = 3\na = Int(0, 1)") == (2, 1, text)


def test_what_the_compiler_warns_of_waits_for_the_run() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert space_of("x = '\\d'\nm = Choice(1)\nif m is 1: n = Int(0, 1)").names == ("m", "n")


def test_too_deep() -> None:
    with pytest.raises(SpaceSyntaxError, match="nested too deeply"):
        find_declarations("x = " + "-" * 5000 + "1")


def test_misspelt_kind_may_be_a_function_of_the_user() -> None:
    cell = "b = Int(0, 1)\na = Floats(0, 1)"
    assert find_declarations(cell).resolve(evaluate, {*NOTEBOOK, "Floats"}).names == ("b",)
    assert find_declarations(f"def Floats(*x): ...\n{cell}").resolve(evaluate, NOTEBOOK).names == ("b",)
    assert find_declarations(cell).resolve(evaluate).names == ("b",)


def test_an_interrupt_passes() -> None:
    def interrupted(node: ast.expr) -> object:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_declarations("a = Int(0, 1)").resolve(interrupted)


def test_the_example_of_the_design() -> None:
    cell = (
        "amount = Float(0.2, 0.98)\nbits   = Choice(2, 4, 8)\nlr     = Float(1e-4, 1e-1, log=True)\n"
        'method = Choice("plain", "cluster")\n\nsmall = prune(model, amount=amount)\nif method == "cluster":\n'
        "    clusters = Int(4, 64, log=True)\n    small = cluster(small, clusters=clusters)\n"
        "small = quantize(small, bits=bits)\nreport(kilobytes=size_bytes(small) / 1000)\n"
    )
    assert space_of(cell) == Space(
        {
            "amount": Float(0.2, 0.98),
            "bits": Choice(2, 4, 8),
            "lr": Float(1e-4, 1e-1, log=True),
            "method": Choice("plain", "cluster"),
            "clusters": Int(4, 64, log=True, when={"method": "cluster"}),
        }
    )
