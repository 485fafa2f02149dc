"""Slots for recurrent states: who runs in which, and which hold a snapshot of which prefix.

A linear attention layer keeps one state of constant size for a sequence, whatever its length. A
state can be carried on but not cut back, so a prefix is reused from a snapshot: a slot with the
state exactly after it. Snapshots are taken at the end of a prompt, at every multiple of
`SNAPSHOT_SPACING` tokens, and where a sequence leaves: its slot then becomes one without a copy.

When slots run out, the snapshot goes that saves least: the tokens between it and the snapshot
before it, divided by the time since it was last of use. Old prefixes thin out that way, until
what a change in a long prompt costs grows with the change's distance from the prompt's end.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass, replace

from qcode.engine.scheduling.block_pool import CachedPrefix
from qcode.engine.scheduling.prefix_digest import ROOT, digest_of
from qcode.engine.scheduling.sequence import Sequence

SNAPSHOT_SPACING = 512
"""A copy of the state is little work beside computing that many tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCopy:
    """Copy the state of slot `source` to slot `target`; zeros where `source` is None."""

    source: int | None
    target: int


@dataclass(slots=True, kw_only=True, eq=False)
class _Snapshot:
    slot: int
    digest: bytes
    """Of all tokens the state has seen."""
    num_tokens: int
    previous: _Snapshot | None
    """The last one before it on the way of the sequence that took it."""
    last_used: int

    @property
    def num_saved_tokens(self) -> int:
        return self.num_tokens - (self.previous.num_tokens if self.previous else 0)


class StatePool:
    """Tensor-free bookkeeping; not thread-safe.

    A slot is in exactly one of three states: held by one sequence, a snapshot, or free. Once the
    copies that were asked for are made, in order, a held slot has the state after the sequence's
    `num_computed_tokens`.
    """

    def __init__(
        self,
        num_slots: int,
        block_size: int,
        *,
        prefix_reuse: bool = True,
        snapshot_spacing: int = SNAPSHOT_SPACING,
    ) -> None:
        """`block_size` and `prefix_reuse` are those of the `BlockPool`; no step computes more than
        `snapshot_spacing` tokens of a sequence."""
        self.num_slots = num_slots
        self._block_size = block_size
        self._prefix_reuse = prefix_reuse
        self._snapshot_spacing = snapshot_spacing
        self._free = list(range(num_slots - 1, -1, -1))
        self._nearest: dict[int, _Snapshot | None] = {}
        """For each held slot, the last snapshot on the way of its sequence."""
        self._snapshots: dict[bytes, _Snapshot] = {}
        self._copies: list[StateCopy] = []
        self._clock = 0

    @property
    def num_available(self) -> int:
        """Slots that no sequence holds, those of snapshots included."""
        return self.num_slots - len(self._nearest)

    @property
    def num_snapshots(self) -> int:
        return len(self._snapshots)

    def usable(self, prefix: CachedPrefix, sequence: Sequence) -> CachedPrefix:
        """The longest part of a sequence's `prefix` that ends at a snapshot."""
        lengths = {snapshot.num_tokens for snapshot in self._snapshots.values()}
        for length in sorted(lengths, reverse=True):
            if length <= prefix.num_tokens:
                digest = self._digest(sequence.tokens, prefix.digests, length)
                if digest in self._snapshots:
                    return replace(prefix, num_tokens=length)
        return replace(prefix, num_tokens=0)

    def admit(self, sequence: Sequence) -> None:
        """Give a sequence a slot with the state after its `num_computed_tokens`: none, or as many
        as `usable` said. One must be available."""
        assert sequence.state_slot is None
        start = self._find(sequence) if sequence.num_computed_tokens else None
        slot = self._take()
        assert slot is not None
        if start is None:
            self._copies.append(StateCopy(source=None, target=slot))
        elif start.slot != slot:
            self._copies.append(StateCopy(source=start.slot, target=slot))
        else:  # The snapshot had to give its slot up, and its state is where it is wanted.
            start = start.previous
        self._nearest[slot] = start
        sequence.state_slot = slot

    def step_tokens(self, sequence: Sequence, num_tokens: int) -> int:
        """How many of its next `num_tokens` tokens a sequence may compute in one step: up to where
        a snapshot is due, because it can be taken only between steps."""
        if not self._keeps(sequence):
            return num_tokens
        start = sequence.num_computed_tokens
        due = (start // self._snapshot_spacing + 1) * self._snapshot_spacing
        if start < prompt_end(sequence) < due:
            due = prompt_end(sequence)
        return min(num_tokens, due - start)

    def commit(self, sequence: Sequence) -> None:
        """Take a snapshot if one is due after the tokens computed by now."""
        assert sequence.state_slot is not None
        num_tokens = sequence.num_computed_tokens
        is_due = num_tokens == prompt_end(sequence) or num_tokens % self._snapshot_spacing == 0
        if not (is_due and self._keeps(sequence)):
            return
        snapshot = self._find(sequence)
        if snapshot is None:
            slot = self._take()
            if slot is None:
                return
            self._copies.append(StateCopy(source=sequence.state_slot, target=slot))
            snapshot = self._add(sequence, slot, self._nearest[sequence.state_slot])
        self._nearest[sequence.state_slot] = snapshot

    def release(self, sequence: Sequence) -> None:
        """Take back the slot of a sequence, whose state becomes a snapshot. Idempotent; to be
        called before the sequence's blocks are released."""
        slot, sequence.state_slot = sequence.state_slot, None
        if slot is None:
            return
        nearest = self._nearest.pop(slot)
        is_new = sequence.num_computed_tokens > 0 and self._keeps(sequence)
        if is_new and self._find(sequence) is None:
            self._add(sequence, slot, nearest)
        else:
            self._free.append(slot)

    def snapshot_of(self, digest: bytes) -> int | None:
        """The slot with the state after the prefix with this digest, once all copies are made."""
        snapshot = self._snapshots.get(digest)
        return None if snapshot is None else snapshot.slot

    def add(self, digest: bytes, num_tokens: int) -> int | None:
        """A slot for a snapshot from elsewhere. All copies must have been taken and made before;
        the state is to be written before the next step. None if all slots are held."""
        assert digest not in self._snapshots
        assert not self._copies
        slot = self._take()
        if slot is not None:
            self._insert(slot, digest, num_tokens, previous=None)
        return slot

    def take_copies(self) -> list[StateCopy]:
        """The copies asked for since the last call: to be made in order, before the next step."""
        copies, self._copies = self._copies, []
        return copies

    def _keeps(self, sequence: Sequence) -> bool:
        return self._prefix_reuse and not sequence.is_scored

    def _find(self, sequence: Sequence) -> _Snapshot | None:
        """The snapshot of exactly the sequence's computed tokens, which is of use now."""
        snapshot = self._snapshots.get(self._computed_digest(sequence))
        if snapshot is not None:
            self._clock += 1
            snapshot.last_used = self._clock
        return snapshot

    def _add(self, sequence: Sequence, slot: int, previous: _Snapshot | None) -> _Snapshot:
        digest = self._computed_digest(sequence)
        return self._insert(slot, digest, sequence.num_computed_tokens, previous)

    def _insert(
        self, slot: int, digest: bytes, num_tokens: int, previous: _Snapshot | None
    ) -> _Snapshot:
        self._clock += 1
        snapshot = _Snapshot(
            slot=slot,
            digest=digest,
            num_tokens=num_tokens,
            previous=previous,
            last_used=self._clock,
        )
        self._snapshots[digest] = snapshot
        return snapshot

    def _computed_digest(self, sequence: Sequence) -> bytes:
        return self._digest(sequence.tokens, sequence.digests, sequence.num_computed_tokens)

    def _digest(self, tokens: list[int], digests: abc.Sequence[bytes], length: int) -> bytes:
        """Of the first `length` tokens; `digests` are those of the full blocks among them."""
        num_blocks, num_rest = divmod(length, self._block_size)
        parent = digests[num_blocks - 1] if num_blocks else ROOT
        return digest_of(parent, tokens[length - num_rest : length]) if num_rest else parent

    def _take(self) -> int | None:
        """A free slot, if need be that of the snapshot worth least. None if all are held."""
        if self._free:
            return self._free.pop()
        victim = min(self._snapshots.values(), key=self._worth, default=None)
        if victim is None:
            return None
        self._drop(victim)
        return victim.slot

    def _worth(self, snapshot: _Snapshot) -> float:
        return snapshot.num_saved_tokens / (self._clock - snapshot.last_used + 1)

    def _drop(self, snapshot: _Snapshot) -> None:
        del self._snapshots[snapshot.digest]
        for other in self._snapshots.values():
            if other.previous is snapshot:
                other.previous = snapshot.previous
        for slot, nearest in self._nearest.items():
            if nearest is snapshot:
                self._nearest[slot] = snapshot.previous


def prompt_end(sequence: Sequence) -> int:
    """How many tokens of a prompt its snapshot is of. The last one is always computed, because
    its logits are needed: so the same prompt again takes one token."""
    return sequence.num_prompt_tokens - 1
