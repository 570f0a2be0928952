"""Dagster's run launcher for one machine (`run_launcher` in dagster.yaml)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, serialize_value

from pipelines.platform.run_workers.client import RunHostError, ask
from pipelines.rollouts.naming import MODEL_TAG

_PATIENCE_SECONDS = 60.0
"""The supervisor starts a host that died again within seconds."""


class ForkingRunLauncher(RunLauncher[dg.DagsterInstance], ConfigurableClass):
    """Has each run forked by the host that listens on `socket`."""

    def __init__(self, socket: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._socket = Path(socket)
        self._inst_data = inst_data
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {"socket": str}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> "ForkingRunLauncher":
        return cls(inst_data=inst_data, **config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        run, origin = context.dagster_run, context.job_code_origin
        if origin is None:
            raise RunHostError(f"run {run.run_id} of {run.job_name} does not say where its code is")
        arguments = ExecuteRunArgs(
            job_origin=origin,
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=True,
        )
        wanted = {"run": serialize_value(arguments), "model": run.tags.get(MODEL_TAG, "")}
        launch = {"do": "launch", "run_id": run.run_id, "arguments": json.dumps(wanted)}
        ask(self._socket, launch, patience=_PATIENCE_SECONDS)

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        return self._ask("stop", run_id)["state"] == "running"

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        answer = self._ask("state", run.run_id)
        if answer["state"] == "running":
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if answer["state"] == "ended":
            return CheckRunHealthResult(WorkerStatus.FAILED, f"the run's process {answer['how']}")
        return CheckRunHealthResult(
            WorkerStatus.NOT_FOUND, "the host of the runs was started anew; the run's process ended with it"
        )

    def _ask(self, do: str, run_id: str) -> dict[str, Any]:
        return ask(self._socket, {"do": do, "run_id": run_id})
