"""Training steps and operations beside PyTorch's on a CPU, and what several processes cost."""
