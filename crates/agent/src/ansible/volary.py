# The agent's ear in ansible-playbook: appends one line of JSON for each task that failed or
# changed something to the file named by VOLARY_EVENTS. It works with the plugin interface of
# ansible-core 2.14 (Debian 12) and 2.19 (Debian 13). It never changes what Ansible prints.
from __future__ import annotations

DOCUMENTATION = """
    name: volary
    type: notification
    short_description: tells the Volary agent what a playbook did
    description:
      - Appends one line of JSON for each failed or changed task to the file in VOLARY_EVENTS.
      - With VOLARY_DIFFS, the line of a changed task has its difference.
      - Appends one line for each path that a task changed to the file in VOLARY_MADE, and whether
        the task found nothing there before, for an undo.
"""

import json
import os

from ansible.plugins.callback import CallbackBase

LIMIT = 4000


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "volary"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        path = os.environ.get("VOLARY_EVENTS")
        self.file = open(path, "a", encoding="utf-8") if path else None
        path = os.environ.get("VOLARY_MADE")
        self.made = open(path, "a", encoding="utf-8") if path else None
        self.diffs = bool(os.environ.get("VOLARY_DIFFS"))

    def tell(self, event, **fields):
        if self.file:
            fields["event"] = event
            self.file.write(json.dumps(fields, default=str) + "\n")
            self.file.flush()

    def task(self, event, result, **fields):
        task = getattr(result, "task", None) or result._task
        fields["task"] = task.get_name()
        fields["message"] = message_of(result)[:LIMIT]
        self.tell(event, **fields)

    def v2_playbook_on_start(self, playbook):
        self.tell("start")

    def v2_playbook_on_task_start(self, task, is_conditional):
        self.tell("task", task=task.get_name())

    def v2_playbook_on_handler_task_start(self, task):
        self.tell("task", task=task.get_name())

    def v2_playbook_on_no_hosts_matched(self):
        self.tell("no-hosts")

    def v2_runner_on_ok(self, result):
        if answer(result).get("changed"):
            self.task("changed", result, diff=self.diff_of(result) if self.diffs else "")
        self.note_paths(result)

    def diff_of(self, result):
        """What a task changed or would change, as Ansible itself shows it; hidden things stay so."""
        found = answer(result)
        texts = []
        for item in found.get("results") or [found]:
            if not isinstance(item, dict) or item.get("_ansible_no_log") or not item.get("diff"):
                continue
            try:
                texts.append(self._get_diff(item["diff"]))
            except Exception as error:
                texts.append(f"(no difference can be shown: {error})")
        return "".join(str(text) for text in texts)[:LIMIT]

    def note_paths(self, result):
        if not self.made:
            return
        found = answer(result)
        for item in found.get("results") or [found]:
            if isinstance(item, dict) and item.get("changed"):
                for path in paths_of(item):
                    line = {"path": path, "created": was_created(item)}
                    self.made.write(json.dumps(line) + "\n")
        self.made.flush()

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self.note_paths(result)
        if not ignore_errors:
            self.task("failed", result)

    def v2_runner_on_unreachable(self, result):
        self.task("unreachable", result)

    def v2_playbook_on_stats(self, stats):
        hosts = sorted(stats.processed)
        self.tell("stats", hosts=hosts)


def answer(result):
    found = getattr(result, "result", None)
    return found if isinstance(found, dict) else result._result


def paths_of(found):
    args = (found.get("invocation") or {}).get("module_args") or {}
    named = [found.get("dest"), found.get("path"), args.get("dest"), args.get("path")]
    named = [path for path in named if isinstance(path, str) and path.startswith("/")]
    # The result names the file, the arguments perhaps only the folder that it was put into.
    return list(dict.fromkeys(path.rstrip("/") or "/" for path in named[:1]))


def was_created(found):
    """True only if the module says that nothing was there before."""
    diffs = found.get("diff") or []
    for diff in diffs if isinstance(diffs, list) else [diffs]:
        if not isinstance(diff, dict):
            continue
        before = diff.get("before")
        if isinstance(before, dict) and before.get("state") == "absent":
            return True
        # copy and template show the file that they replace with its name, or say that it is large
        # or not text.
        known = diff.get("before_header") or diff.get("dst_binary") or diff.get("dst_larger")
        if before == "" and "after" in diff and not known:
            return True
    # git tells the commit that was there, get_url the checksum.
    for key in ("before", "checksum_dest"):
        if key in found and found[key] is None:
            return True
    return False


def message_of(result):
    found = answer(result)
    if found.get("_ansible_no_log") or found.get("censored"):
        return "its output is hidden, since the task has no_log"
    for item in found.get("results") or []:
        if isinstance(item, dict) and (item.get("failed") or item.get("unreachable")):
            name = item.get("_ansible_item_label", item.get("item"))
            return f"item {name}: {text_of(item)}"
    return text_of(found)


def text_of(found):
    parts = [str(found[key]).strip() for key in ("msg", "module_stderr", "stderr") if found.get(key)]
    if not parts and found.get("stdout"):
        parts = [str(found["stdout"]).strip()[-1000:]]
    return "\n".join(dict.fromkeys(part for part in parts if part))
