"""KServe on Kubernetes as a serving backend."""
