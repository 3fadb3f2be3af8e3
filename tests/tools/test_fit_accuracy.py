from __future__ import annotations

import pytest
import torch

from spin.fitting.fitter import FitConfig, Fitter
from tools.bench.fit_accuracy import DEFAULT_CLIPS, SETTINGS, held_out_people, measure

# What rough code had reached on these poses; the project's promise is to be no worse.
LIMITS_MM = {"coco17_2px": 72.0, "all_0px": 57.0}


@pytest.mark.skipif(not DEFAULT_CLIPS.exists(), reason="CMU's clips are not part of the project")
def test_static_fits_on_poses_that_the_prior_never_saw(compact, mesh, prior) -> None:
    fitter = Fitter(compact, prior, FitConfig())
    with torch.no_grad():
        people = held_out_people(DEFAULT_CLIPS, compact, 256)
        for name, setting in SETTINGS.items():
            found = measure(fitter, mesh, people, *setting)
            assert found["pa_mpjpe_mm"] < LIMITS_MM[name], name
            assert found["error_2d_px"] < 5
