"""What only a GPU can show, one function a question: :data:`CHECKS`.

To add a check, write a generator of findings over a :class:`benchmarks.gpu_checks.bench.Bench` and list it here.  It
must run on a CPU too, as far as there is anything to run, so that the tests reach it.
"""

from benchmarks.gpu_checks import decoding, hardware, profiles, ranks, running, steps, views
from benchmarks.gpu_checks.bench import Check

# In the order of how much depends on them, should the time run out.
CHECKS: dict[str, Check] = {
    "build": Check(decoding.check_build, limit_s=60),
    "slices": Check(decoding.check_slices, limit_s=60),
    "steps": Check(steps.check_steps, limit_s=150),
    "faults": Check(running.check_faults, limit_s=90),
    "operations": Check(views.check_operations, limit_s=40),
    "pixels": Check(decoding.check_pixels, limit_s=40),
    "flow": Check(views.check_flow, limit_s=30),
    "lifetime": Check(views.check_lifetime, limit_s=30),
    "seeking": Check(decoding.check_seeking, limit_s=30),
    "ranks": Check(ranks.check_ranks, limit_s=60),
    "memory": Check(running.check_memory, limit_s=40),
    "hardware": Check(hardware.check_hardware, limit_s=20),
    "profile": Check(profiles.check_profile, limit_s=40),
    "threads": Check(running.check_threads, limit_s=90),
}
