"""Modules that are uploaded, changed, and uploaded again, in this process."""

from __future__ import annotations

import importlib
import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpclaunch.errors import SiteError
from hpclaunch.worker.uploads import Uploads
from tests.small_disk import small_disk


@pytest.fixture
def uploads(tmp_path: Path) -> Iterator[Uploads]:
    path, before = list(sys.path), set(sys.modules)
    uploads = Uploads(tmp_path / "uploads")
    yield uploads
    uploads.close()
    assert sys.path == path
    assert not (tmp_path / "uploads").exists()
    for name in set(sys.modules) - before:
        del sys.modules[name]


def load(name: str) -> Any:
    return importlib.import_module(name)


def archive(**files: str) -> bytes:
    """Return a zip file; a file's name has __ for / and no ending."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, text in files.items():
            file.writestr(f"{name.replace('0', '/')}.py", text)
    return data.getvalue()


@pytest.mark.parametrize("name", ["bundle.zip", "bundle.egg", "bundle.whl"])
def test_a_changed_archive(uploads: Uploads, name: str) -> None:
    uploads.add(name, archive(u_pack0__init__="", u_pack0sub="VALUE = 1", u_alone="VALUE = 1"))
    assert load("u_pack.sub").VALUE == load("u_alone").VALUE == 1
    uploads.add(name, archive(u_pack0__init__="", u_pack0sub="VALUE = 2", u_alone="VALUE = 2"))
    assert load("u_pack.sub").VALUE == load("u_pack").sub.VALUE == load("u_alone").VALUE == 2


def test_a_package_that_loses_and_gains_modules(uploads: Uploads) -> None:
    uploads.add("b.zip", archive(u_pack0__init__="", u_pack0old="VALUE = 1"))
    load("u_pack.old")
    uploads.add("b.zip", archive(u_pack0__init__="", u_pack0new="VALUE = 2"))
    assert load("u_pack.new").VALUE == 2
    with pytest.raises(ModuleNotFoundError, match=r"u_pack\.old"):
        load("u_pack.old")


def test_an_unchanged_upload_changes_nothing(uploads: Uploads) -> None:
    assert uploads.add("u_same.py", b"VALUE = []")
    load("u_same").VALUE.append(1)
    assert not uploads.add("u_same.py", b"VALUE = []")
    assert load("u_same").VALUE == [1]


def test_importers_that_are_uploads_are_loaded_again(uploads: Uploads) -> None:
    uploads.add("u_base.py", b"VALUE = 1\nclass Base:\n    def get(self): return VALUE")
    uploads.add("u_middle.py", b"from u_base import VALUE, Base\nclass Middle(Base): pass")
    uploads.add("top.zip", archive(u_top0__init__="from u_middle import VALUE, Middle"))
    uploads.add("u_other.py", b"STATE = []")
    load("u_other").STATE.append(1)
    assert (load("u_top").VALUE, load("u_top").Middle().get()) == (1, 1)
    uploads.add("u_base.py", b"VALUE = 2\nclass Base:\n    def get(self): return VALUE")
    assert (load("u_top").VALUE, load("u_top").Middle().get()) == (2, 2)
    assert load("u_other").STATE == [1]  # which does not import it


def test_importers_elsewhere_get_the_new_functions_classes_and_modules(
    uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    uploads.add("u_tools.py", b"def get(): return 1\nclass Tool: value = 1\nVALUE = 1")
    (tmp_path / "u_importer.py").write_text("import u_tools\nfrom u_tools import Tool as T, get\nVALUE = 1")
    importer = load("u_importer")
    uploads.add("u_tools.py", b"def get(): return 2\nclass Tool: value = 2\nVALUE = 2")
    assert (importer.u_tools.VALUE, importer.get(), importer.T.value) == (2, 2, 2)
    assert importer.VALUE == 1  # its own


def test_a_module_that_was_loaded_from_elsewhere(
    uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "u_local.py").write_text("VALUE = 'local'")
    monkeypatch.syspath_prepend(tmp_path)
    assert load("u_local").VALUE == "local"
    uploads.add("u_local.py", b"VALUE = 'uploaded'")
    assert load("u_local").VALUE == "uploaded"
    uploads.remove("u_local.py")
    assert load("u_local").VALUE == "local"


@pytest.mark.parametrize("bad", [b"1 / 0", b"def", b"import u_not_there"])
def test_what_cannot_be_loaded_changes_nothing(uploads: Uploads, bad: bytes) -> None:
    uploads.add("u_good.py", b"VALUE = 1")
    uploads.add("u_user.py", b"from u_good import VALUE")
    good, user = load("u_good"), load("u_user")
    path = list(sys.path)
    with pytest.raises((ZeroDivisionError, SyntaxError, ModuleNotFoundError)):
        uploads.add("u_good.py", bad)
    assert sys.path == path
    assert (load("u_good"), load("u_user")) == (good, user)
    uploads.add("u_good.py", b"VALUE = 2")
    assert load("u_user").VALUE == 2


def test_what_is_no_archive(uploads: Uploads) -> None:
    path = list(sys.path)
    with pytest.raises(zipfile.BadZipFile):
        uploads.add("b.zip", b"no archive")
    assert sys.path == path


def test_an_upload_for_which_there_is_no_room_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        uploads = Uploads(disk.path / "uploads")
        uploads.add("fits_on_disk.py", b"value = 1")
        disk.fill()
        with pytest.raises(
            SiteError, match=r"too_large\.py \(9000 bytes\).*no space left on device: .*uploads.* B of"
        ):
            uploads.add("too_large.py", b"#" * 9000)
        assert [path.name for path in (disk.path / "uploads").glob("*/*")] == ["fits_on_disk.py"]
        disk.empty()
        assert uploads.add("too_large.py", b"#" * 9000)
        uploads.close()
        assert not (disk.path / "uploads").exists()
