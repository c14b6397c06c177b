"""The edge: the front door (hot protocol), aiohttp applications for the scan API and the private listener, metrics."""
