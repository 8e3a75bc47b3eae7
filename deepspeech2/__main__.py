"""`python -m deepspeech2` is the console command `deepspeech2`."""

import sys

from deepspeech2.cli import main

sys.exit(main())
