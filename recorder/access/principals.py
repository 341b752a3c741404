"""Who is asking: the result of authentication, the input of every decision."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Literal

from recorder.catalogue.enums import Role, ScopeKind

PrincipalKind = Literal["account", "token", "source", "os", "system"]


@dataclass(frozen=True, slots=True)
class Grant:
    """A role at a controller, as narrow as its scope.

    Attributes:
        values: agent codes for ``team``, queue names for ``queue``; empty for ``own`` and ``controller``.
    """

    role: Role
    controller_id: uuid.UUID
    scope: ScopeKind
    values: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    Attributes:
        id: account, token or source id; the user's name for ``os``, the part's for ``system``.
        controller_id: the controller a request means when it names none.
        agent_code: the agent code that maps to this account, for the ``own`` scope.
        source_id: the source a telephony token belongs to.
        networks: where that source pushes from (CIDR); empty for anywhere.
    """

    kind: PrincipalKind
    id: str
    controller_id: uuid.UUID | None
    grants: tuple[Grant, ...] = ()
    agent_code: str | None = None
    source_id: uuid.UUID | None = None
    language: str = "en"
    networks: tuple[str, ...] = ()

    @property
    def actor(self) -> str:
        """How the audit log names this principal."""
        return f"{self.kind}:{self.id}"

    def roles(self, controller_id: uuid.UUID) -> frozenset[Role]:
        """The roles held at one controller."""
        return frozenset(g.role for g in self.grants if g.controller_id == controller_id)
