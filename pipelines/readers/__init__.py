"""One module a data set: what is known of each person in it, in spin-pipe's terms.

A reader has `ABOUT` (a line), `TREE` (the folders it expects) and `read(root, options) -> Iterator[Person | Refused]`. Adding
a data set means writing such a module and naming it in READERS.
"""

from __future__ import annotations

from types import ModuleType

from pipelines.readers import coco

READERS: dict[str, ModuleType] = {"coco": coco}
