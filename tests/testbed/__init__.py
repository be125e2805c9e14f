"""The test beds: a real Slurm and a real Grid Engine on this machine, and how tests use them."""
