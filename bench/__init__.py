"""Measurements. `python -m bench presets` times a training step of every model at every size."""
