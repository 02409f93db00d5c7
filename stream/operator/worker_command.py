"""`proguard-stream worker`: the process that judges."""

from __future__ import annotations

import gc
import os
import sys

import structlog
import typer

from stream.errors import ConfigurationError, ProGuardStreamError, StuckClientError
from stream.operator.flags import parse_flags
from stream.operator.kafka import ConfigOption
from stream.operator.output import complain
from stream.policies.source import load_policies
from stream.settings import load_settings
from stream.telemetry.logs import configure_logs, frames

_log = structlog.get_logger(__name__)


def worker(context: typer.Context, config: ConfigOption = None) -> None:
    """Judge content events until SIGTERM or SIGINT. `worker --help` lists every setting."""
    _keep_grpc_in_one_thread()
    # tritonclient, numpy and OpenTelemetry cost a second that no other command should pay.
    import uvloop

    from stream.worker.service import WorkerService

    settings = load_settings(flags=parse_flags(context.args, "proguard-stream worker"), config=config)
    policies = load_policies(settings.policy_path)
    configure_logs(settings.telemetry.log_level, settings.telemetry.log_format)
    service = WorkerService(settings, policies)
    try:
        uvloop.run(service.run(on_started=lambda _port: _tune_garbage_collection()))
    except ConfigurationError:
        raise
    except StuckClientError as error:
        _log.error("worker.failed", detail=str(error))
        complain(str(error))
        # An orderly exit would wait for the thread that hangs, and the partitions with it. Nothing is lost: the brokers abort the
        # transaction, and whoever gets the partitions judges what it held.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    except ProGuardStreamError as error:
        _log.error("worker.failed", detail=str(error))
        complain(str(error))
        raise typer.Exit(1) from None
    except Exception as error:
        # A fault of ours. Its message may quote content, so only where it was raised is logged.
        _log.error("worker.fault", fault=type(error).__name__, frames=frames(error))
        complain(f"a fault of the worker itself ({type(error).__name__}); the log has where")
        raise typer.Exit(1) from None


def _keep_grpc_in_one_thread() -> None:
    """Have gRPC read and write where `grpc.aio` waits for its answers, as older versions did, and not in a pool of threads of its own.

    Each answer is handed from thread to thread there, which on two cores costs the worker about an eighth of its CPU time (grpcio 1.85;
    `worker_cpu_ms_per_event_over_grpc` of `make bench`, beside `GRPC_EXPERIMENTS= make bench`). Only a `guard.url` of gRPC and an OTLP
    exporter load it. gRPC reads the variable when it is imported, so this comes first. A version that does not know the name says so and
    goes on; whoever has set the variable is left alone.
    """
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client")


def _tune_garbage_collection() -> None:
    """Look for cycles less often, and never again among what lives as long as the process.

    An event leaves a hundred short-lived objects and hardly a cycle. With Python's defaults the collector looks at all modules,
    schemas and kept verdicts over and over for nothing: a quarter of the worker's CPU time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
