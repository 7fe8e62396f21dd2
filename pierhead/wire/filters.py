"""The API's ``filters`` parameter, and how its values are matched."""

import json
import re
from collections.abc import Iterator, Mapping

from pierhead.errors import InvalidParameter
from pierhead.wire.time import moment

_TRUE = frozenset({"1", "true"})
_FALSE = frozenset({"0", "false"})


class Filters(Mapping[str, tuple[str, ...]]):
    """Key → values. An absent key filters nothing: every ``matches…`` is then true."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self._values = dict(values or {})

    def __getitem__(self, key: str) -> tuple[str, ...]:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Filters({self._values!r})"

    def values_of(self, key: str) -> tuple[str, ...]:
        """The values of a key, () without it."""
        return self._values.get(key, ())

    def also(self, key: str, value: str) -> "Filters":
        """These, and one more value of a key."""
        return Filters({**self._values, key: (*self.values_of(key), value)})

    def validate(self, accepted: frozenset[str] | set[str]) -> None:
        """Raise Docker's error for the first key that this call does not know."""
        for key in self._values:
            if key not in accepted:
                raise InvalidParameter(f"invalid filter '{key}'")

    def flag(self, key: str, default: bool = False) -> bool:
        """The value of a key that holds one truth value ("1", "true", "0", "false"). Raises InvalidParameter."""
        values = self._values.get(key)
        if not values:
            return default
        if len(values) == 1 and values[0] in _TRUE:
            return True
        if len(values) == 1 and values[0] in _FALSE:
            return False
        raise InvalidParameter(f"invalid filter '{key}=[{' '.join(values)}]'")

    def moments(self, key: str) -> tuple[int, ...]:
        """The values of a key as ns since the epoch. Raises InvalidParameter."""
        return tuple(map(moment, self.values_of(key)))

    def until(self) -> int | None:
        """The moment that a prune may name: what is younger stays. None: all of it goes. Raises InvalidParameter."""
        if len(self.values_of("until")) > 1:
            raise InvalidParameter("more than one until filter specified")
        return next(iter(self.moments("until")), None)

    def matches_exact(self, key: str, source: str) -> bool:
        """One of the values is ``source``."""
        values = self._values.get(key)
        return not values or source in values

    def matches_prefix(self, key: str, source: str) -> bool:
        """``source`` begins with one of the values (ids)."""
        values = self._values.get(key)
        return not values or any(source.startswith(value) for value in values)

    def matches(self, key: str, source: str) -> bool:
        """One of the values is ``source`` or, as a regular expression, is found in it (names)."""
        values = self._values.get(key)
        if not values:
            return True
        return source in values or any(_search(value, source) for value in values)

    def matches_labels(self, key: str, labels: Mapping[str, str] | None) -> bool:
        """Every value ("name" or "name=value") is one of the labels."""
        for value in self._values.get(key, ()):
            name, equals, wanted = value.partition("=")
            if labels is None or name not in labels or (equals and labels[name] != wanted):
                return False
        return True


def _search(pattern: str, source: str) -> bool:
    try:
        return re.search(pattern, source) is not None
    except re.error:
        return False


def parse(text: str | None) -> Filters:
    """Both forms: {"key": {"value": true}} and the older {"key": ["value"]}. Raises InvalidParameter."""
    if not text:
        return Filters()
    try:
        decoded = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidParameter("invalid filter") from None
    if decoded is None:
        return Filters()
    if not isinstance(decoded, dict):
        raise InvalidParameter("invalid filter")
    result: dict[str, tuple[str, ...]] = {}
    for key, values in decoded.items():
        if isinstance(values, dict) and all(isinstance(value, bool) for value in values.values()):
            result[key] = tuple(values)
        elif isinstance(values, list) and all(isinstance(value, str) for value in values):
            result[key] = tuple(dict.fromkeys(values))
        elif values is None:
            result[key] = ()
        else:
            raise InvalidParameter("invalid filter")
    if len({type(values) for values in decoded.values() if values is not None}) > 1:
        raise InvalidParameter("invalid filter")
    return Filters(result)


def encode(filters: Mapping[str, tuple[str, ...] | list[str]]) -> str:
    """What a client sends: {"key": {"value": true}}."""
    return json.dumps({key: dict.fromkeys(values, True) for key, values in filters.items()}, separators=(",", ":"))
