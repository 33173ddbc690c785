"""A sweep: several recipes of one use case tried and compared; `make sweep`."""
