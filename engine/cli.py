"""The command line. Exit codes: 0 fine, 1 a fault, 2 wrong usage or configuration (the message names the key or the flag)."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from engine import config as configuration
from engine.baseline import BaselineError
from engine.checkpoint import CheckpointError
from engine.config import STREAMS, Config, ConfigError
from engine.storage import local
from engine.store_database import StoreError
from streams.sinks import Undeliverable
from streams.sources import Fenced

app = typer.Typer(
    name="telltale",
    help="Watches the telemetry of AI serving clusters and agents, and says what is going wrong, why, how sure it is, and what to do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
baseline_app = typer.Typer(help="References fitted from known good data.", no_args_is_help=True)
app.add_typer(baseline_app, name="baseline")
out = Console()
err = Console(stderr=True)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The configuration file (YAML).")]
MaybeConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="The configuration file (YAML).")]
StreamOption = Annotated[str, typer.Option(help=f"Whose rows the files hold: {', '.join(STREAMS)}.")]
InputOption = Annotated[list[Path], typer.Option("--input", help="Parquet, Arrow IPC or JSON lines; may be given more than once.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for the results.")]


@app.command()
def run(config: ConfigOption) -> None:
    """Serve: read Kafka, detect, publish; the REST API and the console too, when the file has an `api` section."""
    from engine.service import serve

    settings = loaded(config)
    with faults():
        serve(settings, stopped_by_signal())


@app.command()
def api(config: ConfigOption) -> None:
    """Serve only the REST API and the console, over the store that `telltale run` writes."""
    from engine.service import serve_api

    settings = loaded(config)
    with faults():
        serve_api(settings)


@app.command()
def check(config: ConfigOption) -> None:
    """Check a configuration file without connecting to anything."""
    from engine.service import check as check_parts

    settings = loaded(config)
    with faults():
        check_parts(settings)
    out.print(f"{config}: fine (configuration {settings.hash})")


@app.command()
def backtest(
    stream: StreamOption, input: InputOption, out_dir: OutOption, reference: Annotated[Path | None, typer.Option()] = None,
    config: MaybeConfigOption = None,
) -> None:  # fmt: skip
    """Run the engine over files in event time, as fast as it can; writes scores.parquet, alerts.jsonl and summary.json."""
    from engine import backtest as over_files

    settings = loaded(config)
    check_stream(stream)
    for path in [*input, *([reference] if reference else [])]:
        check_file(path)
    with faults():
        summary = over_files.backtest(settings, stream, input, out_dir, reference)
    table = Table("rows", "seconds", "rows/s", "alerts", "rejected", "late", box=None)
    alerts = ", ".join(f"{k} {v}" for k, v in sorted(summary["alerts"].items())) or "none"
    rejected = ", ".join(f"{k} {v}" for k, v in sorted(summary["rejected"].items())) or "none"
    table.add_row(f"{summary['rows']:,}", f"{summary['seconds']:.2f}", f"{summary['rows_per_s']:,}", alerts, rejected, str(summary["late"]))
    out.print(table)


@baseline_app.command()
def fit(
    stream: StreamOption, input: InputOption, out_dir: OutOption, config: MaybeConfigOption = None,
    model: Annotated[str, typer.Option(help="Whose features they are, where the files are a Feast saved dataset.")] = "",
    model_version: Annotated[str, typer.Option(help="Version of the model that the rows are of.")] = "",
    data_version: Annotated[str, typer.Option(help="Version of the data: a registry's id, a DVC or Git revision.")] = "",
) -> None:  # fmt: skip
    """Fit references from known good rows, for `baseline:` in the configuration or `--reference`-free backtests."""
    from engine import backtest as over_files
    from engine.feast import canonical

    settings = loaded(config)
    check_stream(stream)
    for path in input:
        check_file(path)
    versions = {"model_version": model_version, "data_version": data_version}
    with faults(), canonical(input, model) as files:
        baseline = over_files.fit(settings, stream, files, out_dir, input, {k: v for k, v in versions.items() if v})
    out.print(f"{out_dir}: {baseline.about['rows']:,} rows, references for {', '.join(sorted(baseline.parts)) or 'nothing'}")


@baseline_app.command()
def approve(
    config: ConfigOption,
    series: Annotated[str, typer.Option(help="Which series, as a shell pattern: 'm/input_tokens', 'm/performance', 'm/*'.")],
    by: Annotated[str, typer.Option(help="Who approves.")],
    reason: Annotated[str, typer.Option(help="Why, for the audit.")] = "",
) -> None:
    """Let series learn a new reference from the rows that come; takes effect when the service starts next, and is kept as an audit line."""
    from engine.approvals import approve as record

    settings = loaded(config)
    with faults():
        if (folder := local(settings.checkpoint.dir)) is None:
            raise ConfigError("checkpoint.dir: approvals are kept in a folder, not in a bucket")
        approval = record(folder, series, by, reason)
    out.print(f"{approval['id']}: {series} will learn a new reference at the next start (approved by {by})")


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(help="How long.", min=5)] = 60.0,
    kafka: Annotated[str | None, typer.Option(help="HOST:PORT of a broker to send everything through.")] = None,
    port: Annotated[int, typer.Option(help="Port of the console; 0 takes a free one.")] = 8321,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 7,
) -> None:
    """The main job on this machine: real inference under a real extraction attack, a simulated fleet with faults, a traffic drift."""
    from engine.demo import run_demo

    with faults():
        code = run_demo(seconds=seconds, kafka=kafka, port=port, seed=seed)
    raise typer.Exit(code)


@app.command()
def bench(
    rows: Annotated[int, typer.Option(help="Rows to make and run.", min=10_000)] = 500_000,
) -> None:
    """How fast this machine takes rows in, decodes and judges them, end to end."""
    from engine.bench import run_bench

    with faults():
        run_bench(out, rows)


@app.command()
def warm() -> None:
    """Compile everything that the service needs, so that no alert waits for it later: after an installation, or in an image's build."""
    from engine.warm import cache_place
    from engine.warm import warm as compile_all

    with faults():
        compiled, seconds = compile_all()
    out.print(f"{compiled} functions compiled in {seconds:.0f} s, kept in such folders as {cache_place()}", highlight=False)


def loaded(path: Path | None) -> Config:
    """The configuration, or the defaults; wrong files end the program with code 2."""
    try:
        return configuration.load(path) if path else configuration.parse("{}")
    except ConfigError as error:
        fail(str(error), 2)


def check_stream(stream: str) -> None:
    """Refuse a stream that does not exist."""
    if stream not in STREAMS:
        fail(f"--stream: {stream!r} is none of {', '.join(STREAMS)}", 2)


def check_file(path: Path) -> None:
    """Refuse an input that does not exist."""
    if not path.exists():
        fail(f"{path}: no such file", 2)


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong on stderr and end."""
    err.print(f"telltale: {message}", style="red", highlight=False, markup=False)
    raise typer.Exit(code)


@contextmanager
def faults() -> Iterator[None]:
    """Wrong configuration found late is still code 2; what the world did is a fault, code 1, in one line; bugs keep their trace."""
    try:
        yield
    except (ConfigError, BaselineError) as error:
        fail(str(error), 2)
    except Fenced as error:
        fail(str(error), 1)
    except (OSError, ValueError, Undeliverable, CheckpointError, StoreError) as error:
        logging.getLogger("engine").debug("fault", exc_info=True)
        fail(f"{type(error).__name__}: {error}", 1)


def stopped_by_signal() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def main() -> None:
    """The `telltale` command."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
