"""What several models are built of: the Transformer's block, the U-Net, noise schedules, choosing tokens."""
