"""What all models of experts.yaml share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,95}$")]


_ENDPOINTS = ("/chat/completions", "/completions", "/models", "/embeddings", "/responses", "/messages")


def _with_sound_port(url: str) -> str:
    # The URL itself stays out of what is said: it may hold a password.
    try:
        port = urlsplit(url).port
    except ValueError as error:
        if "port" not in str(error).lower():
            raise ValueError(f"not a URL: {error}") from None
        port = 0
    if port == 0:
        raise ValueError("the port of a URL must be a whole number from 1 to 65535")
    return url


def _of_an_api(url: str) -> str:
    path = urlsplit(url).path.rstrip("/")
    if (ending := next((each for each in _ENDPOINTS if path.endswith(each)), None)) is not None:
        raise ValueError(f"write the URL without {ending} at its end, as for an OpenAI client; that is added")
    return url


Url = Annotated[str, AfterValidator(_with_sound_port)]
ApiUrl = Annotated[Url, AfterValidator(_of_an_api)]
"""The base of an OpenAI-compatible API."""


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
