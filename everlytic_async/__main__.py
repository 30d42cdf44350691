"""``python -m everlytic_async`` is the command ``everlytic-async``."""

from everlytic_async.cli import main

if __name__ == "__main__":
    main()
