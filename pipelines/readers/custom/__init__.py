"""The three kinds of files that people's own data come in (see `readers.custom`)."""
