"""What a surrogate is, and how a person describes one: a name, a `SurrogateSpec`, a kernel or a factory.

Nothing here loads torch: a description is read before it is known whether GPyTorch is needed.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, Protocol

from nbcompress.choices import FURTHER_KERNELS, KERNELS, LIKELIHOODS, MEANS, SURROGATES
from nbcompress.errors import GoalError, did_you_mean, option, shown
from nbcompress.optimize.history import Array
from nbcompress.optimize.outcome_transform import OutcomeTransform
from nbcompress.optimize.surrogates.closed_form import ModelSpec


class Surrogate(Protocol):
    """A model of one loss: predictions of standardized values (smaller is better) at features `(m, D)`.

    Attributes:
        y: Standardized values of the known points, shape `(n,)`.
        outcome_transform: Between y and the original values.
    """

    @property
    def y(self) -> Array: ...
    @property
    def outcome_transform(self) -> OutcomeTransform: ...
    @property
    def n(self) -> int: ...

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation `(m,)` of the noise-free values."""
        ...

    def predict_mean(self, features: Array) -> Array:
        """Return the mean `(m,)`."""
        ...

    def predict_with_gradients(self, features: Array) -> tuple[Array, Array, Array, Array]:
        """Return mean and standard deviation `(m,)` and their gradients `(m, D)`."""
        ...

    def joint(self, features: Array, *, observation_noise: bool = True) -> tuple[Array, Array]:
        """Return the joint mean `(m,)` and covariance `(m, m)` of new values."""
        ...

    def condition_on_mean(self, X_pending: Array) -> Surrogate:
        """Return the model conditioned on its own mean at pending points."""
        ...

    def condition_on_values(self, features: Array, values: Array) -> Surrogate:
        """Return the model conditioned on noise-free values `(m,)`."""
        ...

    def leave_one_out(self) -> tuple[Array, Array]:
        """Return mean and standard deviation of each known value given all others, shapes `(n,)`."""
        ...

    def untransform(self, mean: Array, std: Array) -> tuple[Array, Array]:
        """Return predictions in the units of the values."""
        ...


class ModelFitter(Protocol):
    """Fits the models of a surrogate that has no closed form."""

    @property
    def is_of_person(self) -> bool:
        """Whether a function of a person makes the models; its values are then standardized linearly."""
        ...

    def fit(
        self, features: Array, y: Array, outcome_transform: OutcomeTransform, known_noise: Array | None = None
    ) -> Surrogate:
        """Fit a model to standardized losses `(n,)` at features `(n, D)`, with known noise variances or None."""
        ...


@dataclass(frozen=True, eq=False)
class SurrogateSpec:
    """The parts of a surrogate: each a name, an object of GPyTorch or a factory.

    An object is copied for every model that is fitted. Parts that are left out are those of the default.

    Args:
        kernel: `matern52`, `matern32`, `matern12`, `rbf`, `linear`, `additive` or `mixed`; a GPyTorch kernel over the D
            encoded parameters; or a function of D that returns one.
        mean: `constant`, `linear` or `zero`; a GPyTorch mean; or a function of D that returns one.
        likelihood: `gaussian`, a GPyTorch likelihood, or a function without arguments that returns one.
        noise: The variance of the noise, of standardized values; None fits it.

    Raises:
        GoalError: A part is none of these, or the noise is negative.

    Example:
        >>> import nbcompress as nc
        >>> smooth = nc.SurrogateSpec(kernel="rbf", mean="linear", noise=1e-4)
        >>> study = nc.maximize(lambda x: -((x - 0.3) ** 2), {"x": nc.Float(-1, 1)}, trials=8, surrogate=smooth)
        >>> study.best.values["value"] > -0.01
        True
    """

    kernel: Any = KERNELS[0]
    mean: Any = MEANS[0]
    likelihood: Any = LIKELIHOODS[0]
    noise: float | None = None

    def __post_init__(self) -> None:
        _check_part("kernel", self.kernel, (*KERNELS, *FURTHER_KERNELS), "Kernel")
        _check_part("mean", self.mean, MEANS, "Mean")
        _check_part("likelihood", self.likelihood, LIKELIHOODS, "Likelihood")
        number: object = self.noise
        if number is None:
            return
        if isinstance(number, bool) or not isinstance(number, Real) or not math.isfinite(number) or number < 0:
            raise GoalError(
                f"{option('noise=')} of a SurrogateSpec is a variance of standardized values, a finite number of at "
                f"least 0 such as 0.01, but got {shown(number)}."
            )
        object.__setattr__(self, "noise", float(number))

    @property
    def is_named(self) -> bool:
        """Whether all parts are names, so that the spec can be stored."""
        return all(isinstance(part, str) for part in (self.kernel, self.mean, self.likelihood))

    @property
    def closed_form(self) -> ModelSpec | None:
        """What the closed form evaluates, if that is known by the names alone."""
        if not self.is_named or self.kernel not in KERNELS:
            return None
        return ModelSpec(self.kernel, self.mean, noise=self.noise)

    def to_json(self) -> dict[str, Any]:
        """Return the parts as texts, without those of the default."""
        return {
            declared.name: part if isinstance(part, (str, float)) else name_of(part)
            for declared in fields(self)
            if (part := getattr(self, declared.name)) != declared.default
        }


def _check_part(keyword: str, given: Any, names: tuple[str, ...], kind: str) -> None:
    if isinstance(given, str):
        if given not in names:
            raise GoalError(
                f"The {keyword} is one of {', '.join(names)}, but got {given!r}.{did_you_mean(given, names)}"
            )
    elif not callable(given):
        raise GoalError(
            f"{option(keyword)} is a name ({', '.join(names)}), a gpytorch {kind} or a function that returns one, but "
            f"got {shown(given)}."
        )


@dataclass(frozen=True, eq=False)
class ModelFactory:
    """A factory `(X, Y) -> botorch Model` of a person."""

    function: Callable[..., Any]


@dataclass(frozen=True)
class NamedModel:
    """A surrogate by name that is more than a kernel and a mean: `warped` or `saas`."""

    name: str


Definition = SurrogateSpec | ModelFactory | NamedModel
DEFAULT_SPEC = SurrogateSpec()


def name_of(given: Any) -> str:
    """Return what a kernel, a model or a function is called in a message or in a record."""
    name = getattr(given, "__qualname__", None) or type(given).__name__
    inner = getattr(given, "base_kernel", None)
    text = str(name).removeprefix("<lambda>") or "a lambda"
    return f"{text}({name_of(inner)})" if inner is not None else text.rpartition("<locals>.")[2]


def instance_of(given: Any, module: str, *names: str) -> bool:
    """Return whether a value is an instance of a class of a library; that library is not imported for it."""
    loaded = sys.modules.get(module)
    kinds = tuple(getattr(loaded, name) for name in names if hasattr(loaded, name))
    return bool(kinds) and isinstance(given, kinds)


WAYS = (
    f"a name ({', '.join(SURROGATES)}), a gpytorch Kernel, a function of the number of dimensions that returns one, an "
    "nc.SurrogateSpec, or a function (X, Y) that returns a botorch Model"
)


def definition_of(given: Any, kernel: Any = KERNELS[0], mean: Any = MEANS[0]) -> Definition:
    """Return what a person passed as `surrogate`; None stands for the kernel and the mean.

    Raises:
        GoalError: It is nothing that describes a surrogate, or kernel and mean are given beside it.
    """
    if given is None:
        return SurrogateSpec(kernel, mean)
    both = {"kernel": (kernel, KERNELS[0]), "mean": (mean, MEANS[0])}
    given_too = [name for name, (value, default) in both.items() if not isinstance(value, str) or value != default]
    if given_too:
        raise GoalError(
            f"{option('surrogate')} holds kernel and mean already, but {' and '.join(map(option, given_too))} is given "
            f"too. Write surrogate=nc.SurrogateSpec(kernel=..., mean=...), or leave one out."
        )
    if isinstance(given, str):
        if given not in SURROGATES:
            raise GoalError(
                f"{option('surrogate')} is one of {', '.join(SURROGATES)}, but got {given!r}."
                f"{did_you_mean(given, SURROGATES)}"
            )
        is_kernel = given in KERNELS or given in FURTHER_KERNELS
        return SurrogateSpec(given) if is_kernel else NamedModel(given)
    if isinstance(given, (SurrogateSpec, ModelFactory, NamedModel)):
        return given
    if instance_of(given, "gpytorch.kernels", "Kernel"):
        return SurrogateSpec(given)
    if instance_of(given, "botorch.models.model", "Model") or instance_of(given, "gpytorch.models", "GP"):
        raise GoalError(
            f"{option('surrogate')} is fitted anew after each trial, so a model is given by a function, but got a "
            f"{type(given).__name__}. Write surrogate=lambda X, Y: {type(given).__name__}(X, Y)."
        )
    # A module of another kind, such as a mean, can be called, but it is no function that makes a kernel.
    if not callable(given) or isinstance(given, Mapping) or instance_of(given, "torch.nn", "Module"):
        part = next(
            (name for name in ("Mean", "Likelihood") if instance_of(given, f"gpytorch.{name.lower()}s", name)), ""
        )
        hint = f" Write surrogate=nc.SurrogateSpec({part.lower()}=...)." if part else ""
        raise GoalError(f"{option('surrogate')} is {WAYS}, but got {shown(given)}.{hint}")
    return ModelFactory(given) if n_arguments(given) == 2 else SurrogateSpec(given)


def n_arguments(factory: Callable[..., Any]) -> int:
    """Return with how many positional arguments a factory of `surrogate` is called: 1 or 2.

    Raises:
        GoalError: It takes neither one nor two.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # a class of C code
        return 1
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    is_short = not takes_any and not positional
    needs_keyword = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
    if required > 2 or is_short or needs_keyword:
        n = f"{required} arguments" if positional else "no argument"
        raise GoalError(
            f"{option('surrogate')} as a function takes the number of dimensions and returns a kernel, or takes (X, Y) "
            f"and returns a botorch Model, but {name_of(factory)} takes {n}."
        )
    return max(required, 1)


def record_of(given: Any) -> Any:
    """Return a surrogate or an acquisition as JSON for a study's record; a name stays what it is."""
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, Mapping):
        return {str(metric): record_of(value) for metric, value in given.items()}
    if isinstance(given, SurrogateSpec):
        return {"spec": given.to_json(), **({} if given.is_named else {"is stored": False})}
    return {"object": name_of(given), "is stored": False}


def from_record(stored: Any) -> Any:
    """Return the surrogate that `record_of` stored, with `GoalError` for an object, which is not stored.

    Raises:
        GoalError: It was an object of an earlier session.
    """
    if not isinstance(stored, Mapping):
        return stored
    if stored.get("is stored") is False:
        raise GoalError(
            f"The surrogate of this study, {stored.get('object') or stored['spec']}, is an object of an earlier "
            "session and was not stored. Run the cell or the call of its search again, which repeats no trial."
        )
    if "spec" in stored:
        return SurrogateSpec(**stored["spec"])
    return {metric: from_record(value) for metric, value in stored.items()}
