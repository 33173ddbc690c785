"""Talk to a served model in the terminal: `make chat`.

    python -m scripts.serve.chat --run NAME | --model DIRECTORY    the server of that name, or one of its own meanwhile
    python -m scripts.serve.chat --url http://host:port/v1         whatever serves OpenAI's API there
    python -m scripts.serve.chat --on cluster --run NAME           what `make serve ON=cluster` serves, by port-forward

Without a terminal it reads one prompt from standard input and prints the answer. Exit status: 0 well, 1 the server
failed, 2 bad input.
"""

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scripts.cluster.names import NAMESPACE
from scripts.serve.serve import check_packages
from train.errors import InputError, problem, run_program

HELP = "/reset forgets what was said   /exit ends (or Ctrl-D)   Ctrl-C stops an answer   /help shows this"
SECONDS_TO_CONNECT, SECONDS_FOR_AN_ANSWER = 3.0, 600.0


def main() -> int:
    arguments = parse_arguments()
    if arguments.on not in ("here", "cluster"):
        raise InputError(problem("ON", arguments.on, "is no place", "ON=cluster, or leave it out"))
    if arguments.url and not arguments.url.startswith(("http://", "https://")):
        fix = "URL=http://127.0.0.1:8000/v1, as make serve prints it"
        raise InputError(problem("URL", arguments.url, "is no address of a server", fix))
    if not (arguments.url or arguments.run or arguments.model):
        fix = "make chat RUN=name, MODEL=directory, or URL=http://…/v1"
        raise InputError(problem("RUN, MODEL or URL", "", "is missing", fix))
    check_packages()
    with server(arguments) as url:
        return talk(Talk(url, arguments))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="", help="name of the run")
    parser.add_argument("--model", default="", help="instead of a run: a directory, or a model's name in the store")
    parser.add_argument("--url", default="", help="a server that runs: http://host:port/v1")
    parser.add_argument("--host", default="127.0.0.1", help="where a server of that name is looked for first")
    parser.add_argument("--port", default="8000", help="its port")
    parser.add_argument("--system", default="", help="system message put before the conversation")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: greedy and the same each time")
    parser.add_argument("--max-tokens", type=int, default=1024, help="longest answer")
    parser.add_argument("--on", default="here", help="cluster: the server that runs there")
    parser.add_argument("--context", default="", help="kubectl's context; default: its current one")
    parser.add_argument("--namespace", default=NAMESPACE)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where runs lie")
    return parser.parse_args()


# ---- which server ----


@contextlib.contextmanager
def server(arguments: argparse.Namespace) -> Iterator[str]:
    """The address of a server: the one that was named, one that runs, one on the cluster, or one of our own."""
    if arguments.url:
        yield arguments.url.rstrip("/")
        return
    if arguments.on == "cluster":
        from scripts.cluster.forward import forwarded

        with forwarded(arguments) as url:
            yield url
        return
    running = f"http://{arguments.host}:{arguments.port}/v1"
    if serves(running, arguments.run or arguments.model.rstrip("/")):
        print(f"asking the server at {running}", file=sys.stderr)
        yield running
        return
    with own_server(arguments) as url:
        yield url


def serves(url: str, name: str) -> bool:
    """Whether a server there answers for a model of this name."""
    import openai

    try:
        return any(one.id == name for one in client_of(url, SECONDS_TO_CONNECT).models.list())
    except openai.OpenAIError:
        return False


def client_of(url: str, seconds: float) -> Any:
    """OpenAI's client of a server; to this machine it goes past the environment's proxies."""
    import openai

    here = urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
    http = openai.DefaultHttpxClient(trust_env=not here)
    return openai.OpenAI(base_url=url, api_key="none", timeout=seconds, max_retries=0, http_client=http)


@contextlib.contextmanager
def own_server(arguments: argparse.Namespace) -> Iterator[str]:
    """A server that lives as long as the conversation. Raises InputError or SystemExit where it does not come up."""
    which = ["--run", arguments.run] if arguments.run else ["--model", arguments.model]
    words = [sys.executable, "-m", "scripts.serve.serve", *which, "--port", "0", "--runs-dir", str(arguments.runs_dir)]
    # In a session of its own: Ctrl-C stops an answer, and not the server.
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        for line in process.stdout:
            if line.startswith("ready: "):
                break
            print(line.rstrip(), file=sys.stderr)
        else:
            raise SystemExit(process.wait())  # it has said why
        yield line.split(" at ", 1)[1].split()[0]
    finally:
        process.terminate()
        process.communicate()


# ---- the conversation ----


class Talk:
    """One conversation; `asked` is how the model is asked, which our own server says of itself."""

    def __init__(self, url: str, arguments: argparse.Namespace):
        import openai

        self.url, self.arguments, self.said = url, arguments, []
        self.errors = openai
        self.client = client_of(url, SECONDS_FOR_AN_ANSWER)
        try:
            models = list(self.client.models.list())
        except openai.OpenAIError as error:
            fix = "make serve RUN=… starts one; or leave URL out, and one is started"
            raise InputError(problem("URL", url, f"no server answers there: {short(error)}", fix)) from None
        if not models:
            raise InputError(problem("URL", url, "serves no model", "make serve RUN=… serves one"))
        self.model = models[0].id
        # How a run wants to be asked: our own server says so; for vLLM, make serve has noted it on the Deployment.
        told = getattr(arguments, "told", {})
        self.asked = told.get("asked") or getattr(models[0], "asked", None) or "chat"
        self.frame, self.system = told.get("frame") or ["", ""], arguments.system or told.get("system", "")
        if arguments.system and self.asked != "chat":
            fix = "leave SYSTEM out: it was trained on plain prompts, which have no place for one"
            raise InputError(problem("SYSTEM", arguments.system, f"{self.model} knows no system message", fix))

    def answer(self, text: str) -> Iterator[str]:
        """The answer to what a person says, piece by piece; kept as part of the conversation once it is whole."""
        common: dict[str, Any] = {"model": self.model, "temperature": self.arguments.temperature, "stream": True,
                                  "max_tokens": self.arguments.max_tokens}  # fmt: skip
        text = text.join(self.frame)
        if self.asked == "text":
            for chunk in self.client.completions.create(prompt=text, **common):
                yield chunk.choices[0].text or "" if chunk.choices else ""
            return
        system = [{"role": "system", "content": self.system}] if self.system else []
        before = self.said if self.asked == "chat" else []  # one question at a time, as it was trained
        messages = [*system, *before, {"role": "user", "content": text}]
        pieces = []
        for chunk in self.client.chat.completions.create(messages=messages, **common):
            piece = (chunk.choices[0].delta.content or "") if chunk.choices else ""
            pieces.append(piece)
            yield piece
        self.said = [*before, messages[-1], {"role": "assistant", "content": "".join(pieces)}]


def talk(one: Talk) -> int:
    """Read, answer, until the end; the exit status."""
    if not sys.stdin.isatty():
        prompt = sys.stdin.read().rstrip("\n")
        if not prompt.strip():
            fix = "echo 'your question' | make chat RUN=…, or call it from a terminal"
            raise InputError(problem("standard input", "", "holds no prompt", fix))
        return 0 if print_answer(one, prompt) else 1
    import readline  # noqa: F401  (the line can be edited, and earlier ones come back)

    notes = {
        "question": "each question stands by itself: it was trained on single prompts",
        "text": "each text stands by itself: it has no chat template",
    }
    print(f"{one.model} at {one.url}{'; ' + notes[one.asked] if one.asked in notes else ''}\n{HELP}")
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        if line in ("/exit", "/quit"):
            return 0
        if line == "/reset":
            one.said = []
            print("forgotten")
        elif line.startswith("/"):
            print(HELP if line == "/help" else f"{line} is no command; {HELP}")
        elif line:
            print_answer(one, line)


def print_answer(one: Talk, text: str) -> bool:
    """Print an answer while it comes; False where the server refused, or was gone."""
    stream = one.answer(text)
    try:
        for piece in stream:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        stream.close()
        print(" (stopped)", end="")
    except one.errors.OpenAIError as error:
        print(f"failed: {short(error)}", file=sys.stderr)
        return False
    print()
    return True


def short(error: Exception) -> str:
    """What a server said, without the client's words around it."""
    body = getattr(error, "body", None)
    return str(body["message"]) if isinstance(body, dict) and body.get("message") else str(error)


if __name__ == "__main__":
    run_program(main)
