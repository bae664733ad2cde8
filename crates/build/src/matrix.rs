//! Which builds a commit needs: one for each architecture that its packages are for. Pure.

use volary_model::{Architecture, BuildScope};

/// One build of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The architecture to build for.
    pub architecture: Architecture,
    /// Which packages it makes.
    pub scope: BuildScope,
}

/// The builds of a source, the one that comes first in front: it makes the packages for all
/// architectures, always on the machine's own, so that they are made once and quickly.
///
/// `control` is the text of `debian/control`, `wanted` what somebody asked for. A source none of
/// whose packages is for a wanted architecture gets the native build, whose log says so.
pub fn plan_builds(control: &str, wanted: &[Architecture], native: &Architecture) -> Vec<Planned> {
    let kinds = architectures_of(control);
    let has_all = kinds.iter().any(|kind| kind == "all");
    let makes = |architecture: &Architecture| kinds.iter().any(|kind| matches(kind, architecture.as_str()));
    let planned = |architecture: &Architecture, scope| Planned { architecture: architecture.clone(), scope };

    let mut builds = Vec::new();
    let natively = wanted.contains(native) && makes(native);
    if natively || has_all {
        let scope = match (natively, has_all) {
            (true, true) => BuildScope::Full,
            (true, false) => BuildScope::Any,
            (false, _) => BuildScope::All,
        };
        builds.push(planned(native, scope));
    }
    let others = wanted.iter().filter(|architecture| *architecture != native && makes(architecture));
    builds.extend(others.map(|architecture| planned(architecture, BuildScope::Any)));
    if builds.is_empty() {
        builds.push(planned(native, BuildScope::Full));
    }
    builds
}

/// The words of all `Architecture` fields.
fn architectures_of(control: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut within = false;
    for line in control.lines().filter(|line| !line.starts_with('#')) {
        let value = if line.starts_with([' ', '\t']) {
            line
        } else {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            within = name.eq_ignore_ascii_case("Architecture");
            value
        };
        if within {
            words.extend(value.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// True if an architecture is meant by a word of an `Architecture` field: itself, or a wildcard
/// such as `any`, `linux-any`, `any-arm64` (Debian policy 11.1). We build for Linux only.
fn matches(word: &str, architecture: &str) -> bool {
    if word == architecture {
        return true;
    }
    let (system, processor) = word.rsplit_once('-').unwrap_or(("any", word));
    let on_linux = system.split('-').all(|part| matches!(part, "any" | "linux" | "gnu"));
    // Those whose name is more than that of the processor.
    let own = match architecture {
        "armhf" | "armel" => "arm",
        other => other,
    };
    let wildcard = word == "any" || word.contains('-');
    on_linux && wildcard && (processor == "any" || processor == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `fields` are those of the packages; expected is `architecture:scope …`.
    fn check(fields: &[&str], wanted: &str, expected: &str) {
        let mut control = "Source: x\nBuild-Depends: a,\n b [amd64]\n".to_owned();
        for field in fields {
            control
                .push_str(&format!("\nPackage: p\n# Architecture: no\nArchitecture: {field}\nDepends: y\n"));
        }
        let wanted: Vec<Architecture> = wanted.split(' ').map(|name| name.parse().unwrap()).collect();
        let planned = plan_builds(&control, &wanted, &"amd64".parse().unwrap());
        let said: Vec<String> =
            planned.iter().map(|build| format!("{}:{}", build.architecture, build.scope)).collect();
        assert_eq!(said.join(" "), expected, "{fields:?}");
    }

    #[test]
    fn each_package_is_made_once_for_each_architecture_that_it_is_for() {
        check(&["any"], "amd64", "amd64:any");
        check(&["any"], "arm64 amd64", "amd64:any arm64:any");
        check(&["any", "all"], "amd64 arm64 armhf", "amd64:full arm64:any armhf:any");
        check(&["all"], "amd64 arm64", "amd64:all");
        check(&["any", "all"], "arm64", "amd64:all arm64:any");
        check(&["all"], "arm64", "amd64:all");
        check(&["arm64"], "amd64 arm64", "arm64:any");
        check(&["amd64\n i386"], "amd64 arm64", "amd64:any");
        check(&["linux-any"], "amd64 armhf", "amd64:any armhf:any");
        check(&["any-arm"], "amd64 arm64 armhf", "armhf:any");
        check(&["kfreebsd-any", "any-i386"], "amd64 arm64", "amd64:full");
        check(&[], "amd64 arm64", "amd64:full");
    }

    #[test]
    fn wildcards_mean_what_dpkg_says() {
        for word in
            ["any", "linux-any", "any-amd64", "any-arm", "gnu-any-any", "kfreebsd-any", "arm64", "hurd-i386"]
        {
            for architecture in ["amd64", "arm64", "armhf", "armel", "riscv64"] {
                let dpkg = volary_host::Cmd::new("dpkg-architecture")
                    .args(["-a", architecture, "-i", word])
                    .env("LC_ALL", "C")
                    .run()
                    .unwrap();
                assert_eq!(matches(word, architecture), dpkg.status.success(), "{word} {architecture}");
            }
        }
    }
}
