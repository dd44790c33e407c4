"""Lists the workloads: `python -m benchmarks.workloads`."""

from benchmarks.workloads import WORKLOADS

for workload in WORKLOADS.values():
    print(
        f"{workload.name:20} {workload.family:12} {workload.split:7} {workload.about}"
    )
