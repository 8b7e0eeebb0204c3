"""Side-by-side benchmarks: what the gateway costs over Triton asked directly."""
