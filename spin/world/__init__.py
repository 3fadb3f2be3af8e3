"""A world in which everything is known: people drawn for tests, and to tie a network to the truth."""

from spin.world.detector import Detection, detect
from spin.world.rig import Viewpoint, ring
from spin.world.scene import Picture, World, WorldPerson

__all__ = ["Detection", "Picture", "Viewpoint", "World", "WorldPerson", "detect", "ring"]
