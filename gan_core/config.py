"""Every setting of a user: what defines a run, and how a run is watched and kept; checked before any work."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from gan_core.architectures import NETWORKS
from gan_core.data import FOLDER, FOLDER_CHANNELS, FOLDER_SIZES, ImageKey, dataset_name, image_set, short_name
from gan_core.errors import UserError
from gan_core.losses import OBJECTIVES
from gan_core.optimizers import OPTIMIZERS, SETTABLE

R = TypeVar("R")
FIRST_FIELDS = {  # of version 0.1.0
    "dataset", "optimizer", "learning_rate", "objective", "network", "z_dim", "hidden_dim", "batch_size", "device",
    "seed",
}  # fmt: skip
OFF = ("None", "False", "0.0")  # of a field with this value one need not speak
STRICT = ConfigDict(strict=True, extra="forbid")


def _one_of(known: Collection[str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"should be one of {', '.join(known)}")
        return value

    return AfterValidator(check)


def _from(field: str, default: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    """A default that follows from the value of a field before it; where that is not valid, it alone is reported."""
    return lambda valid: default(valid[field]) if field in valid else None


def _optimizers_own(field: str) -> Callable[[dict[str, Any]], float | None]:
    return _from("optimizer", lambda name: OPTIMIZERS[name].fields.get(field))


def _setting(default: Any, short: str, description: str, axis: bool = True, **bounds: Any) -> Any:
    """A field of RunConfig. short: what stands before its value in a run's name. axis: whether it can vary."""
    start = {"default_factory": default} if callable(default) else {"default": default}
    return Field(description=description, json_schema_extra={"short": short, "axis": axis}, **start, **bounds)


def _count(default: int, short: str, description: str) -> Any:
    return _setting(default, short, description, ge=1, le=1_000_000)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunConfig:
    """The settings of one training. Unknown, mistyped and impossible values raise `pydantic.ValidationError`.

    Types are strict: 20.0 or "20" is no z_dim. An int is accepted where a float is meant.
    """

    dataset: Annotated[str, AfterValidator(dataset_name)] = _setting(
        "mnist", "", "image set, or folder:PATH for images of one's own, which lie in a folder for each class"
    )
    image_size: int = _setting(
        _from("dataset", lambda name: image_set(name).image_size), "px",
        "width and height of an image in pixels: 28 or 32",
    )  # fmt: skip
    channels: int = _setting(
        _from("dataset", lambda name: image_set(name).channels), "c", "1: gray images, 3: in colour"
    )
    optimizer: Annotated[str, _one_of(OPTIMIZERS)] = _setting("sgd", "", "optimizer of D and of G")
    learning_rate: float = _setting(
        _from("optimizer", lambda name: OPTIMIZERS[name].learning_rate), "lr",
        "step size; more than 0 (default: the optimizer's own)", gt=0, allow_inf_nan=False,
    )  # fmt: skip
    discriminator_learning_rate: float | None = _setting(
        None, "dlr", "step size of D; more than 0 (default: learning_rate)", gt=0, allow_inf_nan=False
    )
    momentum: float | None = _setting(
        _optimizers_own("momentum"), "m", "momentum of sgd and rmsprop; 0 up to less than 1 (default: 0)", ge=0, lt=1
    )
    beta1: float | None = _setting(
        _optimizers_own("beta1"), "beta1-",
        "share of the mean gradient that a step of adam or adamw keeps; 0 up to less than 1 (default: 0.9)", ge=0, lt=1,
    )  # fmt: skip
    beta2: float | None = _setting(
        _optimizers_own("beta2"), "beta2-",
        "share of the mean square that a step of adam or adamw keeps; 0 up to less than 1 (default: 0.999)", ge=0, lt=1,
    )  # fmt: skip
    weight_decay: float | None = _setting(
        _optimizers_own("weight_decay"), "wd",
        "decay of the weights of D and G; 0 or more (default: the optimizer's own, 0.01 of adamw, else 0)",
        ge=0, allow_inf_nan=False,
    )  # fmt: skip
    objective: Annotated[str, _one_of(OBJECTIVES)] = _setting("non-saturating", "", "what D and G minimise")
    label_smoothing: float = _setting(
        0.0, "ls", "how far the label of real images lies below 1; 0 up to less than 1", ge=0, lt=1
    )
    discriminator_steps: int = _count(
        1, "dsteps", "D's updates, each on a batch of its own, before one of G; 1 or more"
    )
    network: Annotated[str, _one_of(NETWORKS)] = _setting("mlp", "", "what G and D are made of")
    spectral_norm: bool = _setting(False, "sn-", "divide D's weights by their largest singular values")
    gradient_penalty: float = _setting(
        _from("objective", lambda name: OBJECTIVES[name].gradient_penalty), "gp",
        "weight of the penalty on D's gradient: R1's, or WGAN-GP's with wasserstein; 0 or more (default: 10 with "
        "wasserstein, else 0)", ge=0, allow_inf_nan=False,
    )  # fmt: skip
    z_dim: int = _count(100, "z", "length of the noise vector z; 1 or more")
    hidden_dim: int = _count(
        128, "h", "width of the hidden layer of D and of G, in dcgan maps of the middle layer; 1 or more"
    )
    ema: float = _setting(
        0.0, "ema",
        "evaluate and save a running mean of G's weights, of which each step keeps this share; 0 (no mean) up to less "
        "than 1", ge=0, lt=1,
    )  # fmt: skip
    batch_size: int = _count(64, "b", "real images per step; 1 up to the size of the image set")
    epochs: int = _count(100, "e", "passes over the image set; 1 or more")
    device: Literal["cpu", "cuda"] = _setting("cpu", "", "where the run trains: cpu or cuda", axis=False)
    seed: int = _setting(0, "s", "source of every random stream of the run; 0 or more", axis=False, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        for name, of_folder in (("image_size", FOLDER_SIZES), ("channels", FOLDER_CHANNELS)):
            own = of_folder if self.dataset.startswith(FOLDER) else (getattr(image_set(self.dataset), name),)
            if (value := getattr(self, name)) not in own:
                raise ValueError(f"{name} of {self.dataset} is {' or '.join(map(str, own))}, got {value}")
        size = image_set(self.dataset).size
        if size and self.batch_size > size:
            raise ValueError(f"batch_size should be at most {size}, the size of {self.dataset}, got {self.batch_size}")
        for name in SETTABLE:
            if (value := getattr(self, name)) is not None and name not in OPTIMIZERS[self.optimizer].fields:
                raise ValueError(f"{name} cannot be set for {self.optimizer}, got {value}")
        if self.label_smoothing and not OBJECTIVES[self.objective].labels:
            raise ValueError(
                f"label_smoothing cannot be set for {self.objective}, which has no labels, got {self.label_smoothing}"
            )
        if self.objective == "wasserstein" and not (self.gradient_penalty or self.spectral_norm):
            raise ValueError(
                "wasserstein should have a gradient_penalty or spectral_norm, without which its critic has no bounds, "
                f"got gradient_penalty {self.gradient_penalty}"
            )
        return self

    @property
    def image_key(self) -> ImageKey:
        """What tells its images from those of other runs."""
        return ImageKey(self.dataset, self.image_size, self.channels)

    @property
    def pixels(self) -> int:
        """The numbers that an image is made of."""
        return self.channels * self.image_size**2

    @property
    def config_hash(self) -> str:
        """16 hex digits over all that decides the course of the training, so not over `epochs`, its length."""
        course = dataclasses.asdict(self)
        del course["epochs"]
        first = {name: value for name, value in course.items() if name in FIRST_FIELDS}
        # A field that came later does not count where it has its default: runs recorded before keep their hash.
        usual = dataclasses.asdict(RunConfig(**first))
        course = {name: value for name, value in course.items() if name in first or value != usual[name]}
        return hashlib.sha256(json.dumps(course, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunOptions:
    """How a run is evaluated and kept. No weight depends on it."""

    evaluate_every: int = Field(
        10, ge=0, description="epochs between two evaluations of G; 0: only at the end, where there always is one"
    )
    stop_dead: bool = Field(
        False, description="end a run once it has collapsed: losses pinned or frozen, or one picture whatever z is"
    )
    checkpoint_every: int = Field(10, ge=1, description="epochs from one checkpoint to the next; 1 or more")


def fields_of(record: type) -> dict[str, FieldInfo]:
    """The fields of a record of settings by name: type, default, description."""
    found: dict[str, FieldInfo] = record.__pydantic_fields__  # type: ignore[attr-defined]
    return found


FIELDS = fields_of(RunConfig)


def as_in_configs(name: str, value: Any) -> Any:
    """A value of a field as configs have it: the path of a folder of images is absolute."""
    with suppress(ValueError):  # RunConfig will say it
        return dataset_name(value) if name == "dataset" and isinstance(value, str) else value
    return value


def as_in_names(name: str, value: Any) -> Any:
    """A value of a field as the names of runs have it: of a folder of images its own name alone."""
    return short_name(value) if name == "dataset" else value


def extra(name: str) -> dict[str, Any]:
    """`short` and `axis` of a field of RunConfig; one that does not say has its name and a dash, and varies."""
    given = FIELDS[name].json_schema_extra
    return {"short": f"{name}-", "axis": True, **(given if isinstance(given, dict) else {})}


def make_config(**settings: Any) -> RunConfig:
    """RunConfig(**settings), with a bad value raised as a one-line `UserError` that names field and value."""
    return make_record(RunConfig, settings)


def make_record(record: type[R], settings: Mapping[str, Any], prefix: str = "") -> R:
    """record(**settings), with a bad value raised as a `UserError` that names field and value.

    prefix: "--" where the fields are known to the user as flags.
    """
    try:
        return record(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if not first["loc"]:
            raise UserError(reason) from error
        field = str(first["loc"][0])
        if first["type"] == "unexpected_keyword_argument":
            raise UserError(f"there is no setting {field}; there are {', '.join(fields_of(record))}") from error
        shown = prefix + field.replace("_", "-") if prefix else field
        raise UserError(f"{shown} {reason}, got {first['input']!r}") from error


def parse_value(name: str, text: str) -> Any:
    """The value that `text` stands for in a field of RunConfig. Raises UserError for a wrong field or type.

    Ranges are checked by RunConfig itself.
    """
    if name not in FIELDS:
        raise UserError(f"there is no setting {name}; there are {', '.join(FIELDS)}")
    kind: Any = FIELDS[name].annotation
    try:
        return TypeAdapter(kind).validate_strings(text)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Input ")
        raise UserError(f"{name} {reason}, got {text!r}") from error
