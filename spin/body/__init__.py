"""Bodies in SMPL's format: read safely, posed as a full mesh, or as the few points that fitting needs."""

from spin.body.compact import CompactBody
from spin.body.mesh import BodyMesh, MeshOutput
from spin.body.model_file import BodyData, find_body, load_body

__all__ = ["BodyData", "BodyMesh", "CompactBody", "MeshOutput", "find_body", "load_body"]
