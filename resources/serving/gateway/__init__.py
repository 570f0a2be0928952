"""The sticky gateway of a cluster: Envoy, and beside it a sidecar that tells it who gets which share."""
