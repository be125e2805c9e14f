"""Set-up and executors on a real batch system, where workers come whenever the queue lets them."""

from __future__ import annotations

from tests.real.conftest import RealBed


def test_set_up_before_there_are_workers_reaches_all(real: RealBed) -> None:
    said = real.run("""
        with make() as cluster, Client(cluster) as client:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                assert client.run(os.getpid) == {}
            assert client.register_worker_callbacks(setup=lambda: os.environ.update(MARK="yes")) == {}
            with open("module_for_jobs.py", "w") as file:
                file.write("VALUE = 5")
            client.upload_file("module_for_jobs.py")
            def look(i):
                import module_for_jobs
                time.sleep(0.01)
                return [os.environ.get("MARK"), module_for_jobs.VALUE]
            executor = client.get_executor(pure=False)
            results = executor.map(look, range(100))
            cluster.scale(jobs=3)
            cluster.wait_for_workers(3, timeout=60)
            first = list(results)
            client.restart(timeout=60)
            second = client.gather(client.map(look, range(100)))
            say(warned=[str(one.message) for one in warned], first=first, second=second)
    """)
    assert "on no worker" in said["warned"][0]
    assert said["first"] == said["second"] == [["yes", 5]] * 100


def test_the_end_of_a_script_waits_for_jobs_in_the_queue(real: RealBed) -> None:
    said = real.run("""
        cluster = make()
        cluster.scale(jobs=1)
        executor = Client(cluster).get_executor()
        executor.submit(double, 21).add_done_callback(lambda future: say(result=future.result()))
        executor.map(where, range(3))
    """)
    assert said["result"] == 42
