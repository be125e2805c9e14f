"""How the value of a configuration key is read: to plain, typed values, or to an error in a person's words. Pure.

Each function takes what YAML, the environment or a constructor gives, and raises ValueError, whose text goes
behind the name of the key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from hpclaunch.config import shellwords
from hpclaunch.config.units import format_bytes, parse_bytes, parse_duration

# No value is larger than these: beyond are slips of the pen.
MOST = 1_000_000
LARGEST_SIZE = 10**18
LONGEST_NAME = 200
LONGEST_TIME = 10 * 366 * 86400


def read_text(value: Any) -> str:
    """Read a text; a whole number is one too, but not what YAML has already changed: on, 1.10."""
    if isinstance(value, bool | float):
        raise ValueError(f"must be a text, not {kind_of(value)}; put quotes around it if it is meant as one")
    if not isinstance(value, str | int):
        raise ValueError(f"must be a text, not {kind_of(value)}")
    text = str(value)
    if not text.strip():
        raise ValueError("must not be empty; write null to leave it open")
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise ValueError(f"must be one line without control characters, not {text!r}")
    return text


def read_count(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be a whole number, not {kind_of(value)}")
    if not 1 <= value <= MOST:
        raise ValueError(
            f"must be at least 1, not {value}" if value < 1 else f"must be at most {MOST}, not {value}"
        )
    return value


def read_count_or_zero(value: Any) -> int:
    if isinstance(value, bool | float):
        return read_count(value)  # which says what is wrong with it
    if isinstance(value, int) and value < 0:
        raise ValueError(f"must be 0 or more, not {value}")
    return 0 if value in (0, "0") else read_count(value)


def read_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {kind_of(value)}")
    return value


def read_security(value: Any) -> bool:
    """Read a switch; an object with certificates, as Dask's Security, is refused in so many words."""
    if not isinstance(value, bool | int | float | str | list | tuple | Mapping):
        raise ValueError(
            "must be true or false: hpclaunch makes the certificates of each cluster itself, "
            f"so leave out the {type(value).__name__} object"
        )
    return read_bool(value)


def read_silence_logs(value: Any) -> str | None:
    """Read what dask-jobqueue takes: the name or number of a logging level, or false."""
    return None if value is False else read_text(value)


def read_bytes(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f'must be a size such as "24 GB", not {kind_of(value)}')
    size = parse_bytes(value)
    if size < 1 << 20:
        raise ValueError(
            f'{value!r} is less than 1 MiB; did you forget the unit? Write "{value} MB" or "{value} GB"'
        )
    if size > LARGEST_SIZE:
        raise ValueError(f"{value!r} is more than {format_bytes(LARGEST_SIZE)}")
    return size


def read_most_bytes(value: Any) -> int | None:
    return None if value is False else read_bytes(value)


def read_slurm_size(value: Any) -> str:
    """Read a size as sbatch's --mem takes it: a whole number and a letter; 0 is all that the node has."""
    text = read_text(value).strip()
    if not re.fullmatch(r"[0-9]+[KMGT]?", text, re.IGNORECASE):
        raise ValueError(f'{text!r} is no size for Slurm\'s --mem; write "4G", "500M" or 0 for the whole node')
    return text


def read_seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f'must be a time such as "01:00:00", not {kind_of(value)}')
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError("must be more than 0 seconds")
    if seconds > LONGEST_TIME:
        raise ValueError(f"{value!r} is more than ten years")
    return seconds


def read_walltime(value: Any) -> int:
    seconds = read_seconds(value)
    if seconds != int(seconds):
        raise ValueError("must be whole seconds")
    return int(seconds)


def read_lines(value: Any) -> tuple[str, ...]:
    if value is None or (isinstance(value, str | Mapping) and not value):
        return ()  # what older files have for "nothing": "", {}
    if isinstance(value, str):
        raise ValueError(f"must be a list, so write [{value!r}]")
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list of texts, not {kind_of(value)}")
    return tuple(read_line(one) for one in value)


def read_line(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"must be a list of texts; one of them is {kind_of(value)}")
    if "\0" in str(value):
        raise ValueError("must not contain a null character")
    return str(value)


def read_arguments(value: Any) -> tuple[str, ...]:
    """Read arguments for the worker: a list, or all of them in one text, as in the oldest files."""
    lines = value.splitlines() if isinstance(value, str) else read_lines(value)
    return tuple(line for line in lines if line.strip())


def read_command(value: Any) -> str:
    """Read the words of a command, which may be several (``apptainer exec IMAGE python``) and have variables."""
    text = read_text(value)
    shellwords.split(text)
    return text


def read_directives(value: Any) -> tuple[str, ...]:
    lines = read_lines(value)
    for line in lines:
        if "\n" in line:
            raise ValueError(f"must have one directive per item, not two lines in {line!r}")
    return lines


def read_mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a mapping, not {kind_of(value)}")
    for key, one in value.items():
        if not isinstance(key, str):
            raise ValueError(f"must have texts as keys, not {kind_of(key)}")
        if not is_plain(one):
            raise ValueError(f"{key} must be a plain value, as a file could have it, not {kind_of(one)}")
    return dict(value)


def read_resources(value: Any) -> dict[str, float]:
    """Read what each worker has that tasks can ask for."""
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a mapping of names and amounts, such as {{GPU: 1}}, not {kind_of(value)}")
    for name, amount in value.items():
        if not isinstance(name, str) or not re.fullmatch(r"[^\s,=]+", name):
            raise ValueError(f"{name!r} can't be the name of a resource: it must have no blank, comma or '='")
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 < amount <= LARGEST_SIZE:
            raise ValueError(f"{name} must be a number above 0, not {kind_of(amount)}")
    return {name: float(amount) for name, amount in value.items()}


def read_adaptive(value: Any) -> dict[str, Any]:
    return {key.replace("-", "_"): one for key, one in read_mapping(value).items()}


def read_groups(value: Any) -> dict[str, Any]:
    groups = read_mapping(value)
    for name, keys in groups.items():
        check_group_name(name)
        if not isinstance(keys, Mapping):
            raise ValueError(f"{name} must have a mapping of keys, not {kind_of(keys)}")
    return groups


def check_group_name(name: Any) -> None:
    """Raise ValueError if a group of jobs can't have this name: it is part of file names."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]{0,30}", name):
        raise ValueError(f"the name of a group must be of up to 31 letters, digits and _, not {name!r}")


def is_plain(value: Any) -> bool:
    """Say whether a value can go to the head, another process, as it is."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(is_plain(one) for one in value)
    if isinstance(value, int):
        return abs(value) < 1 << 63
    return value is None or isinstance(value, str | float)


def read_fraction(value: Any) -> float | None:
    if value is False:
        return None
    if isinstance(value, str) and re.fullmatch(r"[0-9]*\.?[0-9]+", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError(f"must be false or a fraction of the memory above 0 and up to 1, not {value!r}")
    return float(value)


def read_shebang(value: Any) -> str:
    text = read_text(value)
    if not text.startswith("#!") or not text[2:].strip():
        raise ValueError(f'must begin with "#!" and name a shell, such as "#!/usr/bin/env bash", not {text!r}')
    return text


def read_interface(value: Any) -> str:
    text = read_text(value)
    if not re.fullmatch(r"[A-Za-z0-9._:@-]{1,15}", text):
        raise ValueError(f"{text!r} is not the name of a network interface (`ip addr` lists them)")
    return text


def choice_of(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"must be one of {', '.join(words)}, not {kind_of(value)}")
        return value

    return read


def read_protocol(value: Any) -> str:
    text = read_text(value).removesuffix("://")
    if text not in ("tcp", "tls"):
        raise ValueError(f"must be tls:// or tcp://, not {value!r}: others are not spoken here")
    return text


def kind_of(value: Any) -> str:
    """Say what a value is in the words of a YAML file."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if value is not None else "null"
