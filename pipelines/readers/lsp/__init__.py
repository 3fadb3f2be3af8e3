"""Leeds Sports Pose: the test set, the original training images, and the extended set."""
