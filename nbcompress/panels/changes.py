"""What changed in a running search since the page was last told: the state of a live panel and its deltas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nbcompress.panels.expected import Expectations, expected_data
from nbcompress.panels.limits import LIVE
from nbcompress.panels.progress import progress_of
from nbcompress.panels.text import cut, finite, scalar
from nbcompress.panels.view import (
    Course,
    Names,
    StudyLike,
    count_trials,
    cut_sentence,
    is_evaluable,
    study_view,
    trial_data,
)
from nbcompress.study.front import front
from nbcompress.study.trial import State, Trial


class Changes:
    """Holds a study's data as the page has it, and says what to tell it next. Not for two threads at once.

    `state` is what a page that opens now starts from; it is replaced, never altered, so that another thread may send
    it at any moment.
    """

    def __init__(self, study: StudyLike, run: str, baseline: Mapping[str, float] | None, course: Course) -> None:
        self._goal, self._space = study.goal, study.space
        self._names = Names(LIVE.name)
        self._trials = {one.number: one for one in study.all_trials}
        self._front = {one.number: one for one in study.front}
        self._changed: dict[int, Trial] = {}
        self._expected: dict[str, Any] = {}
        view = study_view(study, baseline=baseline, course=course, names=self._names)
        self.state: dict[str, Any] = {"seq": 0, "run": run, "study": view}

    def note(self, trial: Trial) -> None:
        """Take a trial that began or ended."""
        self._changed[trial.number] = trial

    def limit(self, limits: Mapping[str, Sequence[Any]]) -> None:
        """Take within what the search goes on."""
        shown = {self._names(key): [scalar(one, LIVE.value) for one in values] for key, values in limits.items()}
        self._expected["narrowed"] = shown

    def expect(self, expected: Expectations) -> None:
        """Take what a surrogate tells. What is empty stays as it is."""
        surrogate, study = expected.surrogate, self.state["study"]
        shown = self._trials.keys() | self._changed.keys()
        if surrogate is not None and not is_evaluable(surrogate, self._space, study["parameters"], shown):
            expected = replace(expected, surrogate=None)
        data = expected_data(expected, self._names, LIVE)
        self._expected |= {key: one for key, one in data.items() if one}
        if expected.remark:
            self._expected["warnings"] = [*study["warnings"], cut(expected.remark, LIVE.message)]

    def delta(self, course: Course, **more: Any) -> dict[str, Any]:
        """Return the message that brings the page up to date, and take it into `state`.

        Args:
            course: How the search goes now.
            more: Other fields of the view that changed, such as `ending`.
        """
        changed, self._changed = self._changed, {}
        expected, self._expected = self._expected, {}
        self._trials.update(changed)
        view = self.state["study"]
        rows = {number: trial_data(one, self._names, LIVE) for number, one in changed.items()}
        fields: dict[str, Any] = {"elapsed": finite(course.elapsed), "left": finite(course.left), **expected, **more}
        known = {one["number"]: one for one in view["trials"]} | rows
        if changed:
            fields["counts"] = count_trials(self._trials.values())
            fields["cut"] = cut_sentence(len(known), len(self._trials))
        progress = None
        if any(one.state is not State.RUNNING for one in changed.values()):
            fields |= self._standing(changed)
            progress = self._progress(view["progress"]["values"])
        fields = {key: value for key, value in fields.items() if view.get(key) != value}
        after = {**view, **fields, "trials": [known[number] for number in sorted(known)]}
        if progress is not None:
            head = view["progress"]["values"][: progress["from"]]
            after["progress"] = {"label": progress["label"], "values": head + progress["values"]}
        seq = self.state["seq"] + 1
        self.state = {**self.state, "seq": seq, "study": after}
        return {"kind": "delta", "seq": seq, "trials": list(rows.values()), "progress": progress, "set": fields}

    def _standing(self, changed: Mapping[int, Trial]) -> dict[str, Any]:
        """Return the fields that depend on which trials are the best."""
        # What was beaten once stays beaten, so only the front and what is new can be on the new front.
        candidates = [one for number, one in self._front.items() if number not in changed] + list(changed.values())
        best_first = front(candidates, self._goal)
        self._front = {one.number: one for one in best_first}
        metrics = list(self.state["study"]["metrics"])
        for trial in changed.values():
            metrics += [name for name in map(self._names, trial.values) if name not in metrics]
        numbers = [one.number for one in best_first]
        return {"front": numbers, "best": numbers[0] if numbers else None, "metrics": metrics}

    def _progress(self, before: list[float | None]) -> dict[str, Any]:
        """Return the values from the first one that is not as before."""
        progress = progress_of(self._goal, [self._trials[number] for number in sorted(self._trials)])
        values = [finite(one) for one in progress.values]
        same = 0
        while same < min(len(values), len(before)) and values[same] == before[same]:
            same += 1
        return {"label": progress.label, "from": same, "values": values[same:]}
