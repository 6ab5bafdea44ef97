"""Many tomograms, each a unit of its own: one after another, on several cores, or on a cluster."""
