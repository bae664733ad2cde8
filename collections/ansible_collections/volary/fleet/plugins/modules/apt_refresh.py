#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Fetches the package lists of one apt source, and says whether they are new."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
---
module: apt_refresh
short_description: Fetch the package lists of one apt source
description:
  - Runs C(apt-get update) for one source file only, so that other sources, which may be slow or
    down, cannot hold the fleet up.
  - Any trouble is an error. Plain C(apt-get update) exits 0 after most of them and goes on with old lists.
options:
  source:
    description: The source file.
    type: path
    required: true
  release_url:
    description: The URL of the suite's C(InRelease) in that source; tells whether the lists are there.
    type: str
    required: true
  force:
    description: Ask the archive although the lists are there.
    type: bool
    default: false
author:
  - The Volary authors
"""

EXAMPLES = r"""
- name: Fetch the package lists of this source
  volary.fleet.apt_refresh:
    source: /etc/apt/sources.list.d/volary.sources
    release_url: https://fleet.example.com/archive/dists/rolling/InRelease
    force: true
"""

RETURN = r"""
fetched:
  description: Whether the archive was asked.
  type: bool
  returned: always
"""

import hashlib
import os

from ansible.module_utils.basic import AnsibleModule

LISTS = "/var/lib/apt/lists"


def list_file(url):
    """The name that apt gives a downloaded file (its URItoFileName)."""
    name = url.split("://", 1)[-1]
    host, slash, path = name.partition("/")
    name = host.rsplit("@", 1)[-1] + slash + path
    quoted = "".join("%%%02x" % ord(c) if c in '\\|{}[]<>"^~_=!@#$%^&*' else c for c in name)
    return os.path.join(LISTS, quoted.replace("/", "_"))


def digest(path):
    try:
        with open(path, "rb") as release:
            return hashlib.sha256(release.read()).hexdigest()
    except FileNotFoundError:
        return None


def main():
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "release_url": {"type": "str", "required": True},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    release = list_file(module.params["release_url"])
    before = digest(release)
    if before is not None and not module.params["force"]:
        module.exit_json(changed=False, fetched=False)
    if module.check_mode:
        module.exit_json(changed=before is None, fetched=False)
    command = [
        "apt-get",
        "update",
        "-q",
        "-o", "Dir::Etc::sourcelist=" + module.params["source"],
        "-o", "Dir::Etc::sourceparts=/dev/null",
        # Without this the lists of all other sources would be removed.
        "-o", "APT::Get::List-Cleanup=0",
        "-o", "APT::Update::Error-Mode=any",
        "-o", "DPkg::Lock::Timeout=300",
        "-o", "Acquire::Retries=3",
    ]
    code, out, err = module.run_command(command, environ_update={"LC_ALL": "C.UTF-8"})
    if code != 0:
        # What went wrong on the way stands indented below "Err:", the outcome behind "E:".
        said = [line.strip() for line in (out + err).splitlines() if line.startswith(("E:", "W:", "  "))]
        module.fail_json(
            msg="apt cannot read {0}: {1}".format(
                module.params["release_url"], "; ".join(said) or "exit status {0}".format(code)
            ),
            stdout=out,
            stderr=err,
        )
    module.exit_json(changed=digest(release) != before, fetched=True)


if __name__ == "__main__":
    main()
