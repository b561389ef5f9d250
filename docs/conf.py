"""How the documentation is built: `make docs`, which is `sphinx-build -W --keep-going -n -c docs . build/docs`.

The root of the tree is the source, so that README.md, CONTRIBUTING.md, CHANGELOG.md and data/README.md are pages too, and links
between pages are those that one follows in the repository. Nothing is fetched: there is no inventory of other projects, so
names of other libraries are no links.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "docs" / "extensions"), str(ROOT / "pipeline"), str(ROOT / "src")]

import ninscope  # noqa: E402

project = "ninscope"
author = "The ninscope authors"
copyright = author
version = release = ninscope.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "contents", "docstrings", "commands", "measures"]
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "docs/*.md", "docs/*/*.md"]
# Sphinx walks all that is not named here, and a tree may hold environments and runs.
exclude_patterns = [path.name for path in ROOT.iterdir() if path.name not in ("data", "docs") and path.is_dir()]

# Pages are written for GitHub: its anchors, and links by file name.
myst_heading_anchors = 6
myst_links_external_new_tab = False

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
nitpicky = True
# Signatures name types of other libraries, whose inventories would have to be fetched, and types of the inside, which have no
# page. Prose is not excused: a name in a page or a docstring that leads nowhere is an error.
_LIBRARIES = (
    "alt", "collections", "contextlib", "igraph", "matplotlib", "networkx", "np", "numpy", "pandas", "pathlib", "pd",
    "pydantic", "re", "scipy", "torch", "typing", "zarr",
)  # fmt: skip
nitpick_ignore_regex = [
    ("py:class", rf"({'|'.join(_LIBRARIES)})\..*"),
    ("py:class", r"ninscope(_pipeline)?\..*|Row|Axes|Figure|Tensor|csr_matrix|str \| .*"),
]

html_theme = "furo"
html_title = f"ninscope {version}"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_use_index = False  # the search finds every name, and the list would be wider than a screen
html_domain_indices = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "default"
pygments_dark_style = "github-dark"
