"""``python -m hpclaunch`` is the command ``hpclaunch``, of the Python at hand."""

from hpclaunch.cli.entry import main

if __name__ == "__main__":
    main()
