"""Changes of the catalogue, and the administration of keys, the scan log and counters.

`edits` is the interface for the management API and the command line. Nothing here runs in the hot path of a scan; only enrolment
(`enrolled_tags`) is triggered by scans.
"""
