"""What KubeRay 1.7 takes as a RayJob, and what its operator refuses: the fields, types and rules of
its custom resource that can be known before a cluster is asked.

What is plain Kubernetes below it (pods, config maps) is checked against the official schemas where
the package ``kubernetes-validate`` is installed.
"""

# ruff: noqa: N815 (the names are KubeRay's)
from __future__ import annotations

import importlib
import importlib.util
import re
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from clray.errors import BadSpec

KUBERNETES = "1.30"
"""The oldest Kubernetes whose schemas the pods are held to."""
MOST_NAME = 47
"""Characters of a RayJob's name: its cluster and services append to it."""
LEAST_RAY = (2, 52)
"""The first Ray with token authentication."""

Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Texts = dict[str, str]
Any_ = dict[str, Any]
Manager = Literal["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(_Strict):
    """What an object is called."""

    name: str
    namespace: str | None = None
    labels: Texts = {}
    annotations: Texts = {}


class PodTemplate(_Strict):
    """A pod, as far as Ray is concerned."""

    metadata: Any_ = {}
    spec: Any_

    @field_validator("spec")
    @classmethod
    def _holds_containers(cls, spec: Any_) -> Any_:
        if not spec.get("containers"):
            raise ValueError("at least one container")
        return spec


class AutoscalerOptions(_Strict):
    """Ray's autoscaler, beside the head."""

    resources: Any_ | None = None
    image: str | None = None
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] | None = None
    securityContext: Any_ | None = None
    idleTimeoutSeconds: Count | None = None
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = None
    version: Literal["v1", "v2"] | None = None
    env: list[Any_] = []
    envFrom: list[Any_] = []
    volumeMounts: list[Any_] = []
    command: list[str] = []
    args: list[str] = []


class AuthOptions(_Strict):
    """Who may talk to the cluster."""

    mode: Literal["disabled", "token"] | None = None
    secretName: str | None = None
    enableK8sTokenAuth: Literal[False] | None = None  # true is not for RayJobs


class _Group(_Strict):
    template: PodTemplate
    rayStartParams: Texts = {}
    resources: Texts = {}
    labels: Texts = {}

    @model_validator(mode="after")
    def _resources_once(self) -> _Group:
        given = {"num-cpus", "num-gpus", "memory", "resources"} & set(self.rayStartParams)
        if self.resources and given:
            raise ValueError("resources here or in rayStartParams, not in both")
        if "labels" in self.rayStartParams:
            raise ValueError("labels in the field labels, not in rayStartParams")
        return self


class HeadGroup(_Group):
    """The head's pod."""

    headService: Any_ | None = None
    enableIngress: bool | None = None
    ingressOptions: Any_ | None = None
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] | None = None


class WorkerGroup(_Group):
    """Pods of one kind."""

    groupName: str
    replicas: Count | None = None
    minReplicas: Count | None = None
    maxReplicas: Count | None = None
    numOfHosts: Positive | None = None
    idleTimeoutSeconds: Count | None = None
    priority: int | None = None
    suspend: bool | None = None
    scaleStrategy: Any_ | None = None

    @model_validator(mode="after")
    def _ordered(self) -> WorkerGroup:
        if self.maxReplicas is not None and (self.minReplicas or 0) > self.maxReplicas:
            raise ValueError("minReplicas at most maxReplicas")
        return self


class ClusterSpec(_Strict):
    """The cluster that a RayJob runs on."""

    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup] = []
    rayVersion: str | None = None
    enableInTreeAutoscaling: bool | None = None
    autoscalerOptions: AutoscalerOptions | None = None
    authOptions: AuthOptions | None = None
    headServiceAnnotations: Texts = {}
    managedBy: Manager | None = None
    suspend: bool | None = None
    gcsFaultToleranceOptions: Any_ | None = None
    historyServerOptions: Any_ | None = None
    networkPolicy: Any_ | None = None
    tlsOptions: Any_ | None = None

    @model_validator(mode="after")
    def _as_the_operator_wants_it(self) -> ClusterSpec:
        auth = self.authOptions
        if auth and auth.mode != "disabled":
            numbers = re.match(r"(\d+)\.(\d+)", self.rayVersion or "")
            if not numbers or (int(numbers[1]), int(numbers[2])) < LEAST_RAY:
                raise ValueError("token authentication needs a rayVersion of 2.52 or newer")
        if self.enableInTreeAutoscaling:
            for group in (self.headGroupSpec, *self.workerGroupSpecs):
                if group.template.spec.get("restartPolicy", "Never") != "Never":
                    raise ValueError("restartPolicy: Never, for the autoscaler's version 2")
        elif any(g.minReplicas is None or g.maxReplicas is None for g in self.workerGroupSpecs):
            raise ValueError("minReplicas and maxReplicas, without an autoscaler")
        return self


class SubmitterConfig(_Strict):
    """The pod that submits the job."""

    backoffLimit: Count | None = None


class RayJobSpec(_Strict):
    """A job and its cluster."""

    entrypoint: str
    rayClusterSpec: ClusterSpec
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] | None = (
        None
    )
    shutdownAfterJobFinishes: bool = False
    ttlSecondsAfterFinished: Count = 0
    backoffLimit: Count | None = None
    activeDeadlineSeconds: Positive | None = None
    preRunningDeadlineSeconds: Positive | None = None
    submitterConfig: SubmitterConfig | None = None
    submitterPodTemplate: PodTemplate | None = None
    runtimeEnvYAML: str | None = None
    jobId: str | None = None
    metadata: Texts = {}
    entrypointNumCpus: float | None = None
    entrypointNumGpus: float | None = None
    entrypointResources: str | None = None
    managedBy: Manager | None = None
    suspend: bool = False
    deletionStrategy: Any_ | None = None

    @model_validator(mode="after")
    def _as_the_operator_wants_it(self) -> RayJobSpec:
        if self.ttlSecondsAfterFinished and not self.shutdownAfterJobFinishes:
            raise ValueError("ttlSecondsAfterFinished needs shutdownAfterJobFinishes")
        if self.suspend and not self.shutdownAfterJobFinishes:
            raise ValueError("suspend needs shutdownAfterJobFinishes")
        return self


class RayJob(_Strict):
    """A RayJob of ``ray.io/v1``."""

    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec

    @field_validator("metadata")
    @classmethod
    def _named(cls, metadata: Metadata) -> Metadata:
        name = metadata.name
        if len(name) > MOST_NAME or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
            raise ValueError(f"a name of at most {MOST_NAME} small letters, digits and dashes")
        return metadata


def check(text: str, where: str) -> None:
    """Check a file with one RayJob and its config maps.

    Args:
        text: YAML.
        where: names the file in an error.

    Raises:
        BadSpec: no YAML, a field that is unknown or not of its type, a rule of KubeRay's broken.
    """
    try:
        documents = [each for each in yaml.load_all(text, yaml.CSafeLoader) if each is not None]
    except yaml.YAMLError as error:
        raise BadSpec(where, str(error).partition("\n")[0], "YAML") from None
    kinds = [each.get("kind") if isinstance(each, dict) else None for each in documents]
    if kinds.count("RayJob") != 1 or set(kinds) - {"RayJob", "ConfigMap"}:
        raise BadSpec(where, kinds, "one RayJob, and ConfigMaps")
    for kind, document in zip(kinds, documents, strict=True):
        if kind == "ConfigMap":
            _check_kubernetes(document, f"{where}: ConfigMap")
            continue
        try:
            RayJob.model_validate(document)
        except ValidationError as error:
            raise _refusal(error, where) from None
        cluster = document["spec"]["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])):
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]}
            _check_kubernetes(pod, f"{where}: RayJob: {group.get('groupName', 'head')}")


def _refusal(error: ValidationError, where: str) -> BadSpec:
    """The first error, in clray's words."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        *above, name = first["loc"]
        return BadSpec(f"{where}: RayJob: {place}", name, _fields(above))
    said = first["msg"].removeprefix("Value error, ")
    given = first["input"] if not isinstance(first["input"], dict) else "…"
    return BadSpec(f"{where}: RayJob: {place}".removesuffix(": "), given, said)


def _fields(path: list[str | int]) -> list[str]:
    """The fields that there are at a place of a RayJob."""
    model: type[BaseModel] = RayJob
    for part in path:
        if isinstance(part, str):
            kind = model.model_fields[part].annotation
            inner = [kind, *get_args(kind), *(a for k in get_args(kind) for a in get_args(k))]
            model = next(k for k in inner if isinstance(k, type) and issubclass(k, BaseModel))
    return list(model.model_fields)


def _check_kubernetes(document: dict[str, Any], where: str) -> None:
    if importlib.util.find_spec("kubernetes_validate") is None:
        return
    library = importlib.import_module("kubernetes_validate")
    try:
        library.validate(document, KUBERNETES, strict=True)
    except library.ValidationError as error:
        place = ".".join(str(part) for part in error.path)
        raise BadSpec(f"{where}: {place}", "…", error.message) from None
