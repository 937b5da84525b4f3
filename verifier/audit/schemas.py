"""Published JSON Schemas (2020-12) of results, claims and explanations, made from the classes that the programs use."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from verifier.audit.claim import claim_model
from verifier.audit.difference import CompareResult
from verifier.audit.duplicates import ExplanationFile
from verifier.audit.results import CountResult
from verifier.audit.results_audit import AuditResult

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def all_schemas() -> dict[str, dict[str, Any]]:
    """Return file name -> schema. In results every field is present and no other is allowed."""
    results = {name: _closed(TypeAdapter(kind).json_schema(mode="serialization"))
               for name, kind in (("count", CountResult), ("audit", AuditResult), ("compare", CompareResult))}
    return {f"{name}.schema.json": {"$schema": DIALECT, **schema, "title": name}
            for name, schema in (*results.items(), ("claim", claim_model().model_json_schema()),
                                 ("explanations", ExplanationFile.model_json_schema()))}


def _closed(schema: Any) -> Any:
    """Forbid unknown fields in every object whose fields are named."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(item) for name, item in schema.items()}
    if "properties" in closed:
        closed["additionalProperties"] = False
    return closed
