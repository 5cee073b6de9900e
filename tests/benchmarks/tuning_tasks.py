"""Tuning tasks on scikit-learn's bundled data: real losses, in the manner of Bayesmark.

Each is a model with its usual space on one data set, scored by 3-fold cross-validation: log loss for classifiers, mean
squared error in units of the target's variance for regressors. Scores are normalised regrets: 0 is the best loss of a
long search, 1 the median of random points (`search_scales.py` computes both, once, into `search_scales.json`). A
search of 40 trials can come out below 0.

References:
    Turner et al. (2021), "Bayesian Optimization is Superior to Random Search for Machine Learning Hyperparameter
    Tuning": the tasks of Bayesmark and normalised regret.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from problems import Problem
from sklearn import datasets
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import ElasticNet, LogisticRegression, SGDClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier

from nbcompress.space import Choice, Float, Int, Point

SCALES = Path(__file__).with_name("search_scales.json")
# More rows than this only cost time here.
MAX_ROWS = 180
# Larger losses and losses that are not finite count as this, so that a diverged model does not decide the scale.
WORST = 10.0


@dataclass(frozen=True)
class Fold:
    """One part to learn from and one to score: inputs of mean 0 and variance 1 in the part learned from."""

    X: np.ndarray
    y: np.ndarray
    X_held: np.ndarray
    y_held: np.ndarray


@cache
def folds(name: str, is_classifier: bool) -> tuple[Fold, ...]:
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(X))[:MAX_ROWS]
    X, y = X[chosen], y[chosen]
    y = y if is_classifier else (y - y.mean()) / y.std()
    parts = (StratifiedKFold if is_classifier else KFold)(3).split(X, y)
    return tuple(_fold(X[rows], y[rows], X[held], y[held]) for rows, held in parts)


def _fold(X: np.ndarray, y: np.ndarray, X_held: np.ndarray, y_held: np.ndarray) -> Fold:
    mean, std = X.mean(0), X.std(0)
    std[std == 0] = 1.0
    return Fold((X - mean) / std, y, (X_held - mean) / std, y_held)


def held_loss(model: Any, fold: Fold, is_classifier: bool) -> float:
    model.fit(fold.X, fold.y)
    if is_classifier:
        return float(log_loss(fold.y_held, model.predict_proba(fold.X_held), labels=model.classes_))
    return float(((model.predict(fold.X_held) - fold.y_held) ** 2).mean())


def cross_validated(build: Callable[[Point], Any], name: str, is_classifier: bool, point: Point) -> tuple[float]:
    # The points come from a space and the data are known: checking them took as long as the smaller models.
    with warnings.catch_warnings(), sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        # A model that did not converge is a bad point of the space, and its loss shows it.
        warnings.simplefilter("ignore")
        parts = folds(name, is_classifier)
        loss = float(np.mean([held_loss(build(point), fold, is_classifier) for fold in parts]))
    return (min(loss, WORST) if np.isfinite(loss) else WORST,)


SVM = {"C": Float(1e-3, 1e3, log=True), "gamma": Float(1e-5, 1e1, log=True), "tol": Float(1e-5, 1e-1, log=True)}
TREE = {
    "max_depth": Int(1, 15),
    "min_samples_split": Float(0.01, 0.99, log=True),
    "min_samples_leaf": Float(0.01, 0.49, log=True),
    "min_weight_fraction_leaf": Float(0.001, 0.49, log=True),
    "max_features": Float(0.01, 0.99),
    "min_impurity_decrease": Float(1e-5, 0.5, log=True),
}
FOREST = {name: axis for name, axis in TREE.items() if name != "min_weight_fraction_leaf"}
NEIGHBOURS = {"n_neighbors": Int(1, 25), "p": Float(1.0, 4.0), "weights": Choice("uniform", "distance")}
LOGISTIC = {"C": Float(1e-4, 1e4, log=True), "intercept_scaling": Float(1e-2, 1e2, log=True)}
DESCENT = {
    "alpha": Float(1e-6, 1e1, log=True),
    "l1_ratio": Float(0.0, 1.0),
    "learning_rate": Choice("optimal", "constant", "invscaling"),
    "eta0": Float(1e-5, 1.0, log=True, when={"learning_rate": ["constant", "invscaling"]}),
    "power_t": Float(0.1, 1.0, when={"learning_rate": "invscaling"}),
}
ELASTIC = {"alpha": Float(1e-4, 1e2, log=True), "l1_ratio": Float(0.0, 1.0), "positive": Choice(False, True)}
NETWORK = {
    "width": Int(5, 100, log=True),
    "alpha": Float(1e-5, 1e1, log=True),
    "batch_size": Int(10, 100),
    "learning_rate_init": Float(1e-5, 1e-1, log=True),
    "beta_1": Float(0.5, 0.99),
    "beta_2": Float(0.9, 0.9999),
}


def svm(point: Point) -> CalibratedClassifierCV:
    return CalibratedClassifierCV(SVC(random_state=0, **point), cv=2, ensemble=False)


def tree(point: Point) -> DecisionTreeClassifier:
    return DecisionTreeClassifier(random_state=0, **point)


def forest(point: Point) -> RandomForestRegressor:
    return RandomForestRegressor(n_estimators=10, random_state=0, **point)


def neighbours(point: Point) -> KNeighborsClassifier:
    return KNeighborsClassifier(**point)


def logistic(point: Point) -> LogisticRegression:
    return LogisticRegression(solver="liblinear", random_state=0, **point)


def descent(point: Point) -> SGDClassifier:
    return SGDClassifier(loss="log_loss", penalty="elasticnet", max_iter=30, random_state=0, **point)


def network(point: Point) -> MLPClassifier:
    options = dict(point)
    return MLPClassifier((options.pop("width"),), max_iter=15, random_state=0, **options)


def support_regression(point: Point) -> SVR:
    return SVR(**point)


def elastic(point: Point) -> ElasticNet:
    return ElasticNet(random_state=0, **point)


def task(
    model: str, name: str, build: Callable[[Point], Any], space: dict[str, object], is_classifier: bool = True
) -> Problem:
    scales = json.loads(SCALES.read_text(encoding="utf-8")) if SCALES.exists() else {}
    best, typical = scales.get(f"{model} {name}", (None, None))
    losses = partial(cross_validated, build, name, is_classifier)
    scale = 1.0 if best is None else typical - best
    return Problem(f"{model} {name}", "tuning", space, losses, best=best, scale=scale)


TASKS: tuple[Problem, ...] = (
    task("svm", "breast_cancer", svm, SVM),
    task("svm", "wine", svm, SVM),
    task("tree", "breast_cancer", tree, TREE),
    task("tree", "digits", tree, TREE),
    task("neighbours", "digits", neighbours, NEIGHBOURS),
    task("neighbours", "iris", neighbours, NEIGHBOURS),
    task("logistic", "breast_cancer", logistic, LOGISTIC),
    task("descent", "wine", descent, DESCENT),
    task("network", "iris", network, NETWORK),
    task("svm", "diabetes", support_regression, SVM, is_classifier=False),
    task("forest", "diabetes", forest, FOREST, is_classifier=False),
    task("elastic", "diabetes", elastic, ELASTIC, is_classifier=False),
)
