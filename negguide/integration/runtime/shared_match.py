"""Token matches that neighbouring modules of one forward share, by `match_every` of a `TokenMethod`."""

from collections.abc import Callable

from negguide.guidance import Match


class SharedMatches:
    """The matches of the module that searched last, for those that run behind it in the same forward.

    A module says by `begin_module` what tokens it has, and then asks for each of its matches, one or several, in an
    order that depends on nothing but the method. What is kept are tensors, and what decides are shapes and the order of
    the modules: nothing is read back from the device.

    Args:
        every: how many modules in a row share, the searching one counted, >= 1.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.forget()

    def forget(self) -> None:
        """The next module searches: another forward begins, with other rows, or the present one is over."""
        self._tokens: tuple[int, ...] = ()
        self._modules = 0
        self._asked = 0
        self._matches: list[Match] = []

    def begin_module(self, tokens: tuple[int, ...]) -> None:
        """A module pushes.

        Args:
            tokens: rows, image tokens and reference tokens; with others than those of the module before, matches do
                not carry over.
        """
        if self._modules == self.every or tokens != self._tokens:
            self.forget()
            self._tokens = tokens
        self._modules += 1
        self._asked = 0

    def match(self, search: Callable[[], Match]) -> Match:
        """The module's next match: the kept one, or what `search` finds."""
        if self._asked == len(self._matches):
            self._matches.append(search())
        self._asked += 1
        return self._matches[self._asked - 1]
