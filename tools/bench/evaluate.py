"""How fast bodies are measured, against the published way in the same run. Prints one JSON line.

    python -m tools.bench.evaluate [--images 48] [--runs 3] [--backbone resnet50]

procrustes_ratio: aligned samples a second, against the published loop over samples (numpy's SVD, one at a time).
eval_ratio: images a second of an evaluation on 3DPW-like data (photographs of 1920 × 1080, bodies of SMPL's 6,890 vertices),
against the published way with the same backbone and batch: everything decoded by cv2, a float32 copy, the padded box resized by
Pillow; the trained network; the neutral, male and female mesh of every true body; the loop over samples.
eval_ratio_1000 is the same of 1000 × 1000 px, Human3.6M's. Both ways do the same on one core: figures are CPU time, in turns,
and medians. `network_share` is what the network takes of the published way's time, `eval_ratio_besides` the ratio of all the
rest: what decides on a GPU, where the network takes next to nothing.
mask_part_images_per_s: masks and parts of LSP-sized images, ray-cast, enlarged and counted, one core; of the open body's 2,454
faces, and `_39264_faces` of it subdivided (SMPL has 13,776).
demo_s: the demo on a photograph of 1920 × 1080 px, once it has started: the network read and run, one body, both pictures, in
seconds on all cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from pipelines.cluster.session import cpu_count
from pipelines.demo.bodies import BodyEstimator, DemoRequest, run_demo
from pipelines.demo.output import from_the_side, over_the_image, write_picture
from pipelines.evaluation.bodies import NetworkBodies
from pipelines.evaluation.measure import Measurer
from pipelines.evaluation.truth import Truth
from pipelines.folders import DataFolder
from spin.body import BodyData, BodyMesh, load_body
from spin.camera import CROP_PX, FOCAL_PX, weak_to_translation
from spin.evaluation.body_parts import PARTS, SkinnedParts
from spin.evaluation.procrustes import align
from spin.evaluation.protocols import PROTOCOLS
from spin.evaluation.segmentation import count_pixels
from spin.evaluation.silhouettes import silhouette, to_image
from spin.fitting.prior import load_pose_prior
from spin.joints import H36M_TO_J14
from spin.network.checkpoints import Checkpoint, save_checkpoint
from spin.network.hmr import HMR, MeanParameters
from store.annotations.table import Annotations
from tools.bench import data
from tools.bench.fit import with_vertices_of_smpl

BATCH = 32
SIZES = {"1920": (1080, 1920), "1000": (1000, 1000)}
PROCRUSTES_SAMPLES = 4096
LSP_SIZE = (180, 140)
LSP_IMAGES = 60


def repeat(work: Callable[[], object], times: int) -> None:
    for _ in range(times):
        work()


def cpu_seconds(works: list[Callable[[], object]], runs: int) -> list[float]:
    """Median CPU seconds of each, of all threads, in turns; a first turn doesn't count."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(runs + 1):
        for work, measured in zip(works, times):
            begin = time.process_time()
            work()
            if turn:
                measured.append(time.process_time() - begin)
    return [statistics.median(measured) for measured in times]


# ---- the published way --------------------------------------------------------------------------------------------------


def aligned_by_loop(predicted_m: np.ndarray, true_m: np.ndarray) -> np.ndarray:
    """Each sample moved by its best similarity, one after the other."""
    out = np.zeros_like(predicted_m)
    for i, (p, t) in enumerate(zip(predicted_m, true_m)):
        from_centre, to_centre = p.mean(0, keepdims=True), t.mean(0, keepdims=True)
        a, b = p - from_centre, t - to_centre
        covariance = a.T @ b
        u, _, vt = np.linalg.svd(covariance)
        sign = np.eye(3)
        sign[2, 2] = np.sign(np.linalg.det(u @ vt))
        rotation = vt.T @ sign @ u.T
        scale = np.trace(rotation @ covariance) / np.sum(a**2)
        out[i] = scale * p @ rotation.T + (to_centre - scale * from_centre @ rotation.T)
    return out


class PublishedEvaluation:
    """SPIN's evaluation of 3DPW, by its operations."""

    def __init__(self, annotations: Annotations, network: HMR, body: BodyData) -> None:
        self.annotations, self.network = annotations, network.eval()
        self.neutral, self.male, self.female = (BodyMesh(body).smpl for _ in range(3))
        self.regressor = torch.from_numpy(body.h36m_regressor).float()

    def load(self, rows: np.ndarray) -> torch.Tensor:
        a, still = self.annotations, np.ones(3)
        return torch.stack(
            [data.published_sample(a.image_path(i), a.center_px[i], float(a.scale[i]), 0.0, False, still) for i in rows]
        )

    @torch.no_grad()
    def __call__(
        self, rows: np.ndarray, load: Callable[[np.ndarray], torch.Tensor] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """MPJPE and PA-MPJPE of the rows, mm. `load`: crops from elsewhere."""
        errors = np.zeros((2, len(rows)))
        for begin in range(0, len(rows), BATCH):
            batch = rows[begin : begin + BATCH]
            images = (load or self.load)(batch)
            turned = _rotations(self.annotations.pose[batch])
            betas = torch.from_numpy(self.annotations.betas[batch])
            true = [
                mesh(betas=betas, global_orient=turned[:, :1], body_pose=turned[:, 1:]).vertices
                for mesh in (self.neutral, self.male, self.female)
            ]
            women = torch.tensor([self.annotations.gender[i] == "female" for i in batch])
            true[1][women] = true[2][women]
            seen = self.network(images)
            mesh = self.neutral(betas=seen.betas, global_orient=seen.rotations[:, :1], body_pose=seen.rotations[:, 1:])
            regressor = self.regressor.expand(len(batch), -1, -1)
            j, t = (torch.matmul(regressor, vertices) for vertices in (mesh.vertices, true[1]))
            j, t = ((x[:, list(H36M_TO_J14)] - x[:, [0]]) for x in (j, t))
            errors[0, begin : begin + len(batch)] = (j - t).norm(dim=-1).mean(-1).numpy()
            away = aligned_by_loop(j.numpy(), t.numpy()) - t.numpy()
            errors[1, begin : begin + len(batch)] = np.sqrt((away**2).sum(-1)).mean(-1)
        return 1000 * errors[0], 1000 * errors[1]


def _rotations(pose_aa: np.ndarray) -> torch.Tensor:
    from spin.rotations import axis_angle_to_matrix

    return axis_angle_to_matrix(torch.from_numpy(pose_aa).view(-1, 24, 3))


# ---- what is measured ---------------------------------------------------------------------------------------------------


def procrustes(runs: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    true = rng.standard_normal((PROCRUSTES_SAMPLES, 14, 3)) * [0.2, 0.5, 0.15]
    predicted = true + 0.05 * rng.standard_normal(true.shape)
    ours = lambda: align(torch.from_numpy(predicted), torch.from_numpy(true))  # noqa: E731
    assert np.abs(ours().numpy() - aligned_by_loop(predicted, true)).max() < 1e-10  # type: ignore[no-untyped-call]
    theirs_s, ours_s = cpu_seconds([lambda: aligned_by_loop(predicted, true), ours], runs)
    return {"procrustes_ratio": theirs_s / ours_s, "procrustes_per_s": PROCRUSTES_SAMPLES / ours_s}


def with_bodies(annotations: Annotations) -> Annotations:
    """Poses of the prior, men and women in turn."""
    count = len(annotations)
    pose = np.zeros((count, 72), np.float32)
    pose[:, 3:], pose[:, 0] = load_pose_prior().mean_pose(), np.pi
    rng = np.random.default_rng(0)
    return replace(
        annotations,
        has_smpl=np.ones(count, bool),
        pose=pose + rng.normal(0, 0.1, (count, 72)).astype(np.float32),
        betas=rng.standard_normal((count, 10)).astype(np.float32),
        gender=[("female", "male")[i % 2] for i in range(count)],
    )


def evaluation(folder: Path, name: str, images: int, runs: int, backbone: str) -> dict[str, float]:
    """Both ways on one size of images; and the network alone."""
    data.SIZES[name] = SIZES[name]
    annotations = with_bodies(data.scenes(folder, name, images).annotations)
    torch.manual_seed(0)
    network = HMR(backbone, mean=MeanParameters.from_body_pose(torch.zeros(69))).eval()
    body = with_vertices_of_smpl(load_body())
    published = PublishedEvaluation(annotations, network, body)
    cpu, mesh = torch.device("cpu"), BodyMesh(body)
    source = NetworkBodies(network, CROP_PX, annotations, cpu, 1)
    truth = Truth(annotations, {"female": mesh, "male": mesh}, cpu)
    ours = Measurer(source, truth, mesh, SkinnedParts(load_body()), PROTOCOLS["3dpw"])
    rows = np.arange(images)
    batches = [rows[i : i + BATCH] for i in range(0, images, BATCH)]
    crops = torch.randn(images, 3, CROP_PX, CROP_PX)

    @torch.no_grad()
    def alone(predict: HMR, layout: torch.memory_format) -> None:
        for batch in crops.split(BATCH):
            predict(batch.contiguous(memory_format=layout))

    # Both measure the same if they see the same; the published crop is of whole pixels.
    ours_of = lambda batch: torch.from_numpy(np.stack([source._crop(row) for row in batch]))  # noqa: E731
    errors = ours.measure(batches).scores.pose
    assert errors is not None
    for theirs, mine in zip(published(rows, ours_of), (errors.mpjpe_mm, errors.pa_mpjpe_mm)):
        assert np.abs(theirs - mine).max() < 0.05, (theirs, mine)
    works: list[Callable[[], object]] = [
        lambda: published(rows),
        lambda: ours.measure(batches),
        lambda: alone(network, torch.contiguous_format),
        lambda: alone(source.network, torch.channels_last),
    ]
    theirs_s, ours_s, their_network_s, our_network_s = cpu_seconds(works, runs)
    besides = (theirs_s - their_network_s) / max(ours_s - our_network_s, 1e-9)
    return {
        f"eval_ratio_{name}": theirs_s / ours_s,
        f"eval_ratio_besides_{name}": besides,
        f"network_share_{name}": their_network_s / theirs_s,
        f"eval_images_per_s_{name}": images / ours_s,
        f"published_images_per_s_{name}": images / theirs_s,
    }


def subdivided(vertices: np.ndarray, faces: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Four faces for one; new vertices belong to the part of one of their edge's ends."""
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1)
    unique, place = np.unique(edges, axis=0, return_inverse=True)
    middle = len(vertices) + place.reshape(-1, 3)
    a, b, c = faces.T
    ab, bc, ca = middle.T
    more = np.concatenate([np.stack(f, 1) for f in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return (
        np.concatenate([vertices, vertices[unique].mean(1)]),
        more,
        np.concatenate([parts, parts[unique[:, 0]]]),
    )


class CornerParts:
    """The part of the nearest corner."""

    source = "benchmark"

    def __init__(self, of_corner: np.ndarray) -> None:
        self.of_corner = of_corner

    def labels(self, face: np.ndarray, barycentric: np.ndarray) -> np.ndarray:
        return self.of_corner[face, barycentric.argmax(1)]


def masks(runs: int) -> dict[str, float]:
    body = load_body()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        pose = torch.zeros(1, 72)
        pose[:, 3:], pose[:, 0] = torch.from_numpy(load_pose_prior().mean_pose()), torch.pi
        vertices = BodyMesh(body)(pose, torch.zeros(1, 10)).vertices_m[0].numpy()
    shift = weak_to_translation(torch.tensor([[0.8, 0.0, 0.2]])).numpy()
    vertices, faces, parts = vertices + shift, np.asarray(body.faces), 1 + body.vertex_part
    out = {}
    truths = [cv2.imencode(".png", rng.integers(0, 7, LSP_SIZE).astype(np.uint8))[1] for _ in range(2)]
    for _ in range(3):
        lookup = CornerParts(parts[faces].astype(np.uint8))

        def one(v: np.ndarray = vertices, f: np.ndarray = faces, lookup: CornerParts = lookup) -> None:
            seen = silhouette(v, f, lookup, focal_px=FOCAL_PX, principal_px=(CROP_PX / 2, CROP_PX / 2))
            for crop, png, classes in zip((seen.mask, seen.part), truths, (2, 1 + len(PARTS))):
                true = cv2.imdecode(png, cv2.IMREAD_GRAYSCALE)
                assert true is not None
                true = (true > 0).astype(np.uint8) if classes == 2 else true
                count_pixels(to_image(crop, np.array([70.0, 90.0]), 0.9, true.shape), true, classes)

        (seconds,) = cpu_seconds([partial(repeat, one, LSP_IMAGES)], runs)
        suffix = "" if len(faces) == len(body.faces) else f"_{len(faces)}_faces"
        out[f"mask_part_images_per_s{suffix}"] = LSP_IMAGES / seconds
        vertices, faces, parts = subdivided(vertices, faces, parts)
    return out


def demo(folder: Path, backbone: str) -> dict[str, float]:
    """The demo with an untrained network of this size."""
    checkpoint, photograph = folder / "network.pt", folder / "photograph.jpg"
    mean = MeanParameters.from_body_pose(torch.zeros(69))
    save_checkpoint(checkpoint, Checkpoint(HMR(backbone, mean=mean).state_dict()))
    noise = np.random.default_rng(0).integers(0, 255, (108, 192, 3), np.uint8)
    cv2.imwrite(str(photograph), cv2.resize(noise, (1920, 1080), interpolation=cv2.INTER_CUBIC))
    threads = torch.get_num_threads()
    torch.set_num_threads(cpu_count())
    begin = time.perf_counter()
    estimator = BodyEstimator(DataFolder(folder), checkpoint, fit=False)
    result = run_demo(estimator, DemoRequest(photograph))
    write_picture(folder / "shape.png", over_the_image(result.image, result.bodies, estimator.mesh.faces))
    write_picture(folder / "side.png", from_the_side(result.bodies, estimator.mesh.faces))
    seconds = time.perf_counter() - begin
    torch.set_num_threads(threads)
    return {"demo_s": seconds}


def measure(images: int, runs: int, backbone: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        found = procrustes(runs) | masks(runs) | demo(Path(folder), backbone)
        for name in SIZES:
            found |= evaluation(Path(folder), name, images, runs, backbone)
        return found | {"eval_ratio": found["eval_ratio_1920"]}


def main() -> None:
    """Command line: see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="of each size")
    parser.add_argument("--runs", type=int, default=3, help="of which the median counts")
    parser.add_argument("--backbone", default="resnet50")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    found = measure(arguments.images, arguments.runs, arguments.backbone)
    print(json.dumps({"backbone": arguments.backbone, **{name: round(v, 3) for name, v in found.items()}}))


if __name__ == "__main__":
    main()
