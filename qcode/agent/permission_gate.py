"""Between a call and its run: the policy's verdict and, where it asks, a person's answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from qcode.agent.permissions import PermissionPolicy
from qcode.agent.session import DecisionEntry, Session, new_entry_id
from qcode.protocol.events import ApprovalRequested, ApprovalResolved, Event
from qcode.protocol.permissions import Answer, Approver, PermissionRequest

DENIED = "Permission denied"
"""How the result of a call that was not allowed begins."""


class PermissionGate:
    """Lives as long as the agent: rules granted for the session stay. `policy` may be replaced at
    any time, for the calls that come after."""

    def __init__(self, policy: PermissionPolicy, approver: Approver) -> None:
        self.policy = policy
        self._approver = approver
        self._one_question = asyncio.Lock()

    async def refusal(
        self,
        call_id: str,
        request: PermissionRequest,
        emit: Callable[[Event], None],
        session: Session,
    ) -> str | None:
        """None when the call may run, else why not, in words for the model."""
        async with self._one_question:
            verdict = self.policy.decide(request)
            if verdict.decision == "allow":
                _record(session, call_id, request, self.policy, True, verdict.reason, by="policy")
                return None
            if verdict.decision == "deny":
                _record(session, call_id, request, self.policy, False, verdict.reason, by="policy")
                return f"{DENIED}: {verdict.reason}"
            answer = await self._ask(call_id, request, verdict.reason, emit)
            _record(session, call_id, request, self.policy, answer.allowed, verdict.reason)
            if answer.allowed:
                rule = None if answer.scope == "once" else self.policy.suggested_rule(request)
                if rule is not None:
                    self.policy = self.policy.with_session_rule(rule)
                return None
            return f"{DENIED} ({verdict.reason}). {answer.note or 'The user said no.'}"

    async def _ask(
        self,
        call_id: str,
        request: PermissionRequest,
        reason: str,
        emit: Callable[[Event], None],
    ) -> Answer:
        emit(ApprovalRequested(call_id=call_id, request=request, reason=reason))
        allowed = False
        try:
            answer = await self._approver.ask(request, reason)
            allowed = answer.allowed
            return answer
        finally:
            emit(ApprovalResolved(call_id=call_id, allowed=allowed))


def _record(
    session: Session,
    call_id: str,
    request: PermissionRequest,
    policy: PermissionPolicy,
    allowed: bool,
    reason: str,
    by: Literal["policy", "person"] = "person",
) -> None:
    session.append(
        DecisionEntry(
            id=new_entry_id(),
            parent_id=session.head,
            call_id=call_id,
            tool=request.tool,
            target=request.target,
            allowed=allowed,
            reason=reason,
            mode=policy.mode.value,
            by=by,
        )
    )
