"""The command that estimates the bodies in a photograph."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import click
import numpy as np

from pipelines.commands.common import DATA, data_folder
from pipelines.demo.bodies import BodyEstimator, DemoRequest, requests_in_folder, run_demo
from pipelines.demo.output import from_the_side, meshes, over_the_image, parameters, write_picture
from pipelines.errors import EXPECTED, StageError, UsageError
from pipelines.folders import DataFolder, crop_line, which_body
from pipelines.progress import progress, say
from spin.fitting.verdicts import DOUBTFUL_MM
from spin.published_crop import CROP_RULES
from spin.rendering.gltf import check_ending
from store.files.atomic import write_file

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--img",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="An image, or a folder of images.",
)
@click.option("--checkpoint", type=_FILE, help="A network: a checkpoint of ours or of SPIN.")
@click.option("--fit", is_flag=True, help="Fit the detections; with --checkpoint, from the network's prediction.")
@click.option("--bbox", type=_FILE, help='The person\'s box: JSON, {"bbox": [x, y, width, height]} in px.')
@click.option(
    "--openpose", type=click.Path(path_type=Path),
    help="OpenPose's detections in the image (BODY_25); of a folder of images, their folder.",
)  # fmt: skip
@click.option(
    "--person", default="largest", show_default=True, metavar="largest|all|K",
    help="Which of the detections; K counts from 1.",
)  # fmt: skip
@click.option(
    "--outfile",
    help="What output names begin with; of a folder of images, the folder to write to. Default: the image's name, next to it.",
)
@click.option(
    "--save-params", is_flag=False, flag_value="", default=None, metavar="[FILE]",
    help="Also write pose, betas and cameras. Default name: OUTFILE_params.npz",
)  # fmt: skip
@click.option(
    "--save-mesh", is_flag=False, flag_value="", default=None, metavar="[FILE.glb|.obj]",
    help="Also write the bodies as meshes. Default name: OUTFILE.glb",
)  # fmt: skip
@click.option(
    "--focal", type=click.FloatRange(min=1),
    help="Focal length of the photograph, px, for the full-image camera of --save-params. Default: its diagonal.",
)  # fmt: skip
@click.option(
    "--crop", type=click.Choice(CROP_RULES),
    help="How a network's input is cut. Default: as its training did: published for SPIN's checkpoints, else plain.",
)  # fmt: skip
@DATA
def demo(
    img: Path, checkpoint: Path | None, fit: bool, bbox: Path | None, openpose: Path | None, person: str, outfile: str | None,
    save_params: str | None, save_mesh: str | None, focal: float | None, crop: str | None, data: Path,
) -> None:  # fmt: skip
    """Estimate the bodies of the people in a photograph: over the image (_shape.png) and from the side (_shape_side.png).

    The person is the whole image, or in a --bbox, or one of the --openpose detections.

    \b
    Examples:
      spin-pipe demo --img person.png --checkpoint model_checkpoint.pt
      spin-pipe demo --img photo.jpg --bbox photo_bbox.json --checkpoint model_checkpoint.pt
      spin-pipe demo --img photo.jpg --openpose photo_keypoints.json --fit --person all
      spin-pipe demo --img photos --openpose detections --fit --outfile bodies --save-params
    """
    if checkpoint is None and not fit:
        raise UsageError(
            "no way to find a body: give a network (--checkpoint FILE), or detections to fit (--openpose FILE --fit), or both"
        )
    if bbox is not None and openpose is not None:
        raise UsageError("--bbox and --openpose: give one of them; a person's box comes from its detection")
    if fit and openpose is None:
        raise UsageError("--fit needs detections: give --openpose FILE")
    if crop is not None and checkpoint is None:
        raise UsageError(f"--crop {crop}: for a network's input; give --checkpoint FILE with it")
    if focal is not None and save_params is None:
        raise UsageError("--focal is for the camera that --save-params writes: give that, too")
    if person != "largest" and openpose is None:
        raise UsageError(f"--person {person} chooses among detections: give --openpose FILE")
    folder = data_folder(data)
    if not img.is_dir():
        for path in (bbox, openpose):
            if path is not None and not path.is_file():
                raise UsageError(f"{path}: no such file")
        estimator = _estimator(folder, checkpoint, fit, crop)
        where = outfile or str(img.with_suffix(""))
        for line in _one(estimator, DemoRequest(img, bbox, openpose, person), where, save_params, save_mesh, focal):
            say(line)
        return
    if bbox is not None:
        raise UsageError("--bbox: one box for a folder of images; give --openpose FOLDER, or one image")
    if save_params:
        raise UsageError(f"--save-params {save_params}: one file for a folder of images; leave the name out")
    images = list(requests_in_folder(img, openpose, person))
    estimator = _estimator(folder, checkpoint, fit, crop)
    target, rejected = Path(outfile) if outfile else img, []
    with progress(len(images), "demo", "img") as bar:
        for request in images:
            try:
                for line in _one(estimator, request, str(target / request.image.stem), save_params, save_mesh, focal):
                    if line.startswith("rejected"):
                        say(f"{request.image.name}: {line}")
            except EXPECTED as error:
                rejected.append(str(error))
                say(f"rejected: {error}")
            bar.update()
    say(f"{target}: pictures of {len(images) - len(rejected)} images")
    if rejected:
        raise StageError(f"{len(rejected)} of {len(images)} images rejected; see the reasons above")


def _estimator(folder: DataFolder, checkpoint: Path | None, fit: bool, crop: str | None) -> BodyEstimator:
    """Return the estimator, and say which body and which crop it uses."""
    say(which_body(folder))
    estimator = BodyEstimator(folder, checkpoint, fit, crop)
    if checkpoint is not None:
        say(crop_line(folder, estimator.crop, published=estimator.published))
    return estimator


def _one(
    estimator: BodyEstimator,
    request: DemoRequest,
    outfile: str,
    save_params: str | None,
    save_mesh: str | None,
    focal: float | None,
) -> list[str]:
    """Estimate the bodies in one image and write the outputs; return the lines to print."""
    mesh = None if save_mesh is None else Path(save_mesh or f"{outfile}.glb")
    if mesh is not None:
        check_ending(mesh)
    result = run_demo(estimator, request)
    bodies, faces = result.bodies, estimator.mesh.faces
    shape, side = Path(f"{outfile}_shape.png"), Path(f"{outfile}_shape_side.png")
    write_picture(shape, over_the_image(result.image, bodies, faces))
    write_picture(side, from_the_side(bodies, faces))
    lines = [f"rejected: {reason}" for reason in result.rejected]
    lines += [
        f"person {body.person.number}: {'doubtful' if body.doubtful else body.verdict}, expected error "
        f"{body.expected_error_mm:.0f} mm{f' (above {DOUBTFUL_MM:g} mm)' if body.doubtful else ''}, "
        f"reprojection loss {body.loss_px2:.1f} px²"
        for body in bodies
        if body.verdict
    ]
    lines += [f"  over the image: {shape}", f"  from the side:  {side}"]
    if save_params is not None:
        path = Path(save_params or f"{outfile}_params.npz")
        content = io.BytesIO()
        arrays: dict[str, Any] = parameters(bodies, result.image.shape[1::-1], focal)
        np.savez(content, **arrays)
        write_file(path, content.getvalue())
        lines.append(f"  parameters:     {path}")
    if mesh is not None:
        write_file(mesh, meshes(estimator.body, bodies, mesh.suffix.lower(), result.image.shape[1::-1]))
        lines.append(f"  meshes:         {mesh}")
    return lines
