"""`python -m monitoring`: write the generated files of this folder again, and say which changed."""

import sys
from pathlib import Path

from monitoring.generated import write_generated

if __name__ == "__main__":
    for path in write_generated(Path(__file__).parent):
        sys.stdout.write(f"{path}\n")
