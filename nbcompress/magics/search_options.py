"""The options of `%%bo_search`. Their defaults are those of `SearchOptions`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any

from nbcompress.choices import (
    ACQUISITIONS,
    ENGINES,
    INTERRUPTS,
    KERNELS,
    MEANS,
    PRUNERS,
    SAMPLERS,
    SURROGATES,
    is_engine,
)
from nbcompress.errors import GoalError
from nbcompress.magics.arguments import MagicParser, OneOf, Suggests, WholeNumber, expression, name
from nbcompress.study.goal import Constraint, Direction, Goal, Objective

EXAMPLES = """\
  %%bo_search --trials 40 --maximize accuracy --minimize kilobytes --subject-to "kilobytes <= 60" --study digits
  amount = Float(0.2, 0.98)
  bits = Choice(2, 4, 8)
  small = quantize(prune(model, amount=amount), bits=bits)
  kilobytes = size_bytes(small) / 1000
  accuracy = evaluate(small)"""

Add = Callable[..., argparse.Action]

SUMMARY = (
    "Search over the parameters that the cell declares with Float, Int and Choice; the rest of the cell is one trial. "
    "The variables named by --maximize and --minimize are what a trial leaves behind. A parameter declared inside an "
    "if over a Choice is active there alone; each=NAMES makes one for each name. report(kilobytes=...) tells early "
    "what is known early, report(accuracy=..., step=epoch) how training goes. {expression} and $name on the line are "
    "replaced by values of the notebook."
)


# The parts of the surrogate: each is one of these words, or a variable of the notebook.
PARTS = {"--acquisition": ACQUISITIONS, "--kernel": KERNELS, "--mean": MEANS, "--surrogate": SURROGATES}


class _Typed(argparse.Action):
    """Stores a value, and in `typed` that the option stands on the line."""

    def __call__(self, _: object, namespace: Any, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, values)
        namespace.typed = (*getattr(namespace, "typed", ()), option_string)


class _AddObjective(argparse.Action):
    """Collects objectives of both directions in the order in which they are typed."""

    def __call__(self, _: object, namespace: Any, values: Any, option_string: Any = None) -> None:
        direction: Direction = "maximize" if option_string == "--maximize" else "minimize"
        namespace.objectives = [*(namespace.objectives or []), Objective(values, direction)]


def _metric(text: str) -> str:
    try:
        return Objective(text, "maximize").metric
    except GoalError as err:
        raise argparse.ArgumentTypeError(str(err)) from None


def _engine_word(text: str) -> str:
    return text if is_engine(text) else name(text)


@cache
def search_parser() -> MagicParser:
    """Return the parser of `%%bo_search`."""
    parser = MagicParser("%%bo_search", SUMMARY, EXAMPLES)
    for add_options in (_steering, _limiting, _storing, _proposing, _running, _showing):
        add_options(_with_defaults(parser))
    return parser


def _with_defaults(parser: MagicParser) -> Add:
    """Return `add_argument` with the defaults of `SearchOptions`."""
    from nbcompress.run.options import SearchOptions

    # Lists in the place of tuples, since `append` copies the default and appends to it.
    options = fields(SearchOptions)
    defaults: dict[str, Any] = {option.name: [] if option.default == () else option.default for option in options}

    def add(option: str, **settings: Any) -> argparse.Action:
        name = option.removeprefix("--").replace("-", "_")
        return parser.add_argument(option, **({"default": defaults[name]} if name in defaults else {}), **settings)

    return add


def _steering(add: Add) -> None:
    """What the search is for."""
    for option in ("--maximize", "--minimize"):
        help_ = "an objective; repeat for several"
        add(option, dest="objectives", action=_AddObjective, type=_metric, metavar="NAME", help=help_)
    help_ = "a constraint, also relative to --baseline: accuracy >= baseline - 0.01; repeatable"
    add("--subject-to", action="append", metavar='"NAME <= NUMBER"', help=help_)


def _limiting(add: Add) -> None:
    """How much is run."""
    add("--trials", type=WholeNumber(1), metavar="N", help="trials in the study in all (%(default)s)")
    add("--timeout", metavar="90s/10m/2h", help="limit for the search (none)")
    add("--trial-timeout", metavar="90s/10m/2h", help="limit for one trial; inline waits for calls into C (none)")


def _storing(add: Add) -> None:
    """Which study it is, and what is known at its start."""
    add("--study", metavar="NAME", help="continue or start this study (a name made from the cell)")
    add("--fresh", action="store_true", help="start that study anew, as NAME~2; nothing is deleted")
    accepts = "go on with a study in spite of another value; its trials note it"
    add("--accept-changes", action="store_true", help=accepts)
    add("--storage", metavar="PATH or URL", help="any Optuna storage (a journal file)")
    add("--start", type=expression, metavar="POINTS", help="an expression: a list of dicts to run first")
    add("--original", type=expression, metavar="MODEL", help="an expression: the model before, for --test")
    help_ = "an expression: a function from a model to a number; measures the front once on data that no trial saw"
    add("--test", type=expression, metavar="FN", help=help_)
    add("--baseline", type=expression, metavar="METRICS", help="an expression: a dict of the original's metrics")


def _proposing(add: Add) -> None:
    """What chooses points, and what ends a trial or the search early."""
    some = ", ".join(SAMPLERS[:5])
    help_ = f"what proposes points: {some}, ... (%(default)s)"
    add("--sampler", type=Suggests(str, SAMPLERS), metavar="NAME", help=help_)
    for option, words in PARTS.items():
        help_ = f"{', '.join(words)}, or a variable (%(default)s)"
        add(option, type=Suggests(str, words), action=_Typed, metavar="NAME", help=help_)
    help_ = "an expression: by metric, a number for each name of each=, as in {'accuracy': measured.by_layer()}"
    add("--sensitivity", type=expression, metavar="DICT", help=help_)
    help_ = "the metric that holds the standard deviation of METRIC; repeatable; a bare NAME with one objective"
    add("--noise", action="append", metavar="METRIC=NAME", help=help_)
    help_ = f"early stopping by what report(..., step=...) tells: {', '.join(PRUNERS)} (%(default)s)"
    add("--pruner", type=Suggests(str, PRUNERS), metavar="NAME", help=help_)
    add("--until", metavar="RULE", help='a stop rule: "no gain 15" or "gain < 0.001"')


def _running(add: Add) -> None:
    """Where trials run, how often, and what of them is kept."""
    help_ = (
        f"{', '.join(ENGINES)}, ray://HOST:PORT, dask:tcp://HOST:PORT, or the name of an executor or a Dask client "
        "(%(default)s)"
    )
    add("--engine", type=Suggests(_engine_word, ENGINES), metavar="NAME", help=help_)
    add("--resources", metavar='"cpus=2, gpus=1"', help="what a trial takes of a cluster (one CPU)")
    help_ = "run a trial again whose worker was lost, on clusters and executors (%(default)s)"
    add("--retries", type=WholeNumber(0), metavar="N", help=help_)
    help_ = "hard limit for one trial, under process and on clusters (none)"
    add("--trial-memory", metavar="4GB", help=help_)
    add("--jobs", type=WholeNumber(1), metavar="K", help="trials at a time, not under inline (%(default)s)")
    add("--repeats", type=WholeNumber(1), metavar="K", help="runs per point with different seeds (%(default)s)")
    help_ = "at the first interrupt: end the cell so that later cells run, or raise, which stops Run All (%(default)s)"
    add("--on-interrupt", type=OneOf(INTERRUPTS), help=help_)
    add("--keep", action="append", type=name, metavar="NAME", help="keep this of the front's trials")
    add("--seed", type=WholeNumber(), metavar="N", help="equal seeds give equal points (%(default)s)")
    help_ = (
        "use the last M trials to run the best again if the objective is noisy; then see nc.finalists(study) "
        "(%(default)s)"
    )
    add("--finalists", type=WholeNumber(0), metavar="M", help=help_)


def _showing(add: Add) -> None:
    """What the cell shows and leaves behind."""
    add("--background", action="store_true", help="return at once; the panel goes on")
    add("--panel", type=OneOf(["auto", "text", "off"]), default="auto", help="auto, text, off (auto)")
    add("--dry-run", action="store_true", help="show the space and one timed trial")
    add("--out", type=name, default="study", metavar="NAME", help="the variable that receives the Study (study)")


def goal_of(arguments: argparse.Namespace, baseline: Any = None) -> Goal:
    """Return objectives and constraints as typed.

    Args:
        arguments: The parsed line.
        baseline: The value of `--baseline`.

    Raises:
        GoalError: There is no objective, one is given twice, or a constraint cannot be read.
    """
    constraints = tuple(Constraint.parse(text, baseline) for text in arguments.subject_to or ())
    return Goal(tuple(arguments.objectives or ()), constraints)
