"""What `python -m bench.gpu_check` is made of: device, peers, floors, clock, and the timing of kernels."""
