"""SMPLify: a body whose projection meets 2D keypoints (Bogo et al., ECCV 2016; SPIN's single-stage variant).

Read in this order: `objective` (what is minimised), `prior` (what a pose may be), `starts` and `camera_start` (where
it begins), `levenberg_marquardt` and `adam` (two ways down), `fitter` (starts, solver and verdict together).
"""
