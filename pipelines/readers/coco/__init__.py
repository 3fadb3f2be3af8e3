"""COCO's person keypoints."""
