"""How Sphinx builds the site from docs/: `make docs`.

Pages are Markdown that also reads well on GitHub. What the site adds is in `_ext`: links to files of the repository, text that is
generated from the code, and a description of every page for search engines.
"""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

import ixfast  # noqa: E402  (after the path is set)

project = "ixfast"
author = "the ixfast authors"
copyright = "the ixfast authors, Apache-2.0"  # noqa: A001  (Sphinx reads this name)
version = release = ixfast.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "docs._ext.site"]
exclude_patterns = ["_ext", "_static"]
source_suffix = {".md": "markdown"}

# A reference that leads nowhere is an error (-n -W). The names below are types in signatures that have no page of their own.
nitpick_ignore_regex = [("py:.*", r"(?!ixfast\.).*"), ("py:.*", r"ixfast\.(?!testing\b)\w+\..*")]
# `name` in a docstring is code, as it is in Markdown.
default_role = "code"
smartquotes = False
highlight_language = "text"

# Every heading has an anchor, named as GitHub names it.
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_block", "deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "ixfast"
html_short_title = "ixfast"
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "source_repository": "https://github.com/ixfast/ixfast",
    "source_branch": "main",
    "source_directory": "docs/",
    "light_css_variables": {"color-brand-primary": "#0b6e4f", "color-brand-content": "#0b6e4f"},
    "dark_css_variables": {"color-brand-primary": "#4cc9a0", "color-brand-content": "#4cc9a0"},
}

# Only `$ ` at the start of a line is a prompt: the button copies the command, neither the prompt nor the output.
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
copybutton_selector = "div:not(.highlight-text) > div.highlight > pre"
copybutton_exclude = ".linenos, .gp"

# `make docs-links` follows the links to other sites.
linkcheck_anchors = False
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_ignore = [r"http://127\.0\.0\.1", r"http://localhost", r"https?://([\w-]+\.)*example(\.\w+)?(/|$)"]
