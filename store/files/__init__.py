"""Where bytes are kept: a folder or an object store, behind one protocol."""
