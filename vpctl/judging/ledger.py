"""The output of annotate: it knows which judgements are done, and takes new ones."""

from collections.abc import Container, Mapping
from typing import cast

from ..records import Judgement, judgement_key
from ..streams.writing import Out
from .preferences import tied_pairs


class OutputLedger(Out):
    """A file of judgements, or standard output. See `Out` for the file, and `Ledger` for the judgements.

    Judgements that have a key of `again`, such as ``failed``, are made again; with `refresh`, all are. With `ties`, the
    pairs of pictures with equal scores are remembered for every judgement in the file; with `late`, also for those that
    are written, because calls are planned after them.
    """

    def __init__(
        self,
        target: str,
        *,
        again: Container[str] = (),
        refresh: bool = False,
        ties: bool = False,
        late: bool = False,
        optional: bool = False,
    ) -> None:
        self._again, self._refresh, self._wants_ties, self._late = again, refresh, ties, late
        self._ties: dict[str, list[tuple[str, str]]] = {}
        super().__init__(target, Judgement, self._key, optional=optional)

    def _key(self, judgement: Judgement) -> str:
        """The key of a judgement. It is empty if this run judges the pictures again."""
        if self._refresh or any(name in self._again for name in judgement):
            return ""
        key = judgement_key(judgement)
        if self._wants_ties and judgement.get("mode", "list") == "list" and (ties := tied_pairs(judgement)):
            self._ties[key] = ties
        return key

    def write(self, *records: Mapping[str, object]) -> None:
        """Append records in one write. See `Out.write`."""
        super().write(*records)
        if self._late:
            for record in records:
                self._key(cast(Judgement, record))

    def ties(self, key: str) -> list[tuple[str, str]]:
        """The pairs of pictures, by their ids, that have the same score in the judgement with this key."""
        return self._ties.get(key, [])
