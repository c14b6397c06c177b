"""The processes: supervisor and workers."""
