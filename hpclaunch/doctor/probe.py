"""What the trial's job of `hpclaunch doctor` runs: it looks around on its node and writes down what it sees.

A program of its own, with the standard library alone: the Python in the job may lack hpclaunch, and that is one of
the things to find out. ``probe.py DIRECTORY [--local-directory PATH] [--log-directory PATH]``;
DIRECTORY has ``ask.json`` (addresses, a token) and gets ``report.json``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import locale
import os
import resource
import socket
import struct
import sys
import tempfile
import threading
import time

_CONNECT_SECONDS = 5.0
_SERVE_SECONDS = 20.0
_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "LD_PRELOAD")


def main() -> None:
    """Write the report, then answer those who come for it until they have."""
    directory = sys.argv[1]
    options = dict(zip(sys.argv[2::2], sys.argv[3::2]))  # noqa: B905  # older Pythons have no strict
    with open(os.path.join(directory, "ask.json")) as file:
        ask = json.load(file)
    server = socket.socket()
    server.bind(("", 0))
    server.listen(8)
    report: dict[str, object] = {"host": socket.gethostname(), "time": time.time(), "python": sys.executable}
    report.update(version=sys.version.split()[0], port=server.getsockname()[1], addresses=addresses())
    report.update(python_facts())
    report.update(limits())
    report.update(places(options))
    report.update(surroundings())
    report.update(reach(ask["addresses"], ask["token"]))
    part = os.path.join(directory, ".report")
    with open(part, "w") as file:
        json.dump(report, file)
    os.rename(part, os.path.join(directory, "report.json"))
    threading.Thread(target=serve, args=(server, ask["token"]), daemon=True).start()
    until = time.time() + _SERVE_SECONDS
    while "seen" not in os.listdir(directory) and time.time() < until:
        time.sleep(0.05)


def python_facts() -> dict[str, object]:
    """Say which hpclaunch this Python has."""
    try:
        import hpclaunch
        import hpclaunch.worker.supervisor
    except Exception as error:
        return {"hpclaunch": "", "import_error": f"{type(error).__name__}: {error}"}
    return {"hpclaunch": hpclaunch.__version__}


def addresses() -> dict[str, str]:
    """Return the IPv4 address of each interface."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(sock, 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
                found[name] = socket.inet_ntoa(answer[20:24])
    return found


def reach(targets: list[str], token: str) -> dict[str, object]:
    """Try each of the head's addresses; say which answered, and how far the clocks are apart."""
    reached, ahead = [], None
    for target in targets:
        host, _, port = target.rpartition(":")
        began, error = time.time(), ""
        try:
            with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS) as sock:
                sock.settimeout(_CONNECT_SECONDS)
                sock.sendall(token.encode() + b"\n")
                theirs = float(sock.makefile().readline())
                ended = time.time()
            if ahead is None:
                ahead = (began + ended) / 2 - theirs
        except (OSError, ValueError) as failure:
            error = getattr(failure, "strerror", None) or str(failure) or "no answer"
        reached.append({"address": target, "error": error, "milliseconds": (time.time() - began) * 1000})
    return {"reached": reached, "clock_ahead": ahead}


def serve(server: socket.socket, token: str) -> None:
    """Answer each who shows the token with this node's time."""
    while True:
        sock, _ = server.accept()
        with contextlib.suppress(OSError), sock:
            sock.settimeout(_CONNECT_SECONDS)
            if sock.recv(128).strip() == token.encode():
                sock.sendall(b"%.6f\n" % time.time())


def limits() -> dict[str, object]:
    """Return what the job may use."""
    sizes = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    sizes = [size for size in sizes if size != resource.RLIM_INFINITY]
    sizes += group_limits()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    mask = os.umask(0o077)
    os.umask(mask)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory": min(sizes) if sizes else 0,
        "files": files if files != resource.RLIM_INFINITY else 1 << 20,
        "umask": mask,
    }


def group_limits() -> list[int]:
    """Return the memory limits of the control groups that this process is in, of both versions."""
    found = []
    with contextlib.suppress(OSError), open("/proc/self/cgroup") as lines:
        for line in lines:
            _, kinds, group = line.strip().split(":", 2)
            if kinds and "memory" not in kinds.split(","):
                continue
            root, name = "/sys/fs/cgroup", "memory.max"
            if kinds:
                root, name = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
            path = root + group
            while path.startswith(root):
                with contextlib.suppress(OSError, ValueError), open(os.path.join(path, name)) as file:
                    size = int(file.read())
                    found += [size] if size < 1 << 60 else []
                path = os.path.dirname(path)
    return found


def places(options: dict[str, str]) -> dict[str, object]:
    """Look at the directories that the job writes to."""
    path = options.get("--local-directory") or tempfile.gettempdir()
    found: dict[str, object] = {"temporary": path, "temporary_error": "", "logs_error": ""}
    made = []
    try:
        missing = path
        while not os.path.exists(missing):
            made.append(missing)
            missing = os.path.dirname(missing)
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"x" * 4096)
        room = os.statvfs(path)
        found["temporary_free"] = room.f_bavail * room.f_frsize
        found["temporary_kind"] = kind_of(path)
    except OSError as error:
        found["temporary_error"] = f"{path} can't be written on {socket.gethostname()}: {error.strerror}"
    for one in made:
        with contextlib.suppress(OSError):
            os.rmdir(one)
    logs = options.get("--log-directory")
    if logs:
        try:
            with tempfile.TemporaryFile(dir=logs):
                pass
        except OSError as error:
            found["logs_error"] = f"{logs} can't be written on {socket.gethostname()}: {error.strerror}"
    return found


def kind_of(path: str) -> str:
    """Return the kind of file system that a path is on."""
    best, kind = "", ""
    with contextlib.suppress(OSError), open("/proc/mounts") as lines:
        for line in lines:
            _, point, word = line.split()[:3]
            inside = os.path.realpath(path).startswith(point.rstrip("/") + "/") or os.path.realpath(path) == point
            if inside and len(point) >= len(best):
                best, kind = point, word
    return kind


def surroundings() -> dict[str, object]:
    """Look at the locale and the variables of the job."""
    error = ""
    try:
        locale.setlocale(locale.LC_ALL, "")
    except locale.Error as failure:
        names = [name for name in ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(name)]
        error = f"{failure} ({', '.join(f'{name}={os.environ[name]}' for name in names)})"
    names = [name for name in _VARIABLES if name in os.environ]
    return {
        "encoding": sys.getfilesystemencoding(),
        "locale_error": error,
        "variables": {name: os.environ[name] for name in names},
    }


if __name__ == "__main__":
    main()
