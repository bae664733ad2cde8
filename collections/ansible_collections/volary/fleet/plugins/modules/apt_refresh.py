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


def plain_index(path):
    """The plain index that a path belongs to, if it is one of packages, packed, or its differences."""
    parts = path.split("/")
    for at, part in enumerate(parts):
        if part == "Packages" or part.startswith("Packages."):
            if any(folder.startswith("binary-") for folder in parts[:at]):
                return "/".join(parts[:at] + ["Packages"])
            return None
    return None


def index_path(name):
    """The path of an index that volary.lock calls component/architecture."""
    component, _slash, architecture = name.partition("/")
    return "{0}/binary-{1}/Packages".format(component, architecture)


def lock_problem(text, indexes, architecture):
    """What an InRelease has that the lock does not name, or None.

    apt reads every index that it finds there for an architecture of the device, "all" among them,
    in any list of hashes: so every word is looked at.
    """
    if "main/" + architecture not in indexes:
        return "volary.lock names no index for {0}".format(architecture)
    locked = dict((index_path(name), digest) for name, digest in indexes.items())
    other = "the archive serves other content than the signed volary.lock names: "
    named, confirmed, field = set(), set(), None
    for line in text.splitlines():
        # A clear-signed text may have any line begin with a dash and a space.
        line = line[2:] if line.startswith("- ") else line
        words = line.split()
        if line[:1] not in (" ", "\t"):
            field = line.split(":", 1)[0].lower()
            values = line.partition(":")[2].split()
        else:
            values = words
        if field == "architectures" and "all" in values:
            return other + "it has all among its Architectures"
        plain = next((index for index in map(plain_index, words) if index), None)
        if plain is None:
            continue
        if plain not in locked or len(words) != 3 or plain_index(words[2]) != plain:
            return other + "it also has {0}".format(plain)
        named.add(plain)
        if words[2] == plain and len(words[0]) == 64:
            if "sha256:" + words[0].lower() != locked[plain]:
                return other + "{0} is sha256:{1} instead of {2}".format(plain, words[0], locked[plain])
            if field == "sha256":
                confirmed.add(plain)
    if named - confirmed:
        return other + "it also has {0}".format(sorted(named - confirmed)[0])
    own = index_path("main/" + architecture)
    return None if own in confirmed else other + "it has no {0}".format(own)


def check_lock(module, release):
    """Fails, and takes the lists away from apt, unless they are the locked ones."""
    indexes = module.params["indexes"]
    if indexes is None:
        return
    architecture = module.run_command(["dpkg", "--print-architecture"], check_rc=True)[1].strip()
    if os.path.exists(release):
        with open(release, encoding="utf-8", errors="replace") as text:
            problem = lock_problem(text.read(), indexes, architecture)
    else:
        # apt also takes an unlocked Release beside a Release.gpg.
        problem = "the archive has no InRelease for the signed volary.lock to be compared with"
    if problem is None:
        return
    if not module.check_mode:
        for path in glob.glob(glob.escape(release[: -len("InRelease")]) + "*"):
            if os.path.isfile(path):
                os.remove(path)
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
        # The cache of all sources would be thrown away for one of this source, and made anew later.
        "-o", "pkgCacheFile::Generate=0",
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
