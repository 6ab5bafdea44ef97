"""How well found vesicles agree with the truth."""
