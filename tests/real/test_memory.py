"""Tasks that take more memory than the batch system gives to their job: what the user reads."""

from __future__ import annotations

from tests.real.conftest import RealBed
from tests.testbed.beds import Bed

WORK = """
        def greedy(size):
            print("greedy begins", file=sys.stderr, flush=True)
            kept = [bytearray(1_000_000) for _ in range(size)]
            time.sleep(20)
            return len(kept)
        def start_greedy_children(size):
            import subprocess
            program = f"x = bytearray({size}); import time; time.sleep(20)"
            children = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
            return [child.wait() for child in children]
        os.environ["HPCLAUNCH_DISTRIBUTED__WORKER__MEMORY__TERMINATE"] = "false"
"""


def test_the_kernel_kills_for_slurm_and_the_error_says_so(slurm: Bed) -> None:
    said = RealBed(slurm).run(
        WORK
        + """
        with make() as cluster, Client(cluster) as client:
            cluster.scale(jobs=1)
            error = client.submit(greedy, 2_000, key="greedy").exception(60)
            later = client.submit(double, 4).result(20)
            say(kind=type(error).__name__, text=str(error), later=later, stories=cluster.jobs().stories())
        """,
        timeout=100,
    )
    print(said["text"], said["stories"])
    assert said["kind"] == "KilledWorkerError"
    assert "4 workers died while they ran task greedy" in said["text"]
    assert (
        said["text"].count("killed by signal 9 (SIGKILL) by the kernel, because its job was over the memory") == 4
    )
    assert "limit of 401 MB that is set for it while it ran greedy; its memory had peaked at " in said["text"]
    assert "| greedy begins" in said["text"]
    assert "Give each job more memory: memory= (400 MB now)" in said["text"]
    assert said["later"] == 8


def test_grid_engine_gives_no_more_and_the_error_says_so(sge: Bed) -> None:
    """First to one process, which gets a MemoryError; then to all of a job together, which it ends."""
    said = RealBed(sge).run(
        WORK
        + """
        with make(scheduler_options={'allowed_failures': 1}) as cluster, Client(cluster) as client:
            cluster.scale(jobs=1)
            error = client.submit(greedy, 2_000).exception(60)
            later = client.submit(double, 4).result(20)
            together = client.submit(start_greedy_children, 500_000_000, key="greedy").exception(100)
            say(kind=type(error).__name__, text=str(error), later=later, stories=cluster.jobs().stories(),
                other_kind=type(together).__name__, other_text=str(together))
        """,
        timeout=150,
    )
    print(said["text"], said["other_text"], said["stories"])
    assert said["kind"] == "MemoryError"
    assert "host sge" in said["text"]
    assert "may have 944 MB of virtual memory, which the batch system has set (RLIMIT_AS; h_vmem" in said["text"]
    assert "Ask for more per job: memory=, and resource_spec= if that names h_vmem" in said["text"]
    assert said["later"] == 8
    assert said["other_kind"] == "KilledWorkerError"
    assert "2 workers died while they ran task greedy" in said["other_text"]
    assert "the job's processes had " in said["other_text"]
    assert "the batch system ends jobs that have more than 944 MB (RLIMIT_AS; h_vmem" in said["other_text"]
    assert "while it ran greedy; its memory had peaked at " in said["other_text"]
    assert "Give each job more memory: memory= (900 MB now), and resource_spec=" in said["other_text"]
    assert "ended: the worker gave up: the job's processes had" in said["stories"]
