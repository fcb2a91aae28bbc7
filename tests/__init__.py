import os

# Two test processes, and the workers that they start, would each use every core: half as fast.
os.environ.setdefault("OMP_NUM_THREADS", "1")
