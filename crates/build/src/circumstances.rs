//! What a build may notice of the machine although it should not matter: the usual, and another
//! one for proving that a package comes out the same. Not here: the clock, which goes on by itself,
//! and the order of files in folders, which the file system decides.

/// The circumstances of one build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Circumstances {
    /// The folder above the source's, from the root of the chroot.
    pub folder: &'static str,
    pub host: &'static str,
    pub umask: &'static str,
    pub jobs: usize,
    /// The only processor to run on.
    pub processor: Option<usize>,
    pub environment: Vec<(&'static str, String)>,
}

impl Circumstances {
    /// As all packages are built.
    pub(crate) fn usual(jobs: usize) -> Self {
        let environment = [
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            // As Debian's own builders: a build must not need a home.
            ("HOME", "/nonexistent"),
            ("USER", "builder"),
            ("LOGNAME", "builder"),
            ("SHELL", "/bin/sh"),
            ("LC_ALL", "C.UTF-8"),
        ];
        let environment = environment.map(|(name, value)| (name, value.to_owned())).to_vec();
        Self { folder: "build", host: "builder", umask: "022", jobs, processor: None, environment }
    }

    /// Everything else than usual that a package must not depend on.
    pub(crate) fn other(jobs: usize) -> Self {
        let environment = [
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/nonexistent/again"),
            ("HOME", "/nonexistent/again"),
            ("USER", "again"),
            ("LOGNAME", "again"),
            ("SHELL", "/bin/bash"),
            ("LC_ALL", "C"),
            ("LANGUAGE", "et_EE:et"),
            ("TZ", "VOL-14:30"),
            ("VOLARY_AGAIN", "something that no other build has"),
        ];
        Self {
            folder: "build/a/second/time",
            host: "elsewhere",
            umask: "002",
            jobs: if jobs > 1 { 1 } else { 2 },
            processor: a_processor(),
            environment: environment.map(|(name, value)| (name, value.to_owned())).to_vec(),
        }
    }

    /// What is not as usual, in words.
    pub(crate) fn differences(&self, usual: &Self) -> Vec<String> {
        let mut said = vec![format!("folder /{} instead of /{}", self.folder, usual.folder)];
        said.push(format!("host name {} instead of {}", self.host, usual.host));
        said.push(format!("umask {} instead of {}", self.umask, usual.umask));
        said.push(format!("{} processes at a time instead of {}", self.jobs, usual.jobs));
        if self.processor.is_some() {
            said.push("one processor".to_owned());
        }
        for (name, value) in &self.environment {
            let before = usual.environment.iter().find(|(other, _)| other == name);
            if before.map(|(_, value)| value) != Some(value) {
                said.push(format!("{name}={value}"));
            }
        }
        said.push("a later time (SOURCE_DATE_EPOCH stays)".to_owned());
        said
    }
}

/// One of the processors that this process may use.
fn a_processor() -> Option<usize> {
    let mine = rustix::thread::sched_getaffinity(None).ok()?;
    (0..rustix::thread::CpuSet::MAX_CPU).find(|&number| mine.is_set(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_different() {
        for jobs in [1, 8] {
            let (usual, other) = (Circumstances::usual(jobs), Circumstances::other(jobs));
            let same: Vec<_> =
                usual.environment.iter().filter(|pair| other.environment.contains(pair)).collect();
            assert!(same.is_empty(), "{same:?}");
            assert!(usual.folder != other.folder && usual.host != other.host && usual.umask != other.umask);
            assert_ne!(usual.jobs, other.jobs);
            let said = other.differences(&usual).join("; ");
            assert!(said.contains("TZ=VOL-14:30") && said.contains("umask 002 instead of 022"), "{said}");
        }
    }
}
