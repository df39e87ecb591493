"""One container: what is there, a command as a job, its events and its log.

    python examples/one_container.py HOST
"""

import sys

import moai


def main(name: str = "") -> int:
    """Returns the exit code of the job's end."""
    with moai.connect(name) as host:
        info = host.info()
        print(f"{info.user}@{info.hostname}: {info.cpu_count} cores, agent {info.version}")
        for device in host.devices().devices:
            print(f"device {device.id}: {device.name} {device.flavor}")

        # From here on nothing depends on this program: it may be killed, and the job goes on.
        job = host.run(["sh", "-c", "for i in 1 2 3; do echo step $i; done"], moai.JobOptions(name="example"))
        for item in job.stream():
            if isinstance(item, moai.LogChunk):
                print(item.data.decode("utf-8", "replace"), end="")
            elif item.type == "state":
                print(f"[{item.sequence}] {item.data['state']}")
        try:
            job.wait()
        except moai.JobFailed as error:
            print(f"{error.message}; {error.next}")
            return error.exit_code
        return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
