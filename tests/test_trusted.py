"""What is believed: which directories and files are this user's alone, and that a swapped one is not read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpclaunch import rundir, trusted
from hpclaunch.errors import ClusterNotFoundError, ConfigError, HeadError, SiteError
from hpclaunch.head import options as head_options

STRANGER = 54321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o177, 0o777], ids=oct)
def any_umask(request: pytest.FixtureRequest) -> Iterator[int]:
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


# --- base directories


@pytest.mark.skipif(os.geteuid() != 0, reason="a umask of 0777 stops all but root halfway")
def test_what_is_made_is_private_whatever_the_umask(tmp_path: Path, any_umask: int) -> None:
    trusted.make_base(tmp_path / "one" / "two" / "three")
    for path in ("one", "one/two", "one/two/three"):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o700
    os.close(trusted.make_directory(str(tmp_path / "one" / "private")))
    assert stat.S_IMODE((tmp_path / "one" / "private").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o2777])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_base_that_others_can_write_is_refused_at_every_ancestor(tmp_path: Path, mode: int, depth: int) -> None:
    base = tmp_path / "a" / "b" / "c"
    base.mkdir(parents=True)
    open_one = [base, *base.parents][depth]
    open_one.chmod(mode)
    with pytest.raises(SiteError, match=rf"{open_one} can be written by all users.*Run: chmod \+t {open_one}"):
        trusted.make_base(base)
    with pytest.raises(SiteError, match="sticky"):
        trusted.make_base(base / "new")
    assert not (base / "new").exists()
    open_one.chmod(mode | stat.S_ISVTX)
    trusted.make_base(base / "new")


@as_root
def test_a_group_that_can_write_is_named_but_the_users_own_is_no_other(tmp_path: Path) -> None:
    base = tmp_path / "project"
    base.mkdir()
    os.chown(base, -1, STRANGER)
    base.chmod(0o2775)
    with pytest.raises(SiteError, match=rf"can be written by group {STRANGER} \(mode 2775\)"):
        trusted.make_base(base)
    os.chown(base, -1, os.getegid())
    trusted.make_base(base)


@as_root
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_base_that_another_user_owns_is_refused_at_every_ancestor(tmp_path: Path, depth: int) -> None:
    base = tmp_path / "a" / "b" / "c"
    base.mkdir(parents=True)
    os.chown([base, *base.parents][depth], STRANGER, -1)
    with pytest.raises(SiteError, match=f"belongs to user {STRANGER}.*shared-temp-directory"):
        trusted.make_base(base)


def test_links_on_the_way_are_followed_to_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "open" / "below").mkdir(parents=True)
    (tmp_path / "fine").mkdir()
    (tmp_path / "absolute").symlink_to(tmp_path / "open" / "below")
    (tmp_path / "fine" / "relative").symlink_to("../open/./below/../below")
    (tmp_path / "loop").symlink_to("loop")
    for link in ("absolute", "fine/relative"):
        trusted.check_base(tmp_path / link)
    (tmp_path / "open").chmod(0o777)
    for link in ("absolute", "fine/relative"):
        with pytest.raises(SiteError, match=f"{tmp_path}/open can be written"):
            trusted.check_base(tmp_path / link)
    with pytest.raises(OSError, match="too many symbolic links"):
        trusted.check_base(tmp_path / "loop")


@as_root
def test_a_link_of_another_users_is_refused_although_it_leads_to_what_is_ours(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    link = tmp_path / "link"
    link.symlink_to("mine")
    os.chown(link, STRANGER, -1, follow_symlinks=False)
    with pytest.raises(SiteError, match=f"belongs to user {STRANGER}"):
        trusted.check_base(link)


def test_a_cluster_in_such_a_base_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "group").mkdir()
    (tmp_path / "group").chmod(0o777)
    with pytest.raises(ConfigError, match=r"chmod \+t") as caught:
        rundir.create(tmp_path / "group" / "run" / "mine")
    assert caught.value.key == "shared-temp-directory"
    assert not list((tmp_path / "group").iterdir())


# --- files


def swapped(path: Path, how: str) -> None:
    """Do to a file or directory what another user could have done, had he been able to write there."""
    if how == "another's":
        os.chown(path, STRANGER, -1)
    elif how == "link":
        path.rename(path.with_name("elsewhere"))
        path.symlink_to("elsewhere")
    elif how == "fifo":
        path.unlink()
        os.mkfifo(path, 0o600)
    else:
        path.chmod(int(how, 8))


READERS: dict[str, Callable[[Path], object]] = {
    "cluster.json": rundir.read_facts,
    "head.json": head_options.read,
    "any": lambda directory: trusted.read_file(directory / "any"),
}
HOW = [
    *("0604", "0620", "0640", "0602", "link", "fifo"),
    pytest.param("another's", marks=as_root),
]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("how", HOW)
def test_a_file_that_is_not_ours_alone_is_not_believed(tmp_path: Path, name: str, how: str) -> None:
    trusted.write_file(tmp_path / name, b'{"id": "x", "name": "x", "addresses": [], "security": false}')
    swapped(tmp_path / name, how)
    with pytest.raises((SiteError, ClusterNotFoundError, HeadError, OSError)) as caught:
        READERS[name](tmp_path)
    assert name in str(caught.value)


@pytest.mark.parametrize("how", ["0770", "0707", "0750", pytest.param("another's", marks=as_root)])
def test_nothing_in_a_directory_that_is_not_ours_alone_is_believed(tmp_path: Path, how: str) -> None:
    directory = tmp_path / "run"
    os.close(trusted.make_directory(str(directory)))
    trusted.write_file(directory / "cluster.json", b'{"id": "x", "name": "x", "addresses": [], "security": false}')
    swapped(directory, how)
    with pytest.raises(ClusterNotFoundError, match=r"belongs to|by other users"):
        rundir.read_facts(directory)
    assert rundir.all_clusters(tmp_path) == []


def test_a_directory_that_is_there_already_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for name in ("there", "link"):
        with pytest.raises(FileExistsError):
            trusted.make_directory(str(tmp_path / name))


def test_a_huge_file_is_none_of_ours(tmp_path: Path) -> None:
    trusted.write_file(tmp_path / "big", b"")
    os.truncate(tmp_path / "big", 1 << 30)
    with pytest.raises(SiteError, match="none of our files"):
        trusted.read_file(tmp_path / "big")


def test_what_is_read_is_below_the_descriptor_whatever_lies_under_the_path_now(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    opened = trusted.make_directory(str(directory))
    trusted.write_file(directory / "word", b"ours", below=opened)
    directory.rename(tmp_path / "away")
    directory.mkdir()
    (directory / "word").write_bytes(b"theirs")
    assert trusted.read_below(opened, "word", directory / "word") == b"ours"
    trusted.write_file(directory / "word", b"ours again", below=opened)
    assert (directory / "word").read_bytes() == b"theirs"
    os.close(opened)
