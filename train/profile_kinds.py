"""What kind of work each event of a profile is, and the seconds of each kind.

An event's own name decides where it can (a matrix product is one wherever it stands); else the events around it; else,
in the backward pass, the forward event that it belongs to.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

MARK = "kind: "  # of the annotations that train.profiling puts around modules
REST = "rest (Python, waiting, allocation)"
KINDS = (
    "matrix products",
    "attention",
    "normalisation",
    "elementwise",
    "loss",
    "optimiser",
    "communication",
    "data",
    REST,
)
MATRIX = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm", "aten::_addmm_activation",
          "aten::mkldnn_linear", "mkldnn::_linear_pointwise", "aten::_int_mm", "aten::mv", "aten::addmv")  # fmt: skip
# A part of a name, of an event or of one around it, and the kind it means. The first that fits counts.
AROUND = (
    ("Optimizer.step", "optimiser"),
    ("Optimizer.zero_grad", "optimiser"),
    ("_foreach_norm", "optimiser"),  # clipping
    ("DataLoader", "data"),
    ("c10d::", "communication"),
    ("gloo:", "communication"),
    ("nccl:", "communication"),
    ("distributed::reducer", "communication"),
    ("scaled_dot_product", "attention"),
    ("ScaledDotProduct", "attention"),
    ("flash_attention", "attention"),
    ("cross_entropy", "loss"),
    ("nll_loss", "loss"),
    ("NllLoss", "loss"),
    ("log_softmax", "loss"),
    ("LogSoftmax", "loss"),
    ("logsumexp", "loss"),
    ("LogsumexpBackward", "loss"),
    ("Blockwise", "attention"),  # train.fast's operations
    ("FrozenHead", "loss"),
    ("NormBackward", "normalisation"),
    ("layer_norm", "normalisation"),
    ("rms_norm", "normalisation"),
)
CALLS = ("aten::empty", "aten::as_strided", "aten::view", "aten::detach", "aten::t", "aten::transpose", "aten::slice",
         "aten::select", "aten::expand", "aten::resolve_conj", "aten::reshape", "aten::result_type")  # fmt: skip


def seconds_by_kind(events: list[Any], wall: float) -> list[dict[str, Any]]:
    """One entry a kind: seconds, share of `wall` seconds, and the operations with most of it.

    `events` are torch.profiler's, with self_cpu_time_total in microseconds. What no event covers is the rest.
    """
    forward = {event.sequence_nr: event for event in events if event.scope == 0 and event.sequence_nr >= 0}
    seconds: Counter = Counter()
    operations: dict[str, Counter] = defaultdict(Counter)
    for event in events:
        took = event.self_cpu_time_total / 1e6
        kind = kind_of(event, forward)
        seconds[kind] += took
        operations[kind][event.name] += took
    seconds[REST] += max(0.0, wall - sum(seconds.values()))
    return [
        {
            "kind": kind,
            "seconds": round(seconds[kind], 4),
            "share": round(seconds[kind] / wall, 4) if wall else 0.0,
            "mostly": [name.removeprefix("aten::") for name, _ in operations[kind].most_common(3)],
        }
        for kind in KINDS
    ]


def kind_of(event: Any, forward: dict[int, Any]) -> str:
    """The kind of one event; `forward` finds the forward event of a sequence number."""
    names = [each.name for each in around(event)]
    known = next((kind for name in names for part, kind in AROUND if part in name), None)
    if event.name in MATRIX and known != "attention":
        return "matrix products"
    marked = next((name.removeprefix(MARK) for name in names if name.startswith(MARK)), None)
    kind = known or marked or kind_of_forward(event, forward)
    if kind:
        return kind
    return REST if event.name in CALLS or not event.name.startswith("aten::") else "elementwise"


def kind_of_forward(event: Any, forward: dict[int, Any]) -> str | None:
    """The mark around the forward event that an event of the backward pass belongs to; None without one."""
    node = next((each for each in around(event) if each.scope == 1 and each.sequence_nr >= 0), None)
    origin = forward.get(node.sequence_nr) if node else None
    if origin is None:
        return None
    return next((each.name.removeprefix(MARK) for each in around(origin) if each.name.startswith(MARK)), None)


def around(event: Any) -> Iterator[Any]:
    """The event and those that it lies in, from the inside out."""
    while event is not None:
        yield event
        event = event.cpu_parent
