"""Option types that several commands share."""

from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter

__all__ = ["FamilyName", "LearningRateName", "Switch"]

FamilyName: TypeAlias = Literal["diagonal", "full", "flow", "auxiliary", "auxiliary-sigmoid", "iaf", "nsf", "maf"]
LearningRateName: TypeAlias = Literal["constant", "stepped", "cosine"]
Switch = Annotated[bool, Parameter(negative="", show_default=False)]
