"""Side-by-side benchmarks: the gateway beside Triton asked directly, and beside other servers, in one run."""
