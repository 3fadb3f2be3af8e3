"""Fitting a body to what is known of a person (SMPLify: Bogo et al., ECCV 2016; SPIN's variant), fast and many at a time.

Read in this order: `evidence` (what is known), `objective` (what is minimised), `prior` (what a pose may be), `starts` (where
it begins), `lifter` (a guess from keypoints, and how sure it is), `levenberg_marquardt` (the way down; `compiled` is the
same as machine code, `adam` the published way), `judge` (which of two fits is better), `verdicts` (which are none), `fitter`
(all of it together). `sampling`, `lifter_training` and `judge_calibration` make lifters. docs/fitting.md has the figures.
"""
