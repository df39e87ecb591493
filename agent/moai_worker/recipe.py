"""The training recipe: a Hugging Face Trainer run, full or LoRA, that can be killed and resumed.

Owns the order of things: environment, data, model, arguments, where to begin, the loop, the saved
result and ``moai-training.json``. It never wraps a model in DataParallel and never writes outside
``output``. torch and transformers are imported inside functions, so that ``compat.prepare_process``
comes first. Runs on the Python of the user's environment, in a process of its own.
"""

import json
import math
import os
import shutil
import traceback
from typing import Any, Dict, List, Optional, Tuple

from . import (
    callbacks,
    checkpoints,
    compat,
    finish,
    modelcard,
    modelfiles,
    sharding,
    sharing,
    trackers,
    train_data,
    train_start,
    trainingruns,
)  # fmt: skip
from .errors import StepError
from .jobdir import read_json, write_atomic
from .train_settings import TrainSettings, refuse_unknown

SUMMARY = "moai-training.json"
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "safetensors")
#: AdamW keeps two 4-byte values for a trained parameter.
_OPTIMIZER_BYTES = 8


def train(settings: TrainSettings, report: Any) -> Dict[str, Any]:
    """Run the training to its end, a stop request, or a failure.

    Args:
        settings: checked inputs.
        report: the step's Reporter.

    Returns:
        ``path, steps, total_steps, first_loss, final_loss, checkpoints, method, stopped, stopped_early,
        best, resumed_from``.

    Raises:
        StepError: see ``steps.train``.
    """
    report.phase("loading", "libraries")
    compat.require(_PACKAGES + (("peft", "jinja2") if settings.method == "lora" else ()))
    compat.prepare_process(report)
    config = modelfiles.check_model_folder(settings.model)
    import transformers

    names = compat.parameters_of(transformers.TrainingArguments)
    refuse_unknown(settings.extra, names, "transformers " + transformers.__version__)
    reporting = trackers.prepare(settings.extra.get("report_to"), settings.output, report)
    # Moreh wants its switch thrown before a model exists.
    parallel = compat.enable_advanced_parallelization(settings.advanced_parallelization, report)
    processes = compat.process_count()
    micro = settings.micro_batch(processes)

    report.phase("loading", "dataset {}".format(settings.dataset))
    limits = modelfiles.limits(config)
    rows = train_data.open_dataset(settings.dataset, *limits)
    train_data.check_marker(settings.dataset, settings.model, limits[0])
    per_epoch = rows.rows // settings.batch_size
    if per_epoch < 1:
        raise StepError(
            "DATASET_INVALID",
            "{} rows are fewer than one step's batch_size of {}.".format(rows.rows, settings.batch_size),
            "Use batch_size {} or less, or more rows.".format(rows.rows),
            {"rows": str(rows.rows), "batch_size": str(settings.batch_size)},
        )
    if rows.validation is None and (settings.early_stop or settings.keep_best):
        raise StepError(
            "USAGE",
            "{} needs a validation split, and {} has none.".format(
                "early_stop" if settings.early_stop else "keep_best", settings.dataset
            ),
            "Prepare a data set with one (20 rows or more are split by themselves), or leave it out.",
        )
    total = settings.max_steps or max(1, math.ceil(per_epoch * settings.epochs))
    identity = _identity(settings, rows)
    folder = os.path.join(settings.output, "checkpoints")
    bf16 = compat.use_bf16(settings.bf16, settings.device)
    # Building the arguments joins the processes, so from here on they can agree.
    values = _arguments(settings, folder, total, micro, bf16, rows.validation is not None)
    if sharding.is_sharded(settings.sharding, settings.method, settings.model, config, settings.device, report):
        values.update(sharding.arguments())
    arguments = compat.training_arguments(
        values,
        dict(settings.extra, **trackers.arguments(reporting, names, settings.output)),
    )
    _same_rows(rows)
    start, rejected = train_start.choose(settings, folder, identity, total, report)
    if compat.is_first_here():
        train_start.tidy(settings, folder, start, rejected, report)
        if start.path is not None and checkpoints.adapt_batch(start.path, micro):
            report.message("A forward pass takes {} rows now; the rows of a step stay the same.".format(micro))

    report.phase("loading", "model {}".format(settings.model))
    transformers.set_seed(settings.seed)
    finished = start.path is not None and start.step >= total
    model = _model(settings, bf16, start.path if finished else None, report)
    _check_disk(settings, model, total, report)

    sizes = _sizes(model, start.path)
    runs = trainingruns.TrainingRuns(
        folder, start.step, start.path, identity, settings.resume is False, compat.is_first_here(), report
    )
    watch = callbacks.StepWatch(
        report, total, rows.row_tokens, settings, identity,
        leader=compat.process_rank() == 0, agree=callbacks.agree_over_processes(arguments.device),
        first_here=compat.is_first_here(), can_evaluate=rows.validation is not None, checkpoint_bytes=sizes[0], sizes=sizes,
        spread=sharing.spread if compat.node_count() > 1 else lambda path: None,
        ran=runs.at,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=_train_rows(rows.train, settings, per_epoch),
        eval_dataset=rows.validation,
        data_collator=train_data.collate,
        callbacks=[callbacks.attach(watch)],
    )
    # Prints every log entry as a dictionary; ours prints a line for people.
    trainer.remove_callback(transformers.PrinterCallback)
    if compat.node_count() > 1 and not getattr(trainer, "is_fsdp_enabled", False):
        compat.save_on_each_node(model)
    _quiet_cache(model, False)
    if finished:
        watch.step = start.step
        watch.best = callbacks.best_of(_history(start.path))[0]
        report.progress(start.step, total, "steps", force=True)
        history = _history(start.path)
    else:
        _loop(trainer, watch, start)
        history = trainer.state.log_history
    _quiet_cache(model, True)

    losses = [[entry["step"], entry["loss"]] for entry in history if "loss" in entry]
    best = watch.best if settings.keep_best else None
    result = {
        "path": settings.output,
        "steps": watch.step,
        "total_steps": total,
        "first_loss": losses[0][1] if losses else None,
        "final_loss": losses[-1][1] if losses else None,
        "checkpoints": [item.path for item in checkpoints.list_checkpoints(folder)],
        "method": settings.method,
        "stopped": watch.stopped,
        "stopped_early": watch.stopped_early,
        "best": None if best is None else {"step": best.step, "loss": best.loss},
        "resumed_from": start.path,
    }
    report.phase("saving", "result to {}".format(settings.output))
    card = modelcard.foreign(settings.output)
    _save(trainer, settings)
    if compat.is_first_here():
        finish.take_best(settings, callbacks.best_path(folder, best), watch.step, result, report)
        run = {"runs": runs.finish(), "parallel": parallel, "bf16": bf16}
        summary = _write_summary(settings, result, rows, history, losses, run)
        finish.write_card(settings, summary, card, report)
        kind = "adapter" if settings.method == "lora" else "model"
        report.artifact(kind, settings.output, step=watch.step)
    return result


def _same_rows(rows: train_data.TrainingRows) -> None:
    """Every container prepared its own copy of the data: refuse copies that differ."""
    if compat.node_count() > 1 and len(set(compat.gather(rows.digest))) > 1:
        raise StepError(
            "DATASET_INVALID",
            "The containers prepared different rows from this dataset.",
            "Give a --dataset-revision, the same files, and the same versions of transformers and tokenizers everywhere.",
        )


def _identity(settings: TrainSettings, rows: train_data.TrainingRows) -> Dict[str, Any]:
    """What must be equal for a checkpoint to be continued: weights' shape and the order of the data."""
    identity = {
        "model": settings.model,
        "dataset": rows.digest,
        "method": settings.method,
        # Not the accumulation: passes of another size see the same rows a step, in the same order.
        "batch_size": settings.batch_size,
        "seed": settings.seed,
    }
    if settings.method == "lora":
        identity["lora"] = settings.lora
    return identity


def _model(settings: TrainSettings, bf16: bool, finished: Optional[str], report: Any) -> Any:
    """The model to train, or, where all steps are done already, the trained one."""
    import torch

    lora = settings.method == "lora"
    # Full training keeps 32-bit weights under autocast: in bf16 small updates are rounded away.
    # A frozen base may be bf16, except on Moreh, which mixes precision itself.
    dtype = torch.bfloat16 if lora and bf16 and not compat.has_moreh() else torch.float32
    source = finished if finished and not lora else settings.model
    model = modelfiles.load_model(source, dtype, settings.trust_remote_code)
    compat.repair_generation_config(model, report)
    if not lora:
        return model
    if finished:
        return modelfiles.load_adapter(model, finished)
    import peft

    if settings.gradient_checkpointing:
        # With a frozen embedding nothing would need a gradient at the first checkpointed block.
        model.enable_input_require_grads()
    chosen = modelfiles.lora_targets(model, settings.lora["targets"])
    config = peft.LoraConfig(
        r=settings.lora["r"], lora_alpha=settings.lora["alpha"], lora_dropout=settings.lora["dropout"],
        target_modules=chosen["targets"], fan_in_fan_out=chosen["fan_in_fan_out"], task_type="CAUSAL_LM",
    )  # fmt: skip
    model = peft.get_peft_model(model, config)
    trained = sum(item.numel() for item in model.parameters() if item.requires_grad)
    everything = sum(item.numel() for item in model.parameters())
    report.message(
        "LoRA on {}: {:,} of {:,} parameters are trained.".format(
            ", ".join(chosen["targets"]), trained, everything
        )
    )
    return model


def _sizes(model: Any, resumed: Optional[str] = None) -> Tuple[int, int]:
    """Bytes of a checkpoint, as large as the one resumed from where there is one, and of the result."""
    trained = [item for item in model.parameters() if item.requires_grad]
    weights = sum(item.numel() * item.element_size() for item in trained)
    known = checkpoints.size_of(resumed) if resumed else 0
    return known or weights + sum(item.numel() for item in trained) * _OPTIMIZER_BYTES, weights


def _check_disk(settings: TrainSettings, model: Any, total: int, report: Any) -> None:
    """Refuse before the first step what could not be saved after the last."""
    checkpoint, weights = _sizes(model)
    # One more than is kept: the old one goes only after the new one is complete.
    count = settings.keep_checkpoints + 1
    if settings.save_steps:
        count = min(count, total // settings.save_steps)
    os.makedirs(settings.output, exist_ok=True)
    free = shutil.disk_usage(settings.output).free
    needed = weights + (checkpoint if settings.save_steps and count else 0)
    if free < needed:
        raise StepError(
            "DISK_FULL",
            "{} has {:.1f} GB free; the result{} need{} {:.1f} GB.".format(
                settings.output, free / 1e9, " and one checkpoint" if needed > weights else "",
                "" if needed > weights else "s", needed / 1e9,
            ),
            "Choose an output on a larger disk, or use --method lora.",
        )  # fmt: skip
    if settings.save_steps and free < weights + count * checkpoint:
        report.message(
            "{} has {:.1f} GB free, but {} checkpoints and the result need {:.1f} GB.".format(
                settings.output, free / 1e9, count, (weights + count * checkpoint) / 1e9
            ),
            level="warning",
        )


def _arguments(
    settings: TrainSettings, folder: str, total: int, micro: int, bf16: bool, validation: bool
) -> Dict[str, Any]:
    """TrainingArguments by their newest names; compat translates."""
    accelerator = compat.accelerator_available(settings.device)
    moreh = compat.has_moreh()
    values: Dict[str, Any] = {
        "output_dir": folder,
        "max_steps": total,
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.scheduler,
        "warmup_steps": settings.warmup_steps,
        "seed": settings.seed,
        "bf16": bf16,
        "logging_strategy": "steps",
        "logging_steps": settings.logging_steps or (1 if total <= 200 else 10),
        # The filter would replace NaN by an average and hide it.
        "logging_nan_inf_filter": False,
        # Callbacks decide when to save; rotation is ours too (checkpoints.rotate).
        "save_strategy": "no",
        "eval_strategy": "no",
        # As the tutorials: steps = rows // batch.
        "dataloader_drop_last": True,
        "dataloader_pin_memory": accelerator and not moreh,
        "remove_unused_columns": False,
        "prediction_loss_only": True,
        "disable_tqdm": True,
        "push_to_hub": False,
    }
    if settings.eval_steps and validation:
        values["eval_strategy"] = "steps"
        values["eval_steps"] = settings.eval_steps
    if settings.device == "cpu" or (compat.process_count() > 1 and not accelerator):
        # Without it transformers counts several CPU processes as several single runs.
        values["use_cpu"] = True
    if compat.node_count() > 1:
        # Every container keeps whole checkpoints and the result: none depends on another's disk.
        values["save_on_each_node"] = True
    if compat.process_count() > 1:
        values["ddp_find_unused_parameters"] = False
    if settings.gradient_checkpointing:
        values["activation_checkpointing"] = True
        values["activation_checkpointing_kwargs"] = {"use_reentrant": False}
    if moreh or compat.version_of("torch") < (2,):
        values["optim"] = "adamw_torch"
    return values


def _train_rows(dataset: Any, settings: TrainSettings, per_epoch: int) -> Any:
    """An epoch of whole steps: versions differ in what they do with a partial one under accumulation.

    Without accumulation too: the shuffled order depends on the number of rows, and a run resumed with
    smaller passes is to see the same one.
    """
    return dataset.select(range(per_epoch * settings.batch_size))


def _quiet_cache(model: Any, on: bool) -> None:
    """The key-value cache is of no use in training; the saved config shall say it is on."""
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "use_cache"):
        config.use_cache = on


def _loop(trainer: Any, watch: callbacks.StepWatch, start: train_start.Start) -> None:
    if start.path is not None:
        compat.allow_random_state()
    watch.agree(0)  # The first process may have changed the checkpoint; nobody reads it before.
    try:
        trainer.train(resume_from_checkpoint=start.path)
    except StepError:
        raise
    except compat.library_errors() as error:
        traceback.print_exc()
        raise _smaller(
            compat.failure(
                error,
                "training at step {}".format(watch.step + 1),
                "TRAINING_FAILED",
                "Read the log above (moai remote logs); after the cause is gone, resume.",
            ),
            watch.settings,
        ) from error
    if watch.bad_loss is not None:
        raise StepError(
            "TRAINING_FAILED",
            "The loss became {} at step {}; nothing was saved after it.".format(
                watch.bad_loss[1], int(watch.bad_loss[0])
            ),
            "Lower the learning_rate or add warmup_steps; it goes on from the last checkpoint.",
            {"step": str(int(watch.bad_loss[0])), "cause": "loss"},
        )


def _smaller(error: StepError, settings: TrainSettings) -> StepError:
    """Out of the device's memory: the command that resumes with smaller passes over the same rows."""
    parts = settings.finer(compat.process_count())
    if error.reason == "DEVICE_OUT_OF_MEMORY" and parts:
        job = (os.environ.get("MOAI_JOB") or "").rpartition("/")[2] or "last"
        error.details["gradient_accumulation"] = str(parts)
        error.next = "moai remote resume {} --set gradient_accumulation={}".format(job, parts)
    return error


def _save(trainer: Any, settings: TrainSettings) -> None:
    summary = os.path.join(settings.output, SUMMARY)
    if compat.is_first_here() and os.path.exists(summary):
        os.unlink(summary)
    try:
        trainer.save_model(settings.output)
        if compat.node_count() > 1:
            sharing.spread(settings.output, leave=(SUMMARY, modelcard.NAME))
        if compat.is_first_here():
            modelfiles.copy_tokenizer(settings.model, settings.output)
            # A pickle of this process's arguments: of no use to readers, and code to those who load it.
            pickled = os.path.join(settings.output, "training_args.bin")
            if os.path.exists(pickled):
                os.unlink(pickled)
    except compat.library_errors() as error:
        traceback.print_exc()
        raise compat.failure(
            error,
            "saving the result to {}".format(settings.output),
            "TRAINING_FAILED",
            "Free space, then resume.",
        ) from error


def _history(checkpoint: Optional[str]) -> List[Dict[str, Any]]:
    state = read_json(os.path.join(checkpoint or "", "trainer_state.json")) or {}
    return list(state.get("log_history", []))


def _write_summary(
    settings: TrainSettings,
    result: Dict[str, Any],
    rows: train_data.TrainingRows,
    history: List[Dict[str, Any]],
    losses: List[List[float]],
    run: Dict[str, Any],
) -> Dict[str, Any]:
    """Write ``moai-training.json`` last: where it stands, the result is whole. Returns what it says."""
    evaluations = [[entry["step"], entry["eval_loss"]] for entry in history if "eval_loss" in entry]
    summary = {
        "schema": "moai.training/1",
        "result": result,
        "settings": settings.as_dict(),
        "versions": compat.versions(),
        "dataset": {
            "path": settings.dataset,
            "digest": rows.digest,
            "rows": rows.rows,
            "tokens_per_row": rows.row_tokens,
        },
        "bf16": run["bf16"],
        "advanced_parallelization": run["parallel"],
        "seconds": trainingruns.total_seconds(run["runs"]),
        "runs": run["runs"],
        "losses": losses,
        "eval_losses": evaluations,
        "best": result["best"],
    }
    # Readable by whoever may read the model beside it.
    path = os.path.join(settings.output, SUMMARY)
    write_atomic(path, json.dumps(summary, sort_keys=True).encode("utf-8") + b"\n", mode=0o644)
    return summary
