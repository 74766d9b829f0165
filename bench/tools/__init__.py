"""What the compiler makes of the kernels, which program reads what, which block sizes are fastest."""
