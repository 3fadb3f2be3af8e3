"""What runs: the stages of spin-pipe and its command line. The only room that knows Ray, click and TensorBoard."""
