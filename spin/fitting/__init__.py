"""Fitting a body to what is known of a person (SMPLify: Bogo et al., ECCV 2016; SPIN's variant), fast and many at a time.

Read in this order: `observations` (what is known), `objective` (what is minimised), `prior` (what a pose may be), `starts`
(where it begins), `lifter` (an estimate from keypoints, and how certain it is), `levenberg_marquardt` (the descent;
`compiled` is the same as machine code, `adam` the published way), `scorer` (which of two fits is better), `verdicts` (what
makes a fit invalid), `fitter` (all of it together). `sampling`, `lifter_training` and `scorer_calibration` make lifters;
docs/fitting.md has the figures.
"""
