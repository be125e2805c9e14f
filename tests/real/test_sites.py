"""What real sites and their users' files do to jobs, on the real batch systems."""

from __future__ import annotations

import textwrap

from tests.real.conftest import RealBed

#: How much a job of each bed may ask for.
SMALL = {
    "slurm": {"memory": "400 MB", "interface": "lo"},
    "sge": {"memory": "900 MB", "resource-spec": "h_vmem=900M"},
}


def configure(real: RealBed, text: str) -> str:
    """Write a user's file; return the words with which a program uses it."""
    lines = [f"{key}: {value}" for key, value in SMALL[real.name].items()]
    body = "\n".join([*lines, textwrap.dedent(text).strip()])
    path = real.bed.directory / "jobqueue.yaml"
    path.write_text(f"jobqueue:\n  {real.name}:\n{textwrap.indent(body, '    ')}\n")
    return f"os.environ['HPCLAUNCH_CONFIG'] = {str(path)!r}"


def test_a_file_with_options_of_dask_workers(real: RealBed) -> None:
    use = configure(
        real,
        """
        cores: 1
        walltime: '00:20:00'
        extra: ["--lifetime", "55m", "--lifetime-stagger 4m", "--no-dashboard", "--nthreads 3", "--nworkers", "2"]
        env-extra: null
        job-extra: {}
        header-skip: ['job-name']
        """,
    )
    (real.bed.directory / "mine.py").write_text("import builtins\nbuiltins.is_preloaded = True\n")
    said = real.run(f"""
        {use}
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            cluster = JobQueueCluster(config_name="{real.name}")
        with cluster, Client(cluster) as client:
            cluster.scale(jobs=1)
            cluster.wait_for_workers(2, timeout=60)
            say(threads=[worker["threads"] for worker in cluster.workers()],
                notes=[str(note.message) for note in notes], job_name="job-name" in cluster.job_script())
    """)
    assert said["threads"] == [3, 3]
    assert [note for note in said["notes"] if "--no-dashboard" in note]
    assert not said["job_name"]


def test_modules_of_preload_are_there_and_a_missing_one_is_told(real: RealBed) -> None:
    path = real.bed.directory / "mine.py"
    path.write_text("import builtins\nbuiltins.mine = 42\n")
    said = real.run(f"""
        import builtins
        with make(worker_extra_args=["--preload {path}"]) as cluster, Client(cluster) as client:
            cluster.scale(jobs=1)
            value = client.submit(lambda: __import__("builtins").mine).result(timeout=60)
        with make(worker_extra_args=["--preload no_such_module"]) as cluster:
            cluster.scale(jobs=1)
            late = time.monotonic() + 60
            ended = lambda: [job for job in cluster.jobs() if job["state"] == "ended"]
            while not ended() and time.monotonic() < late:
                time.sleep(0.1)
            say(value=value, reason=ended()[0]["reason"])
    """)
    assert said["value"] == 42
    assert "--preload no_such_module: ModuleNotFoundError" in said["reason"]


def test_a_lifetime_ends_a_job_in_order_and_another_takes_its_place(real: RealBed) -> None:
    said = real.run("""
        with make(worker_extra_args=["--lifetime 12s"]) as cluster, Client(cluster) as client:
            cluster.scale(jobs=1)
            results = client.gather(client.map(lambda x: (time.sleep(0.5), x)[1], range(60)))
            say(right=results == list(range(60)), stories=[job["story"] for job in cluster.jobs()])
    """)
    assert said["right"]
    assert len(said["stories"]) >= 2
    assert any("drained" in line for line in said["stories"][0])


def test_python_in_a_container(real: RealBed) -> None:
    """A script stands for apptainer: it has its own arguments, and starts what comes after the image."""
    container = real.bed.directory / "apptainer"
    container.write_text('#!/bin/bash\n[ "$1 $2" = "exec image.sif" ] || exit 9\nshift 2\nIN_CONTAINER=yes "$@"\n')
    container.chmod(0o755)
    said = real.run(f"""
        python = "{container} exec image.sif " + sys.executable
        with make(python=python) as cluster, Client(cluster) as client:
            cluster.scale(jobs=1)
            inside = client.submit(os.getenv, "IN_CONTAINER").result(timeout=60)
            say(inside=inside)
    """)
    assert said["inside"] == "yes"


def test_paths_mean_the_same_everywhere(real: RealBed) -> None:
    """Each spelling of the same directories, in each key, and nothing is called like a variable."""
    for home in ("~", "$HOME", "${HOME}"):
        said = real.run(f"""
            os.chdir({str(real.bed.directory)!r})
            mine = os.path.relpath({str(real.bed.directory)!r}, os.path.expanduser("~"))
            mine = "{home}/" + mine
            logs, local, shared = mine + "/logs of $USER", mine + "/local", mine + "/shared"
            cluster = make(log_directory=logs, local_directory=local, shared_temp_directory=shared)
            with cluster, Client(cluster) as client:
                cluster.scale(jobs=1)
                say(tmp=client.submit(os.getenv, "TMPDIR").result(timeout=60), run=str(cluster.directory))
        """)
        assert said["tmp"] == f"{real.bed.directory}/local"
        assert said["run"].startswith(f"{real.bed.directory}/shared/")
    user = real.bed.user_name
    logs = real.bed.directory / f"logs of {user}"
    assert len(list(logs.glob("*.log"))) == 3
    assert not [path for path in real.bed.directory.rglob("*") if "$" in path.name or path.name == "~"]


def test_a_variable_that_only_the_job_lacks_is_named(real: RealBed) -> None:
    said = real.run("""
        os.environ["ONLY_HERE"] = "/tmp"
        with make(local_directory="$ONLY_HERE/x", job_script_prologue=["unset ONLY_HERE"]) as cluster:
            cluster.scale(jobs=1)
            late = time.monotonic() + 60
            ended = lambda: [job for job in cluster.jobs() if job["state"] == "ended"]
            while not ended() and time.monotonic() < late:
                time.sleep(0.1)
            say(reason=ended()[0]["reason"])
    """)
    assert "ONLY_HERE is not set in this job on" in said["reason"]


BASHRC = """
case $- in *i*) ;; *) MODULES=on ;; esac
export PATH="$HOME/bin:$PATH:$NO_SUCH_VARIABLE"
module() {
    echo "module: $*" >&2
    [ "$2" != missing ] || { echo "Lmod has detected the following error: unknown module $2" >&2; return 1; }
    export LOADED="$LOADED:$2"
}
[ -f /no/such/file ] && . /no/such/file
"""


def test_a_prologue_as_people_have_it(real: RealBed) -> None:
    """A file whose last line is not true, modules that print, and a module that is missing, told by its line."""
    (real.bed.directory / "bashrc").write_text(BASHRC)
    said = real.run(f"""
        lines = ["source {real.bed.directory}/bashrc", "module load gcc", "module load openmpi"]
        with make(job_script_prologue=lines) as cluster, Client(cluster) as client:
            cluster.scale(jobs=1)
            loaded = client.submit(os.getenv, "LOADED").result(timeout=60)
        with make(job_script_prologue=[*lines, "module load missing", "module load cuda"]) as cluster:
            cluster.scale(jobs=1)
            late = time.monotonic() + 60
            ended = lambda: [job for job in cluster.jobs() if job["state"] == "ended"]
            while not ended() and time.monotonic() < late:
                time.sleep(0.1)
            say(loaded=loaded, reason=ended()[0]["reason"])
    """)
    assert said["loaded"] == ":gcc:openmpi"
    assert "exit code 1 from: module load missing" in said["reason"]
