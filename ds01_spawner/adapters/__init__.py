"""Adapters: one port, one library each; that library's errors are translated here and nowhere else."""
