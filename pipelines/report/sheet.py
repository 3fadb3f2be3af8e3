"""Contact sheets: several pictures in one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import UInt8

_GAP_PX = 6


def contact_sheet(panels: list[UInt8[np.ndarray, "h w 3"]], columns: int) -> UInt8[np.ndarray, "H W 3"]:
    """Arrange panels row by row on white, each centred in a cell as large as the largest panel.

    Raise ValueError without panels.
    """
    if not panels or columns < 1:
        raise ValueError(f"contact sheet of {len(panels)} panels in {columns} columns; expected at least 1 of each")
    height, width = (max(p.shape[axis] for p in panels) for axis in (0, 1))
    rows = -(-len(panels) // columns)
    step_y, step_x = height + _GAP_PX, width + _GAP_PX
    sheet = np.full((rows * step_y - _GAP_PX, columns * step_x - _GAP_PX, 3), 255, np.uint8)
    for i, panel in enumerate(panels):
        top = i // columns * step_y + (height - panel.shape[0]) // 2
        left = i % columns * step_x + (width - panel.shape[1]) // 2
        sheet[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
    return sheet
