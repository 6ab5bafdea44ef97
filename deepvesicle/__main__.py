"""Run the commands with ``python -m deepvesicle``."""

import sys

from deepvesicle.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
