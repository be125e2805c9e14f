"""A directory full of modules that others have left, named as those that we import; each notes that it ran."""

from __future__ import annotations

import sys
from pathlib import Path

#: What our processes import besides the standard library, and ourselves.
OTHERS = (
    *("_cffi_backend", "click", "cloudpickle", "cryptography", "dask", "hpclaunch", "jinja2", "markupsafe"),
    *("mpi4py", "msgspec", "numpy", "psutil", "rich", "sitecustomize", "usercustomize", "uvloop", "yaml"),
)

#: A task's own module, which must be found there.
OWN = "module_of_the_user"


def fill(directory: Path) -> Path:
    """Fill a directory; return the file that says which modules were run, which is there if any was."""
    ran = directory / "ran.txt"
    source = (
        f"open({str(ran)!r}, 'a').write(__name__ + '\\n')\nraise SystemExit(f'{{__name__}} of another was run')\n"
    )
    for name in {*sys.stdlib_module_names, *OTHERS} - {"encodings"}:
        (directory / f"{name}.py").write_text(source)
    (directory / f"{OWN}.py").write_text("ANSWER = 42\n")
    return ran
