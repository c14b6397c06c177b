"""The load generator: fresh valid taps as bytes, closed and open loop, every response checked.

`traffic.py` plans what is sent, `connections.py` and `stream.py` send it over one connection each, `generator_process.py` is a
process with many connections, and `drive.py` runs several processes as one (`results.py` adds up what they report).
`constant.py` is a server that does no work, with which `check.py` measures the generator itself and compares it with wrk. It
does not depend on the contenders or the database.
"""
