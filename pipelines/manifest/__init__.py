"""A model's manifest: the typed, frozen form of `serving_manifests/<model>/*.yaml`."""
