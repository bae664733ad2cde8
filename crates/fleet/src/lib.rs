//! The fleet repository: read and check it at a commit, its ancestry and its signatures.
//!
//! The same rules run in three places: in the server's hook, in the command line and, because the
//! server is not trusted, on every device. They read objects through [`ObjectSource`], whatever
//! keeps them. Not here: devices at run time, apt, builds, HTTP.

#![warn(missing_docs)]

mod approval;
mod check;
mod check_ansible;
mod check_inventory;
mod check_plays;
mod checkout;
mod commit;
mod config;
mod device_type;
mod diff;
mod evidence;
mod fields;
mod hook;
mod hook_approval;
pub mod inventory;
mod lock;
mod loose;
mod mirror;
mod object;
mod own;
mod pack;
mod quorum;
mod refusal;
mod repository;
mod rules;
mod selection;
mod signature;
mod signers;
mod snapshot;
mod step;
mod template;
mod transfer;
mod tree;
mod yaml;

pub use approval::{APPROVAL_REFS, Approval, approval_message, approval_ref, read_approval_ref};
pub use check::{CheckOptions, Finding, Severity, check_commit, check_folder, has_errors};
pub use checkout::{CheckoutError, CheckoutSummary, checkout};
pub use commit::{Commit, Person, Signed};
pub use config::{
    AgentVersion, Drift, DriftAction, FleetConfig, Freeze, Gates, Healthy, InvalidAgentVersion, MergeHours,
    Metrics, Moment, NoWorseThan, PROMOTER, Packages, Percent, Promote, Rollout, SERIES, SITE_VARIABLE,
    Stage, TooOld, Waves, Weekdays, Window, Windows, Zone,
};
pub use device_type::{DEVICE_TYPES, parse_device_type};
pub use diff::{Change, ChangeKind, changed_files, files};
pub use evidence::{
    CveWord, DeviceWord, EVIDENCE_NAMESPACE, EVIDENCE_REF, Evidence, EvidenceError, EvidenceKey, GateWord,
    Merge,
};
pub use fields::FieldError;
pub use hook::{HookOptions, InvalidUpdate, RefUpdate, Rejection, pre_receive};
pub use inventory::{INVENTORIES, PLAYBOOKS};
pub use lock::{FleetLock, ImageStep, Images, LockedImage, LockedRelease, image_steps};
pub use loose::{LooseStore, loose_path, read_loose};
pub use mirror::{MIRROR_FILE, MIRROR_OBJECTS, MirrorIndex, MirrorSummary, copy_for_device, write_mirror};
pub use object::{
    MAX_OBJECT, MemoryObjects, Object, ObjectError, ObjectId, ObjectKind, ObjectSource, ReadObjects,
};
pub use own::Own;
pub use pack::{PackError, PackLimits, read_pack, write_pack};
pub use quorum::approvers;
pub use refusal::{Refusal, Shortage};
pub use repository::GitRepository;
pub use rules::{ARCHIVE_KEY_FILE, CA_FILE, CONFIG_FILE, LOCK_FILE, Rules, RulesError, SIGNERS_FILE};
pub use signature::{SignatureError, Signer, verify_commit};
pub use signers::{AllowedSigner, AllowedSigners, NAMESPACE, RootSigners, SignersError};
pub use step::{Advance, STAGE_TRAILER, Start, Step, first_parents, is_ancestor, verify_advance};
pub use template::{TemplateValues, write_collection, write_template};
pub use transfer::{Packer, device_objects, missing_for_device, pack_for_device};
pub use tree::{EntryKind, Tree, TreeEntry, entry_at, file_at, walk};
