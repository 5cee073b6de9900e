"""`%%bo_search --dry-run`: the space as it was read, one timed trial, and what the search would take."""

from __future__ import annotations

import argparse

from nbcompress.magics.scope import Scope
from nbcompress.magics.search_setup import prepared
from nbcompress.run import Assignment, Outcome
from nbcompress.run.preparing import Search
from nbcompress.run.seeds import trial_seed
from nbcompress.study.trial import State


def dry_run(arguments: argparse.Namespace, cell: str, scope: Scope) -> str:
    """Run one trial in the kernel and describe what a search would do; nothing is stored."""
    # In memory: a dry run leaves no study behind.
    arguments.storage = None
    search = prepared(arguments, cell, scope)
    study = search.study
    start = search.plan.start
    if start:
        point = start[0]
    else:
        from nbcompress.run.history import history_of

        point = search.proposer.propose(0, history_of((), study.goal)).point
    outcome = search.evaluate(Assignment(0, point, trial_seed(arguments.seed, 0)))
    return "\n".join([*_space_lines(search), *_trial_lines(point, outcome), _estimate(search, outcome)])


def _space_lines(search: Search) -> list[str]:
    space = search.study.space
    size = "uncountably many" if space.n_points is None else f"{space.n_points:,}"
    return [
        f"{len(space)} parameter{'s' * (len(space) != 1)}, {size} points:",
        *(f"  {line}" for line in str(space).splitlines()),
        f"goal: {search.study.goal}",
    ]


def _trial_lines(point: object, outcome: Outcome) -> list[str]:
    values = ", ".join(f"{name} {value:.6g}" for name, value in outcome.values.items()) or "no metric"
    lines = [f"one trial at {point}:", f"  {outcome.state.value} after {outcome.seconds:.2f} s, {values}"]
    if outcome.failure is not None:
        lines.append(f"  {outcome.failure}")
    if outcome.printed:
        lines += ["  it printed:", *(f"    {line}" for line in outcome.printed.splitlines()[:10])]
    return [*lines, *(f"  {remark}" for remark in outcome.remarks)]


def _estimate(search: Search, outcome: Outcome) -> str:
    trials, jobs = search.plan.trials, search.plan.jobs
    seconds = outcome.seconds * trials * search.plan.repeats / jobs
    text = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    if seconds >= 7200:
        text = f"{seconds / 3600:.1f} h"
    some = "" if outcome.state is State.COMPLETE else " or more: this one did not run to its end"
    return f"{trials} trials would take about {text}{some}; nothing was stored."
