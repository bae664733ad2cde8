//! A root without a running system: programs of another Debian, with this machine's network.
//! For clients such as apt; what needs systemd needs a [`crate::Device`].

use std::path::PathBuf;
use std::time::Duration;

use volary_host::{Cmd, create_dir};

use crate::{Lab, LabError, Root};

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
        Cmd::new("unshare")
            .args(["--mount", "--propagation", "private", "--", "sh", "-c", ENTER])
            .args([self.root.path(), &self.folder])
            .args(args)
            .cwd("/")
            .timeout(Duration::from_secs(300))
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
