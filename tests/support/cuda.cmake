# The CUDA tests come with the CUDA backend.
