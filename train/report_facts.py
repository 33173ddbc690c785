"""What the report says in words: the verdict, the key figures, samples side by side. Facts only from the run's files.

A run is a dictionary as train.report reads it: "record" (run.json), "training", "metrics", "check", "before", "after",
"merge"; what is not there is None (metrics: an empty list).
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from train.recipe import schema
from train.rouge import NAMES

Run = dict[str, Any]


def verdict(run: Run) -> tuple[str, list[str]]:
    """ "good", "unsure" or "bad", and the sentences that say why, the most telling first."""
    judgements = list(judged(run))
    tones = [tone for tone, _ in judgements]
    tone = next((tone for tone in ("bad", "unsure") if tone in tones), "good")
    return tone, [sentence for _, sentence in judgements]


def judged(run: Run) -> Iterator[tuple[str, str]]:
    """Tone and sentence of each thing that can be judged."""
    if not is_trained(run):
        steps = len(step_lines(run))
        yield "unsure", f"The training is not finished: {steps:,} step{'s' if steps != 1 else ''} so far"
        return
    before, after = run["before"] or {}, run["after"] or {}
    exact = [evaluation.get("exact_match") for evaluation in (before, after)]
    loss = [evaluation.get("eval_loss") for evaluation in (before, after)]
    if all(exact):
        old, new = exact[0]["share"], exact[1]["share"]
        rows = f"on {exact[1]['rows']:,} held-out rows"
        yield tone_of(new - old), f"Exact match {moved(old, new)} {from_to(percent(old), percent(new))} {rows}"
    elif exact[1]:
        yield "good", f"Exact match is {percent(exact[1]['share'])} on {exact[1]['rows']:,} held-out rows"
    yield from rouge_sentence(*(evaluation.get("rouge") for evaluation in (before, after)))
    if None not in loss:
        figures = from_to(f"{loss[0]:.3g}", f"{loss[1]:.3g}")
        yield tone_of(loss[0] - loss[1]), f"Validation loss {moved(loss[0], loss[1], 'fell')} {figures}"
    elif loss[1] is not None:
        yield "unsure", f"Validation loss is {loss[1]:.3g}; the model before training was not measured"
    elif not run["after"]:
        yield "unsure", "The result was not evaluated"
    else:
        yield "unsure", after.get("message") or "There are no validation rows, so nothing tells how good the result is"
    yield merge_sentence(run)


def rouge_sentence(old: dict[str, Any] | None, new: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Tone and sentence about ROUGE-L, where it was measured."""
    if not new:
        return
    rows = f"on {new['rows']:,} held-out rows"
    if not old:
        yield "good", f"ROUGE-L is {new['rougeL']:.3f} {rows}"
        return
    was, now = old["rougeL"], new["rougeL"]
    yield tone_of(now - was), f"ROUGE-L {moved(was, now)} {from_to(f'{was:.3f}', f'{now:.3f}')} {rows}"


def learned_nothing(run: Run) -> bool:
    """Whether the validation loss after training is not below that of before."""
    old, new = ((run[name] or {}).get("eval_loss") for name in ("before", "after"))
    return is_trained(run) and None not in (old, new) and new >= old


def merge_sentence(run: Run) -> tuple[str, str]:
    """Tone and sentence about the merge."""
    recipe = run["record"].get("recipe") or {}
    if recipe.get("method") == "full":
        return "good", "All weights were trained, so there is nothing to merge"
    if not run["merge"]:
        if recipe.get("merge") is False:
            return "good", "The adapter was not merged, as the recipe says"
        return "unsure", "The adapter is not merged yet"
    results = [check["result"] for check in checks(run)]
    passed = results.count("passed")
    if results and passed == len(results):
        return "good", f"Merge proven by {passed} checks"
    if "failed" in results:
        return "bad", f"The merge failed {results.count('failed')} of {len(results)} checks"
    return "unsure", f"Merged, but only {passed} of {len(results)} checks were made"


def checks(run: Run) -> list[dict[str, str]]:
    """The checks of the merge: name, result (passed, failed, skipped) and figure."""
    found = []
    for check in (run["merge"] or {}).get("checks", []):
        result = check.get("result") or ("passed" if check.get("passed") else "failed")
        found.append({"name": check.get("check") or check.get("name") or "?", "result": result,
                      "figure": str(check.get("figure", ""))})  # fmt: skip
    return found


def is_trained(run: Run) -> bool:
    """Whether the training came to its end."""
    return bool(run["training"])


def step_lines(run: Run) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that tell of a training step."""
    return [line for line in run["metrics"] if "loss" in line]


def figures(run: Run) -> list[dict[str, str]]:
    """The key figures: what, value, and a note."""
    training, before, after = run["training"] or {}, run["before"] or {}, run["after"] or {}
    found = []
    if after.get("exact_match"):
        new, old = after["exact_match"], before.get("exact_match")
        value = arrow(old and percent(old["share"]), percent(new["share"]))
        found.append(("exact match", value, f"{new['matched']:,} of {new['rows']:,} held-out answers to the letter"))
    if after.get("rouge"):
        new, old = after["rouge"], before.get("rouge")
        for key, name in NAMES.items():
            note = f"mean F1 over {new['rows']:,} held-out answers"
            found.append((name, arrow(old and f"{old[key]:.3f}", f"{new[key]:.3f}"), note))
    for key, name in (("eval_loss", "validation loss"), ("perplexity", "perplexity")):
        if after.get(key) is not None:
            old = before.get(key)
            note = f"over {after['tokens']:,} tokens" if key == "eval_loss" else "exp(validation loss)"
            found.append((name, arrow(None if old is None else short(old), short(after[key])), note))
    if training.get("train_loss_first") is not None:
        value = arrow(short(training["train_loss_first"]), short(training["train_loss_last"]))
        found.append(("training loss", value, "first and last step"))
    found += speed_figures(run, training)
    return [{"name": name, "value": value, "note": note} for name, value, note in found]


def speed_figures(run: Run, training: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Key figures of time, rate and memory."""
    lines = step_lines(run)
    seconds = training.get("seconds") or sum(line.get("seconds", 0) for line in lines)
    if lines:
        best = training.get("best_step")
        kept = f"best validation at step {best}" if best is not None else "the last step was kept"
        yield "steps", f"{training.get('steps') or lines[-1]['step']:,}", kept
        yield "training time", duration(seconds), f"{sum(line.get('tokens', 0) for line in lines):,} tokens"
    if training.get("seconds_to_first_step") is not None:
        note = "from the training's start: libraries, model, first validation"
        yield "to the first step", duration(training["seconds_to_first_step"]), note
    if training.get("tokens_per_second"):
        shares = sorted(line["matmul_share"] for line in lines if line.get("matmul_share") is not None)
        note = f"{percent(shares[len(shares) // 2])} of the measured matmul rate" if shares else "all processes"
        yield "tokens per second", f"{training['tokens_per_second']:,.0f}", note
    if training.get("peak_memory_gb"):
        yield "memory", f"{training['peak_memory_gb']:.2f} GB", "all processes, at the end of a step"


def sample_pairs(run: Run) -> list[dict[str, Any]]:
    """The samples of before and after by row: prompt, answer, and what was generated each time."""
    judge = bool((run["record"].get("recipe") or {}).get("exact_match"))
    old, new = ({one["row"]: one for one in (run[name] or {}).get("samples", [])} for name in ("before", "after"))
    pairs = []
    for row in dict.fromkeys([*new, *old]):
        one = new.get(row) or old[row]
        sides = [side(samples.get(row), one["answer"], judge) for samples in (old, new)]
        pairs.append({"row": row, "prompt": one["prompt"], "answer": one["answer"], "before": sides[0],
                      "after": sides[1]})  # fmt: skip
    return pairs


def side(sample: dict[str, Any] | None, answer: str, judge: bool) -> dict[str, Any] | None:
    """One generated answer: its text, whether it is the wanted one, and whether the model ended it.

    Without exact_match in the recipe an answer in other words is no mistake, so only equality is marked.
    """
    if sample is None:
        return None
    same = sample["generated"].strip() == answer.strip()
    return {"text": sample["generated"], "stopped": sample["stopped"], "mark": same if same or judge else None}


def recipe_rows(run: Run) -> dict[str, Any]:
    """The recipe: keys that differ from the defaults, and all keys by group, each {"key", "value", "about"}."""
    values = run["record"].get("recipe") or {}
    changed: list[dict[str, Any]] = []
    groups: dict[str, list[dict[str, Any]]] = {}
    for key, spec in schema()["properties"].items():
        value = values.get(key)
        row = {"key": key, "value": shown(value), "about": spec["description"]}
        groups.setdefault(spec.get("x-group", "Other"), []).append(row)
        if value is not None and value != spec.get("default"):
            changed.append({**row, "default": shown(spec.get("default"))})
    return {"changed": changed, "groups": groups if values else {}}


def shown(value: Any) -> str:
    """A value as YAML would spell it."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) or "none"
    return str(value)


def moved(old: float, new: float, better: str = "rose") -> str:
    """The verb for a figure that went from old to new."""
    if new == old:
        return "stayed"
    return "rose" if new > old else "fell"


def from_to(old: str, new: str) -> str:
    """Both figures, or one where they read the same."""
    return f"at {new}" if old == new else f"from {old} to {new}"


def tone_of(gain: float) -> str:
    """What a gain says of the training: any is good, none is unsure, a loss is bad."""
    return "good" if gain > 0 else "bad" if gain < 0 else "unsure"


def arrow(old: str | None, new: str) -> str:
    """Before and after in one figure."""
    return new if old is None else f"{old} → {new}"


def percent(share: float) -> str:
    """A share in percent; never 0 or 100 unless it is."""
    text = f"{share:.0%}" if share in (0, 1) or 0.095 <= share < 0.995 else f"{share:.1%}"
    if text in ("0.0%", "100.0%") and share not in (0, 1):
        text = "< 0.1%" if share < 0.5 else "> 99.9%"
    return text.replace("%", " %")


def short(value: float) -> str:
    """Three figures; in powers of ten only from a million on."""
    if abs(value) >= 1e6:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def moment(text: str) -> str:
    """An ISO time without its seconds."""
    when = datetime.fromisoformat(text)
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".rstrip()
