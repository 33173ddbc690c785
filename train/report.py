"""Write the report of a run: one page that needs nothing but a browser, and a summary for the terminal.

    python -m train.report --run RUN

RUN/report.html holds styles, charts and data itself and loads nothing. What the run lacks is said in its place.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from train import export_table
from train import report_facts as facts
from train.errors import InputError, problem, run_program
from train.recipe import load_recipe
from train.report_plots import Series, bar_chart, line_chart, smoothed
from train.report_ranks import rank_rows
from train.report_tasks import read_tasks, task_rows
from train.run_names import known_runs

TEMPLATE = "report.html.j2"


def main() -> None:
    """Read the run, write its report, print the summary."""
    parser = argparse.ArgumentParser(description="Write the report of a run.")
    parser.add_argument("--run", type=Path, required=True, help="directory of the run")
    run = parser.parse_args().run
    write_report(run)
    print_summary(run)


def write_report(run: Path) -> Path:
    """Write RUN/report.html under a temporary name and rename it; returns its path."""
    content = read_run(run)
    page = templates().get_template(TEMPLATE).render(**page_parts(content, run))
    return write_page(run / "report.html", page)


def templates(*more: Path) -> Environment:
    """The templates here and in `more` directories, with the filters that write figures."""
    # The templates' names do not end in .html, so escaping must be asked for.
    loader = FileSystemLoader([*more, Path(__file__).resolve().parent])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": facts.percent,
        "duration": facts.duration,
        "shown": facts.shown,
        "moment": facts.moment,
        "literal": lambda text: json.dumps(text, ensure_ascii=False),
    }
    return environment


def write_page(path: Path, page: str) -> Path:
    """Write a page under a temporary name and rename it; returns its path."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise InputError(problem(path, "", f"cannot be written: {error.strerror}", "make room there")) from None
    return path


def read_run(run: Path) -> facts.Run:
    """Everything the report is made of. Raises InputError for a directory that is no run, and for damaged files."""
    if not (run / "run.json").is_file() and not (run / "metrics.jsonl").is_file():
        fix = f"give a run's directory; beside it there are: {known_runs(run.parent)}"
        raise InputError(problem(run, "", "is no run: it holds neither run.json nor metrics.jsonl", fix))
    training = read_json(run / "training.json") or {}
    # The chain's record comes first; what it lacks (a cluster runs the programs without it) their own files tell.
    record = {**training, **(read_json(run / "run.json") or {})}
    if not record.get("recipe") and (run / "train.yaml").is_file():
        record["recipe"] = vars(load_recipe(run / "train.yaml"))
    return {
        "record": record,
        "training": record.get("training") or training or None,
        "metrics": read_metrics(run / "metrics.jsonl"),
        "check": read_json(run / "data" / "data_check.json"),
        "before": read_json(run / "before.json"),
        "after": read_json(run / "after.json"),
        "merge": read_json(run / "merged" / "merge.json"),
        "exports": export_table.rows(export_table.read_exports(run)),
        "tasks": read_tasks(run),
    }


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, None where there is no file."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(problem(path, "", f"is not JSON: {error}", "run the stage that writes it again")) from None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a kill tore is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else []:
        try:
            lines += [json.loads(line)] if line else []
        except ValueError:
            continue
    return lines


def page_parts(content: facts.Run, run: Path) -> dict[str, Any]:
    """The template's variables."""
    record, check = content["record"], content["check"]
    tone, sentences = facts.verdict(content)
    result = result_directory(run)
    return {
        **content,
        "name": record.get("name") or run.resolve().name,
        "tone": tone,
        "verdict": sentences,
        "figures": facts.figures(content),
        "charts": charts(content),
        "lengths": bar_chart("Lengths of the rows", **check["histogram"]) if check and "histogram" in check else "",
        "samples": facts.sample_pairs(content),
        "tasks": task_rows(content["tasks"]),
        "checks": facts.checks(content),
        "ranks": rank_rows(content),
        "recipe": facts.recipe_rows(content),
        "result": str(result) if result else None,
        "is_adapter": bool(result and result.name == "adapter"),
        "trained": facts.is_trained(content),
    }


def result_directory(run: Path) -> Path | None:
    """The best there is to use: the merged model, the whole model, or the adapter."""
    return next((run / name for name in ("merged", "model", "adapter") if (run / name).is_dir()), None)


def charts(content: facts.Run) -> dict[str, Any]:
    """The charts of the training, each empty where there is nothing to show."""
    steps = facts.step_lines(content)
    validation = [(line["step"], line["eval_loss"]) for line in content["metrics"] if "eval_loss" in line]

    def curve(key: str, factor: float = 1.0) -> list[tuple[float, float]]:
        return [(line["step"], line[key] * factor) for line in steps if line.get(key) is not None]

    def small(key: str, label: str, unit: str = "", factor: float = 1.0, zero: bool = True) -> Any:
        points = curve(key, factor)
        mean = smoothed(points) if key != "learning_rate" else []
        series = [Series("a step", points, "raw"), Series("smoothed", mean, "main")] if mean else \
            [Series(label, points, "main")]  # fmt: skip
        return line_chart(label, series, unit=unit, width=380, height=190, zero=zero)

    mean = smoothed(curve("loss"))
    training = [Series("training, smoothed", mean, "main")] if mean else []
    raw = Series("training, a step" if mean else "training", curve("loss"), "raw" if mean else "main")
    loss = [raw, *training, Series("validation", validation, "validation", dots=True)]
    best = (content["training"] or {}).get("best_step")
    kept = [(step, value) for step, value in validation if step == best]
    loss += [Series("kept", kept, "kept", dots=True)] if len(validation) > 1 else []
    return {
        "loss": line_chart("Loss over the steps", loss),
        "rate": small("tokens_per_second", "Tokens per second"),
        "share": small("matmul_share", "Share of the measured matrix-multiply rate", unit=" %", factor=100),
        "memory": small("memory_gb", "Memory in GB"),
        "learning_rate": small("learning_rate", "Learning rate"),
        "gradient": small("grad_norm", "Gradient norm", zero=False),
        "seconds": small("seconds", "Seconds a step"),
    }


def print_summary(run: Path) -> None:
    """The run in a screenful: verdict, key figures, one answer before and after, where everything lies."""
    content = read_run(run)
    _, sentences = facts.verdict(content)
    print(f"\n{content['record'].get('name') or run.resolve().name}: {'. '.join(sentences)}.\n")
    lines = [(figure["name"], f"{figure['value']}  ({figure['note']})") for figure in facts.figures(content)]
    passed = [check["result"] for check in facts.checks(content)].count("passed")
    if content["merge"]:
        lines.append(("merge", f"{passed} of {len(facts.checks(content))} checks passed"))
    pair = next((pair for pair in facts.sample_pairs(content) if pair["before"] and pair["after"]), None)
    if pair:
        lines.append((f"row {pair['row']}", f"wanted  {one_line(pair['answer'])}"))
        lines += [("", f"{name:<7} {one_line(pair[name]['text'])}") for name in ("before", "after")]
    result = result_directory(run)
    lines += [("result", str(result))] if result else []
    lines += [("report", str(run / "report.html"))] if (run / "report.html").is_file() else []
    if facts.learned_nothing(content):
        lines.append(("what to do", "docs/runbooks/loss-does-not-fall.md"))
    wide = max(len(name) for name, _ in lines)
    encoding = sys.stdout.encoding or "ascii"
    for name, said in lines:
        print(f"  {name.ljust(wide)}  {said}".encode(encoding, "replace").decode(encoding))
    if content["exports"]:
        print(f"\n{export_table.in_words(content['exports'])}")
    print()


def one_line(text: str, most: int = 90) -> str:
    """A text in one line, cut where it is long."""
    text = " ".join(text.split()) or "(nothing)"
    return text if len(text) <= most else text[: most - 1] + "…"


if __name__ == "__main__":
    run_program(main)
