"""The OpenAPI description of both listeners, generated from the routes and types of `ixfast.http`.

Nothing depends on it except the route that serves it and `make openapi`. It may import what `ixfast.http` may.
"""
