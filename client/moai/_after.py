"""What follows a training: measure its model, merge its adapter, send it to the Hub: a part of ``Host``.

Runs in the caller's process; each call submits a job and returns.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from moai import _submit
from moai._options import JobOptions, hub_endpoint, with_token

if TYPE_CHECKING:
    from moai_proto.v1 import job_pb2

    from moai._config import HostConfig
    from moai._job import Job
    from moai._rpc import Session

_SUBMIT_S = 120.0


class AfterTraining:
    """Mixin of ``Host``."""

    session: Session
    config: HostConfig

    def made(self, message: job_pb2.Job) -> Job:
        """See ``Host``."""
        raise NotImplementedError

    def read(self, path: str) -> bytes:
        """See ``Host``."""
        raise NotImplementedError

    def evaluate(
        self,
        model: str,
        dataset: str = "",
        options: JobOptions | None = None,
        *,
        split: str = "",
        rows: int = 0,
        rouge: bool = False,
        max_new_tokens: int = 0,
        compare: bool = False,
        template: str = "",
        block_size: int = 0,
        dataset_revision: str = "",
        trust_remote_code: bool = False,
    ) -> Job:
        """Measure a job's result, a folder or a Hub model; see ``evaluated`` for the figures.

        Args:
            dataset: as in ``prepare``, or the folder of a prepared set; "" = the one the job was trained with.
            split: train, validation or test; "" = validation, else test. rows: at most so many; 0 = all.
            rouge: also generate an answer a row (``max_new_tokens``, 64) and compare it with the reference.
            compare: also the base model. template, block_size: of the rows; those of the job by default.
        """
        from moai_proto.v1 import training_pb2, training_pb2_grpc

        spec = None
        if dataset:
            spec = _submit.dataset_spec(
                self, dataset, template=template, block_size=block_size, revision=dataset_revision  # type: ignore[arg-type]
            )
        request = training_pb2.EvaluateRequest(
            options=with_token(_submit.claiming(options or JobOptions())).message(self.config),
            model=model,
            dataset=spec,
            split=split,
            row_limit=rows,
            rouge=rouge,
            max_new_tokens=max_new_tokens,
            compare=compare,
            trust_remote_code=trust_remote_code,
            endpoint=hub_endpoint(),
        )
        stub = training_pb2_grpc.TrainingServiceStub
        return self.made(self.session.call(stub, "Evaluate", request, timeout_s=_SUBMIT_S).job)

    def evaluated(self, job: Job) -> dict[str, Any]:
        """The figures of an ended ``evaluate`` job.

        ``model``, ``base``, ``dataset``, ``split``, ``rows``, ``tokens``, ``figures`` and ``base_figures``:
        ``{"loss", "perplexity", "seconds", "rouge": {"rows", "rouge1", "rouge2", "rougeL"} or None}``, or None.
        """
        found: dict[str, Any] = json.loads(self.read(f"{job.refresh().folder}/evaluation.json"))
        return found

    def merge(
        self,
        adapter: str,
        options: JobOptions | None = None,
        *,
        base_model: str = "",
        output: str = "",
        trust_remote_code: bool = False,
    ) -> Job:
        """Merge a LoRA adapter into its base model, as a model of its own that is then verified.

        Args:
            adapter: a training job, or a folder. base_model: folder, instead of the one the adapter names.
            output: folder of the result; default ``merged`` inside the adapter's.

        Raises UsageError when a job trained the whole model: there is nothing to merge.
        """
        from moai_proto.v1 import training_pb2, training_pb2_grpc

        request = training_pb2.MergeModelRequest(
            options=(options or JobOptions()).message(self.config),
            adapter=adapter,
            base_model=base_model,
            output=output,
            trust_remote_code=trust_remote_code,
        )
        stub = training_pb2_grpc.TrainingServiceStub
        return self.made(self.session.call(stub, "MergeModel", request, timeout_s=_SUBMIT_S).job)

    def upload(
        self,
        source: str,
        repo: str,
        options: JobOptions | None = None,
        *,
        private: bool = False,
        revision: str = "",
        message: str = "",
    ) -> Job:
        """Send a job's result or a folder to the Hub; repeating it goes on where it stopped.

        Args:
            repo: ``ORG/NAME``, made if it is not there (``private`` then). revision: branch; "" = main.
            message: of the commit.

        Raises AgentError (TOKEN_INVALID) and PersonNeeded (UPLOAD_REFUSED) when the token may not write there.
        """
        from moai_proto.v1 import model_pb2, model_pb2_grpc

        request = model_pb2.UploadModelRequest(
            options=with_token(options or JobOptions()).message(self.config),
            source=source,
            repo=repo,
            private=private,
            revision=revision,
            commit_message=message,
            endpoint=hub_endpoint(),
        )
        stub = model_pb2_grpc.ModelServiceStub
        return self.made(self.session.call(stub, "UploadModel", request, timeout_s=_SUBMIT_S).job)
