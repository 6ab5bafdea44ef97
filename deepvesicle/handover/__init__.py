"""Hand-over to Pyto: its work folder from vesicles, an outline and an active zone; and its results back."""
