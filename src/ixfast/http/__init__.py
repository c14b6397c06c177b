"""HTTP: the scan API on the public listener, health, metrics and management on the private one.

Two paths lead to the same dispatcher. The front door serves the hot request (`hot_request`) from raw bytes under admission
control (`admission`); aiohttp serves everything else (`request_handler`, `scan_app`, `private_app`). Both give the same
response to the same request. `server_state` is what their connections share.

Nothing here verifies a tap or reads a counter, and no SQL is written here. The package may import every layer below
`ixfast.process` except `audit` and `embedded`.
"""
