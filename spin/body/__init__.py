"""Bodies in SMPL's format: read safely, posed as a full mesh, or as the few points that fitting needs."""

from spin.body.choice import BodyChoice, choose_body, find_body
from spin.body.compact import CompactBody
from spin.body.mesh import BodyMesh, MeshOutput
from spin.body.model_file import BodyData, load_body

__all__ = ["BodyChoice", "BodyData", "BodyMesh", "CompactBody", "MeshOutput", "choose_body", "find_body", "load_body"]
