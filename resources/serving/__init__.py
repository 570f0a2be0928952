"""Where models are served: one contract, an embedded backend and a KServe backend."""
