"""The platform on one machine: every part under one supervisord, on loopback, below `Settings.home`."""
