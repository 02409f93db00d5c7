"""The acceptance of the real guard on a machine with a GPU: `make gpu-check`. Its logic is tested on the CPU."""
