"""The loss curve of a training as a PNG, for the card: no browser is needed to see it, and no script runs."""

import io
from typing import Any

from train.report_plots import smoothed


def draw(metrics: list[dict[str, Any]]) -> bytes | None:
    """A picture of training and validation loss over the steps, from the lines of metrics.jsonl; None for none.

    The same lines give the same bytes: no date is written into the file.
    """
    training = [(line["step"], line["loss"]) for line in metrics if line.get("loss") is not None]
    validation = [(line["step"], line["eval_loss"]) for line in metrics if line.get("eval_loss") is not None]
    if not training and not validation:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    mean = smoothed(training)
    if training:
        axes.plot(*zip(*training, strict=True), color="0.75" if mean else "C0", linewidth=1, label="training, a step")
    if mean:
        axes.plot(*zip(*mean, strict=True), color="C0", label="training, smoothed")
    if validation:
        axes.plot(*zip(*validation, strict=True), color="C1", marker="o", markersize=4, label="validation")
    values = [value for _, value in training + validation]
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    return picture.getvalue()
