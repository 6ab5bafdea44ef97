"""Reading and writing: tomograms, IMOD models, tables, run records."""
