"""A load generator of our own: fresh valid taps as bytes, closed and open loop, every answer checked.

`traffic.py` plans what is sent, `lanes.py` sends it over one connection each, `station.py` is a process with many lanes,
`drive.py` runs several stations as one. `constant.py` is a server that does nothing, to measure the generator itself with
(`own_cost.py`) and to compare it with wrk (`against_wrk.py`).
"""
