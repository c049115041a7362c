"""Kinds of values that several sections take."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _resolution(value: Any) -> Any:
    for each in value.values() if isinstance(value, dict) and value else [value]:
        if each not in ("head", "channel") and not (type(each) is int and each >= 1):
            raise ValueError("expected a count of 1 or more, 'head', 'channel', or one of these for each glob")
    return value


def _word(value: Any) -> Any:
    return str(value) if type(value) is int else value


Word = Annotated[str, BeforeValidator(_word)]  # the name of a class, which may be a number
PLACE = "a path, or several"  # marks such keys; see `places`
LOCAL = "local-dir:"  # before a folder, timm's way to say that it has the model
Gauge = Literal["svd", "identity", "orthonormal"]
Block = Count | Literal["head", "channel"]
Resolution = Annotated[Any, BeforeValidator(_resolution)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False)
