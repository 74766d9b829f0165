"""Trainers, the training loop, run folders and pictures: all that surrounds a training step."""
