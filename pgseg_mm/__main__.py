"""``python -m pgseg_mm`` is the command ``pgseg``."""

from pgseg_command import main

if __name__ == '__main__':
    main()
