"""Experiment trackers (W&B, TensorBoard, MLflow ...): passed through to the Trainer, checked before the first step.

Owns which package a tracker needs, where event files go, and a check that a missing package or login ends the
run at once instead of after the model was loaded. Starts no tracker itself. Runs in the training process.
"""

import importlib.util
import os
from typing import Any, Dict, List

from .errors import StepError

#: Folder of event files below the result: what ``moai remote tensorboard`` fetches.
FOLDER = "tensorboard"
#: Tracker -> packages of which one must be there (transformers' integrations, ``is_X_available``).
_PACKAGES = {
    "wandb": ("wandb",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "mlflow": ("mlflow",),
    "comet_ml": ("comet_ml",),
    "neptune": ("neptune",),
    "clearml": ("clearml",),
    "swanlab": ("swanlab",),
    "trackio": ("trackio",),
    "dvclive": ("dvclive",),
    "codecarbon": ("codecarbon",),
}
#: Tracker -> (variables that sign in, folder below the home where a sign-in is kept).
_SIGN_IN = {"wandb": (("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"), ".netrc")}


def wanted(value: Any) -> List[str]:
    """The trackers that ``report_to`` names; empty for none.

    Args:
        value: a name, names separated by commas, a list, ``"none"`` or ``"all"``.

    Raises:
        StepError: USAGE for ``all`` (what it means depends on what happens to be installed) and for no text.
    """
    names = value.split(",") if isinstance(value, str) else list(value or [])
    if not all(isinstance(name, str) for name in names):
        raise StepError("USAGE", "report_to is {!r}.".format(value), "--set report_to=wandb")
    names = [name.strip() for name in names if name.strip() not in ("", "none")]
    if "all" in names:
        raise StepError(
            "USAGE", "report_to=all depends on what happens to be installed.",
            "Name them: " + ", ".join(sorted(_PACKAGES)) + ".",
        )  # fmt: skip
    return names


def prepare(value: Any, output: str, report: Any) -> List[str]:
    """Check the trackers and set what they read from the environment; returns their names.

    Args:
        value: as in ``wanted``.
        output: the result's folder; event files go to its ``tensorboard``, unless
            ``TENSORBOARD_LOGGING_DIR`` says otherwise.

    Raises:
        StepError: PACKAGE_MISSING, SECRET_NEEDED, USAGE.
    """
    names = wanted(value)
    for name in names:
        packages = _PACKAGES.get(name)
        if packages is None:
            continue  # transformers knows more, and says so itself
        if not any(importlib.util.find_spec(package) for package in packages):
            import sys

            raise StepError(
                "PACKAGE_MISSING",
                "report_to={} needs {}, which {} does not have.".format(
                    name, " or ".join(packages), sys.executable
                ),
                "moai remote env install --env {} {}".format(sys.executable, packages[0]),
                {"packages": packages[0], "python": sys.executable},
            )
        _check_sign_in(name)
    if "tensorboard" in names:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", os.path.join(output, FOLDER))
    if names:
        report.message("Reporting to {}.".format(", ".join(names)), code="REPORTING")
    return names


def arguments(names: List[str], known: List[str], output: str) -> Dict[str, Any]:
    """TrainingArguments for the trackers; ``logging_dir`` only where the installed class still has it."""
    values: Dict[str, Any] = {"report_to": names}
    if "tensorboard" in names and "logging_dir" in known:
        values["logging_dir"] = os.environ.get("TENSORBOARD_LOGGING_DIR") or os.path.join(output, FOLDER)
    return values


def _check_sign_in(name: str) -> None:
    variables, kept = _SIGN_IN.get(name, ((), ""))
    if not variables or any(os.environ.get(variable) for variable in variables):
        return
    # Without a terminal wandb would end the run when it asks for a key; offline it needs none.
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return
    if os.path.exists(os.path.join(os.path.expanduser("~"), kept)):
        return
    raise StepError(
        "SECRET_NEEDED",
        "report_to={} needs {}.".format(name, variables[0]),
        "export {0}=... on the laptop, then add --secret {0}; or --setenv WANDB_MODE=offline.".format(
            variables[0]
        ),
    )
