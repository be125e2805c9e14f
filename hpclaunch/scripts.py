"""Job scripts: a JobConfig and a template make the text that is submitted.

All directives stand in the templates (``templates/*.sh.j2``, or a user's own ``template-directory``, which is
looked into first, and can extend ours as ``hpclaunch/sge.sh.j2``); this module computes the values for them and
quotes. Three parsers read a script, and each has its own quoting:

* bash: any text, by the filter ``q``; :class:`ShellCode` stands as it is.
* Grid Engine's directives: ``"..."`` and ``'...'`` only drop the quotes, nothing is an escape, and ``#`` begins a
  comment even within quotes. So a value with a quote or ``#`` is refused.
* Slurm's directives: ``"..."`` with backslash escapes, so any line of text can be written.

Pure, but for reading templates.
"""

from __future__ import annotations

import functools
import math
import re
import shlex
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from hpclaunch import homes, rundir
from hpclaunch.batch.base import BatchSystem
from hpclaunch.batch.systems import codec
from hpclaunch.config import paths, shellwords
from hpclaunch.config.schema import JobConfig
from hpclaunch.config.units import mebibytes_up
from hpclaunch.data_files import data_path
from hpclaunch.dialects import sge_word
from hpclaunch.directives import Directives
from hpclaunch.errors import ScriptError
from hpclaunch.jobs.expiry import margin_of
from hpclaunch.notes import warn
from hpclaunch.safepath import run_module

#: Libraries that start threads of their own read these.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

_SIZES = ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"))
#: Shells that read our first lines as bash does, and so can hand over to bash.
_LIKE_BASH = ("sh", "dash", "ash", "ksh", "mksh", "zsh")


class ShellCode(str):
    """A part of a command that the job's shell is to read as it stands, where other text would be quoted."""

    __slots__ = ()


#: The job's id and the unix time of its end, which only the job's shell knows.
JOB_ID = ShellCode('"$HPCLAUNCH_JOB"')
ENDS = ShellCode('"${HPCLAUNCH_ENDS:-0}"')


def worker_command(config: JobConfig, directory: Path) -> list[str]:
    """Return the command that a job runs: the workers' supervisor.

    Words are text to be quoted, or :class:`ShellCode`.
    """
    command = [*python_words(config), *run_module("hpclaunch.worker"), "--directory", str(directory)]
    command += ["--job", JOB_ID, "--ends", ENDS]
    command += ["--processes", str(config.processes), "--threads", str(config.threads)]
    command += ["--memory", str(config.memory), "--death-timeout", f"{config.death_timeout:g}"]
    if not config.security:
        command += ["--no-security"]
    if config.interface is not None:
        command += ["--interface", config.interface]
    if config.local_directory is not None:
        command += ["--local-directory", on_node(config.local_directory)]
    if config.resources:
        command += ["--resources", ",".join(f"{name}={amount:g}" for name, amount in config.resources.items())]
    return [*command, *(ShellCode(word) for word in config.worker_extra_args)]


def python_words(config: JobConfig) -> list[ShellCode]:
    """Return the command that starts Python in a job; ``apptainer exec IMAGE python`` has several words."""
    return [ShellCode(word) for word in shellwords.split(config.python)]


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
    if config.batch_system == "mpi":
        raise ScriptError(
            f"section {config.section!r} is for the ranks of a job that runs: call initialize() in its script. "
            "`hpclaunch script sge --mpi 8 script.py` renders a job that starts them"
        )
    system = codec(config.batch_system)
    command = _default_command(config, directory) if worker_command is None else worker_command
    directives = Directives(config.job_extra_directives, config.job_directives_skip, system.dialect)
    slots = directives.slots(config.cores)
    values: dict[str, Any] = {
        **_values(config, system, directives, _resources(config, slots)),
        "cluster_id": cluster_id,
        "directory": str(directory),
        "logs": str(log_directory(config, directory)),
        "work_directory": str(work_directory),
        "tickets": str(rundir.tickets_path(directory, config.group)),
        "count": 1,
        "slots": config.cores,
        "command": command,
        "worker_command": command,  # its name in templates of users' own
        "memory_mib": mebibytes_up(config.memory),
        "threads_per_task": max(1, config.cores // (config.processes * config.threads)),
    }
    text = _fill_in(config, system, system.template, values)
    _warn_of_useless_skips(directives)
    if slots < config.cores:
        asked = f"its {system.dialect.slots_option} asks for {slots} slot{'s' if slots > 1 else ''}"
        warn(f"the job uses {config.cores} cores, but {asked}")
    return text


def render_ranks(
    config: JobConfig, *, count: int, command: Sequence[str], launcher: str | None = None, has_memory: bool = True
) -> str:
    """Return a job script that starts a program on several ranks, as MPI programs are started.

    :param config: ``cores`` and ``memory`` are those of one rank.
    :param count: how many ranks.
    :param command: the program and its arguments, as text to be quoted.
    :param launcher: what starts the ranks, as shell code; None is mpirun, on Slurm srun.
    :param has_memory: False asks for no memory: the site's default is enough.
    :raises ScriptError: a value can't stand in a script, or a template is wrong.
    """
    system = codec(config.batch_system)
    if not system.ranks_template:
        raise ScriptError(f"the codec of {system.title} has no template for a job of MPI ranks (ranks_template)")
    directives = Directives(config.job_extra_directives, config.job_directives_skip, system.dialect)
    needed = count * config.cores
    slots = directives.slots(needed)
    if slots < needed:
        asked = f"{system.dialect.slots_option} asks for {slots}"
        raise ScriptError(f"{count} ranks of {config.cores} cores need {needed} slots; {asked}")
    asks_for_memory = has_memory or config.resource_spec is not None
    launch = ShellCode(launcher or system.launcher(count=count, cores=config.cores))
    values: dict[str, Any] = {
        **_values(config, system, directives, _resources(config, config.cores) if asks_for_memory else ""),
        "cluster_id": "",
        "logs": str(log_directory(config, Path())) if config.log_directory else "",
        "count": count,
        "slots": needed,
        "command": [launch, *command],
        "memory_mib": mebibytes_up(-(-config.memory // config.cores)) if has_memory else None,
        "threads_per_task": config.cores,
    }
    text = _fill_in(config, system, system.ranks_template, values)
    _warn_of_useless_skips(directives)
    return text


def _values(
    config: JobConfig, system: type[BatchSystem], directives: Directives, resources: str
) -> dict[str, Any]:
    """Return the values that every script has."""
    shell = _shell(config.shebang)
    own_time = directives.run_time(config.resource_spec or "")
    run_time = system.dialect.time_option.rpartition(" ")[2]
    walltime = own_time if own_time is not None else config.walltime
    return {
        "config": config,
        "wants": directives.wants,
        "resources": directives.wants_resources(resources),
        "walltime": walltime or 0,
        "drain_margin": math.ceil(margin_of(walltime, config.drain_margin)) if walltime is not None else 0,
        "wants_run_time": config.walltime is not None and not _has_resource(config.resource_spec, run_time),
        "shell": shell,
        "is_bash": shell.endswith("bash"),
        "thread_variables": THREAD_VARIABLES,
        "job_variables": _job_variables(config),
    }


def _job_variables(config: JobConfig) -> list[str]:
    """Return the variables that the job must have set, for its paths mean something else without them."""
    words = [config.local_directory or "", config.python, *config.worker_extra_args]
    return [name for name in paths.variables(" ".join(words)) if name != "TMPDIR"]


def _warn_of_useless_skips(directives: Directives) -> None:
    for line in directives.useless_skips():
        warn(f"job-directives-skip: {line!r} is no directive of the script (keys are compared whole)")


def encoded(script: str) -> bytes:
    """Return a script as it goes into a file: what Python has read of paths that are not UTF-8 is their bytes."""
    return script.encode("utf-8", "surrogateescape")


def log_directory(config: JobConfig, directory: Path) -> Path:
    """Return where the jobs' output goes."""
    if config.log_directory is None:
        return directory / "logs"
    return homes.expanded(config.log_directory, "log-directory").absolute()


def _fill_in(config: JobConfig, system: type[BatchSystem], name: str, values: dict[str, Any]) -> str:
    environment = _environment(config, system)
    try:
        text = environment.get_template(name).render(values)
        encoded(text)
    except ScriptError:
        raise
    except UnicodeEncodeError:
        raise ScriptError("a value of the script is no text: it has characters that no encoding knows") from None
    except jinja2.TemplateSyntaxError as error:
        where = f"{error.filename or error.name}:{error.lineno}"
        raise ScriptError(f"{where}: the template is wrong: {error.message}") from None
    except jinja2.TemplateNotFound as error:
        raise ScriptError(f"template {name}: there is no template {error.message!r}") from None
    except Exception as error:  # a template is a program of the user's
        raise ScriptError(f"template {_template_line(error) or name}: {error}") from None
    if "\0" in text:
        raise ScriptError("a job script must not contain a null character")
    return text


def _environment(config: JobConfig, system: type[BatchSystem]) -> SandboxedEnvironment:
    if not config.template_directory:
        return _environment_of(system, None)
    own = homes.expanded(config.template_directory, "template-directory")
    if not own.is_dir():
        raise ScriptError(f"template-directory {own} is not a directory")
    return _environment_of(system, own.absolute())


@functools.lru_cache(maxsize=8)  # compiling a template takes longest; one that has changed is read again
def _environment_of(system: type[BatchSystem], directory: Path | None) -> SandboxedEnvironment:
    own = [directory] if directory is not None else []
    ours = jinja2.FileSystemLoader(data_path("templates"))
    theirs = system.template_directory
    codecs = [("", ours)] if theirs is None else [(system.name, jinja2.FileSystemLoader(theirs)), ("", ours)]
    environment = SandboxedEnvironment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.FileSystemLoader(own),
                *(loader for _, loader in codecs),
                jinja2.PrefixLoader({name or "hpclaunch": loader for name, loader in codecs}),
            ]
        ),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(
        q=_shell_quote, d=system.dialect.write_word, slurm_path=_slurm_path, sge_path=_sge_path
    )
    environment.filters.update(slurm_time=_slurm_time, sge_time=_sge_time, needed=_needed)
    return environment


def _template_line(error: BaseException) -> str:
    """Return where in a template an error arose: ``path:line``."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((f"{f.filename}:{f.lineno}" for f in reversed(frames) if f.filename.endswith(".j2")), "")


def _default_command(config: JobConfig, directory: Path) -> list[str]:
    return worker_command(config, directory)


# --- values -------------------------------------------------------------------------------------------------


def _resources(config: JobConfig, slots: int) -> str:
    """Return Grid Engine's resource list for memory: as given, or so much for each slot."""
    if config.resource_spec is not None:
        return config.resource_spec
    if config.memory_resource is None:
        return ""
    return f"{config.memory_resource}={_sge_size(-(-config.memory // slots))}"


def _has_resource(spec: str | None, name: str) -> bool:
    return name in (one.partition("=")[0].strip() for one in (spec or "").split(","))


def _sge_size(size: int) -> str:
    """Return a size as Grid Engine takes it (``24G``, in powers of 1024), rounded up to whole KiB."""
    kibibytes = -(-size // 1024)
    for unit, letter in _SIZES:
        if kibibytes * 1024 % unit == 0:
            return f"{kibibytes * 1024 // unit}{letter}"
    raise AssertionError("a whole number of KiB is a whole number of KiB")


def _shell(shebang: str) -> str:
    """Return the path of the shell that a shebang names, for ``-S``: Grid Engine may not look at the shebang.

    :raises ScriptError: the job script can't be read by that program.
    """
    path = shebang.removeprefix("#!").split()[0]
    if path.endswith("/env"):
        words = shebang.removeprefix("#!").split()[1:]
        path = "/bin/" + next((word for word in words if not word.startswith("-") and "=" not in word), "bash")
    name = path.rpartition("/")[2]
    if name != "bash" and name not in _LIKE_BASH:
        raise ScriptError(f"shebang: the job script is for bash, and {name} can't run it; write #!/bin/bash")
    return path


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
    return value if isinstance(value, ShellCode) else shlex.quote(str(value))


def on_node(path: str) -> ShellCode:
    """Return a path in which ``~``, ``~user`` and ``$NAME`` are the job's own, and nothing else is special."""
    text = re.sub(r"^~(?=/|$)", "$HOME", path)
    if other := re.match(r"~[A-Za-z_][A-Za-z0-9_.-]*(?=/|$)", text):  # bash knows it, outside of quotes
        return ShellCode(other[0] + on_node(text[other.end() :])) if other[0] != text else ShellCode(text)
    text = re.sub(r"\$TMPDIR\b|\$\{TMPDIR\}", "${TMPDIR:-/tmp}", text)
    escaped = re.sub(r'([\\"`]|\$(?![A-Za-z_]|\{[A-Za-z_][A-Za-z0-9_]*(?:\}|:-/tmp\})))', r"\\\1", text)
    return ShellCode(f'"{escaped}"')


def _slurm_path(value: object) -> str:
    """Return a path as Slurm's file name patterns write it.

    :raises ScriptError: it has a backslash, which would switch off the patterns.
    """
    text = str(value)
    if "\\" in text:
        raise ScriptError(f"Slurm can't write logs to {text!r}: it has a backslash; set log-directory")
    return text.replace("%", "%%")


def _sge_path(value: object) -> str:
    """Return a directory for ``-o``, where Grid Engine expands ``$NAME`` and knows ``host:path`` and lists.

    :raises ScriptError: it would be read as something else.
    """
    text = str(value)
    bad = [c for c in text if c in "$:,\"'#"]
    if bad:
        raise ScriptError(f"Grid Engine can't write logs to {text!r}: it has {bad[0]!r}; set log-directory")
    return sge_word(text)
