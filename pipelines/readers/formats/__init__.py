"""File formats that several data sets share; fragile ones are read in a process of their own."""
