"""Where the command ``hpclaunch`` begins: before anything else is imported, nothing of others can be."""

from hpclaunch import safepath


def main() -> None:
    """Run the command line without the directory that Python has put first on ``sys.path``."""
    safepath.drop_start_directory()
    from hpclaunch.cli.main import main as run

    run()
