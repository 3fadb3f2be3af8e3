"""Pictures of a training for TensorBoard: of a few people the photograph, the prediction, the fit, each also from the side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines import panels
from spin.camera import CROP_PX, FOCAL_PX, weak_to_translation
from spin.rotations import matrix_to_axis_angle
from store.fits.records import Fits, Source

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

    from pipelines.fits.client import FitsClient
    from pipelines.training.loading import TrainingData
    from spin.body import BodyMesh
    from spin.network.hmr import HMR

PEOPLE = 4
_ZOOM = panels.PANEL_PX / (CROP_PX * panels.SURROUNDINGS)
# The camera that the network's weak perspective means, in a panel.
_PUBLISHED = panels.PanelCamera(FOCAL_PX * _ZOOM, (panels.PANEL_PX / 2, panels.PANEL_PX / 2))


@dataclass(frozen=True)
class Pictures:
    """Draws the same few people every time, so that one sees what training does to them."""

    data: TrainingData
    mesh: BodyMesh
    samples: list[int]

    @classmethod
    def of(cls, data: TrainingData, mesh: BodyMesh) -> Pictures:
        """People spread over all data sets."""
        return cls(data, mesh, np.linspace(0, len(data) - 1, min(PEOPLE, len(data))).round().astype(int).tolist())

    def draw(self, network: HMR, fits: FitsClient, device: torch.device) -> UInt8[np.ndarray, "h w 3"]:
        """A row of panels for each person. The network is left as it was."""
        samples = np.array(self.samples)
        known = fits.look_up(self.data.dataset[samples], self.data.row[samples]).wait()
        said = self._predictions(network, device)
        from_network, from_store = (panels.pose_vertices(self.mesh, bodies) for bodies in (said, known))
        rows = [
            self._person(sample, from_network[i], from_store[i] if known.source[i] != Source.NONE else None)
            for i, sample in enumerate(self.samples)
        ]
        return np.concatenate(rows)

    def _person(
        self, sample: int, network_m: Float[np.ndarray, "V 3"], fit_m: Float[np.ndarray, "V 3"] | None
    ) -> UInt8[np.ndarray, "P w 3"]:
        annotations, row = self.data.sets[self.data.dataset[sample]], int(self.data.row[sample])
        photograph, camera = panels.cut_photograph(annotations, row), panels.panel_camera(annotations, row)
        faces = self.mesh.faces
        shown = [
            panels.with_keypoints(photograph, annotations, row),
            panels.with_fit(photograph, network_m, faces, _PUBLISHED, panels.BEFORE),
            panels.from_the_side(network_m, faces, _PUBLISHED),
        ]
        if fit_m is None:
            return np.concatenate([*shown, *[panels.grey_panel("no fit yet")] * 2], axis=1)
        fit = panels.with_fit(photograph, fit_m, faces, camera), panels.from_the_side(fit_m, faces, camera)
        return np.concatenate([*shown, *fit], axis=1)

    def _predictions(self, network: HMR, device: torch.device) -> Fits:
        """Of the crops as they are, not augmented; as fits, so that they are posed alike."""
        images = torch.from_numpy(np.stack([self.data.crop(sample) for sample in self.samples]))
        training = network.training
        network.eval()
        with torch.no_grad():
            said = network(images.to(device))
        network.train(training)
        return replace(
            Fits.empty(len(images)),
            pose=matrix_to_axis_angle(said.rotations).flatten(1).cpu().numpy(),
            betas=said.betas.cpu().numpy(),
            camera=weak_to_translation(said.weak_camera).cpu().numpy(),
        )
