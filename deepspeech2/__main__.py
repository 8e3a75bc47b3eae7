"""`python -m deepspeech2` is the console command `deepspeech2`."""

import sys

from deepspeech2.cli import main

if __name__ == "__main__":  # not in the processes of `deepspeech2 bulk`
    sys.exit(main())
