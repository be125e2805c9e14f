"""Job scripts: a JobConfig and a template make the text that is submitted.

All directives stand in the templates (``templates/*.sh.j2``, or a user's own ``template-directory``, which is
looked into first); this module computes the values for them and quotes. Values that the batch system's own parser
of directives could take for something else are refused. Pure, but for reading templates.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from hpclaunch.config.schema import JobConfig
from hpclaunch.config.units import mebibytes_up
from hpclaunch.data_files import data_path
from hpclaunch.directives import Directives
from hpclaunch.errors import ScriptError
from hpclaunch.notes import warn

#: Libraries that start threads of their own read these.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./~^-]+")
_SIZES = ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"))


class ShellVariable(str):
    """A word of a command that the job's shell is to expand: ``$NAME``."""

    __slots__ = ()


def worker_command(config: JobConfig, directory: Path) -> list[str]:
    """Return the command that a job runs: the workers' supervisor."""
    command = [config.python, "-m", "hpclaunch.worker", "--directory", str(directory)]
    command += ["--job", ShellVariable("HPCLAUNCH_JOB")]
    command += ["--processes", str(config.processes), "--threads", str(config.threads)]
    command += ["--memory", str(config.memory), "--death-timeout", f"{config.death_timeout:g}"]
    if config.interface is not None:
        command += ["--interface", config.interface]
    if config.local_directory is not None:
        command += ["--local-directory", str(Path(config.local_directory).expanduser())]
    return [*command, *(word for line in config.worker_extra_args for word in shlex.split(line))]


def render(
    config: JobConfig,
    *,
    cluster_id: str,
    directory: Path,
    work_directory: Path,
    worker_command: Sequence[str] | None = None,
) -> str:
    """Return the job script, as it will be submitted.

    :param directory: the cluster's run directory.
    :param work_directory: where the jobs are submitted from, and run.
    :param worker_command: what the job runs; that of the embedded engine if None.
    :raises ScriptError: a value can't stand in a script, or a template is wrong.
    """
    command = worker_command if worker_command is not None else _default_command(config, directory)
    logs = log_directory(config, directory)
    directives = Directives(config.job_extra_directives, config.job_directives_skip, config.batch_system)
    values: dict[str, Any] = {
        "config": config,
        "cluster_id": cluster_id,
        "logs": str(logs),
        "work_directory": str(work_directory),
        "tickets": str(directory / "jobs"),
        "worker_command": [_word(word) for word in command],
        "wants": directives.wants,
        "resources": directives.wants_resources(_resources(config)),
        "memory_mib": mebibytes_up(config.memory),
        "shell": _shell(config.shebang),
        "thread_variables": THREAD_VARIABLES,
        "threads_per_task": max(1, config.cores // (config.processes * config.threads)),
    }
    text = _fill_in(config, values)
    for line in directives.useless_skips():
        warn(f"job-directives-skip: {line!r} is no directive of the script")
    return text


def log_directory(config: JobConfig, directory: Path) -> Path:
    """Return where the jobs' output goes."""
    if config.log_directory is None:
        return directory / "logs"
    return Path(config.log_directory).expanduser().absolute()


def _fill_in(config: JobConfig, values: dict[str, Any]) -> str:
    name = f"{config.batch_system}.sh.j2"
    own = [Path(config.template_directory).expanduser()] if config.template_directory else []
    if own and not own[0].is_dir():
        raise ScriptError(f"template-directory {own[0]} is not a directory")
    environment = SandboxedEnvironment(
        loader=jinja2.FileSystemLoader([*own, data_path("templates")]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(q=_shell_quote, d=_directive_quote, slurm_path=_slurm_path, sge_path=_sge_path)
    environment.filters["needed"] = _needed
    environment.filters.update(slurm_time=_slurm_time, sge_time=_sge_time)
    try:
        return environment.get_template(name).render(values)
    except jinja2.TemplateSyntaxError as error:
        where = f"{error.filename or error.name}:{error.lineno}"
        raise ScriptError(f"{where}: the template is wrong: {error.message}") from None
    except (jinja2.UndefinedError, jinja2.TemplateError) as error:
        raise ScriptError(f"template {name}: {error.message}") from None


def _default_command(config: JobConfig, directory: Path) -> list[str]:
    return worker_command(config, directory)


def _word(word: str) -> str:
    return f'"${word}"' if isinstance(word, ShellVariable) else _shell_quote(word)


# --- values -------------------------------------------------------------------------------------------------


def _resources(config: JobConfig) -> str:
    """Return Grid Engine's resource list for memory: as given, or so much per slot."""
    if config.resource_spec is not None:
        return config.resource_spec
    if config.memory_resource is None:
        return ""
    per_slot = -(-config.memory // config.cores)
    return f"{config.memory_resource}={_sge_size(per_slot)}"


def _sge_size(size: int) -> str:
    """Return a size as Grid Engine takes it (``24G``, in powers of 1024), rounded up to whole KiB."""
    kibibytes = -(-size // 1024)
    for unit, letter in _SIZES:
        if kibibytes * 1024 % unit == 0:
            return f"{kibibytes * 1024 // unit}{letter}"
    raise AssertionError("a whole number of KiB is a whole number of KiB")


def _shell(shebang: str) -> str:
    """Return the shell's path for ``-S``: Grid Engine does not look at the shebang."""
    words = shebang.removeprefix("#!").split()
    if words[0].endswith("/env"):
        name = next((word for word in words[1:] if not word.startswith("-")), "bash")
        return f"/bin/{name}"
    return words[0]


def _slurm_time(seconds: int) -> str:
    days, rest = divmod(seconds, 86400)
    return f"{days}-{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"


def _sge_time(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _needed(value: object, what: str) -> object:
    """Return a value that must be there.

    :raises ScriptError: it is None; ``what`` says what to do.
    """
    if value is None:
        raise ScriptError(what)
    return value


# --- quoting ------------------------------------------------------------------------------------------------


def _shell_quote(value: object) -> str:
    text = str(value)
    if "\0" in text:
        raise ScriptError(f"{text!r} can't stand in a shell script")
    return shlex.quote(text)


def _directive_quote(value: object) -> str:
    """Quote a value for a directive line, which both batch systems split at blanks outside of quotes."""
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    if not text or any(c in text for c in '"\\$`') or any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise ScriptError(
            f"{text!r} can't stand in a batch directive: it has a quote, a backslash, $ or a control"
        )
    return f'"{text}"'


def _slurm_path(value: object) -> str:
    """Double the ``%`` of a path in which Slurm looks for patterns."""
    return str(value).replace("%", "%%")


def _sge_path(value: object) -> str:
    """Return a directory for ``-o``, in which Grid Engine expands pseudo variables and knows ``host:path``.

    :raises ScriptError: it would be read as something else, or at a blank be cut in two.
    """
    text = str(value)
    if not _PLAIN.fullmatch(text) or ":" in text or "," in text:
        raise ScriptError(
            f"Grid Engine can't write logs to {text!r}: set log-directory to a path of plain characters"
        )
    return text
