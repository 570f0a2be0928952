"""The story that `make demo` tells: one good version is promoted, two harmful ones are taken out."""
