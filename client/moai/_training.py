"""The main job and what leads to it: prepare a dataset, plan, estimate and start a training: a part of ``Host``.

Runs in the caller's process; what takes long becomes a job, and the call returns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from moai import _convert, _submit
from moai import _types as t
from moai._errors import MoaiError
from moai._options import JobOptions, hub_endpoint, hub_token, with_token

if TYPE_CHECKING:
    from moai_proto.v1 import job_pb2

    from moai._config import HostConfig
    from moai._host import Host
    from moai._job import Job
    from moai._rpc import Session


class Training:
    """Mixin of ``Host``."""

    session: Session
    config: HostConfig

    def made(self, message: job_pb2.Job) -> Job:
        """See ``Host``."""
        raise NotImplementedError

    def read(self, path: str) -> bytes:
        """See ``Host``."""
        raise NotImplementedError

    def _host(self) -> Host:
        return cast("Host", self)

    def prepare(
        self,
        dataset: str,
        model: str,
        options: JobOptions | None = None,
        *,
        template: str = "",
        block_size: int = 0,
        sample: int = 0,
        output: str = "",
        file_name: str = "",
        revision: str = "",
        model_revision: str = "",
        pack: bool = False,
        mask_prompt: bool = False,
        validation_fraction: float | None = None,
        split: str = "",
        jobs: int = 0,
        engine: str = "",
    ) -> Job:
        """Tokenise a dataset for a model.

        Args:
            dataset: Hub id (``ORG/NAME`` or ``ORG/NAME:CONFIG``), a path on the container, or
                ``laptop:PATH`` (copied there first).
            template: name, ``chat``, ``laptop:PATH``, path on the container, or text. block_size: ids a row (1024).
            sample: rows a split at most. output: folder of the result. file_name: of the ``.pt`` in it.
            pack: join rows and cut whole blocks. mask_prompt: also write labels that leave prompts out.
            validation_fraction: share of the rows held out (0.05). split: the only one to use, as training data.
            jobs: threads or processes (half the cores). engine: auto, gigatoken, fastokens or tokenizers.
        """
        from moai_proto.v1 import dataset_pb2, dataset_pb2_grpc

        from moai import _engine

        options = options or JobOptions()
        spec = _submit.dataset_spec(
            self._host(), dataset, template=template, block_size=block_size, sample=sample, output=output,
            file_name=file_name, revision=revision, pack=pack, mask_prompt=mask_prompt,
            validation_fraction=validation_fraction, jobs=jobs, split=split,
        )  # fmt: skip
        spec.engine.CopyFrom(_engine.engine(self._host(), engine, options.environment, options.work))
        request = dataset_pb2.PrepareDatasetRequest(
            options=with_token(options).message(self.config),
            dataset=spec,
            model=model,
            model_revision=model_revision,
            endpoint=hub_endpoint(),
        )
        stub = dataset_pb2_grpc.DatasetServiceStub
        return self.made(self.session.call(stub, "PrepareDataset", request, timeout_s=120.0).job)

    def preview(
        self, dataset: str, model: str, options: JobOptions | None = None, *, rows: int = 3, model_revision: str = "", **data: Any
    ) -> Job:
        """Render and tokenise a few rows as ``prepare`` would, as a short job that writes no dataset.

        Args:
            rows: how many to show, 1 to 100. data: ``template``, ``block_size``, ``sample``, ``revision``,
                ``pack``, ``mask_prompt``, ``validation_fraction``, ``split`` as in ``prepare``.

        Returns:
            The job; ``previewed`` gives what it found once it has ended.
        """
        from moai_proto.v1 import dataset_pb2, dataset_pb2_grpc

        request = dataset_pb2.PreviewDatasetRequest(
            options=with_token(options or JobOptions()).message(self.config),
            dataset=_submit.dataset_spec(self._host(), dataset, **data),
            model=model,
            model_revision=model_revision,
            endpoint=hub_endpoint(),
            rows=rows,
        )
        stub = dataset_pb2_grpc.DatasetServiceStub
        return self.made(self.session.call(stub, "PreviewDataset", request, timeout_s=120.0).job)

    def previewed(self, job: Job) -> dict[str, Any]:
        """What a ``preview`` job found: counts, and ``samples`` with text and ids. Raises FILE_NOT_FOUND before that."""
        found: dict[str, Any] = json.loads(self.read(f"{job.refresh().folder}/preview.json"))
        return found

    def train(
        self,
        model: str,
        dataset: str,
        options: JobOptions | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        group: job_pb2.TrainingGroup | None = None,
        **recipe: Any,
    ) -> Job:
        """Download, prepare, train and verify as one job on the container.

        Args:
            model: Hub id or a folder on the container. dataset: as in ``prepare``, or a folder it made.
            settings: further settings of the recipe, or TrainingArguments by name.
            recipe: ``method`` (full, lora), ``max_steps``, ``epochs``, ``batch_size``,
                ``learning_rate``, ``block_size``, ``template``, ``sample``, ``output``, ``smoke``,
                ``model_revision``, ``dataset_revision``, ``dataset_output``, ``engine``, ``gpus``; ``upload`` (a
                repository of the Hub for the verified result, with ``upload_private``, ``upload_revision``; the token's right to
                write there is checked before anything else).
            group: made by ``Fleet.train_together``; leave it out.
        """
        from moai_proto.v1 import training_pb2, training_pb2_grpc

        from moai import _engine

        options = _submit.claiming(options or JobOptions())
        training = _submit.training_spec(self._host(), model, dataset, settings or {}, recipe, group=group)
        training.dataset.engine.CopyFrom(_engine.engine(self._host(), str(recipe.get("engine") or ""), options.environment, options.work))
        request = training_pb2.StartTrainingRequest(options=with_token(options).message(self.config), training=training)
        stub = training_pb2_grpc.TrainingServiceStub
        return self.made(self.session.call(stub, "StartTraining", request, timeout_s=120.0).job)

    def plan_training(
        self,
        model: str,
        dataset: str,
        options: JobOptions | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        **recipe: Any,
    ) -> t.TrainingPlan:
        """What ``train`` would do; nothing is written (a ``laptop:`` file is not sent either)."""
        from moai_proto.v1 import training_pb2, training_pb2_grpc

        options = _submit.claiming(options or JobOptions())
        request = training_pb2.PlanTrainingRequest(
            options=options.message(self.config),
            training=_submit.training_spec(self._host(), model, dataset, settings or {}, recipe, upload=False),
        )
        stub = training_pb2_grpc.TrainingServiceStub
        answer = self.session.call(stub, "PlanTraining", request, timeout_s=120.0)
        plan = json.loads(answer.plan_json)
        return t.TrainingPlan(tuple(plan["steps"]), answer.output, answer.environment, answer.environment_reason)

    def estimate_training(
        self,
        model: str,
        *,
        rows: int = 0,
        environment: str = "",
        work: str = "",
        settings: Mapping[str, Any] | None = None,
        quick: bool = False,
        **recipe: Any,
    ) -> t.TrainingNeeds:
        """What training a model needs: parameters, bytes, flavor, hours, each with its evidence.

        Args:
            rows: of the dataset; 0 = unknown. quick: one try of at most 10 s at the Hub.
            settings, recipe: as in ``train``; without ``batch_size`` one is recommended.
        """
        from moai_proto.v1 import training_pb2, training_pb2_grpc

        if rows < 0:
            raise MoaiError("USAGE", f"the number of rows is negative: {rows}", "give a positive number")
        request = training_pb2.EstimateTrainingRequest(
            training=_submit.training_spec(self._host(), model, "", settings or {}, recipe, upload=False),
            rows=rows,
            token=hub_token()[0],
            environment=environment or self.config.environment,
            work=work or self.config.work,
            quick=quick,
            proxy=self.config.proxy,
        )
        stub = training_pb2_grpc.TrainingServiceStub
        return _convert.training_needs(model, self.session.call(stub, "EstimateTraining", request, timeout_s=240.0))
