"""A stored conversation: entries that are only ever appended, and their replay into messages.

Every entry names its parent, so rewinding and forking append too: the conversation is the chain
from the newest entry (the head) back to the root.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, Protocol

from qcode.protocol.backends import ChatRequest
from qcode.protocol.messages import (
    AssistantMessage,
    Message,
    ReasoningBlock,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.tools import ToolSpec
from qcode.protocol.values import dataclass

INTERRUPTED = "Interrupted: the outcome of this call is unknown. Check before doing it again."


def new_entry_id() -> str:
    return secrets.token_hex(6)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageEntry:
    id: str
    parent_id: str | None
    message: Message
    type: Literal["message"] = "message"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionEntry:
    """Everything before the message entry `first_kept_id` is replaced by `summary` (None: all
    earlier messages are)."""

    id: str
    parent_id: str | None
    summary: str
    first_kept_id: str | None
    type: Literal["compaction"] = "compaction"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputsDroppedEntry:
    """The outputs of these tool message entries are replaced by one line each."""

    id: str
    parent_id: str | None
    entry_ids: tuple[str, ...]
    type: Literal["outputs_dropped"] = "outputs_dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionEntry:
    """Why a call was allowed or not, for the record. `by` is who answered."""

    id: str
    parent_id: str | None
    call_id: str
    tool: str
    target: str
    allowed: bool
    reason: str
    mode: str
    by: Literal["policy", "person"]
    type: Literal["decision"] = "decision"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEntry:
    """What the model was asked when the next answer came: with it a session can be run again.

    `system` and `tools` are None where they are those of the request entry before. `basis` stands
    for what `system` was made of, the day and the like aside; empty where that is not known.
    `messages` is the digest of the conversation that was sent (`conversation_digest`)."""

    id: str
    parent_id: str | None
    model: str
    system: str | None
    tools: tuple[ToolSpec, ...] | None
    sampling: SamplingParams
    messages: str
    basis: str = ""
    type: Literal["request"] = "request"


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftEntry:
    """An answer that the program asked for while it led a turn, and read itself: it is no part of
    the conversation. `request` is the whole of what was asked."""

    id: str
    parent_id: str | None
    model: str
    request: ChatRequest
    text: str
    type: Literal["draft"] = "draft"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEndedEntry:
    """The program kept what its own calls have changed since the last trial ended, or put the
    files back."""

    id: str
    parent_id: str | None
    kept: bool
    type: Literal["trial_ended"] = "trial_ended"


Entry = (
    MessageEntry
    | CompactionEntry
    | OutputsDroppedEntry
    | DecisionEntry
    | RequestEntry
    | DraftEntry
    | TrialEndedEntry
)


class EntryLog(Protocol):
    """Where entries are kept. A log that cannot write any more says so through `take_notice` and
    goes on accepting entries: the conversation then lives in memory only."""

    def write(self, entry: Entry) -> None: ...

    def sync(self) -> None: ...

    def take_notice(self) -> str | None: ...

    def close(self) -> None: ...


class Session:
    """The entries of one conversation and the log that keeps them (None: memory only)."""

    def __init__(
        self, *, session_id: str, entries: Iterable[Entry] = (), log: EntryLog | None = None
    ) -> None:
        self.id = session_id
        self._entries: list[Entry] = list(entries)
        self._by_id = {entry.id: position for position, entry in enumerate(self._entries)}
        self._log = log
        self._asked: tuple[str, tuple[ToolSpec, ...]] | None = None
        self._prompt = ("", "")
        self._head: str | None = self._entries[-1].id if self._entries else None
        self._shown: tuple[str | None, tuple[MessageEntry, ...]] = (None, ())
        self._conversation: tuple[str | None, tuple[Message, ...]] = (None, ())
        self._digest = ConversationDigest()

    @property
    def entries(self) -> Sequence[Entry]:
        return tuple(self._entries)

    @property
    def head(self) -> str | None:
        return self._head

    def append(self, entry: Entry) -> None:
        """Adds an entry whose parent is any earlier one; it becomes the head."""
        self._by_id[entry.id] = len(self._entries)
        self._entries.append(entry)
        self._head = entry.id
        if self._log is not None:
            self._log.write(entry)

    def add(self, message: Message) -> None:
        self.append(MessageEntry(id=new_entry_id(), parent_id=self._head, message=message))

    def settle_prompt(self, system: str, basis: str, tools: tuple[ToolSpec, ...]) -> str:
        """The system prompt to go on with. It is the one of earlier requests where that was made
        of the same and the tools are the same, so that what was read once stays cached."""
        for entry in reversed(self._entries):
            if not isinstance(entry, RequestEntry) or entry.system is None or not basis:
                continue
            if (entry.basis, entry.tools) == (basis, tools):
                system = entry.system
                break
        self._prompt = (system, basis)
        return system

    def add_request(self, request: ChatRequest, model: str) -> None:
        """Records what is about to be asked."""
        system, tools = request.system, request.tools
        same = (system, tools) == self._asked
        self._asked = (system, tools)
        self.append(
            RequestEntry(
                id=new_entry_id(),
                parent_id=self._head,
                model=model,
                system=None if same else system,
                tools=None if same else tools,
                sampling=request.sampling,
                messages=self._digest.of(request.messages),
                basis=self._prompt[1] if system == self._prompt[0] else "",
            )
        )

    def add_draft(self, request: ChatRequest, model: str, text: str) -> None:
        self.append(
            DraftEntry(
                id=new_entry_id(), parent_id=self._head, model=model, request=request, text=text
            )
        )

    def end_trial(self, *, kept: bool) -> None:
        self.append(TrialEndedEntry(id=new_entry_id(), parent_id=self._head, kept=kept))

    def sync(self) -> None:
        """Returns when everything appended so far survives a crash."""
        if self._log is not None:
            self._log.sync()

    def close(self) -> None:
        """Stores what is left and lets another process have the session."""
        if self._log is not None:
            self._log.close()

    def take_notice(self) -> str | None:
        """What the log has to tell the person, once."""
        return None if self._log is None else self._log.take_notice()

    def rewind(self, entry_id: str | None) -> None:
        """The next entry continues after `entry_id` (None: from the start)."""
        if entry_id is not None and entry_id not in self._by_id:
            raise KeyError(entry_id)
        self._head = entry_id

    def branch(self) -> tuple[Entry, ...]:
        """The entries from the root to the head. An entry whose parent was lost to damage
        continues the one before it in the file."""
        return tuple(reversed(list(self._back_from_head())))

    def _back_from_head(self) -> Iterator[Entry]:
        position = None if self._head is None else self._by_id[self._head]
        while position is not None:
            entry = self._entries[position]
            yield entry
            if entry.parent_id is None:
                return
            parent = self._by_id.get(entry.parent_id)
            if parent is None or parent >= position:
                parent = position - 1 if position > 0 else None
            position = parent

    def message_entries(self) -> tuple[MessageEntry, ...]:
        """The message entries a model would be shown, shortened ones in their short form. A
        summary stands as a user message under its compaction entry's id."""
        known, shown = self._shown
        new: list[Entry] = []
        for entry in self._back_from_head():
            if entry.id == known:
                break
            new.append(entry)
        else:
            shown = ()
        shown = replay(list(reversed(new)), shown)
        self._shown = (self._head, shown)
        return shown

    def conversation(self) -> tuple[Message, ...]:
        """The replayed messages; every tool call in it has exactly one result after it."""
        if self._conversation[0] != self._head:
            messages = well_formed([entry.message for entry in self.message_entries()])
            self._conversation = (self._head, messages)
        return self._conversation[1]

    @property
    def title(self) -> str:
        """The first prompt, on one line."""
        for entry in self._entries:
            if isinstance(entry, MessageEntry) and isinstance(entry.message, UserMessage):
                return " ".join(entry.message.content.split())
        return ""


def replay(
    branch: Sequence[Entry], before: Sequence[MessageEntry] = ()
) -> tuple[MessageEntry, ...]:
    """What is shown of a branch; `before` is what is shown of the entries ahead of it."""
    shown = list(before)
    for entry in branch:
        match entry:
            case MessageEntry():
                shown.append(entry)
            case CompactionEntry():
                ids = [message.id for message in shown]
                start = ids.index(entry.first_kept_id) if entry.first_kept_id in ids else len(ids)
                summary = MessageEntry(
                    id=entry.id,
                    parent_id=entry.parent_id,
                    message=UserMessage(content=entry.summary),
                )
                shown = [summary, *shown[start:]]
            case OutputsDroppedEntry():
                dropped = frozenset(entry.entry_ids)
                shown = [_without_output(m) if m.id in dropped else m for m in shown]
    return tuple(shown)


def conversation_digest(messages: Sequence[Message]) -> str:
    """Of everything in the messages that a model reads."""
    return ConversationDigest().of(messages)


class ConversationDigest:
    """Digests of one conversation as it grows: what was read before is not read again."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._read: list[Message] = []
        self._digest = hashlib.sha256()

    def of(self, messages: Sequence[Message]) -> str:
        earlier = zip(self._read, messages, strict=False)
        if len(messages) < len(self._read) or any(old is not new for old, new in earlier):
            self._forget()
        for message in messages[len(self._read) :]:
            self._read.append(message)
            for part in _read_parts(message):
                self._digest.update(f"{len(part)}:{part}".encode("utf-8", "surrogatepass"))
        return self._digest.hexdigest()[:32]


def _read_parts(message: Message) -> Iterator[str]:
    yield message.role
    match message:
        case AssistantMessage():
            for block in message.blocks:
                yield block.type
                if isinstance(block, ToolCall):
                    yield from (block.name, block.arguments)
                else:
                    yield block.text
                if isinstance(block, ReasoningBlock) and block.details:
                    yield block.details
        case ToolMessage():
            yield from (message.name, message.content)
        case UserMessage():
            yield message.content


def dropped_output(message: ToolMessage) -> str:
    return f"[Output of {message.name} dropped to save room. Call it again if you need it.]"


def _without_output(entry: MessageEntry) -> MessageEntry:
    if not isinstance(entry.message, ToolMessage):
        return entry
    message = replace(entry.message, content=dropped_output(entry.message))
    return replace(entry, message=message)


def well_formed(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Gives calls without a result a synthetic one, in call order, and drops results without a
    call and second results: what a crash or a damaged file can leave behind."""
    result: list[Message] = []
    position = 0
    while position < len(messages):
        message = messages[position]
        position += 1
        if isinstance(message, ToolMessage):
            continue
        result.append(message)
        if not isinstance(message, AssistantMessage):
            continue
        answers: dict[str, ToolMessage] = {}
        while position < len(messages) and isinstance(answer := messages[position], ToolMessage):
            answers.setdefault(answer.call_id, answer)
            position += 1
        for call in message.tool_calls:
            missing = ToolMessage(
                call_id=call.id, name=call.name, content=INTERRUPTED, is_error=True
            )
            result.append(answers.get(call.id, missing))
    return tuple(result)
