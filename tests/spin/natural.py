"""Pictures with the spectrum of photographs."""

from __future__ import annotations

import numpy as np


def natural_image(height: int, width: int, *, seed: int, contrast: float = 25.0) -> np.ndarray:
    """RGB noise (height, width, 3) whose amplitude falls as 1/f, as photographs' does.

    Noise has no smooth areas: with this contrast a JPEG takes 3.5 bits a pixel, as much as the busiest photographs.
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf

    def channel() -> np.ndarray:
        spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency
        values = np.fft.irfft2(spectrum, (height, width))
        return contrast * values / values.std()

    light, red, blue = channel(), channel() / 4, channel() / 4
    rgb = np.stack([light + red, light - red / 2 - blue / 2, light + blue], -1) + 118
    return np.clip(np.round(rgb), 0, 255).astype(np.uint8)
