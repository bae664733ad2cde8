#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Enables and starts systemd units, and waits until they run and stay up."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
---
module: healthy_units
short_description: Systemd units that run and stay up
description:
  - Enables and starts the units, waits until each is active, and then until all have stayed active
    without a restart for a while.
  - Otherwise fails with each such unit's name, state and the last lines of its journal.
  - A unit of type oneshot needs C(RemainAfterExit=yes); systemd forgets others once they ended. For
    one that a timer starts, name the timer.
options:
  units:
    description: Names of units; C(.service) may be left out.
    type: list
    elements: str
    required: true
  timeout:
    description: Seconds until all units must be active.
    type: int
    default: 60
  settle:
    description: Seconds that they must stay active.
    type: int
    default: 3
author:
  - The Volary authors
"""

EXAMPLES = r"""
- name: Check that the services run
  volary.fleet.healthy_units:
    units: [volary-pulse]
    timeout: 30
"""

RETURN = r"""
units:
  description: Each unit's state.
  type: dict
  returned: always
"""

import time

from ansible.module_utils.basic import AnsibleModule

PROPERTIES = (
    "LoadState,ActiveState,SubState,Result,UnitFileState,NRestarts,Type,"
    "RemainAfterExit,ActiveEnterTimestampMonotonic"
)
JOURNAL_LINES = 15


class Units(object):
    def __init__(self, module):
        self.module = module
        self.names = [n if "." in n else n + ".service" for n in module.params["units"]]

    def systemctl(self, *args):
        return self.module.run_command(["systemctl"] + list(args), environ_update={"LC_ALL": "C.UTF-8"})

    def state(self, name):
        code, out, err = self.systemctl("show", "--property=" + PROPERTIES, "--", name)
        if code != 0:
            self.module.fail_json(msg="systemd does not answer for {0}: {1}".format(name, err.strip() or out))
        return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)

    def states(self):
        return dict((name, self.state(name)) for name in self.names)

    def journal(self, name):
        command = ["journalctl", "--no-pager", "--quiet", "--output=short", "--unit=" + name]
        _code, out, _err = self.module.run_command(command + ["--lines={0}".format(JOURNAL_LINES)])
        return out.strip()

    def fail(self, bad, states, what):
        parts = []
        for name in bad:
            state = states[name]
            if state.get("LoadState") == "not-found":
                parts.append("{0} does not exist; is its package in volary_packages?".format(name))
                continue
            if state.get("Type") == "oneshot" and state.get("RemainAfterExit") == "no":
                parts.append("{0} is oneshot without RemainAfterExit; name its timer instead".format(name))
                continue
            seen = "{0}/{1}, result {2}, {3} restarts".format(
                state.get("ActiveState"), state.get("SubState"), state.get("Result"), state.get("NRestarts", 0)
            )
            journal = self.journal(name) or "(its journal is empty)"
            parts.append("{0} {1} ({2}). Its journal ends:\n{3}".format(name, what, seen, journal))
        self.module.fail_json(msg="\n".join(parts), units=states)


def is_up(state):
    return state.get("ActiveState") == "active"


def up_for(state):
    """Seconds since the unit came up; both clocks count from the machine's start."""
    entered = int(state.get("ActiveEnterTimestampMonotonic") or 0)
    return time.monotonic() - entered / 1e6 if state.get("ActiveState") == "active" else float("inf")


def wait(units, timeout, settle):
    """Returns the states once all are up and stayed so; fails otherwise."""
    deadline = time.monotonic() + timeout
    seen_up = set()
    while True:
        states = units.states()
        down = [name for name in units.names if not is_up(states[name])]
        fell = [name for name in down if name in seen_up]
        if fell:
            units.fail(fell, states, "does not stay up")
        hopeless = [name for name in down if states[name].get("ActiveState") == "failed"]
        if hopeless or (down and time.monotonic() >= deadline):
            units.fail(hopeless or down, states, "does not run")
        young = [name for name in units.names if up_for(states[name]) < settle]
        if not down and not young:
            return states
        # One that keeps coming up and dying between two looks is never old enough.
        if young and time.monotonic() >= deadline + settle:
            units.fail(young, states, "does not stay up")
        seen_up.update(name for name in units.names if name not in down)
        time.sleep(0.3)


def main():
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "str", "required": True},
            "timeout": {"type": "int", "default": 60},
            "settle": {"type": "int", "default": 3},
        },
        supports_check_mode=True,
    )
    units = Units(module)
    states = units.states()
    missing = [name for name in units.names if states[name].get("LoadState") == "not-found"]
    brief = [n for n in units.names if states[n].get("Type") == "oneshot" and states[n].get("RemainAfterExit") == "no"]
    if brief or (missing and not module.check_mode):
        units.fail(missing + brief, states, "")
    enable = [n for n in units.names if states[n].get("UnitFileState") == "disabled"]
    start = [n for n in units.names if not is_up(states[n])]
    changed = bool(enable or start)
    if module.check_mode:
        module.exit_json(changed=changed, units=states)
    if enable:
        code, out, err = units.systemctl("enable", "--quiet", "--", *enable)
        if code != 0:
            module.fail_json(msg="cannot enable {0}: {1}".format(", ".join(enable), err.strip() or out))
    # A unit that failed before gets a fresh start; why it then fails is in its journal.
    tired = [n for n in start if states[n].get("ActiveState") == "failed"]
    if tired:
        units.systemctl("reset-failed", "--", *tired)
    if start:
        code, out, err = units.systemctl("start", "--no-block", "--", *start)
        if code != 0:
            module.fail_json(msg="cannot start {0}: {1}".format(", ".join(start), err.strip() or out))
    states = wait(units, module.params["timeout"], module.params["settle"])
    module.exit_json(changed=changed, units=states)


if __name__ == "__main__":
    main()
