"""The OpenAPI 3.1 document, generated from the route table and the models that serve requests."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from recorder import errors
from recorder.api.framework import Other, Route
from recorder.api.problems import CONTENT_TYPE, kind_of

_REF = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"{(\w+)(?::[^{}]*)?}")
_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457 problem details.",
    "required": ["type", "title", "status", "request_id"],
    "properties": {
        "type": {"type": "string", "description": "stable identifier of the kind of problem"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what was wrong and what to do"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}


def build(routes: tuple[Route, ...], *, version: str) -> dict[str, Any]:
    """Generate the document."""
    inputs = dict.fromkeys(r.body for r in routes if r.body)
    outputs = dict.fromkeys(
        [*(r.answer for r in routes if r.answer)]
        + [other.answer for r in routes for other in r.other.values() if isinstance(other, Other)]
    )
    modes: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
        *((m, "validation") for m in inputs),
        *((m, "serialization") for m in outputs),
    ]
    refs, definitions = models_json_schema(modes, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = _PARAMETER.sub(r"{\1}", route.path)
        operation = _operation(route, refs)
        paths.setdefault(path, {})[route.method.lower()] = operation
        if route.head:
            paths[path]["head"] = {**operation, "operationId": operation["operationId"] + "_head"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tallenne", "version": version, "description": "Call-recording management."},
        "paths": paths,
        "components": {
            "schemas": {**definitions.get("$defs", {}), "Problem": _PROBLEM},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic", "description": "the token as the password"},
                "session": {"type": "apiKey", "in": "cookie", "name": "recorder_session"},
            },
        },
    }


def statuses(route: Route) -> dict[int, str]:
    """Every failing status an operation may answer, with its title."""
    raised: set[type[Exception]] = {*route.raises, errors.Unavailable}
    if route.auth == "required":
        raised |= {errors.Unauthenticated, errors.Forbidden}
    if "{" in route.path:
        raised |= {errors.NotFound}
    if route.query is not None or route.body is not None:
        raised |= {errors.InvalidInput}
    if route.body is not None:
        raised |= {errors.MalformedInput, errors.UnsupportedMediaType, errors.TooLarge}
    # Any request may carry a token that is wrong or a cookie without its CSRF token.
    raised |= {errors.Unauthenticated, errors.Forbidden, errors.MalformedInput}
    kinds = (kind_of(error) for error in raised)
    return {kind.status: kind.title for kind in sorted((k for k in kinds if k), key=lambda k: k.status)}


def _operation(route: Route, refs: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": operation_id(route),
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": _parameters(route),
        "responses": _responses(route, refs),
        "security": [{n: []} for n in route.security] if route.auth == "required" else [],
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.body_optional,
            "content": {"application/json": {"schema": refs[route.body, "validation"]}},
        }
    elif route.request_types:
        operation["requestBody"] = {"required": True, "content": {t: {} for t in route.request_types}}
    return operation


def operation_id(route: Route) -> str:
    """A stable name: method and path, punctuation folded."""
    return route.method.lower() + re.sub(r"\W+", "_", _PARAMETER.sub(r"\1", route.path)).rstrip("_")


def _responses(route: Route, refs: dict[Any, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.answer is not None:
        content["application/json"] = {"schema": refs[route.answer, "serialization"]}
    for media_type in route.answer_types:
        content.setdefault(media_type, {})
    success: dict[str, Any] = {"description": HTTPStatus(route.status).phrase}
    if content:
        success["content"] = content
    responses: dict[str, Any] = {str(route.status): success}
    for status, other in route.other.items():
        if isinstance(other, Other):
            own = {"application/json": {"schema": refs[other.answer, "serialization"]}}
            responses[str(status)] = {"description": other.meaning, "content": own}
        elif status in (204, 304):  # have no body (RFC 9110 sections 15.3.5 and 15.4.5)
            responses[str(status)] = {"description": other}
        else:
            responses[str(status)] = {**success, "description": other}
    for status, title in statuses(route).items():
        # A route may answer a failing status in its own form as well, as readiness does.
        begun = responses.get(str(status), {"description": title})
        problem = {CONTENT_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
        responses[str(status)] = {**begun, "content": {**begun.get("content", {}), **problem}}
    return responses


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]
    if route.query is not None:
        parameters += _query_parameters(route.query)
    return parameters


def _query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    required = set(schema.get("required", ()))
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "description": value.get("description", ""),
            "schema": _inline(value, definitions),
        }
        for name, value in schema.get("properties", {}).items()
    ]


def _inline(value: Any, definitions: dict[str, Any]) -> Any:
    """Resolve references: parameters stand alone. A parameter left out is not sent as null."""
    if isinstance(value, dict):
        if "$ref" in value:
            return _inline(definitions[value["$ref"].rsplit("/", 1)[-1]], definitions)
        if "anyOf" in value:
            some = [v for v in value["anyOf"] if v != {"type": "null"}]
            if len(some) == 1:
                return _inline(some[0], definitions)
        return {
            k: _inline(v, definitions)
            for k, v in value.items()
            if k not in {"title", "description", "default"}
        }
    if isinstance(value, list):
        return [_inline(v, definitions) for v in value]
    return value
