"""Serve a run's result or a model on this machine, as OpenAI's API has it: `make serve`.

    python -m scripts.serve.serve --run NAME [--host 127.0.0.1] [--port 8000]
    python -m scripts.serve.serve --model DIRECTORY

/health answers 200 once the model is loaded, 503 before. Nothing is fetched and no code of a model's runs. Exit status:
0 ended by Ctrl-C or SIGTERM, 1 the model could not be loaded, 2 bad input.
"""

import argparse
import errno
import importlib.util
import os
import signal
import socket
import sys
from pathlib import Path

from scripts.serve.find import Served, find_served
from train.errors import InputError, problem, run_program

PACKAGES = ("fastapi", "uvicorn", "openai")  # what transformers' server needs beside transformers
SECONDS_TO_END = 3  # for answers under way


def main() -> None:
    arguments = parse_arguments()
    check_packages()
    served = find_served(arguments.run, arguments.model, arguments.runs_dir)
    if arguments.name:
        served = Served(arguments.name, served.directory, served.adapter, served.recipe)
    listener = listen(arguments.host, arguments.port)
    serve(served, listener)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="", help="name of a run: its merged model, or its adapter on its base")
    parser.add_argument("--model", default="", help="instead of a run: a directory, or a model's name in the store")
    parser.add_argument(
        "--name", default="", help="what requests call it; default: the run's name, or the model as given"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; there is no password")
    parser.add_argument("--port", default="8000", help="port to listen on; 0: any that is free")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where runs lie")
    return parser.parse_args()


def check_packages() -> None:
    """Raises InputError where a package of the server is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        what = f"{', '.join(missing)}: not installed, and the server needs it"
        raise InputError(problem(sys.executable, "", what, "make venv installs what requirements.txt locks"))


def listen(host: str, port: str) -> socket.socket:
    """A socket at this address. Raises InputError where it is taken, or none."""
    if not port.isdigit() or int(port) > 65535:
        raise InputError(
            problem("PORT", port, "is no port", "give a number from 1 to 65535, or 0 for any that is free")
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, int(port)))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            fix = "end what listens there, or take another: PORT=8001"
            raise InputError(problem("PORT", port, f"is taken on {host}", fix)) from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise InputError(problem("PORT", port, "may not be opened by you", "take one above 1023")) from None
        fix = "127.0.0.1 for this machine alone, 0.0.0.0 for everybody who reaches it"
        raise InputError(problem("HOST", host, f"is no address of this machine: {error}", fix)) from None
    return listener


def serve(served: Served, listener: socket.socket) -> None:
    """Load and answer until told to end. Raises what the loading raised."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import uvicorn

    from scripts.serve.server import Answering, build_app

    host, port = listener.getsockname()[:2]
    at = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    answering = Answering(served)
    # One process, and no log line a request: probes would fill it.
    config = uvicorn.Config(build_app(answering), log_level="warning", timeout_graceful_shutdown=SECONDS_TO_END)
    server = uvicorn.Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again when it has ended
        signal.signal(number, lambda *_: None)
    what = f"{served.adapter} on {served.directory}" if served.adapter else str(served.directory)
    print(f"loading {what}; {at}/health says when it is ready", flush=True)

    def loaded(future) -> None:
        if future.exception():
            server.should_exit = True
        else:
            asked = answering.prompts.kind
            print(f"ready: {served.name} at {at}/v1 ({future.result()}; asked by {asked}); Ctrl-C ends it", flush=True)

    loading = answering.thread.submit(answering.load)
    loading.add_done_callback(loaded)
    server.run(sockets=[listener])
    if loading.done():
        loading.result()
    print("ended", flush=True)


if __name__ == "__main__":
    run_program(main)
