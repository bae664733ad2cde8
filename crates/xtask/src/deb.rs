//! Packs the agent's Debian package: a static binary, its unit, its maintainer scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use volary_host::{Cmd, create_dir, write_atomic};

use crate::target::Target;
use crate::workspace::Workspace;

/// How the agent's package is built.
#[derive(Args)]
pub struct AgentDebArgs {
    /// Use the quick build profile, for trying things out
    #[arg(long)]
    pub dev: bool,
    /// The architecture of the device, as Debian names it; this machine's if none is given
    #[arg(long, value_parser = Target::ARCHITECTURES)]
    pub architecture: Option<String>,
}

/// Builds the package and says where it is. The same commit gives the same bytes.
pub fn build(workspace: &Workspace, args: &AgentDebArgs) -> anyhow::Result<PathBuf> {
    let target = Target::of(args.architecture.as_deref())?;
    let binary = compile(workspace, args, &target)?;
    let folder = workspace.target.join("debian");
    let tree = folder.join(format!("agent-{}", target.debian));
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    install(&binary, &tree.join("usr/bin/volary-agent"), 0o755)?;
    let packaging = workspace.path("packaging/agent");
    let control_dir = tree.join("DEBIAN");
    create_dir(&control_dir)?;
    for file in packaged(&packaging)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match name.as_str() {
            "preinst" | "postinst" | "prerm" | "postrm" => install(&file, &control_dir.join(&name), 0o755)?,
            "conffiles" | "triggers" => install(&file, &control_dir.join(&name), 0o644)?,
            "copyright" => install(&file, &tree.join("usr/share/doc/volary-agent/copyright"), 0o644)?,
            _ if is_unit(&name) => install(&file, &tree.join("usr/lib/systemd/system").join(&name), 0o644)?,
            "apt.conf" => install(&file, &tree.join("etc/apt/apt.conf.d/50volary-agent"), 0o644)?,
            _ if name.ends_with(".md") => {}
            _ => bail!("{}: it is not known where this file goes in the package", file.display()),
        }
    }
    for page in packaged(&packaging.join("man"))? {
        manual(&page, &tree.join("usr/share/man"))?;
    }
    let version = &workspace.version;
    let size = installed_size(&tree)?;
    let sums = md5sums(&tree)?;
    write_atomic(&control_dir.join("md5sums"), sums.as_bytes(), 0o644)?;
    let control = control(version, &target, size);
    write_atomic(&control_dir.join("control"), control.as_bytes(), 0o644)?;
    let deb = folder.join(format!("volary-agent_{version}_{}.deb", target.debian));
    Cmd::new("dpkg-deb")
        .args(["--root-owner-group", "-Zxz", "--build"])
        .args([&tree, &deb])
        .env("SOURCE_DATE_EPOCH", workspace.epoch()?)
        .timeout(Duration::from_secs(300))
        .check()?;
    Ok(deb)
}

fn compile(workspace: &Workspace, args: &AgentDebArgs, target: &Target) -> anyhow::Result<PathBuf> {
    let (profile, folder) = if args.dev { ("dev", "debug") } else { ("agent", "agent") };
    let what = ["--bin", "volary-agent"];
    cargo_build(workspace, what, profile, target)?;
    Ok(workspace.target.join(&target.triple).join(folder).join("volary-agent"))
}

/// An example of the agent for this machine, built as the agent is that devices get: for what is measured.
pub fn compile_example(workspace: &Workspace, name: &str) -> anyhow::Result<PathBuf> {
    let target = Target::of(None)?;
    cargo_build(workspace, ["--example", name], "agent", &target)?;
    Ok(workspace.target.join(&target.triple).join("agent/examples").join(name))
}

fn cargo_build(workspace: &Workspace, what: [&str; 2], profile: &str, target: &Target) -> anyhow::Result<()> {
    // Paths of this machine have no place in the binary: the same commit gives the same bytes.
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let mut flags = format!("--remap-path-prefix={}=volary", workspace.root.display());
    if let Some(home) = cargo_home {
        flags = format!("{flags}\u{1f}--remap-path-prefix={}=cargo", home.display());
    }
    for flag in target.flags() {
        flags = format!("{flags}\u{1f}{flag}");
    }
    let cargo = Cmd::new("cargo")
        .args(["build", "--quiet", "--package", "volary-agent"])
        .args(what)
        .args(["--profile", profile, "--target", &target.triple])
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    target.tools(cargo).cwd(&workspace.root).timeout(Duration::from_secs(30 * 60)).check()?;
    Ok(())
}

/// Puts a manual page into its section's folder, compressed as Debian policy 12.1 wants it.
fn manual(page: &Path, folder: &Path) -> anyhow::Result<()> {
    let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (_, section) =
        name.rsplit_once('.').with_context(|| format!("{name} names no section of the manual"))?;
    let packed = Cmd::new("gzip").args(["-9", "--no-name", "--stdout"]).arg(page).check()?;
    let folder = folder.join(format!("man{section}"));
    create_dir(&folder)?;
    Ok(write_atomic(&folder.join(format!("{name}.gz")), &packed.stdout, 0o644)?)
}

fn is_unit(name: &str) -> bool {
    [".service", ".timer", ".socket", ".path", ".target"].iter().any(|suffix| name.ends_with(suffix))
}

fn packaged(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut files = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    files.retain(|file| file.is_file());
    files.sort();
    Ok(files)
}

fn install(source: &Path, dest: &Path, mode: u32) -> anyhow::Result<()> {
    create_dir(dest.parent().unwrap_or(dest))?;
    fs::copy(source, dest).with_context(|| format!("cannot copy {}", source.display()))?;
    fs::set_permissions(dest, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", dest.display()))?;
    Ok(())
}

/// In kibibytes, as Debian policy 5.6.20 counts them.
fn installed_size(tree: &Path) -> anyhow::Result<u64> {
    let mut size = 0;
    for file in files_below(tree)? {
        size += fs::metadata(&file)
            .with_context(|| format!("cannot read {}", file.display()))?
            .len()
            .div_ceil(1024);
    }
    Ok(size)
}

fn md5sums(tree: &Path) -> anyhow::Result<String> {
    let files = files_below(tree)?;
    let names = files.iter().filter_map(|file| file.strip_prefix(tree).ok());
    Ok(Cmd::new("md5sum").args(names).cwd(tree).check()?.text())
}

/// The files of the package itself, sorted.
fn files_below(tree: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let found =
        Cmd::new("find").arg(tree).args(["-path", "*/DEBIAN", "-prune", "-o", "-type", "f", "-print0"]);
    let found = found.check()?.text();
    let mut files: Vec<PathBuf> =
        found.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
    files.sort();
    Ok(files)
}

fn control(version: &str, target: &Target, size: u64) -> String {
    format!(
        "Package: volary-agent\n\
         Version: {version}\n\
         Architecture: {}\n\
         Maintainer: Volary developers <volary@volary.test>\n\
         Installed-Size: {size}\n\
         Depends: ansible-core (>= 2.14), python3-apt, ca-certificates, systemd\n\
         Section: admin\n\
         Priority: optional\n\
         Description: follows a branch of a fleet repository\n \
         The agent of Volary: it pulls the branch of this device's stage, verifies the\n \
         signatures from the commit down, runs ansible-playbook for this device alone,\n \
         upgrades packages from the pinned suite and reports what came of it.\n",
        target.debian
    )
}
