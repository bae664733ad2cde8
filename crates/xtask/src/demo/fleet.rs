//! What the demo's fleet repository says beyond the template: devices, gates, packages.

use volary_testkit::chain::{Clone, inventory};

use super::sources;

/// The devices and the stage of each.
pub const DEVICES: &[(&str, &str)] = &[
    ("dev-1", "development"),
    ("canary-1", "canary"),
    ("canary-2", "canary"),
    ("prod-1", "production"),
    ("prod-2", "production"),
    ("prod-3", "production"),
];

/// The branch of a stage.
pub fn branch(stage: &str) -> &str {
    if stage == "development" { "master" } else { stage }
}

const STAGES: &str = "\
version: 1
stages:
  development: { branch: master, packages: rolling }
  canary: { branch: canary, from: development }
  production: { branch: production, from: canary }
# A demo has little time; real devices ask once a minute and watch a change for five.
poll: 2s
confirm: { development: 3s, canary: 3s, production: 3s }
";

const GATES: &str = "\
gates:
  canary:
    healthy: { at_least: 100%, silent_at_most: 0%, devices_at_least: 1 }
  production:
    frozen: true
    healthy: { at_least: 100%, silent_at_most: 0%, devices_at_least: 2 }
";

/// Puts the six devices into the inventory, merges that up to production, then sets the gates:
/// they judge by releases and by devices, and there are none before.
pub fn describe(fleet: &Clone) -> anyhow::Result<()> {
    fleet.write("inventory.yml", &inventory(DEVICES))?;
    fleet.write("volary.yml", STAGES)?;
    fleet.run_volary(&["check"])?;
    fleet.commit("describe six devices")?;
    fleet.push("master")?;
    fleet.run_volary(&["promote", "--from", "development", "--to", "canary", "--yes"])?;
    // The template's own gate asks for healthy canaries. There are no devices yet, so a person says
    // why it may be merged all the same; that stays in the history.
    let why = "healthy=the fleet has no devices yet";
    fleet.run_volary(&["promote", "--from", "canary", "--to", "production", "--yes", "--override", why])?;
    fleet.write("volary.yml", &format!("{STAGES}{GATES}"))?;
    fleet.run_volary(&["check"])?;
    fleet.commit("canaries take what is healthy, production what is frozen too")?;
    Ok(fleet.push("master")?)
}

/// What production asks for from then on, and how canaries are watched: a window of a minute, in which a
/// real fleet has a week.
const WATCHED: &str = "\
gates:
  canary:
    healthy: { at_least: 100%, silent_at_most: 0%, devices_at_least: 1 }
  production:
    frozen: true
    soak: 70s
    healthy: { at_least: 100%, silent_at_most: 0%, devices_at_least: 2 }
    watch: warning
promote: { production: automatic }
metrics:
  canary: { every: 1s, send: 5s, set: [unit_memory_bytes], units: [volary-pulse.service] }
watch:
  - { name: leak, kind: leak, series: unit_memory_bytes, stages: [canary], window: 60s }
";

/// Watches the memory of the canaries, and lets the server merge into production.
pub fn watch_memory(fleet: &Clone, promoter: &str) -> anyhow::Result<()> {
    let signers = ".volary/allowed_signers";
    let text = volary_host::read_to_string(&fleet.dir().join(signers))?;
    fleet.write(signers, &format!("{}\n{promoter}\n", text.trim_end()))?;
    fleet.write("volary.yml", &format!("{STAGES}{WATCHED}"))?;
    fleet.run_volary(&["check"])?;
    fleet.commit("watch memory, and merge what is well")?;
    Ok(fleet.push("master")?)
}

/// Asks for both packages on every device.
pub fn want_packages(fleet: &Clone) -> anyhow::Result<()> {
    let path = "group_vars/all.yml";
    let vars = volary_host::read_to_string(&fleet.dir().join(path))?;
    let vars = vars
        .replace("volary_packages: []", &format!("volary_packages: [{}, {}]", sources::PULSE, sources::HELLO))
        .replace("volary_services: []", &format!("volary_services: [{}]", sources::UNIT));
    fleet.write(path, &vars)?;
    fleet.run_volary(&["check"])?;
    fleet.commit("install volary-pulse and hello")?;
    Ok(fleet.push("master")?)
}
