"""The regressor, HMR: a ResNet and the iterative head that turns features into a body; its checkpoints."""
