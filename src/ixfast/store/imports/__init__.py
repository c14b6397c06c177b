"""Import and export of tag files: `importer` and `exporter`, and the steps of an import.

Parsing and writing the files themselves is `ixfast.tag_files`, which does not use a database.
"""
