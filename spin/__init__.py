"""The science of spin-pipe: bodies, fitting, the network, training, evaluation, rendering.

Nothing here knows of Ray, Zarr, Parquet or the command line; `pipelines` brings the rooms together.
"""
