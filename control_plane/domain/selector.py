"""Which devices: ``site=berlin,gpu!=none,env in (a,b)``.

Terms are parted by commas and all must hold. A term is ``key=value``, ``key!=value``, ``key in (a,b)``,
``key notin (a,b)``, ``key`` (it has one) or ``!key`` (it has none). Keys are labels, and ``id``, ``name``, ``os``,
``arch``, ``gpu`` (``none`` where there is none) and ``target``. ``!=`` and ``notin`` hold, too, where the key is
missing. The empty selector matches every device.

>>> Selector.parse("site=berlin, env in (a,b)").matches({"site": {"berlin"}, "env": {"b"}})
True
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping

from maskfleet.errors import BadSelectorError

MAX_LENGTH = 4096
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_TERM = re.compile(
    rf"\s*(?:(?P<lone>!?)\s*(?P<key>{_WORD})\s*"
    rf"(?:(?P<op>!=|==?)\s*(?P<value>{_WORD})|\s(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*(?P<end>,|$)"
)


@dataclasses.dataclass(frozen=True)
class Term:
    """One condition: the key has one of the values (any, where there are none), or, negated, has none of them."""

    key: str
    values: frozenset[str]
    negated: bool

    def matches(self, attributes: Mapping[str, Collection[str]]) -> bool:
        found = attributes.get(self.key, ())
        hit = any(value in self.values for value in found) if self.values else bool(found)
        return hit is not self.negated


@dataclasses.dataclass(frozen=True)
class Selector:
    """Conditions that all must hold."""

    terms: tuple[Term, ...]

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Reads a selector.

        Raises:
            BadSelectorError: it is none; the message quotes the place.
        """
        remedy = 'write terms parted by commas, as "site=berlin,gpu!=none,env in (a,b)"'
        if len(text) > MAX_LENGTH:
            raise BadSelectorError(f"the selector has {len(text)} characters", remedy=f"use at most {MAX_LENGTH}")
        if not text.strip():
            return cls(())
        terms: list[Term] = []
        position, ended = 0, False
        while not ended:
            match = _TERM.match(text, position)
            if match is None or (match["lone"] and (match["op"] or match["set"])):
                raise BadSelectorError(
                    f"the selector cannot be read from {text[position:].strip()!r} on", remedy=remedy
                )
            values = _values(match["values"]) if match["set"] else frozenset({match["value"]} - {None})
            if match["set"] and not values:
                raise BadSelectorError(f"{match['key']} {match['set']} () names no values", remedy=remedy)
            terms.append(
                Term(match["key"], values, match["lone"] == "!" or match["op"] == "!=" or match["set"] == "notin")
            )
            position, ended = match.end(), match["end"] == ""
        return cls(tuple(terms))

    def matches(self, attributes: Mapping[str, Collection[str]]) -> bool:
        """Whether all terms hold.

        Args:
            attributes: values by key, as of :meth:`control_plane.domain.device.Device.attributes`.
        """
        return all(term.matches(attributes) for term in self.terms)


def _values(text: str) -> frozenset[str]:
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not re.fullmatch(_WORD, word):
            raise BadSelectorError(f"{word!r} in a selector is no value", remedy="use letters, digits, '.', '_', '-'")
    return frozenset(words)
