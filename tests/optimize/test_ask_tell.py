import math
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import nbcompress as nc
from nbcompress.errors import GoalError, PointError, SearchError, SpaceExhausted
from nbcompress.optimize import Optimizer
from nbcompress.space import Choice, Float, Int, Space

SPACE = {"x": Float(-1.0, 1.0), "method": Choice("a", "b"), "n": Int(1, 9, when={"method": "b"})}


def test_the_public_name() -> None:
    assert nc.Optimizer is Optimizer


def test_ask_gives_plain_active_points() -> None:
    optimizer = Optimizer(SPACE, directions=["minimize"])
    points = optimizer.ask(n=5)
    assert len(points) == 5
    for point in points:
        assert Space(SPACE).check(point) == point
        assert all(type(value) in (float, str, int) for value in point.values())
        assert ("n" in point) == (point["method"] == "b")


def test_asked_is_pending_until_told() -> None:
    optimizer = Optimizer(SPACE)
    first, second = optimizer.ask(2)
    assert optimizer.history.status == ("pending", "pending")
    optimizer.tell(second, [2.0])
    assert optimizer.history.status == ("pending", "told")
    optimizer.tell(first, 1)
    assert optimizer.history.losses.tolist() == [[1.0], [2.0]]


def test_what_was_not_asked_may_be_told() -> None:
    optimizer = Optimizer(SPACE, ["maximize", "minimize"])
    optimizer.tell({"x": np.float64(0.5), "method": "a"}, np.array([3.0, 4.0]))
    optimizer.tell({"x": 0.5, "method": "b", "n": 3}, None)
    assert optimizer.history.status == ("told", "failed")
    assert optimizer.history.losses[0].tolist() == [-3.0, 4.0]
    assert type(optimizer.history.points[0]["x"]) is float


def test_a_point_may_be_told_twice() -> None:
    optimizer = Optimizer(SPACE)
    point = optimizer.ask()[0]
    optimizer.tell(point, 1.0)
    optimizer.tell(point, 2.0)
    assert optimizer.history.losses.tolist() == [[1.0], [2.0]]
    for _ in range(12):
        optimizer.tell(optimizer.ask()[0], 0.5)


def test_the_answer_is_ours_to_change() -> None:
    optimizer = Optimizer(SPACE)
    point = optimizer.ask()[0]
    point["x"] = 99.0
    assert optimizer.history.points[0]["x"] != 99.0


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0], "Tell 2 values, one for each direction, but got 1"),
        (1.0, "Tell 2 values"),
        ([1.0, math.nan], r"A value is finite, but got nan. Write tell\(point, None\) for one that failed"),
        ([1.0, math.inf], "A value is finite, but got inf"),
        ([1.0, 10**400], "A value is finite, but got inf"),
        ([1.0, np.bool_(True)], "A value is a number, but got np.True_"),
        ([1.0, "much"], "A value is a number, but got 'much'"),
    ],
)
def test_values_are_checked(values, text: str) -> None:
    optimizer = Optimizer(SPACE, ["minimize", "minimize"])
    with pytest.raises(SearchError, match=text):
        optimizer.tell({"x": 0.0, "method": "a"}, values)
    assert len(optimizer.history) == 0


def test_points_are_checked() -> None:
    with pytest.raises(PointError, match="Did you mean 'method'"):
        Optimizer(SPACE).tell({"x": 0.0, "metod": "a"}, [1.0])
    with pytest.raises(PointError, match="'x'"):
        Optimizer(SPACE).tell({"x": 2.0, "method": "a"}, [1.0])


def test_directions_are_checked() -> None:
    with pytest.raises(GoalError, match="'minimize' or 'maximize', but got 'min'"):
        Optimizer(SPACE, ["min"])
    with pytest.raises(GoalError, match="at least one objective"):
        Optimizer(SPACE, [])


def test_maximizing_is_minimizing_the_negative() -> None:
    up, down = Optimizer(SPACE, ["maximize"], seed=2), Optimizer(SPACE, ["minimize"], seed=2)
    for _ in range(12):
        point, same = up.ask()[0], down.ask()[0]
        assert point == same
        up.tell(point, [-(point["x"] ** 2)])
        down.tell(same, [point["x"] ** 2])


def test_the_last_points_of_a_small_space_are_handed_out() -> None:
    optimizer = Optimizer({"x": Int(1, 3)})
    assert sorted(point["x"] for point in optimizer.ask(5)) == [1, 2, 3]
    with pytest.raises(SpaceExhausted, match="All 3 points"):
        optimizer.ask()


@pytest.mark.parametrize("n", [0, -1, True, 1.5])
def test_how_many_points_is_a_whole_number(n: object) -> None:
    with pytest.raises(SearchError, match="Ask for a whole number of points, at least 1, but got"):
        Optimizer({"x": Int(1, 3)}).ask(n)


@pytest.mark.parametrize("value", ["12", True])
def test_texts_and_bools_are_no_values(value: object) -> None:
    with pytest.raises(SearchError, match=r"A value is a number, but got .*Write float\("):
        Optimizer({"x": Int(1, 3)}).tell({"x": 1}, value)


def test_integers_of_numpy_are_taken() -> None:
    optimizer = Optimizer(SPACE, seed=np.int64(3))
    assert optimizer.ask(np.int64(2)) == Optimizer(SPACE, seed=3).ask(2)
    for wrong in (None, True, 1.0):
        with pytest.raises(SearchError, match="seed is an integer, but got"):
            Optimizer(SPACE, seed=wrong)


@pytest.mark.parametrize("sampler", ["gp", "sobol", "random", "tpe"])
def test_threads_share_one(sampler: str) -> None:
    """No point is given out twice, and none of what is told is lost."""
    optimizer = Optimizer({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)}, sampler=sampler)
    barrier = threading.Barrier(4)

    def work(_: int) -> list[tuple[float, ...]]:
        points = []
        for _ in range(6):
            barrier.wait(timeout=60)
            (point,) = optimizer.ask()
            optimizer.tell(point, point["x"] + point["y"])
            points.append(tuple(point.values()))
        return points

    with ThreadPoolExecutor(4) as pool:
        points = [point for some in pool.map(work, range(4)) for point in some]
    assert len(set(points)) == 24
    assert optimizer.history.status == ("told",) * 24
    assert sorted(map(sum, points)) == pytest.approx(sorted(optimizer.history.losses[:, 0]))


def test_a_copy_goes_on_alike() -> None:
    optimizer = Optimizer(SPACE)
    optimizer.tell(optimizer.ask()[0], 1.0)
    assert pickle.loads(pickle.dumps(optimizer)).ask() == optimizer.ask()
