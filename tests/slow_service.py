"""`captioner`, whose service takes longer: `python slow_service.py COMPUTE LOAD serve ...`.

COMPUTE and LOAD are the seconds that each batch and the loading of the model take longer.
"""

import sys
import time

from captioner.cli.app import main
from captioner.serve.engine import Engine


def slow_down(compute_seconds, load_seconds):
    compute, load = Engine.compute, Engine.load

    def slow_compute(self, key, items):
        time.sleep(compute_seconds)
        return compute(self, key, items)

    def slow_load(self):
        time.sleep(load_seconds)
        load(self)

    Engine.compute, Engine.load = slow_compute, slow_load


if __name__ == "__main__":
    slow_down(float(sys.argv[1]), float(sys.argv[2]))
    main(sys.argv[3:])
