"""What defines one run: every setting with its unit, range and default, checked before any work."""

import dataclasses
import hashlib
import json
from collections.abc import Collection
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from gan_core.architectures import NETWORKS
from gan_core.errors import UserError
from gan_core.image_files import DATASETS
from gan_core.losses import OBJECTIVES
from gan_core.optimizers import OPTIMIZERS


def _one_of(known: Collection[str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"should be one of {', '.join(known)}")
        return value

    return AfterValidator(check)


def _default_learning_rate(fields: dict[str, Any]) -> float:
    # `fields` holds what has passed so far; an optimizer that has not is reported as such, not here.
    choice = OPTIMIZERS.get(fields.get("optimizer", ""))
    return choice.learning_rate if choice else 1.0


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid"))
class RunConfig:
    """The settings of one training. Unknown, mistyped and impossible values raise `pydantic.ValidationError`.

    Types are strict: 20.0 or "20" is no z_dim. An int is accepted where a float is meant.
    """

    dataset: Annotated[str, _one_of(DATASETS)] = Field("mnist", description="image set")
    optimizer: Annotated[str, _one_of(OPTIMIZERS)] = Field("sgd", description="optimizer of D and of G")
    learning_rate: float = Field(
        default_factory=_default_learning_rate,
        gt=0,
        allow_inf_nan=False,
        description="step size, the same for D and G; more than 0",
    )
    objective: Annotated[str, _one_of(OBJECTIVES)] = Field(
        "non-saturating", description="what D and G minimise"
    )
    network: Annotated[str, _one_of(NETWORKS)] = Field("mlp", description="what G and D are made of")
    z_dim: int = Field(100, ge=1, le=1_000_000, description="length of the noise vector z; 1 or more")
    hidden_dim: int = Field(
        128, ge=1, le=1_000_000, description="width of the hidden layer of D and of G; 1 or more"
    )
    batch_size: int = Field(
        64, ge=1, le=1_000_000, description="real images in a step; 1 up to the size of the image set"
    )
    epochs: int = Field(100, ge=1, le=1_000_000, description="passes over the image set; 1 or more")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where the run trains: cpu or cuda")
    seed: int = Field(0, ge=0, lt=2**63, description="source of every random stream of the run; 0 or more")

    @model_validator(mode="after")
    def _batch_fits(self) -> Self:
        size = DATASETS[self.dataset].size
        if self.batch_size > size:
            raise ValueError(
                f"batch_size should be at most {size}, the size of {self.dataset}, got {self.batch_size}"
            )
        return self

    @property
    def config_hash(self) -> str:
        """16 hex digits over all that decides the course of the training.

        `epochs` is left out: it says how far along that course the run goes, not which course it is.
        """
        course = dataclasses.asdict(self)
        del course["epochs"]
        return hashlib.sha256(json.dumps(course, sort_keys=True).encode()).hexdigest()[:16]


# By name: type, default, description.
FIELDS: dict[str, FieldInfo] = RunConfig.__pydantic_fields__  # type: ignore[attr-defined]


def make_config(**settings: Any) -> RunConfig:
    """RunConfig(**settings), with a bad value raised as a one-line `UserError` that names field and value."""
    try:
        return RunConfig(**settings)
    except ValidationError as error:
        raise UserError(_in_one_line(error)) from error


def _in_one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not first["loc"]:
        return reason
    field = str(first["loc"][0])
    if first["type"] == "unexpected_keyword_argument":
        return f"there is no setting {field}; there are {', '.join(FIELDS)}"
    return f"{field} {reason}, got {first['input']!r}"


@dataclasses.dataclass(frozen=True)
class EvaluationSchedule:
    """When a run is evaluated, and what follows; no weight depends on it. A bad value raises UserError."""

    every: int = 10  # epochs from one evaluation to the next; 0: only at the end
    stop_dead: bool = False  # end a run once it has collapsed

    def __post_init__(self) -> None:
        """Check the values."""
        if self.every < 0:
            raise UserError(f"--evaluate-every should be 0 or more, got {self.every}")

    def __str__(self) -> str:
        """In words, for a plan."""
        often = f"every {self.every} epochs and " if self.every > 1 else "every epoch and " * self.every
        return f"{often}at the end{', a collapsed run ends early' * self.stop_dead}"
