"""Tuning tasks on scikit-learn's bundled data: real losses, in the manner of Bayesmark.

Each is a model with its usual space on one data set, scored by 3-fold cross-validation: log loss for classifiers, mean
squared error in units of the target's variance for regressors. Their optimum is unknown; the report scales what is
found between the best that any search found (0) and the median of random points (1).

References:
    Turner et al. (2021), "Bayesian Optimization is Superior to Random Search for Machine Learning Hyperparameter
    Tuning": the tasks of Bayesmark and normalised regret.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from problems import Problem
from sklearn import datasets
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import ElasticNet, LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from nbcompress.space import Choice, Float, Int, Point

# More rows than this only cost time here.
MAX_ROWS = 400
# What a loss counts that came out larger or not finite: a wild model must not decide the scale of all.
WORST = 10.0


@cache
def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(X))[:MAX_ROWS]
    return X[chosen], y[chosen]


def cross_validated(build: Callable[[Point], Any], name: str, is_classifier: bool, point: Point) -> tuple[float]:
    X, y = data(name)
    y = y if is_classifier else (y - y.mean()) / y.std()
    scoring = "neg_log_loss" if is_classifier else "neg_mean_squared_error"
    with warnings.catch_warnings():
        # A model that did not converge is a bad point of the space, which its loss says.
        warnings.simplefilter("ignore")
        loss = -cross_val_score(make_pipeline(StandardScaler(), build(point)), X, y, cv=3, scoring=scoring).mean()
    return (float(min(loss, WORST)) if np.isfinite(loss) else WORST,)


SVM = {
    "C": Float(1e-3, 1e3, log=True),
    "gamma": Float(1e-5, 1e1, log=True),
    "tol": Float(1e-5, 1e-1, log=True),
    "shrinking": Choice(True, False),
}
FOREST = {
    "max_depth": Int(1, 15),
    "min_samples_split": Float(0.01, 0.99),
    "min_samples_leaf": Float(0.01, 0.49),
    "max_features": Float(0.01, 0.99),
    "min_impurity_decrease": Float(0.0, 0.5),
}
NEIGHBOURS = {"n_neighbors": Int(1, 25), "p": Float(1.0, 4.0), "weights": Choice("uniform", "distance")}
LOGISTIC = {"C": Float(1e-4, 1e4, log=True), "intercept_scaling": Float(1e-2, 1e2, log=True)}
ELASTIC = {"alpha": Float(1e-4, 1e2, log=True), "l1_ratio": Float(0.0, 1.0), "selection": Choice("cyclic", "random")}


def svm(point: Point) -> CalibratedClassifierCV:
    return CalibratedClassifierCV(SVC(random_state=0, **point), cv=3, ensemble=False)


def forest(point: Point) -> RandomForestClassifier:
    return RandomForestClassifier(n_estimators=20, random_state=0, **point)


def regression_forest(point: Point) -> RandomForestRegressor:
    return RandomForestRegressor(n_estimators=20, random_state=0, **point)


def neighbours(point: Point) -> KNeighborsClassifier:
    return KNeighborsClassifier(**point)


def logistic(point: Point) -> LogisticRegression:
    return LogisticRegression(solver="liblinear", random_state=0, **point)


def support_regression(point: Point) -> SVR:
    return SVR(**point)


def elastic(point: Point) -> ElasticNet:
    return ElasticNet(random_state=0, **point)


def task(
    model: str, name: str, build: Callable[[Point], Any], space: dict[str, object], is_classifier: bool
) -> Problem:
    losses = partial(cross_validated, build, name, is_classifier)
    return Problem(f"{model} {name}", "tuning", space, losses, best=None)


TASKS: tuple[Problem, ...] = (
    task("svm", "breast_cancer", svm, SVM, True),
    task("svm", "wine", svm, SVM, True),
    task("forest", "digits", forest, FOREST, True),
    task("neighbours", "digits", neighbours, NEIGHBOURS, True),
    task("neighbours", "iris", neighbours, NEIGHBOURS, True),
    task("logistic", "breast_cancer", logistic, LOGISTIC, True),
    task("svm", "diabetes", support_regression, SVM, False),
    task("forest", "diabetes", regression_forest, FOREST, False),
    task("elastic", "diabetes", elastic, ELASTIC, False),
)
