"""Signing in and out, accounts and their roles, tokens, approvals."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from aiohttp import web
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr

from recorder.access import accounts, approvals, sessions, tokens
from recorder.access.listening import SecondPersonNeeded
from recorder.access.principals import Grant, Principal
from recorder.api.framework import CSRF, ApiCall, Other, Route, json_response, no_content
from recorder.api.middleware import SESSION_COOKIE, check_same_site
from recorder.api.pending import ApprovalPending, pending
from recorder.catalogue.enums import ApprovalState, Role, ScopeKind
from recorder.errors import Conflict, Forbidden, InvalidInput, Locked, NotFound, Unauthenticated
from recorder.playback.finding import controller_of

Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=200)]
Code = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:@/+-]*$", max_length=64)]
Secret = Annotated[SecretStr, Field(max_length=1000)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Credentials(_Model):
    """What a person signs in with."""

    username: Annotated[str, Field(max_length=200)]
    password: Secret


class GrantBody(_Model):
    """A role at a controller, as narrow as its scope."""

    role: Role
    scope: ScopeKind = ScopeKind.CONTROLLER
    values: list[Code] = Field([], max_length=500, description="agent codes of a team, or queues")
    controller: uuid.UUID | None = Field(None, description="where the caller has several")


class RoleAt(BaseModel):
    """A role that a caller holds."""

    role: Role
    controller: uuid.UUID
    scope: ScopeKind
    values: list[str]


class Session(BaseModel):
    """Who the caller is."""

    actor: str
    controller: uuid.UUID | None
    roles: list[RoleAt]
    language: str
    csrf: str | None = Field(None, description="send it in X-CSRF-Token with every change; browsers only")
    expires_at: datetime | None = None


class ControllerQuery(_Model):
    """Whose."""

    controller: uuid.UUID | None = Field(None, description="where the caller has several")


class ApprovalQuery(_Model):
    """A second person's approval, which a role that hears calls needs."""

    approval: uuid.UUID | None = Field(None, description="without it, the approval is asked for")


class NewAccount(_Model):
    """One person's account."""

    username: Text
    name: Text
    password: Secret
    controller: uuid.UUID | None = Field(None, description="where the caller has several")
    roles: list[GrantBody] = Field([], max_length=50)
    agent_code: Code | None = None
    language: Literal["en", "fi", "sv"] = "en"


class Created(BaseModel):
    """The random id of what was made."""

    id: uuid.UUID


class GrantAnswer(RoleAt):
    """A living grant."""

    id: uuid.UUID


class Account(BaseModel):
    """An account, for those who manage accounts."""

    id: uuid.UUID
    username: str
    name: str
    controller: uuid.UUID
    agent_code: str | None
    language: str
    roles: list[GrantAnswer]
    created_at: datetime
    disabled_at: datetime | None


class Accounts(BaseModel):
    """Every account of a controller."""

    items: list[Account]
    next: None = None


class NewPassword(_Model):
    """A new password; one's own with the current one."""

    new: Secret
    current: Secret | None = None


class NewToken(_Model):
    """A machine's token."""

    label: Annotated[str, Field(max_length=100, description="a system's name, never a person's")]
    role: Role
    scope: ScopeKind = ScopeKind.CONTROLLER
    values: list[Code] = Field([], max_length=500)
    source: uuid.UUID | None = Field(None, description="the source it pushes for; telephony only")
    owner: uuid.UUID | None = Field(None, description="the account it ends with")
    expires_at: AwareDatetime | None = Field(None, description="API clients get a year where left out")
    controller: uuid.UUID | None = Field(None, description="where the caller has several")


class IssuedToken(BaseModel):
    """A fresh token, shown this once."""

    id: uuid.UUID
    token: str
    expires_at: datetime | None


class Token(BaseModel):
    """A token without its secret."""

    id: uuid.UUID
    label: str
    role: Role
    scope: ScopeKind
    values: list[str]
    source: uuid.UUID | None
    owner: uuid.UUID | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class Tokens(BaseModel):
    """A controller's tokens, the newest first."""

    items: list[Token]
    next: None = None


class ApprovalsQuery(ControllerQuery):
    """Filters of approvals."""

    state: ApprovalState | None = None


class Approval(BaseModel):
    """A step that needs a second person."""

    id: uuid.UUID
    controller: uuid.UUID
    action: str
    target: str
    details: dict[str, Any]
    state: ApprovalState
    requested_by: str
    requested_at: datetime
    expires_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    used_at: datetime | None


class Approvals(BaseModel):
    """A controller's approvals, the newest first."""

    items: list[Approval]
    next: None = None


class ApprovalBody(_Model):
    """A step to be approved: random ids, codes and counts only, nothing personal."""

    action: Literal[
        "hold_release",
        "disclosure",
        "schedule_activate",
        "sweep_brake",
        "erase_principal",
        "destroy_epoch",
    ]
    target: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,120}$", description="id of what it is about")]
    details: dict[
        Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")],
        Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:+-]{1,100}$")] | int | bool,
    ] = Field({}, max_length=20)
    controller: uuid.UUID | None = Field(None, description="where the caller has several")


class DecisionBody(_Model):
    """The second person's word. Only a signed-in person may give it, never whoever asked."""

    decision: Literal["approve", "refuse"]


async def sign_in(call: ApiCall) -> web.StreamResponse:
    """Open a session; the cookie is for browsers, the CSRF token goes with every change."""
    check_same_site(call.request)
    body: Credentials = call.body
    opened = await sessions.sign_in(
        call.services, body.username, body.password.get_secret_value(), request_id=call.request_id
    )
    answer = json_response(_session(opened.principal, opened.csrf, opened.expires_at), 201)
    answer.set_cookie(
        SESSION_COOKIE,
        opened.cookie,
        httponly=True,
        samesite="Strict",
        secure=call.services.settings.resolved_public_url.startswith("https:"),
        path="/",
        max_age=int((opened.expires_at - call.services.clock.now()).total_seconds()),
    )
    return answer


async def who_am_i(call: ApiCall) -> Session:
    """Who the credential belongs to, and what they may be."""
    return _session(call.principal, call.request.get(CSRF), None)


async def sign_out(call: ApiCall) -> web.StreamResponse:
    """End the session."""
    cookie = call.request.cookies.get(SESSION_COOKIE)
    if cookie is not None and call.principal.kind == "account":
        await sessions.close_session(call.services, cookie, request_id=call.request_id)
    answer = no_content()
    answer.del_cookie(SESSION_COOKIE, path="/")
    return answer


async def list_accounts(call: ApiCall) -> Accounts:
    """A controller's accounts with their roles."""
    controller_id = controller_of(call.principal, call.query.controller)
    views = await accounts.list_accounts(
        call.services, call.principal, controller_id, request_id=call.request_id
    )
    return Accounts(items=[_account(view) for view in views])


async def create_account(call: ApiCall) -> Created | web.Response:
    """Make one person's account."""
    body: NewAccount = call.body
    controller_id = controller_of(call.principal, body.controller)
    try:
        account_id = await accounts.create_account(
            call.services,
            call.principal,
            controller_id=controller_id,
            username=body.username,
            name=body.name,
            password=body.password.get_secret_value(),
            grants=[_grant(g, g.controller or controller_id) for g in body.roles],
            agent_code=body.agent_code,
            language=body.language,
            approval_id=call.query.approval,
            request_id=call.request_id,
        )
    except SecondPersonNeeded as needed:
        return pending(needed.approval)
    return Created(id=account_id)


async def disable_account(call: ApiCall) -> web.StreamResponse:
    """Let a person go; sessions, tokens and links end at once."""
    account_id = call.uuid("id")
    await accounts.disable_account(call.services, call.principal, account_id, request_id=call.request_id)
    return no_content()


async def change_password(call: ApiCall) -> web.StreamResponse:
    """Set a password; every session of the account ends."""
    body: NewPassword = call.body
    try:
        await accounts.change_password(
            call.services,
            call.principal,
            call.uuid("id"),
            new=body.new.get_secret_value(),
            current=None if body.current is None else body.current.get_secret_value(),
            approval_id=call.query.approval,
            request_id=call.request_id,
        )
    except SecondPersonNeeded as needed:
        return pending(needed.approval)
    return no_content()


async def grant_role(call: ApiCall) -> Created | web.Response:
    """Give an account a role."""
    body: GrantBody = call.body
    grant = _grant(body, controller_of(call.principal, body.controller))
    account_id = call.uuid("id")
    try:
        grant_id = await accounts.grant_role(
            call.services,
            call.principal,
            account_id,
            grant,
            approval_id=call.query.approval,
            request_id=call.request_id,
        )
    except SecondPersonNeeded as needed:
        return pending(needed.approval)
    return Created(id=grant_id)


async def revoke_role(call: ApiCall) -> web.StreamResponse:
    """Take a role back, at once."""
    await accounts.revoke_role(
        call.services,
        call.principal,
        call.uuid("grant"),
        account_id=call.uuid("id"),
        request_id=call.request_id,
    )
    return no_content()


async def list_tokens(call: ApiCall) -> Tokens:
    """A controller's tokens, without their secrets."""
    controller_id = controller_of(call.principal, call.query.controller)
    views = await tokens.list_tokens(call.services, call.principal, controller_id, request_id=call.request_id)
    return Tokens(items=[_token(view) for view in views])


async def issue_token(call: ApiCall) -> IssuedToken | web.Response:
    """Make a token; its secret is shown this once."""
    body: NewToken = call.body
    try:
        issued = await tokens.issue_token(
            call.services,
            call.principal,
            controller_id=controller_of(call.principal, body.controller),
            label=body.label,
            role=body.role,
            scope=body.scope,
            values=body.values,
            source_id=body.source,
            owner_id=body.owner,
            expires_at=body.expires_at,
            approval_id=call.query.approval,
            request_id=call.request_id,
        )
    except SecondPersonNeeded as needed:
        return pending(needed.approval)
    return IssuedToken(id=issued.id, token=issued.token, expires_at=issued.expires_at)


async def revoke_token(call: ApiCall) -> web.StreamResponse:
    """End a token at once."""
    await tokens.revoke_token(call.services, call.principal, call.uuid("id"), request_id=call.request_id)
    return no_content()


async def list_approvals(call: ApiCall) -> Approvals:
    """Steps that wait for a second person, or did."""
    asked: ApprovalsQuery = call.query
    controller_id = controller_of(call.principal, asked.controller)
    views = await approvals.list_approvals(
        call.services, call.principal, controller_id, state=asked.state, request_id=call.request_id
    )
    return Approvals(items=[_approval(view) for view in views])


async def ask_approval(call: ApiCall) -> Approval:
    """Ask for a second person; asking again for the same finds the first request."""
    body: ApprovalBody = call.body
    view = await approvals.ask(
        call.services,
        call.principal,
        controller_id=controller_of(call.principal, body.controller),
        action=body.action,
        target=body.target,
        details=body.details,
        request_id=call.request_id,
    )
    return _approval(view)


async def get_approval(call: ApiCall) -> Approval:
    """One step that needs a second person."""
    approval_id = call.uuid("id")
    return _approval(
        await approvals.get_approval(call.services, call.principal, approval_id, request_id=call.request_id)
    )


async def decide_approval(call: ApiCall) -> Approval:
    """Approve or refuse, as a second person with an account."""
    body: DecisionBody = call.body
    view = await approvals.decide_approval(
        call.services,
        call.principal,
        call.uuid("id"),
        approve=body.decision == "approve",
        request_id=call.request_id,
    )
    return _approval(view)


def _session(principal: Principal, csrf: str | None, expires_at: datetime | None) -> Session:
    return Session(
        actor=principal.actor,
        controller=principal.controller_id,
        roles=[
            RoleAt(role=g.role, controller=g.controller_id, scope=g.scope, values=sorted(g.values))
            for g in principal.grants
        ],
        language=principal.language,
        csrf=csrf,
        expires_at=expires_at,
    )


def _grant(body: GrantBody, controller_id: uuid.UUID) -> Grant:
    return Grant(body.role, controller_id, body.scope, frozenset(body.values))


def _account(view: accounts.AccountView) -> Account:
    return Account(
        id=view.id,
        username=view.username,
        name=view.name,
        controller=view.controller_id,
        agent_code=view.agent_code,
        language=view.language,
        roles=[
            GrantAnswer(
                id=g.id,
                role=g.grant.role,
                controller=g.grant.controller_id,
                scope=g.grant.scope,
                values=sorted(g.grant.values),
            )
            for g in view.grants
        ],
        created_at=view.created_at,
        disabled_at=view.disabled_at,
    )


def _token(view: tokens.TokenView) -> Token:
    return Token(
        id=view.id,
        label=view.label,
        role=view.role,
        scope=view.scope,
        values=list(view.values),
        source=view.source_id,
        owner=view.owner_id,
        created_at=view.created_at,
        expires_at=view.expires_at,
        revoked_at=view.revoked_at,
        last_used_at=view.last_used_at,
    )


def _approval(view: approvals.ApprovalView) -> Approval:
    return Approval(
        id=view.id,
        controller=view.controller_id,
        action=view.action,
        target=view.target,
        details=dict(view.details),
        state=view.state,
        requested_by=view.requested_by,
        requested_at=view.requested_at,
        expires_at=view.expires_at,
        decided_by=view.decided_by,
        decided_at=view.decided_at,
        used_at=view.used_at,
    )


_V: Final = "/api/v1"
_NO: Final = (Forbidden, InvalidInput)
_SECOND: Final = {
    202: Other("asked for; a role hears calls, so a second person has to approve it", ApprovalPending)
}

# fmt: off
ROUTES: tuple[Route, ...] = (
    Route("POST", f"{_V}/session", sign_in, "Sign in", "access", body=Credentials, answer=Session, status=201,
          auth="public", raises=(Unauthenticated, Locked, Forbidden)),
    Route("GET", f"{_V}/session", who_am_i, "Who am I", "access", answer=Session),
    Route("DELETE", f"{_V}/session", sign_out, "Sign out", "access", status=204),
    Route("GET", f"{_V}/accounts", list_accounts, "Accounts of a controller", "access",
          query=ControllerQuery, answer=Accounts, raises=_NO),
    Route("POST", f"{_V}/accounts", create_account, "Make a person's account", "access",
          query=ApprovalQuery, other=_SECOND, body=NewAccount, answer=Created, status=201,
          raises=(*_NO, Conflict)),
    Route("DELETE", f"{_V}/accounts/{{id}}", disable_account, "Let a person go", "access", status=204,
          raises=(*_NO, NotFound)),
    Route("POST", f"{_V}/accounts/{{id}}/password", change_password, "Set a password", "access",
          query=ApprovalQuery, other=_SECOND, body=NewPassword, status=204, raises=(*_NO, NotFound, Locked)),
    Route("POST", f"{_V}/accounts/{{id}}/roles", grant_role, "Grant a role", "access",
          query=ApprovalQuery, other=_SECOND, body=GrantBody, answer=Created, status=201,
          raises=(*_NO, NotFound)),
    Route("DELETE", f"{_V}/accounts/{{id}}/roles/{{grant}}", revoke_role, "Take a role back", "access",
          status=204, raises=(*_NO, NotFound)),
    Route("GET", f"{_V}/tokens", list_tokens, "Tokens of a controller", "access",
          query=ControllerQuery, answer=Tokens, raises=_NO),
    Route("POST", f"{_V}/tokens", issue_token, "Issue a token", "access",
          query=ApprovalQuery, other=_SECOND, body=NewToken, answer=IssuedToken, status=201,
          raises=(*_NO, NotFound, Conflict)),
    Route("DELETE", f"{_V}/tokens/{{id}}", revoke_token, "Revoke a token", "access", status=204,
          raises=(*_NO, NotFound)),
    Route("GET", f"{_V}/approvals", list_approvals, "Steps that need a second person", "access",
          query=ApprovalsQuery, answer=Approvals, raises=_NO),
    Route("POST", f"{_V}/approvals", ask_approval, "Ask for a second person", "access",
          body=ApprovalBody, answer=Approval, status=201, raises=_NO),
    Route("GET", f"{_V}/approvals/{{id}}", get_approval, "One such step", "access",
          answer=Approval, raises=(*_NO, NotFound)),
    Route("POST", f"{_V}/approvals/{{id}}/decision", decide_approval, "Approve or refuse", "access",
          body=DecisionBody, answer=Approval, raises=(*_NO, NotFound, Conflict)),
)
# fmt: on
