"""Simulated synapses with known truth, and how a microscope would see them."""
