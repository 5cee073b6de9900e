"""Who searches: ours, random, and the peers with their defaults; each is asked and told.

A peer whose package is missing, or that cannot search such a problem, says so in a sentence; see `Unable`.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
from problems import Problem

from nbcompress.optimize import History, proposer
from nbcompress.space import Choice, Float, Int, Point


class Unable(Exception):
    """A peer is not installed, or cannot search this problem; the text says which."""


class Searcher(Protocol):
    """Asked for a point, then told its losses and slacks.

    One that can also be told points that it did not propose has a method `known` of the signature of `tell`.
    """

    def ask(self) -> Point: ...

    def tell(self, point: Point, losses: tuple[float, ...], slacks: tuple[float, ...]) -> None: ...


Build = Callable[[Problem, int], Searcher]


@contextmanager
def quiet() -> Iterator[None]:
    """Peers warn of much that a benchmark cannot change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def refuse(
    problem: Problem, *, choices: bool = False, conditions: bool = False, fronts: bool = False, slacks: bool = False
) -> None:
    """Raise `Unable` unless a peer with these abilities can search the problem."""
    space = problem.space
    if not choices and not all(isinstance(space[name], Float) and space[name].is_continuous for name in space.names):
        raise Unable("continuous parameters only")
    if not conditions and space.has_conditions:
        raise Unable("no conditional parameters")
    if not fronts and problem.n_objectives > 1:
        raise Unable("one objective only, as used here")
    if problem.n_slacks and not slacks:
        raise Unable("no constraints, as used here")


def needs(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as err:
        raise Unable(f"not installed ({err})") from err


class Ours:
    """One of our own samplers; `random` is the baseline of every comparison."""

    def __init__(self, problem: Problem, seed: int, sampler: str = "gp") -> None:
        m, k = problem.n_objectives, problem.n_slacks
        self.proposer = proposer(sampler, problem.space, n_objectives=m, n_constraints=k, seed=seed)
        self.history, self.note = History.empty(m, k), {}

    def ask(self) -> Point:
        proposal = self.proposer.propose(len(self.history), self.history)
        self.note = dict(proposal.note)
        return proposal.point

    def tell(self, point: Point, losses: tuple[float, ...], slacks: tuple[float, ...]) -> None:
        self.history = self.history.with_point(point, "told", losses, slacks, self.note)

    def known(self, point: Point, losses: tuple[float, ...], slacks: tuple[float, ...]) -> None:
        self.history = self.history.with_point(point, "told", losses, slacks)


class Optuna:
    """Optuna's own samplers, asked directly."""

    def __init__(self, problem: Problem, seed: int, sampler: str) -> None:
        optuna = needs("optuna")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        build = {"tpe": optuna.samplers.TPESampler, "gp": optuna.samplers.GPSampler}[sampler]
        self.problem = problem
        with quiet():
            self.study = optuna.create_study(directions=["minimize"] * problem.n_objectives, sampler=build(seed=seed))
        self.trial: Any = None

    def ask(self) -> Point:
        space, point = self.problem.space, Point()
        with quiet():
            self.trial = self.study.ask()
            for name in space.names:
                if space.is_active(name, point):
                    point[name] = self._suggest(name, space[name])
        return point

    def _suggest(self, name: str, one: object) -> Any:
        if isinstance(one, Float):
            return self.trial.suggest_float(name, one.low, one.high, log=one.log, step=one.step)
        if isinstance(one, Int):
            return self.trial.suggest_int(name, one.low, one.high, log=one.log, step=one.step)
        assert isinstance(one, Choice)
        return self.trial.suggest_categorical(name, one.options)

    def tell(self, point: Point, losses: tuple[float, ...], slacks: tuple[float, ...]) -> None:
        with quiet():
            for i, slack in enumerate(slacks):
                self.trial.set_constraint(str(i), slack)
            self.study.tell(self.trial, list(losses))

    def known(self, point: Point, losses: tuple[float, ...], slacks: tuple[float, ...]) -> None:
        """Enqueued points are asked for in turn, at no cost."""
        self.study.enqueue_trial(point)
        self.tell(self.ask(), losses, slacks)


class BoTorch:
    """A `SingleTaskGP` with default priors; LogEI, or qLogNEHVI for several losses; 10 restarts of 512 raw samples."""

    N_INITIAL = 10

    def __init__(self, problem: Problem, seed: int) -> None:
        needs("botorch")
        refuse(problem, fronts=True)
        self.problem, self.rng = problem, np.random.default_rng(seed)
        self.seed, self.units, self.losses = seed, [], []

    def ask(self) -> Point:
        d = len(self.problem.space)
        unit = self.rng.random(d) if len(self.units) < self.N_INITIAL else self._suggest()
        self.units.append(unit)
        space = self.problem.space
        return {name: space[name].from_unit(float(u)) for name, u in zip(space.names, unit, strict=True)}

    def _suggest(self) -> np.ndarray:
        import torch
        from botorch import fit_gpytorch_mll
        from botorch.acquisition import LogExpectedImprovement
        from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
        from botorch.models import SingleTaskGP
        from botorch.optim import optimize_acqf
        from gpytorch.mlls import ExactMarginalLogLikelihood

        torch.manual_seed(1000 * self.seed + len(self.units))
        X = torch.tensor(np.array(self.units))
        Y = -torch.tensor(np.array(self.losses))
        Y = (Y - Y.mean(0)) / Y.std(0)
        with quiet():
            model = SingleTaskGP(X, Y)
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            if self.problem.n_objectives == 1:
                acquisition: Any = LogExpectedImprovement(model, Y.max())
            else:
                reference = (Y.min(0).values - 0.1 * (Y.max(0).values - Y.min(0).values)).tolist()
                acquisition = qLogNoisyExpectedHypervolumeImprovement(model, reference, X, prune_baseline=True)
            bounds = torch.tensor([[0.0] * X.shape[1], [1.0] * X.shape[1]], dtype=X.dtype)
            found, _ = optimize_acqf(acquisition, bounds, q=1, num_restarts=10, raw_samples=512)
        return found[0].numpy()

    def tell(self, point: Point, losses: tuple[float, ...], slacks: tuple[float, ...]) -> None:
        self.losses.append(losses)

    def known(self, point: Point, losses: tuple[float, ...], slacks: tuple[float, ...]) -> None:
        space = self.problem.space
        self.units.append(np.array([space[name].to_unit(point[name]) for name in space.names]))
        self.losses.append(losses)


class BayesOpt:
    """`bayes_opt`, with its default acquisition; unordered choices and conditions are left out."""

    N_INITIAL = 5

    def __init__(self, problem: Problem, seed: int) -> None:
        package = needs("bayes_opt")
        refuse(problem)
        space = problem.space
        self.problem, self.rng = problem, np.random.default_rng(seed)
        bounds = dict.fromkeys(space.names, (0.0, 1.0))
        self.optimizer = package.BayesianOptimization(
            f=None, pbounds=bounds, random_state=seed, verbose=0, allow_duplicate_points=True
        )
        self.n, self.units = 0, {}

    def ask(self) -> Point:
        space = self.problem.space
        with quiet():
            first = self.n < self.N_INITIAL
            self.units = dict(zip(space.names, self.rng.random(len(space)).tolist(), strict=True)) if first else dict(
                self.optimizer.suggest()
            )  # fmt: skip
        self.n += 1
        return {name: space[name].from_unit(min(1.0, max(0.0, float(u)))) for name, u in self.units.items()}

    def tell(self, point: Point, losses: tuple[float, ...], slacks: tuple[float, ...]) -> None:
        with quiet():
            self.optimizer.register(params=self.units, target=-losses[0])


class Skopt:
    """scikit-optimize's `Optimizer` with its defaults."""

    def __init__(self, problem: Problem, seed: int) -> None:
        package = needs("skopt")
        refuse(problem, choices=True)
        self.problem = problem
        with quiet():
            axes = [self._axis(package.space, problem.space[name]) for name in problem.space.names]
            self.optimizer = package.Optimizer(axes, random_state=seed)
        self.asked: list[Any] = []

    def _axis(self, kinds: Any, one: object) -> Any:
        if isinstance(one, Float) and one.step is None:
            return kinds.Real(one.low, one.high, prior="log-uniform" if one.log else "uniform")
        if isinstance(one, Int) and one.step == 1:
            return kinds.Integer(one.low, one.high, prior="log-uniform" if one.log else "uniform")
        assert isinstance(one, (Choice, Float, Int))
        return kinds.Categorical(list(one.values()))

    def ask(self) -> Point:
        with quiet():
            self.asked = self.optimizer.ask()
        values = [value.item() if isinstance(value, np.generic) else value for value in self.asked]
        return self.problem.space.check(dict(zip(self.problem.space.names, values, strict=True)))

    def tell(self, point: Point, losses: tuple[float, ...], slacks: tuple[float, ...]) -> None:
        with quiet():
            self.optimizer.tell(self.asked, losses[0])


class Smac:
    """SMAC's facade for hyperparameters (a random forest), with its defaults; ParEGO for several objectives."""

    def __init__(self, problem: Problem, seed: int) -> None:
        package, spaces = needs("smac"), needs("ConfigSpace")
        refuse(problem, choices=True, conditions=True, fronts=True)
        logging.getLogger("smac").setLevel(logging.ERROR)
        self.problem, self.info = problem, None
        space = spaces.ConfigurationSpace(seed=seed)
        own = {name: self._axis(spaces, name, problem.space[name]) for name in problem.space.names}
        space.add(list(own.values()))
        for name in problem.space.names:
            for parent in problem.space.parents(name):
                options = problem.space[parent].values()
                chosen = [one for one in options if problem.space.is_active(name, {parent: one})]
                space.add(spaces.InCondition(own[name], own[parent], chosen))
        with quiet():
            # It writes its history to files; they go with the search.
            self.folder = TemporaryDirectory(prefix="smac-")
            names = [f"loss{i}" for i in range(problem.n_objectives)]
            scenario = package.Scenario(
                space, objectives=names, deterministic=True, n_trials=10_000, seed=seed,
                output_directory=Path(self.folder.name),
            )  # fmt: skip
            facade = package.HyperparameterOptimizationFacade
            parego = needs("smac.multi_objective.parego").ParEGO(scenario) if problem.n_objectives > 1 else None
            self.facade = facade(
                scenario, lambda config, seed=0: 0.0, overwrite=True, logging_level=False,
                multi_objective_algorithm=parego,
                initial_design=facade.get_initial_design(scenario, n_configs=10),
            )  # fmt: skip

    def _axis(self, spaces: Any, name: str, one: object) -> Any:
        if isinstance(one, Float) and one.step is None:
            return spaces.UniformFloatHyperparameter(name, one.low, one.high, log=one.log)
        if isinstance(one, Int) and one.step == 1:
            return spaces.UniformIntegerHyperparameter(name, one.low, one.high, log=one.log)
        assert isinstance(one, (Choice, Float, Int))
        if one.is_ordered:
            return spaces.OrdinalHyperparameter(name, list(one.values()))
        return spaces.CategoricalHyperparameter(name, list(one.values()))

    def ask(self) -> Point:
        with quiet():
            self.info = self.facade.ask()
        config = dict(self.info.config)  # type: ignore[attr-defined]
        values = {k: value.item() if isinstance(value, np.generic) else value for k, value in config.items()}
        names = [name for name in self.problem.space.names if name in values]
        return self.problem.space.check({name: values[name] for name in names})

    def tell(self, point: Point, losses: tuple[float, ...], slacks: tuple[float, ...]) -> None:
        from smac.runhistory import TrialValue

        with quiet():
            self.facade.tell(self.info, TrialValue(cost=list(losses) if len(losses) > 1 else losses[0]))


class Ax:
    """Ax's `Client` with its defaults."""

    def __init__(self, problem: Problem, seed: int) -> None:
        package = needs("ax")
        refuse(problem, choices=True, fronts=True, slacks=True)
        logging.disable(logging.WARNING)
        self.problem, self.index = problem, 0
        with quiet():
            self.client = package.Client(random_seed=seed)
            self.client.configure_experiment(
                parameters=[self._axis(package, name, problem.space[name]) for name in problem.space.names]
            )
            self.client.configure_optimization(
                objective=", ".join(f"-loss{i}" for i in range(problem.n_objectives)),
                outcome_constraints=[f"slack{i} <= 0" for i in range(problem.n_slacks)],
            )

    def _axis(self, package: Any, name: str, one: object) -> Any:
        if isinstance(one, (Float, Int)) and one.step in (None, 1):
            kind = "float" if isinstance(one, Float) else "int"
            return package.RangeParameterConfig(
                name=name, parameter_type=kind, bounds=(one.low, one.high), scaling="log" if one.log else "linear"
            )
        values = list(one.values())  # type: ignore[attr-defined]
        kind = {bool: "bool", int: "int", float: "float", str: "str"}[type(values[0])]
        return package.ChoiceParameterConfig(name=name, parameter_type=kind, values=values, is_ordered=one.is_ordered)  # type: ignore[attr-defined]

    def ask(self) -> Point:
        with quiet():
            ((self.index, point),) = self.client.get_next_trials(max_trials=1).items()
        return self.problem.space.check({name: point[name] for name in self.problem.space.names})

    def tell(self, point: Point, losses: tuple[float, ...], slacks: tuple[float, ...]) -> None:
        with quiet():
            found = {f"loss{i}": loss for i, loss in enumerate(losses)}
            found |= {f"slack{i}": slack for i, slack in enumerate(slacks)}
            self.client.complete_trial(trial_index=self.index, raw_data=found)


PEERS: dict[str, Build] = {
    "ours": Ours,
    "random": lambda problem, seed: Ours(problem, seed, "random"),
    "optuna-tpe": lambda problem, seed: Optuna(problem, seed, "tpe"),
    "optuna-gp": lambda problem, seed: Optuna(problem, seed, "gp"),
    "botorch": BoTorch,
    "bayes_opt": BayesOpt,
    "skopt": Skopt,
    "smac": Smac,
    "ax": Ax,
}
