"""The services beside the hub. Imports nothing; each service lives in a folder of its own."""
