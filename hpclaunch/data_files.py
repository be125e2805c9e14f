"""Where the files are that come with the package: templates and default configuration.

In a checkout (and so in an editable install) they are the top-level folders ``templates/`` and ``configs/``; in a
wheel the same folders lie in ``hpclaunch/_data/``.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def data_path(folder: str) -> Path:
    """Return the path of a folder of data files, ``"templates"`` or ``"configs"``.

    :raises FileNotFoundError: the installation is not whole.
    """
    for base in (_PACKAGE / "_data", _PACKAGE.parent):
        path = base / folder
        if path.is_dir():
            return path
    raise FileNotFoundError(f"hpclaunch's own folder {folder}/ is missing: install hpclaunch again")
