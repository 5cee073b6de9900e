"""The card of a result: what it needs is looked up before anything runs, and no result is lost to it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from IPython.core.error import UsageError

from nbcompress.errors import DataError, MeasureError, NbcompressError
from nbcompress.magics.base import Bundle
from nbcompress.magics.scope import Scope
from nbcompress.public import public

# A card measures accuracy on as much of the data as both models can read in so long, and says if that is a part.
CARD_SECONDS = 20.0

# Numbers by the name of the function that gave them, then by the model's.
Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class CardInputs:
    """What a card needs beside the models, looked up before anything is compressed.

    Attributes:
        title: The magic as it was typed.
        example: An input, or None.
        data: Data, or None.
        said: The expression of the data.
        spec: Keywords `loss` and `output`, as far as they were given.
        score: The user's function from model to a number, or None.
        scored: Its expression.
        is_trained: Whether the data is trained on, too.
    """

    title: str
    example: object
    data: object
    said: str
    spec: Mapping[str, Any]
    score: Callable[[Any], float] | None
    scored: str
    is_trained: bool

    @classmethod
    def of(
        cls, arguments: argparse.Namespace, scope: Scope, keywords: Mapping[str, Any], *, is_trained: bool
    ) -> CardInputs:
        """Look up what `keywords` does not hold yet: an expression is evaluated once."""
        given = {
            key: keywords[key] if key in keywords else scope.value(getattr(arguments, key))
            for key in ("example", "data")
        }
        score = None if arguments.evaluate is None else scoring(scope.evaluate(arguments.evaluate))
        return cls(
            arguments.typed,
            given["example"],
            given["data"],
            str(arguments.data),
            {key: keywords[key] for key in ("loss", "output") if key in keywords},
            score,
            str(arguments.evaluate),
            is_trained,
        )

    def begun(self, models: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """Return the scores of models as they came: what does not fit is told before anything runs for long."""
        from nbcompress.measure import check_runs

        for model in models.values():
            check_runs(model, self.example, self.data)
        return self.scores(models)

    def scores(self, models: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """Return `{function: {model: number}}`, empty without `--evaluate`."""
        score = self.score
        return {} if score is None else {self.scored: {label: score(model) for label, model in models.items()}}

    def remarks(self, is_language: bool = False) -> list[str]:
        """Say that training may have seen the examples on which accuracy, or loss, was measured."""
        worse = "loss may be higher" if is_language else "accuracy may be lower"
        return [f"{self.said} was trained on: on other data {worse}"] if self.is_trained else []

    def safely(self, show: Callable[[], Bundle]) -> Bundle:
        """Return the card, or a line that says why there is none: the result may have taken hours."""
        try:
            return show()
        except (UsageError, NbcompressError) as err:
            text = f"{self.title}\nThe result is returned, but it could not be measured: {err}"
            return {"text/plain": text, "text/html": f"<p>{escape(text)}</p>"}


def with_article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def scoring(function: Any) -> Callable[[Any], float]:
    """Return the user's `--evaluate` function, with its result checked: what is no number is a `MeasureError`.

    Raises:
        UsageError: It is no function.
    """
    if function is public("accuracy"):
        raise UsageError("--evaluate takes a function of the model alone: (lambda model: accuracy(model, test)).")
    if not callable(function):
        raise UsageError(
            f"--evaluate takes a function from model to a number, but got {with_article(type(function).__name__)}."
        )

    def score(model: Any) -> float:
        try:
            given = function(model)
        except Exception as err:  # the user's own function may raise anything
            raise MeasureError(f"--evaluate raised {type(err).__name__}: {err}") from err
        try:
            return float(given)
        except (TypeError, ValueError):
            kind = with_article(type(given).__name__)
            text = f"--evaluate takes a function from model to a number, but it returned {kind}."
            raise MeasureError(text) from None

    return score


def before_and_after(card: CardInputs, before: Scores, model: Any, small: Any) -> Bundle:
    """Measure both models side by side and return the card; the model's own scores are known."""
    from nbcompress.compress import record_of
    from nbcompress.measure import compare
    from nbcompress.panels import comparison_card

    after = card.scores({"after": small})
    comparison = compare(model, small, card.example, data=card.data, seconds=CARD_SECONDS, **card.spec)
    is_scored = comparison.accuracy or comparison.language
    return comparison_card(
        card.title,
        comparison,
        scores={name: {**before[name], **after[name]} for name in before},
        left_out=record_of(small).left_out,
        remarks=card.remarks(comparison.language is not None) if is_scored else [],
    )


def side_by_side(card: CardInputs, before: Scores, models: Mapping[str, Any]) -> Bundle:
    """Measure several models in turn and return the card; the scores of some may be known."""
    from nbcompress.compress.losses import LossSpec
    from nbcompress.measure import accuracy_change, footprint, language_note, scores_on
    from nbcompress.panels import footprint_card

    known = {label for values in before.values() for label in values}
    scores = card.scores({label: one for label, one in models.items() if label not in known})
    footprints = footprint(dict(models), card.example, data=card.data)
    remarks, found = [], None
    try:
        found = scores_on(models, card.data, LossSpec(**card.spec), seconds=CARD_SECONDS)
    except DataError as err:
        remarks = [f"no accuracy: {err}"]
    if found is not None:
        remarks += card.remarks(bool(found.language))
        remarks += [language_note(one) for one in list(found.language.values())[:1]]
        for place, other in enumerate(list(found.accuracy)[1:]):
            first = next(iter(found.accuracy))
            n_examples, flips, *_ = accuracy_change(found.accuracy[first], found.accuracy[other]).notes()
            remarks += [n_examples] * (not place) + [f"{first} to {other}: {flips}"]
    return footprint_card(
        footprints,
        title=card.title,
        scores={name: {**before[name], **values} for name, values in scores.items()},
        measured=found,
        remarks=remarks,
    )
