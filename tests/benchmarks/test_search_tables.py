"""The tables on runs whose outcome is known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from problems import PROBLEMS
from search_tables import against_best, by_problem, duels, first_at, fronts, ranks, scored

BY_NAME = {problem.name: problem for problem in PROBLEMS}


def line(problem: str, peer: str, seed: int, losses: list[tuple[float, ...]]) -> dict[str, object]:
    return {
        "problem": problem,
        "peer": peer,
        "seed": seed,
        "losses": losses,
        "slacks": [()] * len(losses),
        "cpu_s": 0.1,
    }


def runs() -> list[dict[str, object]]:
    """Ten seeds on which ours is at 1, the second at 2 and then 0.5 on the last, and a third with three seeds at 0."""
    lines = [line("ackley5", "ours", seed, [(3.0,), (1.0,)]) for seed in range(10)]
    lines += [line("ackley5", "optuna-gp", seed, [(2.0 + 0.1 * seed,)] * 2) for seed in range(9)]
    lines += [line("ackley5", "optuna-gp", 9, [(4.0,), (0.5,)])]
    return lines + [line("ackley5", "ax", seed, [(5.0,), (0.0,)]) for seed in range(3)]


def table() -> object:
    return scored(runs(), list(PROBLEMS))


def test_medians_wins_and_pairs() -> None:
    rows = by_problem(table()).set_index("peer")
    assert rows.loc["ours", ["seeds", "median", "wins"]].tolist() == [10, 1.0, 6]
    assert rows.loc["ax", ["seeds", "common", "better", "worse"]].tolist() == [3, 3, 0, 3]
    assert rows.loc["optuna-gp", ["common", "better", "worse", "wins"]].tolist() == [10, 9, 1, 1]
    # Ranks of |difference| are 1 for the one that is worse and 2 .. 10: by hand, 4 of the 2^10 signs are as extreme.
    assert rows.loc["optuna-gp", "p"] == pytest.approx(4 / 2**10)
    assert math.isnan(rows.loc["ax", "p"])


def test_the_best_peer_ran_the_same_seeds() -> None:
    (row,) = against_best(by_problem(table())).to_dict("records")
    assert row["best peer"] == "optuna-gp"
    assert row["lower, of fewer seeds"] == "ax 0 (3; ours better in 0)"


def test_ranks_only_where_all_ran() -> None:
    third = [line("ackley5", "ax", seed, [(5.0,), (0.0,)]) for seed in range(3, 6)]
    few, more, enough = (
        row
        for lines in (runs(), runs() + third)
        for row in ranks(scored(lines, list(PROBLEMS))).query("group == 'public'").to_dict("records")
    )
    assert (few["blocks"], few["ours"], few["optuna-gp"]) == (10, 1.1, 1.9)
    assert "ax" not in few
    assert math.isnan(more["ax"])
    assert (enough["blocks"], enough["ax"], enough["ours"], enough["optuna-gp"]) == (6, 1.0, 2.0, 3.0)


def test_duels_count_pairs() -> None:
    rows = duels(table()).set_index("peer")
    assert rows.loc["optuna-gp", ["common", "better", "worse"]].tolist() == [10, 9, 1]


def test_trials_until_the_rival_is_reached() -> None:
    assert first_at(np.array([3.0, 2.0, 1.0]), 2.0) == 2
    assert first_at(np.array([3.0, 2.0, 1.0]), 0.5) == math.inf
    rival = line("zdt1", "optuna-gp", 0, [(0.9, 0.9), (0.5, 0.5), (0.4, 0.4)])
    ours = line("zdt1", "ours", 0, [(0.9, 0.9), (0.4, 0.4), (0.0, 1.0)])
    rows = fronts(scored([rival, ours], list(PROBLEMS))).set_index("peer")
    assert rows.loc["ours", "trials"] == rows.loc["ours", "trials, paired"] == 2
    assert rows.loc["ours", "share"] == pytest.approx((0.7**2 + 0.4 * 0.1) / BY_NAME["zdt1"].best)
    assert rows.loc["optuna-gp", "trials"] == 3


def test_nothing_feasible_is_worst() -> None:
    lost = line("constrained", "ours", 0, [(0.0,)]) | {"slacks": [(1.0, 1.0)]}
    assert scored([lost], list(PROBLEMS)).score.tolist() == [math.inf]
