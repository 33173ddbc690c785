"""What became of a node, out of what its steps answered."""

WORDS = {
    "plan": {True: "has it", False: "will get it"},
    "check": {True: "has it", False: "lacks it"},
    "remove": {True: "removed", False: "had none"},
}


def outcome(name: str, variables: dict, steps: list[str], stage: str, check: bool) -> dict:
    """One row of the report: runtime, to_bring and received (bytes), seconds, pinned, result, problem.

    `steps` are the names of the registered results, in the order they happened; those that were skipped do not count.
    """
    done = [variables[step] for step in steps if step in variables and not variables[step].get("skipped")]
    first = done[0] if done else {}
    travelled = [step["nodes"][name] for step in done if name in step.get("nodes", {})]
    last = done[-1] if done else {}
    row = {
        "runtime": " ".join(str(first.get(key, "")) for key in ("runtime", "version")).strip() or "unknown",
        "to_bring": first.get("bytes", 0),
        "received": sum(part["received"] for part in travelled),
        "seconds": sum(part["seconds"] for part in travelled) + sum(step.get("seconds", 0.0) for step in done),
        "pinned": bool(first.get("pins")),
        "problem": find_problem(done, travelled),
    }
    if row["problem"]:
        row["result"] = "failed"
    elif stage in WORDS:
        row["result"] = WORDS[stage][bool(last.get("changed") if stage == "remove" else first.get("has"))]
    elif first.get("has"):
        row["result"] = "had it"
    elif check:
        row["result"] = "would get it"
    else:
        arrived = any(step.get("has") for step in done)
        row["result"] = "has it" if arrived else "failed"
        row["problem"] = "" if arrived else "the push ended before this node was served\n  fix: push again"
    return row


def find_problem(done: list[dict], travelled: list[dict]) -> str:
    """The first thing that went wrong, with what it means; '' where nothing did."""
    if not done:
        return "was never reached"
    for step in done:
        if step.get("unreachable"):
            said = step.get("msg", "").strip().rsplit("over ssh: ", 1)[-1]  # ssh's own words, without Ansible's
            return f"ssh does not reach it: {said}\n  fix: ssh to it by hand with the inventory's settings"
        if step.get("problem") or step.get("failed"):
            return step.get("problem") or step.get("msg", "failed")
    if travelled and not travelled[-1]["done"]:
        return f"{travelled[-1]['problem']}\n  fix: mend that, then push again; what arrived is kept"
    return ""
