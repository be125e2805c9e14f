"""What the user's environment would do to jobs and to our commands, and what it may do.

Batch systems take options from places that no script shows. ``SBATCH_*`` variables win over ``#SBATCH`` lines,
``sge_request`` files add to ``#$`` lines, ``SQUEUE_*`` filters what a listing has. Rules:

* What the configuration says wins. What it does not say may come from the environment; it is written into the job
  script then, where it is seen, and the script alone counts: ``sbatch`` runs without these variables, and
  ``#$ -clear`` switches off the files.
* What contradicts the configuration, or would break what hpclaunch counts on, is overruled, and said.
* Listings and questions run with a fixed environment and in the C locale. A submission keeps the user's locale,
  since the job may inherit it.

:func:`inherit` is for scripts, :func:`interference` lists what there is and what becomes of it, and
:mod:`hpclaunch.transport.environment` is for commands.
"""

from __future__ import annotations

import enum
import os
import pwd
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from hpclaunch import homes
from hpclaunch.config.schema import JobConfig
from hpclaunch.dialects import SGE, SLURM, slurm_cluster, slurm_seconds
from hpclaunch.directives import Dialect, Option, options
from hpclaunch.errors import ScriptError
from hpclaunch.notes import warn
from hpclaunch.transport.environment import SBATCH_OPTIONS, SGE_OUTPUT, SLURM_OUTPUT

# --- what stands in the environment ----------------------------------------------------------------------------


class Fate(enum.StrEnum):
    """What becomes of a setting in the environment."""

    TAKEN = "taken"  # into the job script: the configuration does not say it
    SAME = "same"  # the configuration says the same
    OVERRULED = "overruled"  # the configuration says something else
    REFUSED = "refused"  # hpclaunch could not follow its jobs with it
    SWITCHED_OFF = "switched off"  # it changes what our own commands print


class Setting(NamedTuple):
    """One setting in the environment that the batch system would heed.

    ``line`` is the directive that it stands for; empty for those that only concern commands.
    """

    origin: str  # "$SBATCH_QOS", "/home/me/.sge_request:3"
    line: str
    fate: Fate
    text: str  # a sentence: what it would do, and what is done about it


#: Those that are switches: on if empty, "yes" or a number that is not 0.
_SWITCHES = frozenset(
    (
        "EXCLUSIVE",
        "GET_USER_ENV",
        "IGNORE_PBS",
        "NO_KILL",
        "NO_REQUEUE",
        "OVERCOMMIT",
        "REQUEUE",
        "SPREAD_JOB",
        "USE_MIN_NODES",
        "WAIT",
        "DEBUG",
    )
)
#: The batch systems that take options from the environment.
_DIALECTS = {"slurm": SLURM, "sge": SGE}
#: What can't come from the environment, beside what can't be a directive at all.
_NOT_INHERITED = {
    "slurm": {
        "--error": "the output of a job is in one file, which hpclaunch reads",
        "--verbose": "it only makes sbatch talk",
        "--ignore-pbs": "the script has no lines of PBS",
    },
    "sge": {
        "-e": "the output of a job is in one file, which hpclaunch reads",
        "-now": "jobs may wait in the queue",
        "-C": "the script's directives begin with #$",
        "-terse": "hpclaunch asks for that itself",
    },
}
#: Options of Grid Engine whose parts each stand for themselves.
_LISTS = frozenset({"-v", "-ac"})


def interference(config: JobConfig, environ: Mapping[str, str], directory: Path) -> list[Setting]:
    """Return all that stands in the environment and the batch system would heed, and what becomes of it.

    :param directory: where jobs are submitted from.
    :raises ScriptError: the script can't be rendered, or the environment sends jobs where they can't be followed.
    """
    system = config.batch_system
    if system not in _DIALECTS:
        return []
    found = _slurm_settings(environ) if system == "slurm" else _sge_settings(_request_files(environ, directory))
    own: dict[str, str] = {}
    if found:
        own = _own_options(config, directory)
    if "-clear" in own:  # the user wants none of it
        found = []
    weighed = [_weigh(origin, option, line, own, system) for origin, option, line in found]
    _check_clusters(weighed)
    return weighed + _of_commands(system, environ, directory)


def inherit(
    config: JobConfig, environ: Mapping[str, str] | None = None, directory: Path | None = None
) -> JobConfig:
    """Return a configuration that also has what it may take from the environment; warn of what is overruled.

    :param environ: this process's own if None.
    :param directory: where jobs are submitted from; the current one if None.
    :raises ScriptError: see :func:`interference`.
    """
    variables = os.environ if environ is None else environ
    settings = interference(config, variables, directory or _current_directory())
    for setting in settings:
        if setting.fate in (Fate.OVERRULED, Fate.REFUSED):
            warn(setting.text)
    lines = tuple(setting.line for setting in settings if setting.fate is Fate.TAKEN)
    if config.batch_system == "sge" and any(setting.line for setting in settings):
        if any(setting.line.startswith("-jsv ") for setting in settings):
            warn("a file of default requests has -jsv, which no script can have: all such files stay in force")
            lines = ()
        else:
            lines = ("-clear", *lines)
    return msgspec.structs.replace(config, inherited_directives=lines)


def _current_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/")


class _Found(NamedTuple):
    origin: str
    option: Option
    line: str


def _own_options(config: JobConfig, directory: Path) -> dict[str, str]:
    """Return the options of the script as the configuration alone makes it."""
    from hpclaunch import scripts  # templates take a while to import, and most environments have nothing

    plain = msgspec.structs.replace(config, inherited_directives=())
    text = scripts.render(
        plain, cluster_id="0", directory=directory, work_directory=directory, worker_command=["true"]
    )
    dialect = _DIALECTS[config.batch_system]
    lines = re.findall(rf"^{re.escape(dialect.prefix)}\s+(.*)$", text, re.MULTILINE)
    own = [option for line in lines for option in _parts(line, dialect)]
    return {option.key: option.value for option in own}


def _parts(line: str, dialect: Dialect) -> Iterable[Option]:
    if dialect is SLURM:
        yield _slurm_option(line) if len(options(line, dialect)) == 1 else options(line, dialect)[0]
        return
    for option in options(line, dialect):
        if option.key in _LISTS:
            for one in option.value.split(","):
                yield Option(f"{option.key} {one.partition('=')[0].strip()}", one.strip())
        else:
            yield option


def _weigh(origin: str, option: Option, line: str, own: Mapping[str, str], system: str) -> Setting:
    refused = {**_DIALECTS[system].refused, **_NOT_INHERITED[system]}.get(option.key)
    if refused is None and option.key == "-w" and option.value in ("v", "p"):
        refused = "no job would be submitted"
    if refused is not None:
        return Setting(origin, line, Fate.REFUSED, f"{origin} asks for {line}, which is left out: {refused}")
    if option.key not in own:
        return Setting(origin, line, Fate.TAKEN, f"{origin} adds {line} to the job script")
    ours = own[option.key]
    said = f"{option.key.split()[0]} {ours}".strip() if ours else option.key
    if _is_same(option.key, option.value, ours):
        return Setting(origin, line, Fate.SAME, f"{origin} asks for {line}, as the configuration does")
    text = f"{origin} asks for {line}, and the configuration for {said}, which counts"
    return Setting(origin, line, Fate.OVERRULED, text)


def _is_same(key: str, one: str, other: str) -> bool:
    if key == "--time" and (seconds := slurm_seconds(one)) is not None:
        return seconds == slurm_seconds(other)
    return one == other


# --- Slurm ------------------------------------------------------------------------------------------------------


def _slurm_settings(environ: Mapping[str, str]) -> list[_Found]:
    found = []
    for name in sorted(environ):
        short = name.removeprefix("SBATCH_") if name.startswith("SBATCH_") else ""
        if name in ("SLURM_CLUSTERS", "SLURM_HINT") and f"SBATCH_{name[6:]}" not in environ:
            short = name.removeprefix("SLURM_")
        if short not in SBATCH_OPTIONS or "\n" in environ[name] or (short == "WAIT4SWITCH"):
            continue
        line = _slurm_line(short, environ[name].strip())
        if line:
            found.append(_Found(f"${name}", _slurm_option(line), line))
    return found


def _slurm_option(line: str) -> Option:
    """Return a directive's key and value; an option that goes by another's key is told by its own name."""
    (option,) = options(line, SLURM)
    name = line.partition("=")[0].split()[0]
    is_another = name.startswith("--") and name != option.key
    return Option(option.key, f"{name} {option.value}".strip() if is_another else option.value)


def _slurm_line(short: str, value: str) -> str:
    """Return the directive that a variable stands for; empty if it switches nothing on."""
    option = SBATCH_OPTIONS[short] or f"--{short.lower().replace('_', '-')}"
    if short in _SWITCHES:
        is_on = value in ("", "yes") or (value.isdigit() and int(value) != 0)
        return option if is_on else f"{option}={value}" if short == "EXCLUSIVE" and value.isalpha() else ""
    if not value:
        return ""
    plain = re.fullmatch(r"[^\s\"'#\\]+", value) is not None
    return f"{option}={value}" if plain else '{}="{}"'.format(option, re.sub(r'(["\\])', r"\\\1", value))


def _check_clusters(settings: Iterable[Setting]) -> None:
    for setting in settings:
        if setting.fate is Fate.TAKEN and setting.line.startswith("--clusters="):
            try:
                slurm_cluster([setting.line])
            except ScriptError as error:
                raise ScriptError(f"{setting.origin}: {error}") from None


# --- Grid Engine ------------------------------------------------------------------------------------------------


def _request_files(environ: Mapping[str, str], directory: Path) -> list[tuple[str, str]]:
    """Return the default request files as qsub reads them: path and text, lowest first."""
    cell = Path(environ.get("SGE_ROOT", "")) / environ.get("SGE_CELL", "default") / "common"
    paths = [cell / "sge_request"] if "SGE_ROOT" in environ else []
    home, here = _home() / ".sge_request", directory / ".sge_request"
    paths += [home] if home == here else [home, here]
    return [(str(path), text) for path in paths if (text := _text(path))]


def _home() -> Path:
    """Return the user's home directory as Grid Engine finds it: it does not look at $HOME."""
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return homes.home() or Path("/")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _sge_settings(files: Iterable[tuple[str, str]]) -> list[_Found]:
    found: list[_Found] = []
    for path, text in files:
        is_soft = False
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                parts = list(_parts(line, SGE))
            except ScriptError:
                continue  # qsub itself refuses such a file
            for option in parts:
                if option.key in ("-soft", "-hard"):
                    is_soft = option.key == "-soft"
                elif option.key == "-clear":
                    found.clear()
                else:
                    found.append(_Found(f"{path}:{number}", option, _sge_line(option, is_soft=is_soft)))
    return found


def _sge_line(option: Option, *, is_soft: bool) -> str:
    line = f"{option.key.split()[0]} {option.value}".rstrip()
    return f"-soft {line} -hard" if is_soft and option.key.split()[0] in ("-l", "-q") else line


# --- what concerns commands only ----------------------------------------------------------------------------


def _of_commands(system: str, environ: Mapping[str, str], directory: Path) -> list[Setting]:
    prefixes = ("SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")
    names = {
        "slurm": [name for name in environ if name.startswith(prefixes) or name in SLURM_OUTPUT],
        "sge": [name for name in environ if name in SGE_OUTPUT],
    }[system]
    origins = [f"${name}" for name in sorted(names) if name != "SLURM_CLUSTERS"]
    if system == "sge":
        paths = [_home() / ".sge_qstat"]
        if "SGE_ROOT" in environ:
            paths.append(Path(environ["SGE_ROOT"]) / environ.get("SGE_CELL", "default") / "common" / "sge_qstat")
        origins += [str(path) for path in paths if _text(path).strip()]
    what = "changes what listings show; hpclaunch's own commands do without it"
    return [Setting(origin, "", Fate.SWITCHED_OFF, f"{origin} {what}") for origin in origins]
