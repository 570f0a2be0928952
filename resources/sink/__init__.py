"""The prediction log's sink on a cluster: KServe's payload logger posts here, segments come out."""
