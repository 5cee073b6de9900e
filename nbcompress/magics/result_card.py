"""The card that a compressing magic shows.

Its inputs are evaluated before the compressor runs, so that a mistake in them costs no time. If the card itself fails,
the result is returned all the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from IPython.core.error import UsageError

from nbcompress.errors import DataError, MeasureError, NbcompressError
from nbcompress.magics.base import Bundle, Scope
from nbcompress.public import public

# A card measures accuracy on as much of the data as the models can read in so many seconds, and says if that is a part.
CARD_SECONDS = 20.0

# Results of the `--evaluate` function: function -> model -> number.
Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class CardInputs:
    """What a card needs beside the models, evaluated before anything is compressed.

    Attributes:
        title: The line as it was typed.
        options: The options of the magic, such as `--data`.
        example: An input of the model, or None.
        data: Data, or None.
        data_text: The expression of the data.
        loss_keywords: The keywords `loss` and `output` that were given.
        evaluate: The user's function from model to a number, or None.
        evaluate_text: The expression of that function.
        is_trained: Whether the model is trained on the data.
        evaluate_reads: What that function calls the data that the model is trained on; empty if it reads other data.
    """

    title: str
    options: tuple[str, ...]
    example: object
    data: object
    data_text: str
    loss_keywords: Mapping[str, Any]
    evaluate: Callable[[Any], float] | None
    evaluate_text: str
    is_trained: bool
    evaluate_reads: str = ""

    @classmethod
    def of(
        cls, arguments: argparse.Namespace, scope: Scope, keywords: Mapping[str, Any], *, is_trained: bool
    ) -> CardInputs:
        """Return the inputs. An expression whose value is in `keywords` is not evaluated again."""
        from nbcompress.run.data_read import training_data_read

        given = {
            key: keywords[key] if key in keywords else scope.value(getattr(arguments, key))
            for key in ("example", "data")
        }
        function = scope.value(arguments.evaluate)
        evaluate = None if arguments.evaluate is None else checked_evaluate(function)
        return cls(
            arguments.typed,
            arguments.options,
            given["example"],
            given["data"],
            str(arguments.data),
            {key: keywords[key] for key in ("loss", "output") if key in keywords},
            evaluate,
            str(arguments.evaluate),
            is_trained,
            training_data_read(function, given["data"], str(arguments.data)) if is_trained else "",
        )

    def scores_before(self, models: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """Return the scores of the original models, and check that they run on the example and the data.

        Raises:
            NbcompressError: They do not, or `--evaluate` failed.
        """
        from nbcompress.measure import check_runs

        for model in models.values():
            check_runs(model, self.example, self.data)
        return self.scores(models)

    def scores(self, models: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """Return `{function: {model: number}}`, empty without `--evaluate`."""
        evaluate = self.evaluate
        if evaluate is None:
            return {}
        return {self.evaluate_text: {label: evaluate(model) for label, model in models.items()}}

    def remarks(self, is_language: bool = False, *, is_scored: bool = True) -> list[str]:
        """Return remarks if accuracy, loss or `--evaluate` was measured on data that the model was trained on.

        Args:
            is_language: Whether the loss was measured, and not accuracy.
            is_scored: Whether one of the two was.
        """
        worse = "loss may be higher" if is_language else "accuracy may be lower"
        found = [f"{self.data_text} was trained on: on other data {worse}"] if self.is_trained and is_scored else []
        if self.evaluate_reads:
            found.append(f"{self.evaluate_text} reads {self.evaluate_reads}, which was trained on: take other data")
        return found

    def or_error(self, show: Callable[[], Bundle]) -> Bundle:
        """Return the card, or a line that says why there is none. An error would lose a result that took hours."""
        try:
            return show()
        except (UsageError, NbcompressError) as err:
            why = err.as_typed(self.options) if isinstance(err, NbcompressError) else str(err)
            text = f"{self.title}\nThe result is returned, but it could not be measured: {why}"
            return {"text/plain": text, "text/html": f"<p>{escape(text)}</p>"}


def with_article(noun: str) -> str:
    """Return `an int`, `a str`."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def checked_evaluate(function: Any) -> Callable[[Any], float]:
    """Return a function that calls the user's `--evaluate` function and checks its result.

    It raises a `MeasureError` if the user's function raises an error, or returns no number.

    Raises:
        UsageError: `function` is not a function of the model alone.
    """
    if function is public("accuracy"):
        raise UsageError("--evaluate takes a function of the model alone: (lambda model: accuracy(model, test)).")
    if not callable(function):
        raise UsageError(
            f"--evaluate takes a function from model to a number, but got {with_article(type(function).__name__)}."
        )

    def evaluate(model: Any) -> float:
        try:
            result = function(model)
        except Exception as err:  # the user's own function may raise anything
            raise MeasureError(f"--evaluate raised {type(err).__name__}: {err}") from err
        try:
            return float(result)
        except (TypeError, ValueError):
            kind = with_article(type(result).__name__)
            text = f"--evaluate takes a function from model to a number, but it returned {kind}."
            raise MeasureError(text) from None

    return evaluate


def result_view(value: Any) -> Bundle:
    """Return what is shown for a result at the end of a cell: the panel of a study, the card of anything else."""
    from nbcompress.measure import Comparison, Explanation, Sensitivity, WeightTable
    from nbcompress.panels.cards import comparison_card, footprint_card, sensitivity_card, weights_card
    from nbcompress.panels.explanation_card import explanation_card
    from nbcompress.study import Study

    if isinstance(value, Study):
        from nbcompress.magics.study import study_view

        return study_view(value)
    if isinstance(value, Comparison):
        return comparison_card("compare", value)
    if isinstance(value, Sensitivity):
        return sensitivity_card(value, title="sensitivity")
    if isinstance(value, WeightTable):
        return weights_card(value, title="weights")
    if isinstance(value, Explanation):
        return explanation_card(value)
    return footprint_card(value, title="footprint")


def before_and_after(card: CardInputs, before: Scores, model: Any, small: Any) -> Bundle:
    """Return the card that compares a model with the compressed one.

    Args:
        card: The inputs.
        before: The scores of `model`.
        model: The original model.
        small: The compressed model.
    """
    from nbcompress.compressors import record_of
    from nbcompress.measure import compare
    from nbcompress.measure.removed import removed_rows
    from nbcompress.panels.cards import comparison_card
    from nbcompress.panels.explanation_card import explain_flips, flips_table

    after = card.scores({"after": small})
    comparison = compare(model, small, card.example, data=card.data, seconds=CARD_SECONDS, **card.loss_keywords)
    explained = None
    if comparison.accuracy is not None:
        output = card.loss_keywords.get("output")
        explained = explain_flips(model, small, card.data, comparison.accuracy, output=output)
    is_scored = bool(comparison.accuracy or comparison.language)
    return comparison_card(
        card.title,
        comparison,
        scores={name: {**before[name], **after[name]} for name in before},
        left_out=record_of(small).left_out,
        training=record_of(small).training[len(record_of(model).training) :],
        removed=removed_rows(model, small, (comparison.before, comparison.after)),
        explained=[] if explained is None else [flips_table(explained)],
        remarks=[
            *mask_remarks(model),
            *card.remarks(comparison.language is not None, is_scored=is_scored),
        ],
    )


def mask_remarks(model: Any) -> list[str]:
    """Return a remark if `model` has masks of `torch.nn.utils.prune`, which were taken over."""
    from nbcompress.compressors.torch_masks import torch_masks

    masks = torch_masks(model)
    n_zeros = sum(int((mask == 0).sum()) for mask in masks.values())
    listed = ", ".join(list(masks)[:3]) + (f" and {len(masks) - 3} more" if len(masks) > 3 else "")
    return [f"masks of torch.nn.utils.prune were taken over: {n_zeros:,} zeros of {listed}"] if masks else []


def side_by_side(card: CardInputs, before: Scores, models: Mapping[str, Any], trained: Collection[str]) -> Bundle:
    """Return the card that compares several models.

    Args:
        card: The inputs.
        before: The scores of some of the models.
        models: The models by label, the original first.
        trained: The labels of those that were trained.
    """
    scored = {label for values in before.values() for label in values}
    scores = card.scores({label: model for label, model in models.items() if label not in scored})
    found = {name: {**before[name], **values} for name, values in scores.items()}
    return _side_by_side(card, found, models, {}, trained)[1]


def many_models(card: CardInputs, models: Mapping[str, Any], keywords: Mapping[str, Any]) -> tuple[Any, Bundle]:
    """Return the costs of several models or files, and the card that compares them.

    Args:
        card: The inputs.
        models: The models, or paths of files, by label.
        keywords: `threads` and `into`, if they are given.
    """
    from nbcompress.measure import as_modules

    threads = keywords.get("threads", 1)
    modules = as_modules(models, keywords.get("into"), threads)
    return _side_by_side(card, card.scores(modules), modules, {"threads": threads})


def _side_by_side(
    card: CardInputs,
    scores: Scores,
    models: Mapping[str, Any],
    keywords: Mapping[str, Any],
    trained: Collection[str] = (),
) -> tuple[Any, Bundle]:
    from nbcompress.compressors import record_of
    from nbcompress.compressors.losses import LossSpec
    from nbcompress.measure import accuracy_change, footprint, language_note, scores_on
    from nbcompress.panels.cards import footprint_card

    footprints = footprint(dict(models), card.example, data=card.data, **keywords)
    remarks, measured = [], None
    if card.data is not None:
        try:
            measured = scores_on(models, card.data, LossSpec(**card.loss_keywords), seconds=CARD_SECONDS)
        except DataError as err:
            remarks = [f"no accuracy: {err}"]
    if measured is not None:
        remarks += card.remarks(bool(measured.language))
        remarks += [language_note(score) for score in list(measured.language.values())[:1]]
        first, *others = measured.accuracy or [""]
        for index, other in enumerate(others):
            n_examples, flips, *_ = accuracy_change(measured.accuracy[first], measured.accuracy[other]).notes()
            remarks += [n_examples] * (index == 0) + [f"{first} to {other}: {flips}"]
    bundle = footprint_card(
        footprints,
        title=card.title,
        training={label: record_of(model).training[-1:] for label, model in models.items() if label in trained},
        scores=scores,
        measured=measured,
        remarks=remarks,
    )
    return footprints, bundle
