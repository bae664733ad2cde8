#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Says which packages must change so that a device has what its suite offers."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
---
module: suite_versions
short_description: Compare the installed packages with a suite
description:
  - Lists, as C(name=version), each installed package whose candidate comes from the given host and
    is another version, and each wanted package that is not installed. Changes nothing.
  - Packages on hold are left out and named.
options:
  site:
    description: The host of the archive, as apt knows it; empty for one on disk.
    type: str
    required: true
  wanted:
    description: Names of packages that must be installed.
    type: list
    elements: str
    default: []
author:
  - The Volary authors
"""

EXAMPLES = r"""
- name: Compare what is installed with the suite
  volary.fleet.suite_versions:
    site: fleet.example.com
    wanted: [volary-pulse]
  register: plan
"""

RETURN = r"""
install:
  description: What to give to apt, as C(name) or C(name=version).
  type: list
  elements: str
  returned: always
held:
  description: Packages that differ from the suite but are on hold.
  type: list
  elements: str
  returned: always
absent:
  description: Wanted packages that no source offers; only in check mode, otherwise this is an error.
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.respawn import (
    has_respawned,
    probe_interpreters_for_module,
    respawn_module,
)

try:
    import apt_pkg
except ImportError:
    apt_pkg = None


def comes_from(version, site):
    return any(source.site == site for source, _index in version.file_list)


def main():
    module = AnsibleModule(
        argument_spec={
            "site": {"type": "str", "required": True},
            "wanted": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    if apt_pkg is None:
        # Ansible may run under another Python than the one that Debian packages modules for.
        system = None if has_respawned() else probe_interpreters_for_module(["/usr/bin/python3"], "apt_pkg")
        if system:
            respawn_module(system)
        module.fail_json(msg="the Python module apt_pkg is missing; install the package python3-apt")

    apt_pkg.init()
    cache = apt_pkg.Cache(None)
    choice = apt_pkg.DepCache(cache)
    site = module.params["site"]
    native = apt_pkg.config.find("APT::Architecture")
    install, held, absent = [], [], []

    for name in module.params["wanted"]:
        package = cache[name] if name in cache else None
        if package is not None and package.current_ver is not None:
            continue
        candidate = choice.get_candidate_ver(package) if package is not None else None
        if candidate is not None:
            install.append("{0}={1}".format(name, candidate.ver_str))
        elif package is not None and package.has_provides:
            # A virtual package: apt finds who provides it, or says why it cannot choose.
            install.append(name)
        else:
            absent.append(name)
    if absent and not module.check_mode:
        module.fail_json(
            msg="no source offers {0}; add it to the release, or correct volary_packages".format(
                ", ".join(sorted(absent))
            )
        )

    for package in cache.packages:
        current = package.current_ver
        if current is None:
            continue
        candidate = choice.get_candidate_ver(package)
        if candidate is None or candidate == current or not comes_from(candidate, site):
            continue
        name = package.name if package.architecture in (native, "all") else package.get_fullname()
        if package.selected_state == apt_pkg.SELSTATE_HOLD:
            held.append(name)
        else:
            install.append("{0}={1}".format(name, candidate.ver_str))

    module.exit_json(changed=False, install=sorted(install), held=sorted(held), absent=sorted(absent))


if __name__ == "__main__":
    main()
