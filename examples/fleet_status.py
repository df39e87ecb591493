"""Several containers: devices, running jobs and full disks in one look; one dead host is a row, not an end.

    python examples/fleet_status.py [NAMES]      # names, @group or all (the default)
"""

import sys

import moai


def main(names: str = "all") -> int:
    """Returns 0 when every host answered, else 4."""
    with moai.Fleet(names) as fleet:
        devices = fleet.devices(timeout=60)
        jobs = fleet.map(lambda host: [job for job in host.jobs(50) if not job.ended], timeout=60)
        disks = fleet.map(lambda host: host.disk_usage(limit_s=5), timeout=60)
    for name in devices:
        if name in devices.failed:
            print(f"{name}: {devices.failed[name].message}")
            continue
        for device in devices.ok[name].devices:
            print(f"{name}: {device.name} {device.flavor}, {'busy' if device.processes else 'free'}")
        for job in jobs.ok.get(name, []):
            print(f"{name}: {job.id} {job.state} {job.command}")
        for mount in disks.ok[name].mounts if name in disks.ok else ():
            if moai.used_percent(mount) >= 90:
                print(f"{name}: {mount.path} is {moai.used_percent(mount)} % full")
    return 4 if devices.failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
