"""What the site adds to the Markdown of docs/: links to the repository, and text generated from the code.

`generated` fills in the marked places of pages and needs no Sphinx, so the tests use it, too. `site` is the Sphinx extension.
"""
