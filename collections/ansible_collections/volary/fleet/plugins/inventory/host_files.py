# Copyright: The Volary authors
# SPDX-License-Identifier: Apache-2.0
"""The layout for large fleets: one file of groups, and one small file for each host.

Devices read it with a reader of their own, which must do the same in the same order.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: host_files
short_description: One small file for each host
description:
  - Reads an inventory that has its groups in C(FOLDER/groups.yml) and each host in a file of its own,
    C(FOLDER/hosts/SHARD/NAME.yml), where C(SHARD) is the first two hexadecimal digits of the SHA-256 of
    the name.
  - C(volary inventory split) makes this of an inventory in another form.
author: The Volary authors
options:
  plugin:
    description: That this is the configuration of this plugin.
    required: true
    choices: [volary.fleet.host_files]
  folder:
    description: The folder with C(groups.yml) and C(hosts/), from the folder of this file.
    type: str
    default: inventory
"""

EXAMPLES = r"""
# inventory.yml
plugin: volary.fleet.host_files

# inventory/groups.yml: all groups, with what is below them and their variables
web:
edge:
  children: [web]
  vars: {level: 1}

# inventory/hosts/c4/web-1.yml
groups: [web]
vars: {address: 192.0.2.1}
# Optional: puts the host before those with a higher number, or none. Others are sorted by name.
order: 1
"""

import hashlib
import os
import re

from ansible.errors import AnsibleParserError
from ansible.module_utils.common.text.converters import to_native
from ansible.plugins.inventory import BaseInventoryPlugin


class InventoryModule(BaseInventoryPlugin):
    NAME = "volary.fleet.host_files"

    def verify_file(self, path):
        return super().verify_file(path) and path.endswith((".yml", ".yaml"))

    def parse(self, inventory, loader, path, cache=True):
        super().parse(inventory, loader, path, cache)
        self._only(path, self._read_file(path), ("plugin", "folder"))
        self._read_config_data(path)
        folder = self.get_option("folder")
        if os.path.isabs(folder):
            raise AnsibleParserError(f"{path}: the folder {folder!r} must be one inside the repository")
        folder = os.path.join(os.path.dirname(os.path.abspath(path)), folder)
        self._groups = os.path.join(folder, "groups.yml")
        self._read_groups()
        hosts = [self._read_host(name, file) for name, file in self._files(os.path.join(folder, "hosts"))]
        hosts.sort(key=lambda host: (host["order"] is None, host["order"] or 0, _natural(host["name"]), host["name"]))
        for host in hosts:
            self._add_host(host)

    def _read_file(self, path):
        data = self.loader.load_from_file(path, cache=False)
        if not data:
            return {}
        if not isinstance(data, dict):
            raise AnsibleParserError(f"{path}: a map is needed")
        return data

    def _only(self, path, data, known):
        for key in data:
            if key not in known:
                raise AnsibleParserError(f"{path}: {key!r} may not stand here, only {', '.join(known)}")

    def _list_of_names(self, path, what, value):
        if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
            raise AnsibleParserError(f"{path}: {what} must be a list of names")
        return value

    def _mapping(self, path, value):
        if not isinstance(value, dict):
            raise AnsibleParserError(f"{path}: vars must be a map")
        return value

    def _declared(self, path, group):
        if group not in self.inventory.groups:
            raise AnsibleParserError(f"{path}: the group {group!r} is not in {self._groups}; add the line `{group}:` there")
        return group

    def _read_groups(self):
        """First all groups, then what is in them, so that the order of the file is that of the groups."""
        path = self._groups
        groups = self._read_file(path) if os.path.exists(path) else {}
        for name in groups:
            if not isinstance(name, str) or not name:
                raise AnsibleParserError(f"{path}: the name of a group must be a text")
            # Not add_group's answer: a setting may change names there, and here no name is changed.
            self.inventory.add_group(name)
        for name, data in groups.items():
            if data is None:
                continue
            if not isinstance(data, dict):
                raise AnsibleParserError(f"{path}: group {name!r} must be a map")
            self._only(path, data, ("children", "vars"))
            for section, entries in data.items():
                if entries is None:
                    continue
                if section == "children":
                    for child in self._list_of_names(path, f"children of {name!r}", entries):
                        self.inventory.add_child(name, self._declared(path, child))
                else:
                    for key, value in self._mapping(path, entries).items():
                        self.inventory.set_variable(name, key, value)

    def _files(self, folder):
        """The names of all hosts, each in the folder where it belongs."""
        for shard in _visible(folder):
            inner = os.path.join(folder, shard)
            for file in _visible(inner):
                path = os.path.join(inner, file)
                name, end = os.path.splitext(file)
                if end != ".yml":
                    raise AnsibleParserError(f"{path}: only files of hosts, NAME.yml, may stand here")
                right = hashlib.sha256(name.encode()).hexdigest()[:2]
                if right != shard:
                    raise AnsibleParserError(f"{path}: it belongs into {os.path.join(folder, right)}")
                yield name, path

    def _read_host(self, name, path):
        data = self._read_file(path)
        self._only(path, data, ("groups", "vars", "order"))
        order = data.get("order")
        if "order" in data and (isinstance(order, bool) or not isinstance(order, int)):
            raise AnsibleParserError(f"{path}: order must be a whole number")
        groups, variables = data.get("groups"), data.get("vars")
        groups = [] if groups is None else self._list_of_names(path, "groups", groups)
        return {
            "name": name,
            "order": order,
            "groups": [self._declared(path, group) for group in groups],
            "vars": {} if variables is None else self._mapping(path, variables),
        }

    def _add_host(self, host):
        name = host["name"]
        self.inventory.add_host(name)
        for group in host["groups"]:
            self.inventory.add_host(name, group=group)
        # The inventory's own way would set them on a group that has the host's name.
        found = self.inventory.hosts[name]
        for key, value in host["vars"].items():
            found.set_variable(key, value)


def _visible(folder):
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise AnsibleParserError(f"{folder}: {to_native(error)}") from error


def _natural(name):
    """Puts web-2 before web-10: texts and numbers in turn, beginning with a text."""
    parts = re.split("([0-9]+)", name)
    return [int(part) if at % 2 else part for at, part in enumerate(parts)]
