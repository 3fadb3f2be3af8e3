"""One step of the SPIN loop: augmentation, losses, the choice of targets."""
