"""KV blocks: who holds which, and which of them already hold a given prefix.

A block is `block_size` consecutive tokens of a sequence. A full block is indexed by the digest of
all tokens up to its end, so that equal prefixes share blocks whoever computed them; the last,
partly filled block of a finished sequence is remembered too and reused by copying. Released
blocks keep their content until they are needed, least recently used first.
"""

from __future__ import annotations

from collections import OrderedDict, abc
from dataclasses import dataclass

from qcode.engine.scheduling.prefix_digest import ROOT, digest_of
from qcode.engine.scheduling.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCopy:
    """Copy the first `num_slots` slots of block `source` to block `target`, before the step."""

    source: int
    target: int
    num_slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedPrefix:
    """Keys and values of a sequence's first `num_tokens` tokens are in blocks. `digests` are those
    of the full blocks among them, in order, and of some that follow if the prefix was cut back."""

    num_tokens: int
    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What an indexed block holds: `tokens` follow the prefix with digest `parent`."""

    parent: bytes
    tokens: tuple[int, ...]
    digest: bytes | None
    """None for a partly filled block, which is never shared, only copied."""


class BlockPool:
    """Tensor-free bookkeeping; not thread-safe.

    A block is in exactly one of three states: held by one or more sequences (or by whoever reads
    or writes its content), idle (held by none, content indexed) or free (content meaningless).
    """

    def __init__(self, num_blocks: int, block_size: int, *, prefix_reuse: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._prefix_reuse = prefix_reuse
        self._free = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._references = [0] * num_blocks
        self._contents: dict[int, _Content] = {}
        self._by_digest: dict[bytes, int] = {}
        self._children: dict[bytes, set[int]] = {}

    @property
    def num_available(self) -> int:
        """Blocks that can be handed out now, idle ones included."""
        return len(self._free) + len(self._idle)

    def reference_count(self, block: int) -> int:
        return self._references[block]

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def find_prefix(self, sequence: Sequence) -> CachedPrefix:
        """What is cached of a sequence's tokens: never the last one, whose logits are needed, and
        nothing of a sequence that is scored."""
        digests: list[bytes] = []
        if not self._prefix_reuse or sequence.is_scored:
            return CachedPrefix(num_tokens=0, digests=())
        size, tokens = self.block_size, sequence.tokens
        parent = ROOT
        for index in range((sequence.num_tokens - 1) // size):
            digest = digest_of(parent, tokens[index * size : (index + 1) * size])
            if digest not in self._by_digest:
                break
            digests.append(digest)
            parent = digest
        start = len(digests) * size
        rest = tokens[start : min(start + size, sequence.num_tokens - 1)]
        _, num_slots = self._closest_block(parent, rest)
        return CachedPrefix(num_tokens=start + num_slots, digests=tuple(digests))

    def admit(
        self, sequence: Sequence, prefix: CachedPrefix | None = None
    ) -> list[BlockCopy] | None:
        """Give a sequence without blocks room for all its tokens, reusing the blocks of `prefix`,
        which is what `find_prefix` says now or the beginning of that, and set its
        `num_computed_tokens`. Returns the copies to make first, or None (and changes nothing) if
        there is no room."""
        assert not sequence.blocks
        prefix = prefix or self.find_prefix(sequence)
        num_full, num_slots = divmod(prefix.num_tokens, self.block_size)
        for digest in prefix.digests[:num_full]:
            block = self._by_digest[digest]
            self._hold(block)
            sequence.blocks.append(block)
            sequence.digests.append(digest)
        if self.blocks_for(sequence.num_tokens) - num_full > self.num_available:
            self.release(sequence)
            return None
        copies = [self._attach_copy(sequence, num_slots)] if num_slots else []
        self.reserve(sequence, sequence.num_tokens)
        sequence.num_computed_tokens = prefix.num_tokens
        return copies

    def reserve(self, sequence: Sequence, num_tokens: int) -> bool:
        """Blocks for the first `num_tokens` tokens: all of them, or none and False."""
        missing = self.blocks_for(num_tokens) - len(sequence.blocks)
        if missing > self.num_available:
            return False
        sequence.blocks.extend(self._take() for _ in range(missing))
        return True

    def commit(self, sequence: Sequence) -> None:
        """Index the blocks that `num_computed_tokens` has filled since the last call."""
        size = self.block_size
        for index in range(len(sequence.digests), sequence.num_computed_tokens // size):
            tokens = sequence.tokens[index * size : (index + 1) * size]
            parent = sequence.digests[-1] if sequence.digests else ROOT
            digest = digest_of(parent, tokens)
            sequence.digests.append(digest)
            if self._prefix_reuse and not self._is_shared(digest):
                content = _Content(parent=parent, tokens=tuple(tokens), digest=digest)
                self._index(sequence.blocks[index], content)

    def release(self, sequence: Sequence) -> None:
        """Take back all blocks of a sequence. Idempotent."""
        self.commit(sequence)
        self._index_tail(sequence)
        # The end of a sequence goes first: a prefix must outlive what follows it.
        for block in reversed(sequence.blocks):
            self._drop(block)
        sequence.blocks.clear()
        sequence.digests.clear()
        sequence.num_computed_tokens = 0

    def block_of(self, digest: bytes) -> int | None:
        """The block that holds the end of the prefix with this digest."""
        return self._by_digest.get(digest)

    def hold(self, blocks: abc.Iterable[int]) -> None:
        """Keep the content of blocks, whoever else lets go of them, until they are dropped."""
        for block in blocks:
            self._hold(block)

    def drop(self, blocks: abc.Iterable[int]) -> None:
        """Let go of blocks that were held or added; the first is handed out again first."""
        for block in blocks:
            self._drop(block)

    def add(self, parent: bytes, tokens: abc.Sequence[int], digest: bytes) -> int | None:
        """A block, held, for content from elsewhere, which is to be written before the next step.
        None if there is no room."""
        assert digest not in self._by_digest
        if not self.num_available:
            return None
        block = self._take()
        self._index(block, _Content(parent=parent, tokens=tuple(tokens), digest=digest))
        return block

    def _attach_copy(self, sequence: Sequence, num_slots: int) -> BlockCopy:
        """A block that begins with the `num_slots` tokens after the sequence's full blocks."""
        start = len(sequence.digests) * self.block_size
        parent = sequence.digests[-1] if sequence.digests else ROOT
        source, _ = self._closest_block(parent, sequence.tokens[start : start + num_slots])
        if source in self._idle:
            self._idle.move_to_end(source)
        # Even if the source is handed out next, it is written to only after this copy was made.
        target = self._take()
        sequence.blocks.append(target)
        return BlockCopy(source=source, target=target, num_slots=num_slots)

    def _closest_block(self, parent: bytes, tokens: list[int]) -> tuple[int, int]:
        """The block that has most of what follows a prefix, and how much: (-1, 0) for none."""
        closest, num_slots = -1, 0
        for block in self._children.get(parent, ()):
            common = _common_prefix(self._contents[block].tokens, tokens)
            if common > num_slots:
                closest, num_slots = block, common
        return closest, num_slots

    def _is_shared(self, digest: bytes) -> bool:
        """Whether a block with this content is in use. An idle one, which was computed again
        because there was no state to go on from, gives way to the newer."""
        block = self._by_digest.get(digest)
        if block is None or block not in self._idle:
            return block is not None
        del self._idle[block]
        self._forget(block)
        self._free.append(block)
        return False

    def _index_tail(self, sequence: Sequence) -> None:
        full = len(sequence.digests)
        tokens = tuple(sequence.tokens[full * self.block_size : sequence.num_computed_tokens])
        if not tokens or not self._prefix_reuse:
            return
        parent = sequence.digests[-1] if sequence.digests else ROOT
        siblings = self._children.get(parent, ())
        if any(self._contents[block].tokens[: len(tokens)] == tokens for block in siblings):
            return
        self._index(sequence.blocks[full], _Content(parent=parent, tokens=tokens, digest=None))

    def _index(self, block: int, content: _Content) -> None:
        self._contents[block] = content
        self._children.setdefault(content.parent, set()).add(block)
        if content.digest is not None:
            self._by_digest[content.digest] = block

    def _forget(self, block: int) -> None:
        content = self._contents.pop(block)
        siblings = self._children[content.parent]
        siblings.remove(block)
        if not siblings:
            del self._children[content.parent]
        if content.digest is not None:
            del self._by_digest[content.digest]

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            self._forget(block)
        self._references[block] = 1
        return block

    def _hold(self, block: int) -> None:
        self._idle.pop(block, None)
        self._references[block] += 1

    def _drop(self, block: int) -> None:
        self._references[block] -= 1
        if self._references[block]:
            return
        if block in self._contents:
            self._idle[block] = None
        else:
            self._free.append(block)


def _common_prefix(left: tuple[int, ...], right: list[int]) -> int:
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count
