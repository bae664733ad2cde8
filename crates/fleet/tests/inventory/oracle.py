"""Tells what Ansible itself makes of inventories: one JSON question a line, one JSON answer a line.

It runs Ansible's own classes in the way of ansible-inventory, many inventories in one process,
and prints values with their types, which ansible-inventory's JSON loses. Files that are vaulted
as a whole count as empty, since nobody here has the password; it tells which those are.
"""

import contextlib
import datetime
import io
import json
import os
import sys
from collections.abc import Mapping, Set

from ansible import constants as C
from ansible import context
from ansible.cli.inventory import INTERNAL_VARS
from ansible.inventory.helpers import sort_groups
from ansible.inventory.manager import InventoryManager
from ansible.module_utils.common.collections import ImmutableDict
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.yaml.objects import AnsibleVaultEncryptedUnicode
from ansible.parsing.vault import is_encrypted
from ansible.plugins import loader as plugins
from ansible.utils.unsafe_proxy import AnsibleUnsafe
from ansible.vars.manager import VariableManager

context.CLIARGS = ImmutableDict({})
# Before 2.15 it is done by the import.
if hasattr(plugins, "init_plugin_loader"):
    plugins.init_plugin_loader()


def quote(text):
    return json.dumps(str(text), ensure_ascii=False)


def typed(value):
    if value is None:
        return "null"
    if isinstance(value, AnsibleVaultEncryptedUnicode):
        return "vault" + quote(value._ciphertext.decode())
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return "int:%d" % value
    if isinstance(value, float):
        return "float:" + json.dumps(value)
    if isinstance(value, AnsibleUnsafe):
        return "unsafe" + quote(value)
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, bytes):
        return "bytes:" + value.hex()
    if isinstance(value, (datetime.date, datetime.datetime)):
        return "time:" + value.isoformat()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(typed, value)) + "]"
    if isinstance(value, Set):
        return "set[" + ",".join(sorted(map(typed, value))) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(key(k) + ":" + typed(v) for k, v in value.items()) + "}"
    return "other:" + repr(value)


def key(value):
    return quote(value) if isinstance(value, str) else typed(value)


def host_answer(manager, inventory, host):
    try:
        variables = manager.get_vars(host=host, include_hostvars=False, stage="all")
    except Exception as error:
        return {"error": str(error)}
    group_names = variables["group_names"]
    # Facts of the machine are no part of an inventory, but with this setting it stands there empty.
    facts = set() if C.INJECT_FACTS_AS_VARS else {"ansible_local"}
    kept = {key(k): typed(v) for k, v in variables.items() if k not in {*INTERNAL_VARS, *facts}}
    groups = [[g.name, g.depth, g.priority] for g in sort_groups(host.get_groups())]
    places = [str(variables.get(name)) for name in ("inventory_file", "inventory_dir")]
    return {"vars": kept, "groups": groups, "group_names": group_names, "places": places}


class Loader(DataLoader):
    def __init__(self):
        super().__init__()
        self.sealed = set()

    def _decrypt_if_vault_data(self, data, path=None):
        if not is_encrypted(data):
            return super()._decrypt_if_vault_data(data, path)
        self.sealed.add(os.path.realpath(os.fsdecode(path)))
        return b"", False


def answer(question):
    loader = Loader()
    loader.set_basedir(question["playbook_folder"])
    inventory = InventoryManager(loader=loader, sources=question["sources"])
    manager = VariableManager(loader=loader, inventory=inventory, version_info={})
    hosts = {h.name: host_answer(manager, inventory, h) for h in inventory.hosts.values()}
    groups = {
        g.name: {"hosts": [h.name for h in g.hosts], "children": [c.name for c in g.child_groups]}
        for g in inventory.groups.values()
    }
    root = os.path.realpath(question["root"])
    sealed = sorted(os.path.relpath(path, root) for path in loader.sealed)
    orders = {"host_order": list(hosts), "group_order": list(groups)}
    return {"hosts": hosts, "groups": groups, "sealed": sealed, **orders}


def main():
    for line in sys.stdin:
        question = json.loads(line)
        os.chdir(question["root"])
        try:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                result = answer(question)
        except Exception as error:
            result = {"error": str(error)}
        print(json.dumps(result), flush=True)


main()
