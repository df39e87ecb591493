"""Two steps of a pipeline that share nothing but a request id (docs/ci.md is the same from the shell).

    python examples/ci_pipeline.py submit HOST COMMIT -- CMD ARG...
    python examples/ci_pipeline.py wait HOST COMMIT
"""

import sys

import moai


def submit(name: str, commit: str, command: list[str]) -> int:
    """Submit once: a step that is run again finds the job of the first time."""
    with moai.connect(name) as host:
        job = host.run(command, moai.JobOptions(name=f"ci-{commit}", request_id=f"pipeline-{commit}"))
        print(f"{host.name}/{job.id}")
    return 0


def wait(name: str, commit: str, timeout: float = 6 * 3600.0) -> int:
    """Wait on another machine: the job is found by its name. Returns 0, 3, 6, 7, 8 or 124."""
    with moai.connect(name) as host:
        job = host.job(f"ci-{commit}")
        try:
            job.wait(timeout)
        except moai.MoaiError as error:
            print(f"{error.reason}: {error.message}; {error.next}")
            print(b"".join(job.log(offset=-2000)).decode("utf-8", "replace"))
            return error.exit_code
    return 0


def main(argv: list[str]) -> int:
    """See the top of this file."""
    step, name, commit = argv[:3]
    if step == "submit":
        return submit(name, commit, argv[argv.index("--") + 1 :])
    return wait(name, commit)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
