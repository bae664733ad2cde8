//! `volary bump --keys`: the archive's keys in the fleet repository, so that devices get them.

use std::collections::BTreeSet;

use anyhow::anyhow;
use serde_json::json;
use volary_api::client::Client;
use volary_api::v1::keys::Keys;
use volary_archive::fingerprints;
use volary_fleet::ARCHIVE_KEY_FILE;

use crate::config::Config;
use crate::failure::Failure;
use crate::out::Out;
use crate::workdir::WorkDir;

/// How the keys of the repository differ from those of the archive.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    adds: BTreeSet<String>,
    removes: BTreeSet<String>,
}

/// What changes, unless the server's keys have nothing to do with those that devices have: then
/// they would refuse every suite, or it is not our server.
fn change(own: &BTreeSet<String>, offered: &BTreeSet<String>) -> Option<Change> {
    if !own.is_empty() && own.is_disjoint(offered) {
        return None;
    }
    let difference = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect();
    Some(Change { adds: difference(offered, own), removes: difference(own, offered) })
}

/// Commits the archive's keys to the first stage's branch.
pub fn run(
    work: &WorkDir,
    config: &Config,
    client: &Client,
    branch: &str,
    no_push: bool,
    out: &Out,
) -> Result<(), Failure> {
    let keys: Keys = client.get("/api/v1/archive/keys")?;
    let path = work.root().join(ARCHIVE_KEY_FILE);
    let text = volary_host::read_to_string(&path).unwrap_or_default();
    let own = fingerprints(&text).unwrap_or_default();
    let offered = fingerprints(&keys.public).map_err(|problem| anyhow!("the server's keys: {problem}"))?;
    let change = change(&own, &offered).ok_or_else(|| {
        Failure::with_help(
            anyhow!(
                "the server has none of the keys in {ARCHIVE_KEY_FILE}, so devices would not believe it \
                 any more; nothing was changed"
            ),
            "is this your server? if its keys were lost, write the new ones by hand: \
             volary archive keys list --json",
        )
    })?;
    let value =
        |commit: Option<&str>| json!({ "adds": change.adds, "removes": change.removes, "commit": commit });
    if change.adds.is_empty() && change.removes.is_empty() {
        out.show(&value(None), |_| out.line(format!("{ARCHIVE_KEY_FILE} has the archive's keys already")));
        return Ok(());
    }
    volary_host::write_atomic(&path, keys.public.as_bytes(), 0o644)?;
    let lines = |verb: &str, keys: &BTreeSet<String>| {
        keys.iter().map(|key| format!("{verb} {key}\n")).collect::<String>()
    };
    let both = lines("adds", &change.adds) + &lines("removes", &change.removes);
    let message = format!("bring the archive's keys\n\n{both}");
    let commit = work.commit_file(config, ARCHIVE_KEY_FILE, &message)?;
    if !no_push {
        work.push(commit.as_str(), branch)?;
    }
    out.show(&value(Some(commit.as_str())), |_| {
        out.line(both.trim_end());
        let pushed = if no_push { "not pushed yet" } else { "pushed" };
        out.line(format!("{branch} has the archive's keys at {} ({pushed})", commit.short()));
        out.line("help: compare the fingerprints with whoever changed the keys before you promote this");
    });
    Ok(())
}

/// Says so if devices lack a key that will be needed. That it cannot be asked is no matter here.
pub fn remind(work: &WorkDir, client: &Client, out: &Out) {
    let text = volary_host::read_to_string(&work.root().join(ARCHIVE_KEY_FILE)).unwrap_or_default();
    let Ok(keys) = client.get::<Keys>("/api/v1/archive/keys") else { return };
    if let (Ok(own), Ok(offered)) = (fingerprints(&text), fingerprints(&keys.public))
        && !offered.is_subset(&own)
    {
        out.note("the archive has keys that this repository lacks; bring them with: volary bump --keys");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(own: &str, offered: &str, expected: Option<(&str, &str)>) {
        let set = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
        let expected = expected.map(|(adds, removes)| Change { adds: set(adds), removes: set(removes) });
        assert_eq!(change(&set(own), &set(offered)), expected, "{own} → {offered}");
    }

    #[test]
    fn one_key_that_devices_have_must_stay() {
        check("A", "A B", Some(("B", "")));
        check("A B", "B", Some(("", "A")));
        check("A", "A", Some(("", "")));
        check("A", "B", None);
        check("", "B", Some(("B", "")));
    }
}
