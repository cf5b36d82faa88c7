"""Any datasets of texts in a row, one for each task, as token ids; CSV or Parquet files.

``dataset`` must be given, as a list of folders below ``root``.
"""

from __future__ import annotations

from clray.streams.text_sets import TextSets


class Config(TextSets):
    """The knobs, with this benchmark's defaults."""
