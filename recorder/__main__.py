"""``python -m recorder`` is the command ``recorder``."""

from recorder.cli import main

if __name__ == "__main__":
    main()
