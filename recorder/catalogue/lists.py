"""Many ids as one bound value: the statement stays the same, and costs the same to make, however many."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["among", "as_text"]


def among(column: Any, ids: Iterable[uuid.UUID | str]) -> sa.ColumnElement[bool]:
    """Whether a column's id is one of many.

    With ``IN`` each id is a parameter of its own: the statement is written, and read, anew for each of them.

    Args:
        ids: ids, or the texts that `as_text` gives of them.
    """
    return _Among(column, sa.bindparam(None, list(ids), type_=_Ids(), unique=True))


def as_text(column: Any) -> sa.ColumnElement[str]:
    """A column's id as the database writes it: for whoever passes ids through by the million."""
    return sa.cast(column, sa.Text)


class _Ids(sa.types.TypeDecorator[list[uuid.UUID | str]]):
    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: list[uuid.UUID | str] | None, dialect: Dialect) -> str:
        texts = [one if isinstance(one, str) else one.hex for one in value or ()]
        return json.dumps(texts) if dialect.name == "sqlite" else f"{{{','.join(texts)}}}"


class _Among(FunctionElement[bool]):
    name = "among"
    type = sa.Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> _Among:
        """As it is: what SQLAlchemy would make of a truth value, ``(…) = 1``, no index serves."""
        return self


@compiles(_Among, "sqlite")
def _on_sqlite(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, ids = (compiler.process(part, **options) for part in element.clauses)
    return f"({column} IN (SELECT value FROM json_each({ids})))"  # noqa: S608  # compiled parts, no values


@compiles(_Among, "postgresql")
def _on_postgresql(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, ids = (compiler.process(part, **options) for part in element.clauses)
    return f"({column} = ANY (CAST({ids} AS uuid[])))"
