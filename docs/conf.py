"""The site: Markdown pages, and the API from docstrings. `make docs` builds it without a network; warnings are errors."""

import dataclasses
import inspect
from importlib.metadata import version as installed_version
from typing import Any

from sphinx.ext.napoleon import GoogleDocstring

import headstart

project = "Headstart"
author = "The Headstart authors"
copyright = "2026, The Headstart authors"
version = release = installed_version("headstart")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"{project} {version}"
html_show_sphinx = False
smartquotes = False  # --flip stays --flip
default_role = "code"  # docstrings mark code by single backticks

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


def complete_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let the page begin with its own words, and describe each option of a configuration by its help."""
    if what == "module":
        lines.clear()
    elif dataclasses.is_dataclass(obj):
        options_with_help = [field for field in dataclasses.fields(obj) if "help" in field.metadata]
        if options_with_help:
            lines += ["", "Attributes:", *(f"    {field.name}: {field.metadata['help']}" for field in options_with_help), ""]


def keep_colon(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Undo what napoleon does to a property: it takes what stands before the first line's colon for a type."""
    if what == "property":
        lines[:] = [*GoogleDocstring(inspect.getdoc(obj) or "", app.config).lines(), ""]


def readable_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write a default that is made anew each time as `...`, which Sphinx can lay out."""
    return signature and signature.replace("<factory>", "..."), returns


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", complete_docstring, priority=400)  # before napoleon's, which have 500
    app.connect("autodoc-process-docstring", keep_colon, priority=600)
    app.connect("autodoc-process-signature", readable_signature)
