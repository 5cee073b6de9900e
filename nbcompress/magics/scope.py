"""Where a magic looks names up: in the notebook, or in the trial that it runs in."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from nbcompress.cell.namespace import current_globals
from nbcompress.errors import did_you_mean
from nbcompress.magics.arguments import Expression
from nbcompress.public import HOMES, public

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


# What IPython itself puts into a notebook's namespace.
OF_IPYTHON = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})


class Scope:
    """The names that a magic may use, and where its output goes."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        running = current_globals()
        self.in_trial = running is not None
        self.namespace: dict[str, Any] = shell.user_ns if running is None else running

    def evaluate(self, text: Expression) -> Any:
        """Evaluate an expression here.

        Raises:
            UsageError: A name is unknown, or evaluating raised.
        """
        try:
            # The user's own expression in the user's own kernel; our functions are there as in a trial, also inside
            # a lambda, which sees globals alone.
            ours = self._library(text)
            return eval(text, {**ours, **self.namespace} if ours else self.namespace)  # noqa: S307
        except NameError as err:
            missing = err.name or str(err)
            near = did_you_mean(missing, _visible(self.namespace))
            raise UsageError(f"there is no variable {missing!r} in this notebook.{near}") from None
        except Exception as err:  # whatever the user's expression raises is the user's to read
            raise UsageError(f"evaluating {text!s} raised {type(err).__name__}: {err}") from err

    def _library(self, text: Expression) -> dict[str, Any]:
        read = {node.id for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Name)}
        return {name: public(name) for name in read & set(HOMES) if name not in self.namespace}

    def evaluate_node(self, node: ast.expr) -> Any:
        """Evaluate a part of a syntax tree here; errors rise as they are."""
        return eval(compile(ast.Expression(node), "<declaration>", "eval"), self.namespace)  # noqa: S307

    def value(self, given: Any) -> Any:
        """Return `given`, evaluated if it is an expression."""
        return self.evaluate(given) if isinstance(given, Expression) else given

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return `given` with every expression in it evaluated."""
        return {key: self.value(one) for key, one in given.items()}


def _visible(namespace: Mapping[str, Any]) -> list[str]:
    return [name for name in namespace if not name.startswith("_") and name not in OF_IPYTHON]
