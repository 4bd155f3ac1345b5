"""What `bench/faults.py` is made of: a space to hurt things in, a fleet in it, the faults, the peers."""
