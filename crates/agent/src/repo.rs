//! The fleet repository on the device: fetching objects, deciding whether a commit is to be
//! trusted, and putting its files on disk. All rules are `volary-fleet`'s.
//!
//! Moving to another stage: the first commit that a device accepts of a stage must be signed by
//! somebody whom the commit accepted *last* (of the stage the device came from) allows for the new
//! stage. From then on that stage only goes forward from there, also if the device leaves it and
//! comes back: the record holds the last commit of every stage that it ever followed.

use std::collections::HashSet;
use std::fs;
use std::io::BufReader;
use std::path::PathBuf;

use jiff::Timestamp;
use volary_api::v1::device::WantObjects;
use volary_device::{State, Target};
use volary_fleet::{
    Advance, CheckoutError, FieldError, FleetLock, LOCK_FILE, LooseStore, ObjectError, ObjectId,
    ObjectSource, Own, PackError, PackLimits, ReadObjects, Refusal, RootSigners, Rules, RulesError,
    SIGNERS_FILE, Stage, Start, file_at, read_pack, verify_advance,
};
use volary_host::{FileError, read_to_string};
use volary_model::{CommitId, StageName};

use crate::elsewhere::{Elsewhere, ElsewhereError};
use crate::http::{HttpError, Server};
use crate::paths::Paths;

/// The most that a pack may have on the wire: packs are compressed, so this is far more than any
/// fleet repository whose unpacked objects keep [`PackLimits`].
const PACK_LIMIT: u64 = 280 << 20;

/// The repository of one device.
pub struct Repo<'a> {
    paths: &'a Paths,
    own: &'a Own,
    store: LooseStore,
}

/// Why a commit could not be had or is not taken.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// The server.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// What it sent is no good pack.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Another place than the server.
    #[error(transparent)]
    Elsewhere(#[from] ElsewhereError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// An object.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The commit is not to be trusted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The commit does not know the device's stage.
    #[error("there is no stage {stage} in volary.yml of commit {}", .trusted.short())]
    UnknownStage {
        /// The stage.
        stage: StageName,
        /// The commit.
        trusted: CommitId,
    },
    /// The rules of a commit cannot be read.
    #[error("commit {}: {cause}", .commit.short())]
    Rules {
        /// The commit.
        commit: CommitId,
        /// What is wrong.
        cause: RulesError,
    },
    /// The signers that the device was enrolled with are damaged.
    #[error("{path} is not valid: {detail}; enrol the device again")]
    Signers {
        /// The file.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// `volary.lock` is not valid.
    #[error("volary.lock of commit {}, {cause}; write it with: volary bump", .commit.short())]
    Lock {
        /// The commit.
        commit: CommitId,
        /// What is wrong.
        cause: FieldError,
    },
    /// The files cannot be put on disk.
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
}

/// Where objects come from.
#[derive(Clone, Copy)]
pub enum Supply<'a> {
    /// The fleet's server.
    Server(&'a Server),
    /// Another place that has them.
    Elsewhere(&'a Elsewhere),
}

/// Whose fault an error is, and so what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The network or the server is away; ask again.
    Network,
    /// Something failed; report it.
    Failure,
    /// Somebody offers what must not be taken.
    Trust,
}

impl RepoError {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Http(HttpError::Unreachable { .. } | HttpError::InTrouble { .. })
            | Self::Pack(PackError::Read(_))
            | Self::Elsewhere(_) => Blame::Network,
            Self::Refused(Refusal::TooOld { .. }) => Blame::Failure,
            Self::Http(_) | Self::Pack(_) | Self::File(_) | Self::Signers { .. } => Blame::Failure,
            Self::Object(error) | Self::Refused(Refusal::Object(error)) => match error {
                ObjectError::Collision { .. }
                | ObjectError::Damaged { .. }
                | ObjectError::TooLarge { .. }
                | ObjectError::Malformed { .. } => Blame::Trust,
                _ => Blame::Failure,
            },
            Self::Refused(_) | Self::UnknownStage { .. } | Self::Rules { .. } | Self::Lock { .. } => {
                Blame::Trust
            }
            Self::Checkout(CheckoutError::File(_) | CheckoutError::Object(_)) => Blame::Failure,
            Self::Checkout(CheckoutError::Link { .. } | CheckoutError::Submodule { .. }) => Blame::Trust,
        }
    }

    /// True if an object is not there, so that fetching everything anew may help.
    pub const fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::Object(ObjectError::Missing { .. })
                | Self::Refused(Refusal::Object(ObjectError::Missing { .. }))
                | Self::Checkout(CheckoutError::Object(ObjectError::Missing { .. }))
        )
    }
}

/// What a commit says about the device's packages.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// The rules of the commit.
    pub rules: Rules,
    /// Its stage.
    pub stage: Stage,
    /// Its lock.
    pub lock: FleetLock,
}

impl<'a> Repo<'a> {
    /// Opens the store, of which `own` is this device's.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(paths: &'a Paths, own: &'a Own) -> Result<Self, FileError> {
        Ok(Self { paths, own, store: LooseStore::open(&paths.objects())? })
    }

    /// Gets what is missing to verify and apply the target.
    ///
    /// # Errors
    /// [`RepoError`].
    pub fn fetch(&self, supply: Supply<'_>, state: &State, target: &Target) -> Result<(), RepoError> {
        let base = state.accepted.get(&target.stage);
        if base == Some(&target.commit) && self.is_whole(&target.commit)? {
            return Ok(());
        }
        let Some(base) = base else { return self.pull(supply, &target.commit, None) };
        // Whoever lost objects (an emptied folder, a torn file) gets the accepted commit again:
        // its rules judge the next one.
        if !self.is_whole(base)? {
            self.pull(supply, base, None)?;
        }
        if *base != target.commit {
            self.pull(supply, &target.commit, Some(base))?;
        }
        Ok(())
    }

    /// Gets a commit with all its files, whatever the device has.
    ///
    /// # Errors
    /// [`RepoError`].
    pub fn fetch_all(&self, supply: Supply<'_>, commit: &CommitId) -> Result<(), RepoError> {
        self.pull(supply, commit, None)
    }

    fn is_whole(&self, commit: &CommitId) -> Result<bool, RepoError> {
        Ok(self.own.missing(&self.store, commit)?.is_none())
    }

    fn pull(&self, supply: Supply<'_>, want: &CommitId, have: Option<&CommitId>) -> Result<(), RepoError> {
        let server = match supply {
            Supply::Server(server) => server,
            Supply::Elsewhere(place) => {
                place.pull(&self.store, want, have)?;
                return Ok(());
            }
        };
        let request = WantObjects { want: want.clone(), have: have.cloned() };
        server.objects(&request, PACK_LIMIT, |pack| {
            let keep = &mut |object| self.store.insert(&object).map(drop);
            read_pack(BufReader::with_capacity(16 << 10, pack), &PackLimits::default(), keep)
        })??;
        Ok(())
    }

    /// Decides whether the target may be applied. Reads objects only; executes nothing.
    ///
    /// # Errors
    /// [`RepoError`]; [`RepoError::blame`] says whether it is a refusal.
    pub fn verify(&self, state: &State, target: &Target) -> Result<Advance, RepoError> {
        let (stage, tip) = (&target.stage, &target.commit);
        if let Some(accepted) = state.accepted.get(stage) {
            return Ok(verify_advance(&self.store, stage, Start::After(accepted), tip)?);
        }
        if let Some(trusted) = &state.trusted {
            return Ok(verify_advance(&self.store, stage, Start::From(trusted), tip)?);
        }
        let RootSigners { signers, quorum } = self.first_signers()?;
        Ok(verify_advance(&self.store, stage, Start::First { signers: &signers, quorum }, tip)?)
    }

    fn first_signers(&self) -> Result<RootSigners, RepoError> {
        let path = self.paths.signers();
        RootSigners::parse(&read_to_string(&path)?).map_err(|error| RepoError::Signers {
            path: path.display().to_string(),
            detail: error.to_string(),
        })
    }

    /// What a verified commit says about packages.
    ///
    /// # Errors
    /// [`RepoError`].
    pub fn wishes(&self, target: &Target) -> Result<Wishes, RepoError> {
        let commit = &target.commit;
        let rules = Rules::at(&self.store, commit)
            .map_err(|cause| RepoError::Rules { commit: commit.clone(), cause })?;
        let stage = rules.config.stage(&target.stage).cloned().ok_or_else(|| RepoError::UnknownStage {
            stage: target.stage.clone(),
            trusted: commit.clone(),
        })?;
        let tree = self.store.commit(commit)?.tree;
        let text =
            file_at(&self.store, &tree, LOCK_FILE)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let lock = match text {
            None => FleetLock::default(),
            Some(text) => {
                FleetLock::parse(&text).map_err(|cause| RepoError::Lock { commit: commit.clone(), cause })?
            }
        };
        Ok(Wishes { rules, stage, lock })
    }

    /// When a commit was made, by the clock of whoever made it.
    ///
    /// # Errors
    /// [`RepoError`].
    pub fn committed_at(&self, commit: &CommitId) -> Result<Option<Timestamp>, RepoError> {
        Ok(Timestamp::from_second(self.store.commit(commit)?.committer.seconds).ok())
    }

    /// Puts exactly the commit's files on disk and returns the folder.
    ///
    /// # Errors
    /// [`RepoError`].
    pub fn checkout(&self, commit: &CommitId) -> Result<PathBuf, RepoError> {
        let folder = self.paths.checkout(commit);
        let tree = self.store.commit(commit)?.tree;
        self.own.checkout(&self.store, &tree, &folder)?;
        Ok(folder)
    }

    /// Removes checkouts and objects that nobody needs: kept are the files of the
    /// commit that was accepted last, and the rules of those accepted of other stages.
    ///
    /// # Errors
    /// [`RepoError`]; what is kept is whole in any case.
    pub fn prune(&self, state: &State) -> Result<(), RepoError> {
        let mut keep: HashSet<ObjectId> = HashSet::new();
        if let Some(commit) = &state.trusted
            && self.is_whole(commit)?
        {
            keep.extend(self.own.objects(&self.store, commit, None)?);
        }
        for commit in state.accepted.values() {
            keep.extend(self.rules_of(commit)?);
        }
        self.store.retain(&|id| keep.contains(id))?;
        let folder = self.paths.checkouts();
        let Ok(entries) = fs::read_dir(&folder) else { return Ok(()) };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if state.trusted.as_ref().is_none_or(|commit| commit.as_str() != name) {
                fs::remove_dir_all(entry.path()).map_err(FileError::at("remove", &entry.path()))?;
            }
        }
        Ok(())
    }

    /// The objects that judge the commit after this one.
    fn rules_of(&self, commit: &CommitId) -> Result<Vec<ObjectId>, ObjectError> {
        let mut ids = vec![ObjectId::from(commit)];
        let Some(found) = self.store.find_commit(commit)? else { return Ok(ids) };
        ids.push(found.tree);
        ids.extend(found.parents.iter().map(ObjectId::from));
        for path in [volary_fleet::CONFIG_FILE, ".volary", SIGNERS_FILE] {
            ids.extend(volary_fleet::entry_at(&self.store, &found.tree, path)?.map(|entry| entry.id));
        }
        Ok(ids)
    }

    /// The objects themselves.
    pub fn objects(&self) -> &dyn ObjectSource {
        &self.store
    }
}
