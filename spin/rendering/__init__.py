"""Pictures of bodies, ray-cast on the CPU: masks, shaded renders, overlays on photographs, side views."""

from spin.rendering.overlay import PALETTE, overlay, side_view
from spin.rendering.raycast import Hits, Mesh, MeshError, Pinhole, Scene, Window, render_mask
from spin.rendering.shading import Light, Render, lambert, render, render_shaded, vertex_normals

__all__ = [
    "PALETTE",
    "Hits",
    "Light",
    "Mesh",
    "MeshError",
    "Pinhole",
    "Render",
    "Scene",
    "Window",
    "lambert",
    "overlay",
    "render",
    "render_mask",
    "render_shaded",
    "side_view",
    "vertex_normals",
]
