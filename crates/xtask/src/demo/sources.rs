//! The two sources: our own example service with its three changes, and a package of Debian's.

use volary_host::Cmd;
use volary_model::CommitId;
use volary_testkit::chain::Chain;

/// The example service: source, package.
pub const PULSE: &str = "volary-pulse";

/// Its unit.
pub const UNIT: &str = "volary-pulse.service";

/// The package that is imported from Debian with its packaging.
pub const HELLO: &str = "hello";

/// A prepared change of volary-pulse; they build on each other in this order.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// More measurements.
    Feature,
    /// A unit of measurement is put right.
    Fix,
    /// What was measured is kept, and never freed.
    Leak,
    /// It is not kept any more.
    Mend,
    /// A new setting is required, and no device has it.
    Break,
}

impl Change {
    const fn patch(self) -> &'static str {
        match self {
            Self::Feature => "1-feature.patch",
            Self::Fix => "2-fix.patch",
            Self::Leak => "3-leaks.patch",
            Self::Mend => "4-mends.patch",
            Self::Break => "5-breaks.patch",
        }
    }
}

/// Registers volary-pulse and pushes its first commit.
pub fn push_pulse(chain: &Chain) -> anyhow::Result<CommitId> {
    chain.volary(&["source", "add", PULSE])?;
    let clone = chain.clone_of(PULSE)?;
    let example = chain.tools().checkout.join("examples/sources").join(PULSE).join(".");
    Cmd::new("cp").arg("--archive").arg(example).arg(clone.dir()).check()?;
    let commit = clone.commit("Measure at a steady pace")?;
    clone.push("master")?;
    Ok(commit)
}

/// Applies one of the prepared changes and pushes it.
pub fn change_pulse(chain: &Chain, change: Change) -> anyhow::Result<CommitId> {
    let clone = chain.existing_clone(PULSE);
    let patch = chain.tools().checkout.join("examples/sources/changes").join(change.patch());
    clone.run_git(&["am", "--quiet", &patch.display().to_string()])?;
    clone.push("master")?;
    Ok(clone.head()?)
}

/// Registers hello and pushes it as Debian has it.
pub fn push_hello(chain: &Chain) -> anyhow::Result<CommitId> {
    chain.volary(&["source", "add", HELLO])?;
    let clone = chain.clone_of(HELLO)?;
    let imported = chain.desk().home().join("imported");
    let script = chain.tools().checkout.join("examples/sources/import-debian.sh");
    let import = chain.desk().command(&script).arg(HELLO).arg(&imported);
    chain.desk().check(&import.timeout(std::time::Duration::from_secs(300)))?;
    clone.run_git(&["fetch", "--quiet", &imported.display().to_string(), "master"])?;
    clone.run_git(&["checkout", "--quiet", "-B", "master", "FETCH_HEAD"])?;
    clone.push("master")?;
    Ok(clone.head()?)
}
