"""How many samples a run has read and skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pgseg_mm.datasets.sampling.sample_key import ReadRecord


class ReadCounts:
    """Samples that were read, and skipped by reason, for each source.

    Args:
        counts: As :meth:`to_dict` returns them.
    """

    def __init__(self, counts: dict[str, dict[str, Any]] | None = None) -> None:
        self.read: Counter[str] = Counter()
        self.skipped: dict[str, Counter[str]] = {}
        for source, entry in (counts or {}).items():
            self.add_read(source, entry['read'])
            self._add_skipped(source, entry['skipped'])

    def add_read(self, source: str, number: int = 1) -> None:
        """Count samples that were trained on."""
        self.read[source] += number

    def add_record(self, record: ReadRecord) -> None:
        """Count a sample that was trained on, and those that were skipped before it."""
        self.add_read(record.source)
        for source, reasons in record.skipped.items():
            self._add_skipped(source, reasons)

    def _add_skipped(self, source: str, reasons: dict[str, int]) -> None:
        self.skipped.setdefault(source, Counter()).update(reasons)

    @property
    def num_read(self) -> int:
        """Samples read, of all sources."""
        return sum(self.read.values())

    @property
    def num_skipped(self) -> int:
        """Samples skipped, of all sources and for all reasons."""
        return sum(sum(reasons.values()) for reasons in self.skipped.values())

    @property
    def share_skipped(self) -> float:
        """Share of the samples that were skipped; 0 if there were none."""
        return self.num_skipped / max(self.num_read + self.num_skipped, 1)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values for a checkpoint: ``{source: {'read': n, 'skipped': {reason: n}}}``."""
        sources = sorted({*self.read, *self.skipped})
        return {
            source: {
                'read': self.read[source],
                'skipped': dict(self.skipped.get(source, Counter()).most_common()),
            }
            for source in sources
        }

    @classmethod
    def total(cls, parts: Iterable[dict[str, dict[str, Any]]]) -> ReadCounts:
        """Sum of several, as :meth:`to_dict` returns them."""
        total = cls()
        for part in parts:
            for source, entry in cls(part).to_dict().items():
                total.add_read(source, entry['read'])
                total._add_skipped(source, entry['skipped'])
        return total

    def __str__(self) -> str:
        """One sentence, such as ``cc3m: 98 read, 2 skipped (broken image 2)``."""
        return '; '.join(self._describe(s, e) for s, e in self.to_dict().items()) or 'nothing read'

    def _describe(self, source: str, entry: dict[str, Any]) -> str:
        skipped = entry['skipped']
        reasons = ', '.join(f'{reason} {number}' for reason, number in skipped.items())
        text = f'{source}: {entry["read"]} read, {sum(skipped.values())} skipped'
        return text + (f' ({reasons})' if reasons else '')
