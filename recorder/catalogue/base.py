"""What every table shares: column types, naming, the declarative base."""

from __future__ import annotations

import enum
import uuid
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.orm import DeclarativeBase


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An instant: aware in Python, UTC in the database, refused when naive."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database: UTC; SQLite keeps no zone, so it gets a bare UTC time."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise TypeError("a stored time needs a zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database: always aware, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def enum_column(kind: type[enum.StrEnum]) -> sa.Enum:
    """A string column that admits one enumeration's values, checked in Python.

    No database CHECK: adding a member must not need a table rewrite.
    """
    return sa.Enum(
        kind,
        native_enum=False,
        create_constraint=False,
        length=40,
        values_callable=lambda members: [m.value for m in members],
    )


class Base(DeclarativeBase):
    """Declarative base with stable constraint names, so that migrations can name them."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy's declared form
        datetime: UtcDateTime(),
        uuid.UUID: sa.Uuid(),
        bytes: sa.LargeBinary(),
        dict[str, Any]: Json,
        list[Any]: Json,
        list[str]: Json,
        int: sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
    }
