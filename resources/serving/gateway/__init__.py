"""The sticky gateway of a cluster: Envoy, and beside it a sidecar that tells it who gets which share.

`python -m resources.serving.gateway.envoy` runs Envoy, `python -m resources.serving.gateway` the sidecar. The sidecar
follows the InferenceServices and the assignments of one namespace, writes the files that Envoy watches, and
answers what is in force and what was counted.
"""
