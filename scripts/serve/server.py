"""transformers' own server around one model: its handlers, streams and messages, our loading, names and stop tokens.

Why not `transformers serve` as it is: docs/decisions/0016-transformers-server-around-one-model.md
"""

import copy
import time
from types import SimpleNamespace
from typing import Any

import torch
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from jinja2.exceptions import TemplateError
from transformers import GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.utils import GenerationState, Modality

from scripts.serve.find import Served
from scripts.serve.prompts import RESERVED, Prompts, Refused
from train.evaluate import open_model
from train.generate import ONE_THREAD, padding_id, stop_ids
from train.hardware import choose_dtype
from train.recipe import with_defaults

# What transformers' server ignores, or lets a request say of the machine: an answer that is not what was asked for.
UNKNOWN = ("generation_config", "logprobs", "top_logprobs", "response_format", "best_of", "echo", "presence_penalty")
NOTHING = (None, False, 0, {"type": "text"})


class Answering:
    """The one model, once it is loaded, and what its server says of it."""

    def __init__(self, served: Served):
        self.served, self.ready = served, False
        self.state = GenerationState(continuous_batching=False, compile=False, cb_config=None)
        self.thread = self.state.get_manager(served.name, use_cb=False)
        self.model: Any = None
        self.prompts: Prompts | None = None
        self.own: GenerationConfig | None = None  # the model's own way where a request says nothing of temperature
        self.plain: GenerationConfig | None = None  # greedy, as a run's evaluation answers

    def load(self) -> str:
        """Load it, in the thread that will answer; returns what it computes in, and why."""
        recipe = self.served.recipe
        dtype, reason = choose_dtype(recipe.dtype if recipe else "auto")
        opened = recipe or with_defaults({})
        model, tokenizer = open_model(opened, self.served.directory, self.served.adapter, dtype)
        if torch.cuda.is_available():
            model.to("cuda")
        if sum(parameter.numel() for parameter in model.parameters()) < ONE_THREAD:
            torch.set_num_threads(1)  # of this thread
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.prompts = Prompts(tokenizer, recipe, positions)
        stops = stop_ids(model, tokenizer)
        ends = {"eos_token_id": stops or None, "pad_token_id": padding_id(tokenizer, stops)}
        self.own = copy.deepcopy(model.generation_config)
        self.own.update(**ends)
        self.plain = GenerationConfig(do_sample=False, num_beams=1, **ends)
        model.generation_config = GenerationConfig(**ends)  # transformers fills from it what a call leaves open
        self.model, self.ready = model, True
        return f"{str(dtype).removeprefix('torch.')}: {reason}"


class OneModel:
    """What handlers of transformers' server do differently here."""

    def __init__(self, answering: Answering):
        self.answering = answering
        manager = SimpleNamespace(get_model_modality=lambda model, processor=None: Modality.LLM)
        super().__init__(manager, answering.state)

    def _validate_request(self, body: dict) -> None:
        check(body, chat="chat" in type(self).__name__.lower())
        super()._validate_request(body)

    def _resolve_model(self, body: dict) -> tuple[str, Any, Prompts]:
        """The one model under its name; another name is an error, as is a model that is not loaded yet."""
        answering, name = self.answering, self.answering.served.name
        if not answering.ready:
            raise HTTPException(503, f"{name} is still being loaded; /health says when it is ready")
        if body.get("model") not in (None, "", name):
            raise HTTPException(404, f"the model {body['model']!r} is not served here; this is {name!r}")
        return name, answering.model, answering.prompts

    def _build_generation_config(self, body: dict, _: GenerationConfig, use_cb: bool = False) -> GenerationConfig:
        """Greedy as the evaluation at temperature 0, sampled above it, never beyond the model's context."""
        answering, heat = self.answering, body.get("temperature")
        config = super()._build_generation_config(body, answering.plain if heat == 0 else answering.own, use_cb)
        if heat is not None:
            config.do_sample = heat > 0
            config.temperature = heat or None
        if answering.prompts.positions:
            config.max_new_tokens = min(config.max_new_tokens, answering.prompts.positions - answering.prompts.length)
        return config


class Chat(OneModel, ChatCompletionHandler):
    """Answers /v1/chat/completions."""


class Completion(OneModel, CompletionHandler):
    """Answers /v1/completions."""


def check(body: dict, chat: bool) -> None:
    """Raise HTTPException for what would end in a traceback, or be answered otherwise than asked."""
    wrong = [f"{key} is not known here" for key in UNKNOWN if body.get(key) not in NOTHING]
    if body.get("n") not in (None, 1):
        wrong.append("n: one answer a request")
    for key, lowest in (("temperature", 0), ("max_tokens", 1), ("max_completion_tokens", 1)):
        value = body.get(key)
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool) or value < lowest):
            wrong.append(f"{key} is {value!r}: give a number from {lowest} on")
    own = body.get("chat_template_kwargs") or {}
    if not isinstance(own, dict) or set(own) & set(RESERVED):
        wrong.append(f"chat_template_kwargs: an object without {', '.join(RESERVED)}")
    if chat and not is_conversation(body.get("messages")):
        wrong.append("messages: a list of objects with role and content")
    if wrong:
        raise HTTPException(400, "; ".join(wrong))


def is_conversation(messages: object) -> bool:
    """Whether it is a list of messages, each with a role and a text (in parts, or in the form of tool calls)."""
    if not isinstance(messages, list) or not messages:
        return False
    return all(
        isinstance(one, dict)
        and isinstance(one.get("role"), str)
        and (is_content(one.get("content")) or isinstance(one.get("tool_calls"), list))
        for one in messages
    )


def is_content(content: object) -> bool:
    """Whether it is text, or a list of parts that are text."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts
    )


def build_app(answering: Answering) -> FastAPI:
    """The four addresses that answer; nothing here loads, unloads or names another model."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    chat, completion, began = Chat(answering), Completion(answering), int(time.time())

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request, body: dict):
        return await chat.handle_request(body, f"chatcmpl-{time.time_ns():x}")

    @app.post("/v1/completions")
    async def completions(request: Request, body: dict):
        return await completion.handle_request(body, f"cmpl-{time.time_ns():x}")

    @app.get("/v1/models")
    def models():
        one = {"id": answering.served.name, "object": "model", "created": began, "owned_by": "tunefleet"}
        return {"object": "list", "data": [one | {"asked": answering.prompts.kind} if answering.ready else one]}

    @app.get("/health")
    def health():
        status = "ok" if answering.ready else "loading"
        return JSONResponse({"status": status, "model": answering.served.name}, 200 if answering.ready else 503)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException):
        return said(error.status_code, str(error.detail))

    @app.exception_handler(Refused)
    @app.exception_handler(TemplateError)
    async def not_askable(_: Request, error: ValueError):
        return said(400, f"{answering.served.name} {error}")

    @app.exception_handler(RequestValidationError)
    async def no_object(_: Request, error: RequestValidationError):
        return said(400, "the request's body is no JSON object")

    return app


def said(status: int, message: str) -> JSONResponse:
    """An error in OpenAI's form."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status)
