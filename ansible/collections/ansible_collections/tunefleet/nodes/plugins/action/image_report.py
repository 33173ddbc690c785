"""Says for all nodes at once how they stand. Documentation: plugins/modules/image_report.py."""

import json
from pathlib import Path

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.layout import LayoutError, read_image
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.outcome import outcome
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.table import table


class ActionModule(ActionBase):
    BYPASS_HOST_LOOP = True
    _VALID_ARGS = frozenset(("stage", "image", "steps", "result"))
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        given = self._task.args
        try:
            image = read_image(Path(given["image"]))
        except LayoutError as error:
            return {**result, "failed": True, "msg": str(error)}
        rows = {
            name: outcome(name, task_vars["hostvars"][name], given["steps"], given["stage"], self._task.check_mode)
            for name in task_vars["ansible_play_hosts_all"]
        }
        say = Display().display
        say(f"\n  {image.name} {image.digest}")
        say("".join(f"  {line}\n" for line in table(rows, given["stage"], image.digest)))
        for name, row in rows.items():
            if row["problem"]:
                say(f"  {name}: {row['problem']}", color="red")
        if given.get("result") and not self._task.check_mode:
            write_result(Path(given["result"]), image, rows)
        problems = {name: row["problem"] for name, row in rows.items() if row["problem"]}
        return {**result, "changed": False, "problems": problems}


def write_result(path: Path, image, rows: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".tmp")
    half.write_text(json.dumps({"name": image.name, "digest": image.digest, "nodes": rows}, indent=1) + "\n")
    half.rename(path)
