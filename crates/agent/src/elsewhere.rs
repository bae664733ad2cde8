//! The fleet from elsewhere than its server: a folder (a USB stick), a web server with plain files,
//! or any git remote.
//!
//! What comes from there is proven as what the server sends: by hash from the signed commit down. The
//! place only says where a stage is, and may lie about that as a server may. Not here: which commit is
//! taken (`repo`), and when the place is asked (`agent`).

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use volary_fleet::{
    FleetConfig, GitRepository, LooseStore, MIRROR_FILE, MIRROR_OBJECTS, MirrorIndex, Object, ObjectError,
    ObjectId, ObjectSource, Rules, copy_for_device, loose_path, read_loose,
};
use volary_host::{Cmd, CmdError, FileError, read};
use volary_model::{CommitId, DeviceName, StageName};

use crate::http::{HttpError, Server};
use crate::key::KeyError;

/// The longest index: a line for each commit that was approved.
const INDEX: u64 = 16 << 20;

/// The longest object on the wire.
const OBJECT: u64 = 32 << 20;

/// How long one answer of a git remote may take.
const GIT: Duration = Duration::from_secs(15 * 60);

/// Where a fleet can be had without its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder that `volary export-fleet` wrote.
    Folder(PathBuf),
    /// The same behind a web server.
    Web(String),
    /// Anything that git fetches from.
    Git(String),
}

/// Why a place gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ElsewhereError {
    /// The text names no place.
    #[error(
        "{0:?} is no place for a fleet; write a folder, https://HOST/PATH, or a git remote: \
         git+https://HOST/PATH, ssh://HOST/PATH"
    )]
    NoPlace(String),
    /// It has nothing for this device.
    #[error("{place} has nothing for {device}; write it with: volary export-fleet --device {device}")]
    Nothing {
        /// The place.
        place: String,
        /// The device.
        device: DeviceName,
    },
    /// Its index is not one.
    #[error("{MIRROR_FILE} in {place} is not valid: {detail}")]
    Index {
        /// The place.
        place: String,
        /// What is wrong.
        detail: String,
    },
    /// The stage is not there.
    #[error("{place} has no stage {stage}")]
    NoStage {
        /// The place.
        place: String,
        /// The stage.
        stage: StageName,
    },
    /// The git remote.
    #[error("cannot fetch from {place}: {source}")]
    Git {
        /// The place.
        place: String,
        /// What git said.
        source: Box<CmdError>,
    },
    /// A web server.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The private key that is shown to it.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// An object.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

impl Place {
    /// Reads a place as people write it.
    ///
    /// # Errors
    /// [`ElsewhereError::NoPlace`].
    pub fn parse(text: &str) -> Result<Self, ElsewhereError> {
        let no_place = || ElsewhereError::NoPlace(text.to_owned());
        if let Some(remote) = text.strip_prefix("git+") {
            let known = ["https://", "ssh://", "file:///"].iter().any(|scheme| remote.starts_with(scheme));
            return if known { Ok(Self::Git(remote.to_owned())) } else { Err(no_place()) };
        }
        if text.starts_with("ssh://") {
            return Ok(Self::Git(text.to_owned()));
        }
        if text.starts_with("https://") {
            return Ok(Self::Web(text.trim_end_matches('/').to_owned()));
        }
        let path = Path::new(text.strip_prefix("file://").unwrap_or(text));
        // Whatever else has a scheme would be sent or fetched in the clear.
        if text.contains("://") && !text.starts_with("file:///") {
            return Err(no_place());
        }
        let path = path.canonicalize().map_err(FileError::at("open", path))?;
        let is_git = path.join(".git").exists() || path.join("HEAD").is_file();
        Ok(if is_git { Self::Git(path.display().to_string()) } else { Self::Folder(path) })
    }

    fn name(&self) -> String {
        match self {
            Self::Folder(path) => path.display().to_string(),
            Self::Web(url) | Self::Git(url) => url.clone(),
        }
    }
}

/// A place that was opened for one device.
pub struct Elsewhere {
    place: Place,
    device: DeviceName,
    reader: Reader,
}

enum Reader {
    Files(Files),
    Git(Box<Clone>),
}

impl Elsewhere {
    /// Opens a place. `server` is the way to web servers; `scratch` is a folder for what git
    /// fetches, which is emptied.
    ///
    /// # Errors
    /// [`ElsewhereError`].
    pub fn open(
        place: Place,
        device: &DeviceName,
        web: Option<Server>,
        scratch: &Path,
    ) -> Result<Self, ElsewhereError> {
        let own = |base: String| format!("{base}/{device}");
        let reader = match (&place, web) {
            (Place::Folder(path), _) => {
                Reader::Files(Files::new(&place, Fetch::Disk(path.join(device.as_str()))))
            }
            (Place::Web(url), Some(server)) => {
                Reader::Files(Files::new(&place, Fetch::Web(own(path_of(url)), Box::new(server))))
            }
            (Place::Web(url), None) => return Err(ElsewhereError::NoPlace(url.clone())),
            (Place::Git(url), _) => Reader::Git(Box::new(Clone::fetch(url, scratch)?)),
        };
        Ok(Self { place, device: device.clone(), reader })
    }

    /// Where a stage is, as the place says.
    ///
    /// # Errors
    /// [`ElsewhereError`].
    pub fn tip(&self, stage: &StageName) -> Result<CommitId, ElsewhereError> {
        let found = match &self.reader {
            Reader::Files(files) => files.index(&self.device)?.stages.get(stage).cloned(),
            Reader::Git(clone) => clone.tip(stage)?,
        };
        found.ok_or_else(|| ElsewhereError::NoStage { place: self.place.name(), stage: stage.clone() })
    }

    /// Copies what the device needs to go from `have` to `want` into its own store.
    ///
    /// # Errors
    /// [`ElsewhereError`].
    pub fn pull(
        &self,
        store: &LooseStore,
        want: &CommitId,
        have: Option<&CommitId>,
    ) -> Result<(), ElsewhereError> {
        let from: &dyn ObjectSource = match &self.reader {
            Reader::Files(files) => {
                files.index(&self.device)?;
                files
            }
            Reader::Git(clone) => &clone.repository,
        };
        Ok(copy_for_device(from, store, want, have, &self.device)?)
    }
}

/// The path of a URL, for requests to its host.
fn path_of(url: &str) -> String {
    let rest = url.strip_prefix("https://").unwrap_or(url);
    rest.find('/').map_or(String::new(), |slash| rest[slash..].to_owned())
}

/// The scheme and host of a URL.
pub fn host_of(url: &str) -> &str {
    let rest = url.strip_prefix("https://").unwrap_or(url);
    &url[..url.len() - rest.len() + rest.find('/').unwrap_or(rest.len())]
}

/// A folder of plain files.
struct Files {
    place: String,
    fetch: Fetch,
    index: OnceCell<MirrorIndex>,
}

enum Fetch {
    Disk(PathBuf),
    Web(String, Box<Server>),
}

impl Files {
    fn new(place: &Place, fetch: Fetch) -> Self {
        Self { place: place.name(), fetch, index: OnceCell::new() }
    }

    fn file(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, ElsewhereError> {
        match &self.fetch {
            Fetch::Disk(folder) => Ok(plain_file(&folder.join(name), limit)?),
            Fetch::Web(base, server) => Ok(server.file(&format!("{base}/{name}"), limit)?),
        }
    }

    fn index(&self, device: &DeviceName) -> Result<&MirrorIndex, ElsewhereError> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let nothing = || ElsewhereError::Nothing { place: self.place.clone(), device: device.clone() };
        let bytes = self.file(MIRROR_FILE, INDEX)?.ok_or_else(nothing)?;
        let invalid = |detail: String| ElsewhereError::Index { place: self.place.clone(), detail };
        let index: MirrorIndex =
            serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        if index.version != 1 {
            return Err(invalid(format!("version {} is not 1", index.version)));
        }
        if index.device != *device {
            return Err(invalid(format!("it is for {}", index.device)));
        }
        Ok(self.index.get_or_init(|| index))
    }
}

impl ObjectSource for Files {
    fn load(&self, id: &ObjectId) -> Result<Option<Object>, ObjectError> {
        let name = format!("{MIRROR_OBJECTS}/{}", loose_path(id));
        match self.file(&name, OBJECT) {
            // A torn file is the same as none.
            Ok(bytes) => Ok(bytes.and_then(|bytes| read_loose(&bytes[..]))),
            Err(ElsewhereError::File(error)) => Err(error.into()),
            Err(error) => {
                Err(ObjectError::Conversation { repository: self.place.clone(), reason: error.to_string() })
            }
        }
    }

    fn approvals(&self, of: &CommitId) -> Result<Vec<ObjectId>, ObjectError> {
        Ok(self.index.get().map(|index| index.approvals_of(of)).unwrap_or_default())
    }
}

/// A file of a stick that anybody may have written: no device that never ends, no pipe that waits.
fn plain_file(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    let is_plain = |found: &std::fs::Metadata| found.is_file() && found.len() <= limit;
    match std::fs::metadata(path) {
        Ok(found) if is_plain(&found) => read(path).map(Some),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::at("look at", path)(error)),
    }
}

/// What git fetched from a remote. Contents of files come when they are asked for, where the remote
/// can do that, so that the variables of other hosts do not come at all.
struct Clone {
    repository: GitRepository,
    place: String,
    folder: PathBuf,
}

impl Clone {
    fn fetch(url: &str, scratch: &Path) -> Result<Self, ElsewhereError> {
        let _ = std::fs::remove_dir_all(scratch);
        let git = || {
            let path = scratch.display().to_string();
            Cmd::new("git").args(["--git-dir", &path]).env("GIT_TERMINAL_PROMPT", "0").timeout(GIT)
        };
        let failed =
            |source: CmdError| ElsewhereError::Git { place: url.to_owned(), source: Box::new(source) };
        git().args(["init", "--quiet", "--bare"]).arg(scratch).check().map_err(failed)?;
        for (key, value) in [
            ("remote.origin.url", url),
            ("remote.origin.promisor", "true"),
            ("remote.origin.partialclonefilter", "blob:none"),
            ("core.repositoryformatversion", "1"),
            ("extensions.partialclone", "origin"),
        ] {
            git().args(["config", key, value]).check().map_err(failed)?;
        }
        let refs =
            ["+refs/heads/*:refs/heads/*", "+refs/approvals/*:refs/approvals/*", "+HEAD:refs/volary/head"];
        git()
            .args(["fetch", "--quiet", "--no-tags", "--filter=blob:none", "origin"])
            .args(refs)
            .check()
            .map_err(failed)?;
        // Its reader fetches what is missing from the remote.
        let lazy = vec![("GIT_NO_LAZY_FETCH".to_owned(), "0".to_owned())];
        let repository = GitRepository::open_with_env(scratch, lazy)?;
        Ok(Self { repository, place: url.to_owned(), folder: scratch.to_owned() })
    }

    /// Which branch a stage is, its default branch says, as with a server.
    fn tip(&self, stage: &StageName) -> Result<Option<CommitId>, ElsewhereError> {
        let Some(head) = self.repository.resolve("refs/volary/head")? else { return Ok(None) };
        let config: FleetConfig = match Rules::at(&self.repository, &head) {
            Ok(rules) => rules.config,
            Err(error) => {
                let detail = format!("its default branch is no fleet repository: {error}");
                return Err(ElsewhereError::Index { place: self.place.clone(), detail });
            }
        };
        match config.stage(stage) {
            Some(stage) => Ok(self.repository.branch(&stage.branch)?),
            None => Ok(None),
        }
    }
}

impl Drop for Clone {
    fn drop(&mut self) {
        // It may hold what a remote without filters sent of others.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_what_goes_in_the_clear_is_not() {
        let check =
            |text: &str, expected: Option<Place>| assert_eq!(Place::parse(text).ok(), expected, "{text}");
        check("https://cdn.example.com/fleet/", Some(Place::Web("https://cdn.example.com/fleet".into())));
        check(
            "git+https://git.example.com/fleet.git",
            Some(Place::Git("https://git.example.com/fleet.git".into())),
        );
        check("ssh://git@git.example.com/fleet", Some(Place::Git("ssh://git@git.example.com/fleet".into())));
        for text in [
            "http://cdn.example.com/",
            "git+http://x/",
            "git://x/y",
            "ftp://x/y",
            "/not/there",
            "git+ext::sh",
        ] {
            check(text, None);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        let text = path.display().to_string();
        check(&text, Some(Place::Folder(path.clone())));
        check(&format!("file://{text}"), Some(Place::Folder(path)));
        assert_eq!(host_of("https://a.b:8/c/d"), "https://a.b:8");
        assert_eq!(path_of("https://a.b:8/c/d"), "/c/d");
        assert_eq!((host_of("https://a.b"), path_of("https://a.b")), ("https://a.b", String::new()));
    }
}
