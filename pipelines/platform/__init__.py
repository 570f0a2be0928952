"""`make up`, `make down`, `make status`: every part on this machine."""
