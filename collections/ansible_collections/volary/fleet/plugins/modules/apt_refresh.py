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
  - With O(indexes) the lists must be the ones that the fleet's signed lock names. If they are not,
    they are removed before anything can be installed from them.
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
  indexes:
    description:
      - For each architecture the digest of the plain C(Packages) file, as C(volary.lock) has it.
      - Leave it out for a suite that is not pinned.
    type: dict
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

import glob
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


def packages_digest(release, architecture):
    """The SHA-256 of the plain Packages file that a Release file names, or None."""
    path = "main/binary-{0}/Packages".format(architecture)
    section = None
    with open(release, encoding="utf-8", errors="replace") as text:
        for line in text:
            if not line.startswith(" "):
                section = line.split(":", 1)[0]
                continue
            words = line.split()
            if section == "SHA256" and len(words) == 3 and words[2] == path:
                return words[0]
    return None


def check_lock(module, release):
    """Fails, and takes the lists away from apt, unless they are the locked ones."""
    indexes = module.params["indexes"]
    if indexes is None or not os.path.exists(release):
        return
    architecture = module.run_command(["dpkg", "--print-architecture"], check_rc=True)[1].strip()
    locked = indexes.get(architecture)
    found = packages_digest(release, architecture)
    if locked is not None and found is not None and locked == "sha256:" + found:
        return
    if not module.check_mode:
        for path in glob.glob(glob.escape(release[: -len("InRelease")]) + "*"):
            os.remove(path)
    if locked is None:
        problem = "volary.lock names no index for {0}".format(architecture)
    else:
        problem = "the archive serves other content than the signed volary.lock names for {0}: sha256:{1} instead of {2}".format(
            architecture, found, locked
        )
    module.fail_json(msg="{0}: {1}".format(module.params["release_url"], problem))


def main():
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "release_url": {"type": "str", "required": True},
            "force": {"type": "bool", "default": False},
            "indexes": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    release = list_file(module.params["release_url"])
    before = digest(release)
    if before is not None and not module.params["force"]:
        check_lock(module, release)
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
    check_lock(module, release)
    module.exit_json(changed=digest(release) != before, fetched=True)


if __name__ == "__main__":
    main()
