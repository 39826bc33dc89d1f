"""NVIDIA Triton over gRPC: the only module that imports its client, and the only place where its errors become ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import tritonclient.grpc.aio as triton
from tritonclient.grpc import (
    MAX_GRPC_MESSAGE_SIZE,
    InferenceServerClientPlugin,
    InferResult,
    model_config_pb2,
    service_pb2,
)
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from headrace.connectors.loopback import is_loopback
from headrace.connectors.shared_inputs import Placed, SharedInputs
from headrace.connectors.triton_meanings import Meaning, is_answer, meaning_of
from headrace.pipeline.config import TritonSettings
from headrace.pipeline.errors import (
    ConfigError,
    FatalError,
    HeadraceError,
    PoisonError,
    RetriableError,
    UnavailableError,
)
from headrace.pipeline.overviews import ModelConfig, ModelCounts, Scheduling, ServedModel
from headrace.pipeline.ports import Array, InferCall, InferReply, ModelSignature, TensorSpec
from headrace.pipeline.records import Parameter, Stage

_CHANNEL = (
    ("grpc.max_send_message_length", MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", MAX_GRPC_MESSAGE_SIZE),
    # A peer that vanished without a word is noticed while a call waits for it. Triton tolerates two pings without
    # data between (its default), and the second option keeps to that.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 2),
    # gRPC's own wait grows to two minutes: after a restart of Triton nothing would happen for that long.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


_SCHEDULING = {
    None: Scheduling.NONE,
    "dynamic_batching": Scheduling.DYNAMIC,
    "sequence_batching": Scheduling.SEQUENCE,
    "ensemble_scheduling": Scheduling.ENSEMBLE,
}
_UNKNOWN_REGION = "Unable to find shared memory region"


@dataclass(frozen=True, slots=True)
class Access:
    """How a Triton, or a gateway in front of it, lets us in.

    Attributes:
        tls: whether to speak it. The files are in PEM.
        ca_file: of the authorities; None: gRPC's own.
        certificate_file, key_file: ours, if it wants one.
        headers: of each call.
    """

    tls: bool = False
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class _Headers(InferenceServerClientPlugin):  # type: ignore[misc]  # the base has no types
    """Adds the same headers to each call."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def __call__(self, request: Any) -> None:
        request.headers.update(self._headers)


@dataclass(frozen=True, slots=True)
class Sharing:
    """Of memory with a Triton on the same host.

    Attributes:
        from_bytes: calls of smaller inputs go over gRPC.
        owner: of the memory, unlike all others at this Triton; what an earlier process of this name left is removed.
    """

    from_bytes: int
    owner: str


NO_ACCESS = Access()


class TritonInferenceClient:
    """An ``InferenceClient`` on one long-lived channel. Make it inside the running event loop, once a process.

    Args:
        url: Triton's gRPC endpoint, ``host:port``.
        control_timeout_seconds: time limit of calls that run no inference.
        priority: of infer calls, by Triton's levels: 1 goes first; 0, or a model without levels: the model's default.
        sharing: of large inputs; None: all go over gRPC.
        access: how it lets us in.

    Raises:
        ConfigError: a file of ``access`` cannot be read.
    """

    def __init__(
        self,
        url: str,
        control_timeout_seconds: float = 5.0,
        priority: int = 0,
        sharing: Sharing | None = None,
        access: Access = NO_ACCESS,
    ) -> None:
        self._url = url
        self._priority = priority
        self._control_timeout_seconds = control_timeout_seconds
        try:
            self._client = triton.InferenceServerClient(
                url,
                ssl=access.tls,
                root_certificates=access.ca_file,
                certificate_chain=access.certificate_file,
                private_key=access.key_file,
                channel_args=(*_CHANNEL, *_proxy(url)),
            )
        except OSError as error:
            raise ConfigError(f"triton.tls_…_location: {error.filename}: {error.strerror}") from error
        if access.headers:
            self._client.register_plugin(_Headers(access.headers))
        self._shared: SharedInputs | None = None
        if sharing is not None:
            regions = _Regions(self._client, control_timeout_seconds)
            self._shared = SharedInputs(regions, sharing.from_bytes, sharing.owner)

    @classmethod
    def of(cls, settings: TritonSettings, owner: str | None = None, priority: int = 0) -> Self:
        """The one that the settings say.

        Args:
            settings: where and how.
            owner: see ``Sharing``; None: nothing is shared.
            priority: as above.

        Raises:
            ConfigError: as above.
        """
        access = Access(
            settings.tls,
            settings.tls_ca_location,
            settings.tls_certificate_location,
            settings.tls_key_location,
            settings.headers,
        )
        from_bytes = settings.shared_memory_from_bytes
        sharing = None if owner is None or from_bytes is None else Sharing(from_bytes, owner)
        return cls(settings.url, priority=priority, sharing=sharing, access=access)

    async def ready(self) -> bool:
        """True if the server answers and is ready; never raises for a server that is down, or is none."""
        return await self._says("readiness", self._client.is_server_ready)

    async def live(self) -> bool:
        """True if the server answers, whether its models do or not; never raises."""
        return await self._says("liveness", self._client.is_server_live)

    async def _says(self, what: str, ask: Callable[..., Awaitable[Any]]) -> bool:
        try:
            with self._mapped(what):
                return bool(await ask(client_timeout=self._control_timeout_seconds))
        except (RetriableError, PoisonError):
            return False

    async def signature(self, model: str, version: str = "") -> ModelSignature:
        """What the model takes and gives, as served now.

        Raises:
            UnavailableError: the server is down, or the model is loading or unloaded.
            RetriableError: no answer in time.
            PoisonError: ``MODEL_NOT_FOUND``; ``MODEL_UNSUPPORTED`` if it answers with streams.
        """
        config = await self.model_config(model, version)
        if config.decoupled:
            raise PoisonError(
                Stage.INFER, "MODEL_UNSUPPORTED", f"model {model} is decoupled: it answers a request with a stream"
            )
        return config.signature

    async def model_config(self, model: str, version: str = "") -> ModelConfig:
        """How the model is set up, as served now, whether a route could use it or not.

        Raises:
            UnavailableError: the server is down, or the model is loading or unloaded.
            RetriableError: no answer in time.
            PoisonError: ``MODEL_NOT_FOUND``.
        """
        with self._mapped(f"model {model}"):
            limit = self._control_timeout_seconds
            config = (await self._client.get_model_config(model, version, client_timeout=limit)).config
            metadata = await self._client.get_model_metadata(model, version, client_timeout=limit)
        return _model_config(config, model, version or max(metadata.versions, key=int))

    async def index(self) -> tuple[ServedModel, ...]:
        """Every version of every model in the server's repository, ready or not, by name and version.

        Raises:
            UnavailableError: the server is down.
            RetriableError: no answer in time.
            FatalError: it does not let us look.
        """
        with self._mapped("model repository"):
            found = (await self._client.get_model_repository_index(client_timeout=self._control_timeout_seconds)).models
        served = (
            ServedModel(each.name, each.version, each.state == "READY", each.state, each.reason) for each in found
        )
        return tuple(sorted(served, key=lambda each: (each.name, len(each.version), each.version)))

    async def counts(self) -> Mapping[tuple[str, str], ModelCounts]:
        """What each model and version has done since it was loaded; empty if the server keeps no statistics.

        Raises:
            UnavailableError: the server is down.
            RetriableError: no answer in time.
        """
        try:
            with self._mapped("statistics"):
                limit = self._control_timeout_seconds
                found = (await self._client.get_inference_statistics(client_timeout=limit)).model_stats
        except PoisonError:  # built without them
            return {}
        return {(each.name, each.version): _counts(each) for each in found}

    async def infer(self, call: InferCall, timeout_seconds: float) -> InferReply:
        """Runs one batched call. Cancelling the coroutine cancels the call in the server too.

        Returns:
            Every output of the model; arrays are read-only views of the reply.

        Raises:
            UnavailableError: not reachable, shutting down, or the model is not ready.
            RetriableError: no answer in time, overload, or an error inside the model.
            PoisonError: ``INVALID_INPUT`` (names, datatypes, shapes, parameters), ``MODEL_NOT_FOUND``.
        """
        with self._mapped(f"model {call.model}"):
            result = await self._answered(call, timeout_seconds)
            reply = result.get_response()
            outputs = {output.name: result.as_numpy(output.name) for output in reply.outputs}
        return InferReply(reply.model_version, outputs)

    async def _answered(self, call: InferCall, timeout_seconds: float) -> InferResult:
        shared = self._shared
        if shared is None or (placed := await shared.place(call.inputs)) is None:
            return await self._ask(call, timeout_seconds)
        try:
            result = await self._ask(call, timeout_seconds, placed)
        except InferenceServerException as error:
            if _UNKNOWN_REGION in str(error.message()):  # the server has been started again since
                shared.drop(placed)
                return await self._ask(call, timeout_seconds)
            (shared.give_back if is_answer(error.status(), str(error.message())) else shared.drop)(placed)
            raise
        except BaseException:
            shared.drop(placed)
            raise
        shared.give_back(placed)
        return result

    async def _ask(self, call: InferCall, timeout_seconds: float, placed: Placed | None = None) -> InferResult:
        return await self._client.infer(
            call.model,
            [_input(name, array, placed) for name, array in call.inputs.items()],
            model_version=call.version,
            client_timeout=timeout_seconds,
            priority=self._priority,
            parameters=_parameters(call.parameters),
        )

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.close()
        await self._client.close()

    @contextmanager
    def _mapped(self, subject: str) -> Iterator[None]:
        try:
            yield
        except InferenceServerException as error:
            raise self._error(error, subject) from error

    def _error(self, error: InferenceServerException, subject: str) -> HeadraceError:
        message = f"Triton at {self._url}, {subject}: {error.message()}"
        match meaning_of(error.status(), str(error.message())):
            case Meaning.UNAVAILABLE:
                return UnavailableError(message)
            case Meaning.RETRIABLE:
                return RetriableError(message)
            case Meaning.REFUSED:
                return FatalError(f"{message} (check the credentials)")
            case meaning:
                return PoisonError(Stage.INFER, meaning.name, message)


def _proxy(url: str) -> tuple[tuple[str, int], ...]:
    """Without this option gRPC asks the environment's proxy for this machine too."""
    host = url.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    return (("grpc.enable_http_proxy", 0),) if is_loopback(host) else ()


class _Regions:
    """Implements ``shared_inputs.RegionServer``."""

    def __init__(self, client: triton.InferenceServerClient, timeout_seconds: float) -> None:
        self._client = client
        self._timeout_seconds = timeout_seconds

    async def register(self, name: str, key: str, size_bytes: int) -> None:
        limit = self._timeout_seconds
        await self._client.register_system_shared_memory(name, key, size_bytes, client_timeout=limit)

    async def unregister(self, name: str) -> None:
        await self._client.unregister_system_shared_memory(name, client_timeout=self._timeout_seconds)

    async def registered(self) -> Iterable[str]:
        status = await self._client.get_system_shared_memory_status(client_timeout=self._timeout_seconds)
        return list(status.regions)


def _input(name: str, array: Array, placed: Placed | None = None) -> triton.InferInput:
    datatype = np_to_triton_dtype(array.dtype)
    if datatype is None:
        raise InferenceServerException(f"input {name!r} has dtype {array.dtype}, which Triton does not know")
    value = triton.InferInput(name, list(array.shape), datatype)
    if placed is None:
        return value.set_data_from_numpy(array)
    offset, size_bytes = placed.spans[name]
    return value.set_shared_memory(placed.region.name, size_bytes, offset)


def _parameters(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    for name, value in parameters.items():
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InferenceServerException(f"parameter {name!r} is {value}, which does not fit 64 bits")
    return dict(parameters)


def _model_config(config: model_config_pb2.ModelConfig, model: str, version: str) -> ModelConfig:
    batching = config.dynamic_batching
    groups = [(group.count, group.Kind.Name(group.kind).removeprefix("KIND_")) for group in config.instance_group]
    return ModelConfig(
        signature=ModelSignature(
            name=model,
            version=version,
            max_batch_size=config.max_batch_size,
            inputs=tuple(map(_spec, config.input)),
            outputs=tuple(map(_spec, config.output)),
        ),
        platform=config.backend or config.platform,
        decoupled=config.model_transaction_policy.decoupled,
        scheduling=_SCHEDULING[config.WhichOneof("scheduling_choice")],
        preferred_batch_sizes=tuple(batching.preferred_batch_size),
        max_queue_delay_seconds=batching.max_queue_delay_microseconds / 1e6,
        instances=tuple(f"{count} on {kind}" for count, kind in groups),
    )


def _counts(found: service_pb2.ModelStatistics) -> ModelCounts:
    spent = found.inference_stats
    compute_ns = spent.compute_input.ns + spent.compute_infer.ns + spent.compute_output.ns
    return ModelCounts(
        inferences=found.inference_count,
        executions=found.execution_count,
        failures=spent.fail.count,
        last_inference_ms=found.last_inference,
        queue_seconds=spent.queue.ns / 1e9,
        compute_seconds=compute_ns / 1e9,
    )


def _spec(tensor: model_config_pb2.ModelInput | model_config_pb2.ModelOutput) -> TensorSpec:
    datatype = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    return TensorSpec(tensor.name, "BYTES" if datatype == "STRING" else datatype, tuple(tensor.dims))
