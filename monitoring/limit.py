"""How much a target may send in one scrape: it is refused above that, and an alert says so before it comes to it.

One bad label can take a Prometheus down. A scrape over a limit fails as a whole, and shows at once as `up == 0`.
"""

# A version with 30 features has about 2,000 series, most of them bins and latency buckets: room for 25 versions.
MAX_SAMPLES = {"gateway": 50_000, "triton": 20_000, "drift": 10_000, "gpu": 5_000}
