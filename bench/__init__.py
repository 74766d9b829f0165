"""Measurements. `assay bench presets` times a training step of every model at every size."""
