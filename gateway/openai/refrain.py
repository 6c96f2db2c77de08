"""What the chunks of a stream have in common: nearly all differ in one short text, and its token's id. Pure.

A chunk that was read tells how the next ones look, before the text, behind it, and around the id. One that
looks so needs no reading: its text stands between the same bytes for the client. Only plain ASCII counts as
such a text, without quotes and backslashes, so that it is valid JSON by itself; whatever looks otherwise is
read.
"""

_FIELDS = (b'"content":"', b'"text":"')
_IDS = b'"token_ids":['
_LEAD, _END = b"data: ", b"\n\n"
_PLAIN = bytes(set(range(0x20, 0x7F)) - set(b'"\\'))


class Refrain:
    """How the events of a choice look with a text, and a token id where ``numbered``."""

    def __init__(self, index: int, came: tuple[bytes, ...], given: tuple[bytes, ...]) -> None:
        self.index = index
        self.numbered = len(came) > 2
        self._lead, self._rest = _LEAD + came[0], came[1] if self.numbered else came[1] + _END
        self._after = came[-1] + _END
        self._start = len(self._lead)
        self._given_lead, self._given_rest = _LEAD + given[0], given[1] + _END

    def sung(self, event: bytes) -> tuple[bytes, int] | None:
        """Give an event as the client gets it, and its text's length; None where it must be read."""
        if not event.startswith(self._lead):
            return None
        end = event.find(b'"', self._start)
        text = event[self._start : end]
        if not text or text.translate(None, _PLAIN):
            return None
        if self.numbered:
            at = end + len(self._rest)
            close = event.find(b"]", at)
            if not (
                event.startswith(self._rest, end)
                and event[at:close].isdigit()
                and event[close:] == self._after
            ):
                return None
        elif event[end:] != self._rest:
            return None
        return self._given_lead + text + self._given_rest, len(text)


def learnt(payload: bytes, given: bytes, index: int) -> Refrain | None:
    """Learn from a chunk of a choice that says one token, and from what the client gets of it."""
    came, out = _parted(payload), _parted(given)
    if came is None or out is None:
        return None
    lead, rest = came
    if _IDS not in rest:
        return Refrain(index, (lead, rest), out)
    before, _, behind = rest.partition(_IDS)
    digits, _, after = behind.partition(b"]")
    if not digits.isdigit() or _IDS in behind or _IDS in out[1]:
        return None  # the client wants the ids, or there is more than one
    return Refrain(index, (lead, before + _IDS, b"]" + after), out)


def _parted(payload: bytes) -> tuple[bytes, bytes] | None:
    """Give what stands before and behind the only text; None where that is not plain to see."""
    starts = [payload.index(field) + len(field) for field in _FIELDS if payload.count(field) == 1]
    end = payload.find(b'"', starts[0]) if len(starts) == 1 else -1
    if end < 0 or not (text := payload[starts[0] : end]) or text.translate(None, _PLAIN):
        return None
    return payload[: starts[0]], payload[end:]
