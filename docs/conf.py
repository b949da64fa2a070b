"""The site: Markdown pages, and the API from docstrings. `make docs` builds it without a network; warnings are errors."""

from importlib.metadata import version as installed_version

import headstart

project = "Headstart"
author = "The Headstart authors"
copyright = "2026, The Headstart authors"
version = release = installed_version("headstart")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"{project} {version}"
html_show_sphinx = False

myst_heading_anchors = 3  # links such as data.md#files

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True  # an attribute of the section "Attributes" is no second entry beside the one of its annotation

# Links within Headstart must lead somewhere. Names of other packages, of its modules and of its type variables have no page
# here, since the build fetches no inventory.
nitpick_ignore_regex = [("py:.*", r"(?!headstart\.).*"), ("py:.*", r"headstart\.\w+\..*")]

# Public names are imported at first use, and autodoc documents what it finds in the module.
vars(headstart).update({name: getattr(headstart, name) for name in headstart.__all__})
