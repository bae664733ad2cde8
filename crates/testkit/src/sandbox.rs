//! A root without a running system: programs of another Debian, with this machine's network.
//! For clients such as apt; what needs systemd needs a [`crate::Device`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use volary_host::{Cmd, create_dir};

use crate::{Lab, LabError, Process, Root};

/// Enters the root: mounts in a name space of its own, so that nothing is left when it ends.
/// arguments: LOWER FOLDER PROGRAM…
const ENTER: &str = r#"
set -eu
lower=$0 folder=$1
shift
rm -rf "$folder/work/work/incompat"
mount -t overlay overlay "$folder/merged" \
    -o "lowerdir=$lower,upperdir=$folder/upper,workdir=$folder/work,volatile"
mount -t proc proc "$folder/merged/proc"
mount --rbind /dev "$folder/merged/dev"
exec chroot "$folder/merged" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
    LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
"#;

/// A writable copy of a root; what one program writes the next one finds. It goes with the lab.
#[derive(Debug)]
pub struct Sandbox {
    root: Root,
    folder: PathBuf,
}

impl Sandbox {
    /// A copy of `root`; `name` is unique in the lab.
    ///
    /// # Errors
    /// That its folder cannot be made.
    pub fn new(lab: &Lab, name: &str, root: &Root) -> Result<Self, LabError> {
        let folder = lab.folder().join("sandboxes").join(name);
        for sub in ["upper", "work", "merged"] {
            create_dir(&folder.join(sub))?;
        }
        Ok(Self { root: root.clone(), folder })
    }

    /// A program inside, as root.
    pub fn command(&self, args: &[&str]) -> Cmd {
        Cmd::new("unshare").args(self.entrance()).args(args).cwd("/").timeout(Duration::from_secs(300))
    }

    /// Starts a program inside that runs beside the test, in the one process that this names. While it
    /// runs, no other may be started: two mounts of one writable copy do not see each other.
    ///
    /// # Errors
    /// That it cannot be started.
    pub fn start(&self, lab: &Lab, what: &str, args: &[&str], log: &Path) -> Result<Process, LabError> {
        let entrance = self.entrance();
        let all: Vec<&str> = entrance.iter().map(String::as_str).chain(args.iter().copied()).collect();
        lab.start_process(what, Path::new("/usr/bin/unshare"), &all, &[], log)
    }

    /// The folder that holds what differs from the root: what is put there while nothing runs, is inside.
    #[must_use]
    pub fn writable(&self) -> PathBuf {
        self.folder.join("upper")
    }

    fn entrance(&self) -> Vec<String> {
        let way = ["--mount", "--propagation", "private", "--", "sh", "-c", ENTER].map(str::to_owned);
        let folders = [self.root.path(), &self.folder].map(|path| path.display().to_string());
        way.into_iter().chain(folders).collect()
    }

    /// Writes a file inside, with the folders above it.
    ///
    /// # Errors
    /// That it cannot be written.
    pub fn write(&self, path: &str, bytes: &[u8]) -> Result<(), LabError> {
        let script = "mkdir -p \"$(dirname \"$0\")\" && cat > \"$0\"";
        self.command(&["sh", "-c", script, path]).stdin(bytes).check()?;
        Ok(())
    }
}
