"""The workloads, one module each; ``benchmarks.workload`` says what is in such a module."""

from __future__ import annotations

#: In the report; what is not listed comes last.
ORDER = [
    "submit", "map_default", "map_big_chunks", "map_chunksize_1", "round_trip",
    "arrays_in", "arrays_out", "constant_by_submit", "constant_by_map", "stream",
    "chain", "chain_of_arrays", "imbalance", "nested",
    "memory", "joblib_tiny", "forest", "grid_search",
    "worker_death", "cold_start", "second_pool", "idle",
]  # fmt: skip
