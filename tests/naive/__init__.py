"""Independent oracles of the kernels: slow, written apart from them and by other means."""
