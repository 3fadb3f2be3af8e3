"""Raw data sets made of the embedded world, in the published formats."""
