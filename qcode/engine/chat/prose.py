"""What an answer says between its calls: text, or thinking."""

from __future__ import annotations

from qcode.engine.chat.fences import Fences
from qcode.protocol.chunks import ReasoningDelta, TextDelta
from qcode.protocol.messages import ReasoningBlock, TextBlock


class Prose:
    """One block being read. White space at its ends does not count: at the beginning of thinking
    it is dropped, and at an end it is held back until more follows."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._space = ""
        self._thinking = False
        self._line_blank = True
        self._fences = Fences()

    def text(self, text: str) -> list[TextDelta]:
        """Adds text; the delta that it settles, if any."""
        if not text:
            return []
        self._thinking = False
        self._fences.feed(text)
        _, newline, line = text.rpartition("\n")
        self._line_blank = (self._line_blank or bool(newline)) and not line.strip()
        piece = self._take_solid(text)
        return [TextDelta(text=piece)] if piece else []

    def reasoning(self, text: str) -> list[ReasoningDelta]:
        """Adds thinking; the delta that it settles, if any."""
        self._thinking = True
        piece = self._take_solid(text if self._pieces else text.lstrip())
        return [ReasoningDelta(text=piece)] if piece else []

    def add_shown(self, text: str) -> None:
        """Adds text that people have seen already, as something else: it has no delta."""
        self._pieces.append(self._space + text.rstrip())
        self._space = ""

    def held_space(self) -> list[TextDelta]:
        """The white space at the end of text, once it is known to be the answer's end."""
        if not self._space or not self._pieces or self._thinking:
            return []
        self._pieces.append(self._space)
        return [TextDelta(text=self._space)]

    def close(self) -> list[TextBlock | ReasoningBlock]:
        """The block, if there is one; another begins."""
        text = "".join(self._pieces)
        blocks: list[TextBlock | ReasoningBlock] = []
        if self._pieces:
            blocks.append(ReasoningBlock(text=text) if self._thinking else TextBlock(text=text))
        self._pieces.clear()
        self._space = ""
        self._thinking = False
        return blocks

    def begin_line(self) -> None:
        """What comes next stands at a line's start."""
        self._line_blank = True

    @property
    def in_fence(self) -> bool:
        """Whether what was added last stands in a code fence."""
        return self._fences.open

    def is_line_start(self, coming: str, at: int) -> bool:
        """Whether only white space stands before `at` on its line; `coming` is not yet added."""
        line_at = coming.rfind("\n", 0, at) + 1
        return (line_at > 0 or self._line_blank) and not coming[line_at:at].strip()

    def _take_solid(self, text: str) -> str:
        """`text` up to its last character that is not white space, after what was held before."""
        solid = text.rstrip()
        if not solid:
            self._space += text
            return ""
        piece, self._space = self._space + solid, text[len(solid) :]
        self._pieces.append(piece)
        return piece
