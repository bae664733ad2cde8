//! Makes the root file system: packages by mmdebstrap, the agent, and the fleet's playbook.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::geteuid;
use volary_build::Isolation;
use volary_host::{Cmd, CmdError, create_dir, write_atomic};
use volary_model::{Architecture, Mirror, Recipe};

use crate::contents;
use crate::error::BuildError;
use crate::order::Order;

/// Downloading and unpacking over a slow link, and a playbook.
const PATIENCE: Duration = Duration::from_secs(2 * 3600);

/// What a playbook is run by, inside. It sees no service manager and starts nothing.
const PLAY: &str = "ANSIBLE_NOCOWS=1 ANSIBLE_LOCALHOST_WARNING=0 ANSIBLE_RETRY_FILES_ENABLED=0 PYTHONHASHSEED=0 \
                    PYTHONDONTWRITEBYTECODE=1 ansible-playbook --connection local --inventory localhost, \
                    --extra-vars @/run/volary-image/variables.json";

/// The architecture that this machine's packages are made for.
pub(crate) fn machine_architecture() -> Result<String, BuildError> {
    Ok(Cmd::new("dpkg").arg("--print-architecture").check()?.text().trim().to_owned())
}

/// How mmdebstrap gets the rights that it needs: user namespaces where the kernel has them.
pub(crate) fn mode() -> [&'static str; 1] {
    let probe = Cmd::new("unshare").args(["--user", "--map-root-user", "--mount", "true"]).run();
    match probe {
        Ok(output) if output.status.success() => ["--mode=unshare"],
        Ok(_) | Err(_) if geteuid().is_root() => ["--mode=root"],
        // It says itself what is missing.
        Ok(_) | Err(_) => ["--mode=auto"],
    }
}

/// mmdebstrap with the rights that it needs, and where this machine's processor is another one, with
/// what runs the programs of the root.
fn mmdebstrap(architecture: &Architecture, work: &Path) -> Result<Cmd, BuildError> {
    if machine_architecture()? == architecture.as_str() {
        return Ok(Cmd::new("mmdebstrap").args(mode()));
    }
    let at = work.join("emulate");
    create_dir(&at)?;
    // It looks for what runs another architecture in the whole machine, not in a name space.
    let entered = Isolation::here().foreign(architecture, &at)?;
    Ok(entered.args(["mmdebstrap", "--mode=root", "--skip=check/qemu"]).cwd("/"))
}

/// What came out.
pub(crate) struct Root {
    /// The tar.
    pub tar: PathBuf,
    /// The sums of the signed lists that packages were installed from, as `sha256sum` prints them.
    pub lists: String,
}

/// Makes the root file system in `work`.
pub(crate) fn make(
    order: &Order<'_>,
    work: &Path,
    on_line: &mut dyn FnMut(&str),
) -> Result<Root, BuildError> {
    let recipe = order.recipe;
    let tar = work.join("root.tar");
    let lists = work.join("lists.sha256");
    let mut command = mmdebstrap(&recipe.architecture, work)?
        .args(["--variant=minbase", "--format=tar"])
        .arg(format!("--architectures={}", recipe.architecture))
        .arg(format!("--components={}", recipe.components.join(",")))
        .arg(format!("--include={}", contents::packages(recipe, order.agent.is_none()).join(",")))
        .args(["--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\""])
        .args([
            "--aptopt=Acquire::Retries \"3\"",
            "--aptopt=Dpkg::Use-Pty \"0\"",
            "--dpkgopt=force-unsafe-io",
        ]);
    if let (Some(ca), Some((archive, _))) = (order.ca, &order.archive) {
        // The fleet's own server has a certificate of the fleet's own authority.
        let host = archive.url.split('/').nth(2).unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        command = command.arg(format!("--aptopt=Acquire::https::{host}::CaInfo \"{}\"", ca.display()));
    }
    if let Some(agent) = order.agent {
        let agent = agent.display();
        command = command
            .arg(format!("--customize-hook=upload '{agent}' /tmp/volary-agent.deb"))
            .arg("--customize-hook=chroot \"$1\" apt-get install --yes --no-install-recommends /tmp/volary-agent.deb");
    }
    if let Some(playbook) = &recipe.playbook {
        let inside = work.join("fleet.tar");
        pack_fleet(order, work, &inside)?;
        command = command
            .arg("--customize-hook=mkdir -p \"$1/run/volary-image\"")
            .arg(format!("--customize-hook=tar-in '{}' /run/volary-image", inside.display()))
            .arg(format!(
                "--customize-hook=chroot \"$1\" sh -c 'cd /run/volary-image/fleet && {PLAY} {}'",
                shell_word(playbook)
            ));
    }
    command = command
        .arg("--customize-hook=(cd \"$1/var/lib/apt/lists\" && sha256sum *Release) >\"$1/tmp/lists.sha256\"")
        .arg(format!("--customize-hook=download /tmp/lists.sha256 '{}'", lists.display()))
        .arg(&recipe.suite)
        .arg(&tar)
        .args(sources(order, work)?)
        .env("SOURCE_DATE_EPOCH", order.epoch.to_string())
        .env("PYTHONHASHSEED", "0")
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .timeout(PATIENCE);
    command.check_lines(on_line).map_err(|error| match error {
        // The command line fills a screen and says nothing.
        CmdError::Failed { tail, .. } => BuildError::Root(tail.replace('\n', "\n  ")),
        other => other.into(),
    })?;
    Ok(Root { tar, lists: volary_host::read_to_string(&lists)? })
}

/// In single quotes already: a quote would end them.
fn shell_word(text: &str) -> String {
    text.chars()
        .map(
            |c| {
                if c.is_ascii_alphanumeric() || "-_./".contains(c) { c.to_string() } else { format!("\\{c}") }
            },
        )
        .collect()
}

/// What mmdebstrap is given last, so that it installs from the right places.
fn sources(order: &Order<'_>, work: &Path) -> Result<Vec<String>, BuildError> {
    let Recipe { suite, components, mirror, sources, .. } = order.recipe;
    let key = |file: &str| -> Result<String, BuildError> {
        Ok(signed_by(&volary_host::read_to_string(&order.fleet.join(file))?))
    };
    let mut others = Vec::new();
    if let Some((archive, suite)) = &order.archive {
        others.push(source(&archive.url, &suite.to_string(), &archive.components) + &key(&archive.key)?);
    }
    for other in sources {
        let key = other.key.as_deref().map(key).transpose()?.unwrap_or_default();
        others.push(source(&other.url, &other.suite, &other.components) + &key);
    }
    let mut given = Vec::new();
    if let Mirror::Url(url) = mirror {
        given.push(format!("deb {url} {suite} {}", components.join(" ")));
    }
    if others.is_empty() {
        return Ok(given);
    }
    let file = work.join("volary.sources");
    write_atomic(&file, others.join("\n").as_bytes(), 0o644)?;
    match mirror {
        // mmdebstrap takes this machine's mirror only if it is given no other source.
        Mirror::Default => {
            given.push(format!(
                "--setup-hook=upload '{}' /etc/apt/sources.list.d/volary.sources",
                file.display()
            ));
        }
        Mirror::Url(_) | Mirror::None => given.push(file.display().to_string()),
    }
    Ok(given)
}

fn source(url: &str, suite: &str, components: &[String]) -> String {
    format!("Types: deb\nURIs: {url}\nSuites: {suite}\nComponents: {}\n", components.join(" "))
}

/// The key as a field: it needs no file, neither here nor on the device.
fn signed_by(key: &str) -> String {
    let line = |line: &str| {
        if line.trim().is_empty() { " .\n".to_owned() } else { format!(" {}\n", line.trim_end()) }
    };
    format!("Signed-By:\n{}", key.lines().map(line).collect::<String>())
}

/// The fleet repository as the playbook sees it, with its variables.
fn pack_fleet(order: &Order<'_>, work: &Path, tar: &Path) -> Result<(), BuildError> {
    let variables = serde_json::json!({
        "volary_stage": order.stage, "volary_device_type": order.device_type, "volary_image": order.name,
    });
    let path = work.join("variables.json");
    write_atomic(&path, variables.to_string().as_bytes(), 0o644)?;
    let mut command = Cmd::new("tar").args(["--create", "--anchored"]);
    if let Ok(images) = order.output.strip_prefix(order.fleet) {
        command = command.arg(format!("--exclude=./{}", images.display()));
    }
    command
        .args(["--exclude=./.git", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
        .args(["--transform=s,^\\./,fleet/,", "--transform=s,^\\.$,fleet,S"])
        .arg("--file")
        .arg(tar)
        .arg("--directory")
        .arg(work)
        .arg("variables.json")
        .arg("--directory")
        .arg(order.fleet)
        .arg(".")
        .timeout(PATIENCE)
        .check()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_in_the_source_itself() {
        let key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDME\n=x\n-----END PGP PUBLIC KEY BLOCK-----\n";
        let text = source("https://a.example/archive", "v1.3/r2", &["main".into(), "debian".into()])
            + &signed_by(key);
        let expected = "Types: deb\nURIs: https://a.example/archive\nSuites: v1.3/r2\nComponents: main debian\n\
                        Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDME\n =x\n \
                        -----END PGP PUBLIC KEY BLOCK-----\n";
        assert_eq!(text, expected);
    }
}
