"""What all models of experts.yaml share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,95}$")]


class Model(BaseModel):
    # Attribute docstrings become descriptions in the JSON schema, which editors show.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


@dataclass(frozen=True)
class UsuallyOf:
    """Marks a mapping that has the keys of ``model`` unless a plug-in is named: editors complete them, and
    hints know where they belong."""

    model: type[BaseModel]

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, to_json: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [to_json(self.model.__pydantic_core_schema__), to_json(schema)]}
