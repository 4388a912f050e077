"""Build the API reference from the docstrings: ``python .ci/api_reference.py [FOLDER]`` (extra ``docs``).

One page for each module, the public names on the first. Whatever pdoc warns about is an error.
"""

from __future__ import annotations

import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.doc

import hf_haul

FOLDER = "api-reference"


def submodules(package: pdoc.doc.Module) -> list[pdoc.doc.Module]:
    """Return all modules below a module, for its page to link to.

    pdoc shows those alone that ``__all__`` names, and ours names none.
    """
    found = pkgutil.iter_modules(getattr(package.obj, "__path__", []), f"{package.modulename}.")
    return [pdoc.doc.Module.from_name(each.name) for each in found]


def main() -> None:
    """Build it, and say where it is."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else FOLDER)
    warnings.simplefilter("error")
    # Other people's classes that ours inherit from have annotations that not every Python can evaluate.
    warnings.filterwarnings("ignore", r"Error parsing type annotation .* for (?!hf_haul)\w+\.")
    pdoc.doc.Module.submodules = property(submodules)
    modules = ["hf_haul", *(module.name for module in pkgutil.walk_packages(hf_haul.__path__, "hf_haul."))]
    pdoc.render.configure(docformat="google", show_source=False, footer_text=f"hf-haul {hf_haul.__version__}")
    pdoc.pdoc(*modules, output_directory=folder)
    print(folder / "index.html")


if __name__ == "__main__":
    main()
