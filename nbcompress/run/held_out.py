"""Measure the original and the models of the front once, on data that no trial saw (the option `test`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from nbcompress.errors import SearchError, first_line, option, shown
from nbcompress.run.outcome import TrialEnded, number_of
from nbcompress.run.reads import is_of_loaded, values_read
from nbcompress.run.record import code_digits, content_digits, data_facts, fingerprints, note
from nbcompress.study.goal import Goal, Trial

if TYPE_CHECKING:
    from nbcompress.measure.accuracy import Accuracy
    from nbcompress.run.data_read import Code
    from nbcompress.run.options import SearchOptions
    from nbcompress.study import Study

# The record of a study holds under `test`, for each measured model, its metrics as (value, low, high), where an
# interval that is not known is None, and a sentence on the examples that flipped. This is the key of the original.
ORIGINAL = "original"


@dataclass(frozen=True)
class HeldOutTest:
    """Measures models on data that no trial saw.

    Attributes:
        function: From a model to a number, to a dict of numbers, or to what `nc.accuracy` returns.
        original: The model before, or None.
        kept: The name under which trials keep their model.
    """

    function: Callable[[Any], Any]
    original: Any
    kept: str

    def run(self, study: Study) -> str:
        """Measure what is not measured yet, store it with the study, and return a sentence on the best model.

        What the function raises becomes a part of that sentence; a search never ends in an error here.
        """
        facts = self._facts(study)
        try:
            for label, model in self._models(study, facts):
                self._measure(study.goal, facts, label, model)
        except KeyboardInterrupt:
            facts["problem"] = "The test was interrupted; run the search again to go on with it."
        facts = {key: value for key, value in facts.items() if key != "results"}
        sentence = _sentence(study, facts)
        note(study, test=facts | {"sentence": sentence})
        return sentence

    def _facts(self, study: Study) -> dict[str, Any]:
        """Return what is measured already by the same function with the same data and original.

        Only trials of the front and the original count. A model whose test failed is measured again.
        """
        stored = study.record.get("test")
        facts: dict[str, Any] = {"kept": self.kept, "code": code_digits(self.function), "reads": self._reads()}
        if not isinstance(stored, Mapping) or any(stored.get(key) != fact for key, fact in facts.items()):
            return {**facts, "models": {}, "results": {}}
        wanted = {ORIGINAL, *(str(trial.number) for trial in study.front)}
        known = stored["models"].items()
        models = {label: dict(found) for label, found in known if label in wanted and "problem" not in found}
        return {**facts, "models": models, "results": {}}

    def _reads(self) -> dict[str, str]:
        """Return hashes of what the function reads, and of the original."""
        values = values_read(self.function)
        return {**data_facts(values).identity, **fingerprints(values), ORIGINAL: content_digits(self.original)}

    def _models(self, study: Study, facts: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        front = [trial for trial in study.front if str(trial.number) not in facts["models"]]
        # The original is measured again beside new models, since flipped examples are counted against it.
        if self.original is not None and (front or ORIGINAL not in facts["models"]):
            yield ORIGINAL, self.original
        for trial in front:
            if self.kept in trial.kept:
                yield str(trial.number), self._loaded(trial)

    def _loaded(self, trial: Trial) -> Any:
        """Return the kept model; one whose class only the original has is loaded into a copy of that."""
        model = trial.kept[self.kept]
        if self.original is None:
            return model
        from nbcompress.artifact import Handle
        from nbcompress.compressors.copying import deep_copy

        return model.load(into=deep_copy(self.original)) if isinstance(model, Handle) else model

    def _measure(self, goal: Goal, facts: dict[str, Any], label: str, model: Any) -> None:
        try:
            result = self.function(model)
            values = {name: _measured(name, value) for name, value in _by_metric(result, goal).items()}
        except TrialEnded as ended:
            facts["models"][label] = {"problem": ended.reason}
            return
        except Exception as error:  # noqa: BLE001 - the function is the user's; the search is done and stays
            facts["models"][label] = {"problem": first_line(error)}
            return
        facts["results"][label] = result
        facts["models"][label] = {"values": values} | _flips(facts["results"].get(ORIGINAL), result, label)


def _by_metric(result: Any, goal: Goal) -> Mapping[str, Any]:
    """Return the values of a result by metric; a single one belongs to the first objective."""
    return result if isinstance(result, Mapping) else {goal.objectives[0].metric: result}


def _measured(name: str, value: Any) -> list[float | None]:
    if _is_accuracy(value):
        return [value.interval.value, value.interval.low, value.interval.high]
    return [number_of(name, value), None, None]


def _flips(original: Any, result: Any, label: str) -> dict[str, str]:
    """Return a sentence on the examples that flipped, if both results hold predictions of the same examples."""
    if label == ORIGINAL or not _is_accuracy(original) or not _is_accuracy(result):
        return {}
    from nbcompress.measure.accuracy import accuracy_change

    if len(original.labels) != len(result.labels) or bool((original.labels != result.labels).any()):
        return {}
    change = accuracy_change(original, result)
    return {"flips": change.notes()[1]}


def _is_accuracy(value: Any) -> TypeGuard[Accuracy]:
    return is_of_loaded(value, "nbcompress.measure.accuracy", "Accuracy")


def held_out_test(options: SearchOptions, code: Code | None, reads: Mapping[str, Any]) -> HeldOutTest | None:
    """Return the test that the options of a search ask for, or None.

    Args:
        options: Of the search.
        code: Of a trial; None if its source is not known.
        reads: The values that a trial reads, by name.

    Raises:
        SearchError: The test is no function, nothing is kept for it, or it reads data that the trials read.
    """
    if options.test is None:
        if options.original is not None:
            raise SearchError(f"{option('original')} is what {option('test')} compares with: give both.")
        return None
    if not callable(options.test):
        raise SearchError(f"{option('test')} is a function from a model to a number, but got {shown(options.test)}.")
    if not options.keep:
        raise SearchError(f"{option('test')} measures the models that trials keep: name them with {option('keep')}.")
    shared = _shared_data(options.test, code, reads)
    if shared:
        mine, theirs = shared
        raise SearchError(
            f"{option('test')} measures on data that no trial saw, but it reads {mine!r}, which overlaps "
            f"{theirs!r} of the trials. Set other data aside, in a variable of its own."
        )
    return HeldOutTest(options.test, options.original, options.keep[0])


def _shared_data(test: Callable[[Any], Any], code: Code | None, reads: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the names of examples that the test and the trials have in common, or None."""
    from nbcompress.run.data_read import Read, reads_of, rows_of, shared

    if code is not None:
        of_trials = list(code.reads())
    else:
        of_trials = [Read(name, rows) for name, value in reads.items() for rows in rows_of(value)]
    pair = shared(list(reads_of(test)), of_trials)
    return None if pair is None else (pair[0].name, pair[1].name)


def held_out_rows(front: Sequence[Trial], record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each measured model: the original first, then the front in its order.

    Each has `label`, `number` (None for the original), `values` (metric -> value, low, high), `search` (the trial's own
    metrics of these names) and `note`.

    Args:
        front: The trials of the front.
        record: Of the study.
    """
    facts = record.get("test")
    models = facts.get("models") if isinstance(facts, Mapping) else None
    if not isinstance(models, Mapping):
        return []
    trials: list[Trial | None] = [None, *front]
    rows = []
    for trial in trials:
        label = ORIGINAL if trial is None else str(trial.number)
        found = models.get(label)
        if not isinstance(found, Mapping):
            continue
        values = found.get("values") or {}
        own = {} if trial is None else trial.values
        rows.append(
            {
                "label": ORIGINAL if trial is None else f"trial {trial.number}",
                "number": None if trial is None else trial.number,
                "values": {name: list(value) for name, value in values.items()},
                "search": {name: own[name] for name in values if name in own},
                "note": str(found.get("problem") or found.get("flips") or ""),
            }
        )
    return rows


def _sentence(study: Study, facts: Mapping[str, Any]) -> str:
    """Return what the test says of the best trial, and how far the search's own value is from that."""
    rows = {row["number"]: row for row in held_out_rows(study.front, {"test": facts})}
    best = next((rows[trial.number] for trial in study.front if trial.number in rows), None)
    if best is None:
        return str(facts.get("problem", ""))
    if not best["values"]:
        return f"The test of {best['label']} failed: {best['note']}."
    parts = [f"{name} {_text(value)}" for name, value in best["values"].items()]
    original = rows.get(None)
    if original is not None and original["values"]:
        before = ", ".join(f"{name} {_text(value)}" for name, value in original["values"].items())
        parts[-1] += f" (original: {before})"
    text = f"On data that no trial saw, {best['label']} has {', '.join(parts)}."
    for objective in study.goal.objectives:
        metric = objective.metric
        if metric in best["values"] and metric in best["search"]:
            gap = objective.loss(best["values"][metric][0]) - objective.loss(best["search"][metric])
            text += f" The search measured {metric} {best['search'][metric]:.4g}: {_gap_text(gap)}."
    return text


def _gap_text(gap: float) -> str:
    """Return how much better the search's own value is, given how much larger the loss on unseen data is."""
    if math.isclose(gap, 0.0, abs_tol=1e-12):
        return "the same as on unseen data"
    return f"{abs(gap):.2g} {'better' if gap > 0 else 'worse'} than on unseen data"


def _text(value: list[float | None]) -> str:
    middle, low, high = value
    return f"{middle:.4g}" if low is None else f"{middle:.4g} ({low:.4g} to {high:.4g})"
