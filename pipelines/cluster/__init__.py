"""Ray: starting or joining it, nodes and their files, jobs, work in order, waiting for room."""
