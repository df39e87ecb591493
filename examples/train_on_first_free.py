"""Train on the first container whose accelerator nobody uses, with your own script.

    python examples/train_on_first_free.py NAMES [-- CMD ARG...]

The script runs unmodified; its steps and losses are read from its log. For the built-in recipe it would be
``host.train("ORG/MODEL", "ORG/DATASET", method="lora")``.
"""

import sys

import moai

_SCRIPT = ["sh", "-c", "for i in 1 2 3; do echo \"{'loss': 0.$((9 - i)), 'step': $i}\"; done"]


def main(names: str, command: list[str]) -> int:
    """Returns the exit code of the job's end."""
    with moai.Fleet(names) as fleet:
        try:
            host = fleet.first_free()
        except moai.Conflict as error:
            print(f"{error.message}; {error.next}")
            return error.exit_code
        # Two who choose at once are no harm: the second waits in the accelerator's queue.
        job = host.run(command or _SCRIPT, moai.JobOptions(accelerator="default"), kind="train")
        print(f"{host.name}/{job.id}")
        for event in job.events():
            if event.type == "metric":
                print(f"step {event.data['step']}: {event.data['values']}")
        info = job.wait(check=False)
        print(info.state, info.metrics)
        return 0 if info.state == "SUCCEEDED" else 3


if __name__ == "__main__":
    rest = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "all", rest))
