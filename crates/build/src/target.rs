//! What one build makes and how, in the words of apt and dpkg. Pure.

use volary_model::{Architecture, BuildMethod, BuildScope};

use crate::recipe::Cross;

/// What one attempt is to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub(crate) architecture: &'a Architecture,
    pub(crate) scope: BuildScope,
    pub(crate) method: BuildMethod,
}

/// Packages that are cross-built cannot run what they built, so they are not tested.
const PROFILES: &str = "cross,nocheck";

impl Target<'_> {
    /// Options of `apt-get build-dep`.
    pub(crate) fn build_dep(&self) -> String {
        let which = match self.scope {
            BuildScope::Full => "",
            BuildScope::Any => "--arch-only",
            BuildScope::All => "--indep-only",
        };
        match self.method {
            BuildMethod::Native | BuildMethod::Emulated => which.to_owned(),
            BuildMethod::Cross => {
                format!("{which} --host-architecture {} --build-profiles {PROFILES}", self.architecture)
            }
        }
    }

    /// The whole command that builds.
    pub(crate) fn buildpackage(&self) -> String {
        let which = match self.scope {
            BuildScope::Full => "-b",
            BuildScope::Any => "-B",
            BuildScope::All => "-A",
        };
        let cross = match self.method {
            BuildMethod::Native | BuildMethod::Emulated => String::new(),
            BuildMethod::Cross => format!(" --host-arch={} -P{PROFILES}", self.architecture),
        };
        format!("dpkg-buildpackage {which} -us -uc{cross}")
    }

    /// What a build finds in its environment beside the usual.
    pub(crate) fn environment(&self, jobs: usize) -> Vec<(&'static str, String)> {
        let parallel = format!("parallel={jobs}");
        match self.method {
            BuildMethod::Native | BuildMethod::Emulated => vec![("DEB_BUILD_OPTIONS", parallel)],
            BuildMethod::Cross => vec![
                ("DEB_BUILD_OPTIONS", format!("{parallel} nocheck")),
                // What autoconf cannot find out about a machine that it does not run on.
                ("CONFIG_SITE", format!("/etc/dpkg-cross/cross-config.{}", self.architecture)),
            ],
        }
    }
}

/// The ways to try, in their order.
pub(crate) fn methods(
    architecture: &Architecture,
    native: &str,
    scope: BuildScope,
    cross: Cross,
) -> &'static [BuildMethod] {
    // Packages for all architectures are the same wherever they are made.
    if architecture.as_str() == native || scope == BuildScope::All {
        return &[BuildMethod::Native];
    }
    match cross {
        Cross::Auto => &[BuildMethod::Cross, BuildMethod::Emulated],
        Cross::Never => &[BuildMethod::Emulated],
        Cross::Always => &[BuildMethod::Cross],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_said_in_the_words_of_apt_and_dpkg() {
        let check = |scope, method, apt: &str, dpkg: &str| {
            let architecture = "arm64".parse().unwrap();
            let target = Target { architecture: &architecture, scope, method };
            assert_eq!((target.build_dep().as_str(), target.buildpackage().as_str()), (apt, dpkg));
        };
        check(BuildScope::Full, BuildMethod::Native, "", "dpkg-buildpackage -b -us -uc");
        check(BuildScope::Any, BuildMethod::Emulated, "--arch-only", "dpkg-buildpackage -B -us -uc");
        check(BuildScope::All, BuildMethod::Native, "--indep-only", "dpkg-buildpackage -A -us -uc");
        check(
            BuildScope::Any,
            BuildMethod::Cross,
            "--arch-only --host-architecture arm64 --build-profiles cross,nocheck",
            "dpkg-buildpackage -B -us -uc --host-arch=arm64 -Pcross,nocheck",
        );
    }

    #[test]
    fn what_the_source_says_decides_between_cross_and_emulation() {
        use BuildMethod::{Cross as C, Emulated as E, Native as N};
        let check = |architecture: &str, scope, cross, expected: &[BuildMethod]| {
            assert_eq!(methods(&architecture.parse().unwrap(), "amd64", scope, cross), expected);
        };
        check("amd64", BuildScope::Full, Cross::Always, &[N]);
        check("arm64", BuildScope::All, Cross::Never, &[N]);
        check("arm64", BuildScope::Any, Cross::Auto, &[C, E]);
        check("arm64", BuildScope::Any, Cross::Never, &[E]);
        check("arm64", BuildScope::Any, Cross::Always, &[C]);
    }
}
