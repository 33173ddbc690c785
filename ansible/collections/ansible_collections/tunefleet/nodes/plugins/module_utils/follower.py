"""Imports what has arrived while the rest still travels: layers can only be unpacked one on the other, so as soon as
the first k are there, an image of just these is imported, and the import of the whole finds them unpacked.

Runs beside the agent with the rights of the runtime, hears only the workstation, and cleans up after itself unless it
is told that the whole has arrived. Its failures cost time, nothing else: the last step imports what is still missing.
To it: the request, then {"arrived": digest} or {"beat": true} a line, {"whole": true} at the end. From it:
{"imported": layers} or {"problem": text}. Python 3.8, standard library.
"""

from __future__ import annotations

import json
import queue
import sys
import threading

from ansible_collections.tunefleet.nodes.plugins.module_utils.archive import first_layers, verify
from ansible_collections.tunefleet.nodes.plugins.module_utils.runtimes import find_runtime
from ansible_collections.tunefleet.nodes.plugins.module_utils.tools import NodeError

ALONE = 120.0  # seconds without a word after which the workstation is gone


def main(orders):
    request = json.loads(orders.readline())
    image, missing = request["image"], set(request["missing"])
    here = {layer["digest"] for layer in image["layers"]} - missing
    whole, done, made = False, 0, []
    try:
        runtime = find_runtime(request["runtime"])
        for order in listen(orders):
            whole = whole or "whole" in order
            here.add(order.get("arrived"))
            count = first_missing(image, here)
            fresh = [layer["digest"] for layer in image["layers"][done:count] if layer["digest"] in missing]
            if fresh and count < len(image["layers"]):
                verify(image, request["directory"], fresh, keep=True)
                part = first_layers(image, count)
                made.append(runtime.incoming(part))
                runtime.load(part, made[-1], request["directory"], fresh)
                done = count
                say({"imported": count})
    except (NodeError, OSError) as error:
        say({"problem": str(error)})
    finally:
        left = [name for name in runtime.leftovers() if name in made] if made and not whole else []
        if left:
            runtime.drop_leftovers(left)


def listen(orders):
    """The orders, until the workstation hangs up or is silent for too long. They are read while an import runs."""
    heard = queue.Queue()

    def read():
        for line in iter(orders.readline, b""):
            heard.put(line)
        heard.put(b"")

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = heard.get(timeout=ALONE)
        except queue.Empty:
            return
        if not line:
            return
        yield json.loads(line)


def first_missing(image, here):
    """How many layers from the bottom are here."""
    for count, layer in enumerate(image["layers"]):
        if layer["digest"] not in here:
            return count
    return len(image["layers"])


def say(word):
    sys.stdout.write(json.dumps(word) + "\n")
    sys.stdout.flush()
