"""What a body reads."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from nbcompress.run.reads import global_names, is_plain_function, missing_names, reached_names, values_read


def notebook(source: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"functools": functools}
    exec(source, namespace)
    return namespace


def read(body: str, namespace: dict[str, Any]) -> set[str]:
    return set(reached_names(compile(body, "<body>", "exec"), namespace)) - {"functools"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = a + 1", {"a"}),
        ("a = 1", set()),
        ("y = [a for _ in b]", {"a", "b"}),
        ("def f():\n    return a", {"a"}),
        ("y = (lambda: a)()", {"a"}),
        ("class K:\n    x = a", {"a"}),
        ("y = b.a", {"b"}),
        ("y = f'{a}'", {"a"}),
        ("get_ipython().run_line_magic('prune', 'a --amount b')", {"a", "b"}),
        ("print('a b')", set()),
    ],
)
def test_names_read_directly(body: str, expected: set[str]) -> None:
    assert read(body, notebook("a = b = 1")) == expected


def test_names_read_through_functions() -> None:
    namespace = notebook("a = 1\nb = 2\ndef g(): return a\ndef f(): return g()\ndef h(): return b")
    assert read("f()", namespace) == {"f", "g", "a"}


def test_names_read_behind_a_decorator() -> None:
    namespace = notebook(
        "def twice(fn):\n"
        "    @functools.wraps(fn)\n"
        "    def inner(*args): return fn(*args) * 2\n"
        "    return inner\n"
        "a = 1\n"
        "@twice\n"
        "def f(): return a\n"
    )
    assert read("f()", namespace) == {"f", "a"}
    assert is_plain_function(namespace["f"], namespace)


def test_functions_that_call_each_other_end() -> None:
    namespace = notebook("a = 1\ndef f(n): return g(n) + a\ndef g(n): return f(n)")
    assert read("f(1)", namespace) == {"f", "g", "a"}


def test_closures_and_foreign_functions_are_not_plain() -> None:
    namespace = notebook("def make():\n    x = 1\n    def f(): return x\n    return f\nf = make()")
    assert not is_plain_function(namespace["f"], namespace)
    assert not is_plain_function(functools.reduce, namespace)


def test_missing_names() -> None:
    namespace = notebook("def f(): return prune")
    assert missing_names(compile("f(); report; print", "<body>", "exec"), namespace) == {
        "prune",
        "report",
        "print",
    } - set(namespace)


def test_names_in_nested_code_are_found() -> None:
    code = compile("def f():\n    def g():\n        return deep\n    return g", "<body>", "exec")
    assert "deep" in global_names(code)


def test_values_that_a_function_reads() -> None:
    namespace = notebook("a = 1\nb = 2\nc = 3\ndef g(): return a\ndef f(x, y): return g() + x")
    inner = namespace["f"]
    local = 5

    def closing() -> Any:
        return local + inner(1, 2)

    assert values_read(namespace["f"]) == {"g": namespace["g"], "a": 1}
    assert values_read(functools.partial(inner, 7, y=8)) == {"argument 1": 7, "y": 8, "g": namespace["g"], "a": 1}
    assert {name: one for name, one in values_read(closing).items() if not callable(one)} == {"local": 5}
    assert values_read(len) == {}
