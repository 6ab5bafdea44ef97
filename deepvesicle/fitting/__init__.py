"""From a probability mask to spheres fitted on the tomogram."""
