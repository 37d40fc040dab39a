"""DS01 Hub's spawner. Imports nothing, so that pure modules stay importable without a server."""
