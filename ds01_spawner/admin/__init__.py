"""Commands for the admin, on the host."""
