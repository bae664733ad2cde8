//! Evidence: why a promotion was allowed, signed by the server that asked the gates, and kept in git
//! with the merge so that it can be read and proven without that server.
//!
//! A note (gitnotes(7)) of the merge under [`EVIDENCE_REF`] holds JSON and, below it, an SSH signature
//! over exactly that JSON in the namespace [`EVIDENCE_NAMESPACE`], so that `ssh-keygen -Y verify` proves
//! it as well. The key stands in `.volary/allowed_signers` for that namespace alone: it cannot sign
//! commits.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ssh_key::{HashAlg, LineEnding, PrivateKey, SshSig};
use volary_model::{CommitId, DeviceName, StageName};

use crate::commit::Signed;
use crate::signature::{Made, SignatureError, Signer, verify_for};
use crate::signers::AllowedSigners;

/// The namespace in which evidence is signed.
pub const EVIDENCE_NAMESPACE: &str = "volary-evidence";

/// Where a repository keeps evidence: notes of the merges.
pub const EVIDENCE_REF: &str = "refs/notes/volary-evidence";

/// The version of the form that is written.
const VERSION: u32 = 1;

const ARMOR: &str = "-----BEGIN SSH SIGNATURE-----";

/// What a promotion rested on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Version of this form.
    pub version: u32,
    /// The fleet's name.
    pub fleet: String,
    /// The stage that got the merge.
    pub stage: StageName,
    /// The stage before.
    pub from: StageName,
    /// The merge.
    pub merge: CommitId,
    /// What the stage was at before.
    pub base: CommitId,
    /// What was merged.
    pub commit: CommitId,
    /// When the server took it, by its clock.
    pub at: Timestamp,
    /// The token that pushed it; empty if the server merged by itself.
    #[serde(default)]
    pub pushed_by: String,
    /// The release revision that it pins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// The security faults that it mends and brings, where the server had the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cves: Option<CveWord>,
    /// What each gate said.
    #[serde(default)]
    pub gates: Vec<GateWord>,
    /// The devices of the stage before, as they were then.
    #[serde(default)]
    pub devices: Vec<DeviceWord>,
}

/// What a gate said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateWord {
    /// The gate.
    pub gate: String,
    /// `go`, `ask` or `stop`.
    pub say: String,
    /// Why, with the figures.
    pub reason: String,
    /// Why a person went on in spite of it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden: Option<String>,
}

/// Which security faults a merge mends and brings: each with its name, source package and urgency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CveWord {
    /// The release of Debian.
    pub release: String,
    /// How old the data is.
    pub known_at: Timestamp,
    /// How many are mended.
    pub closed_count: usize,
    /// How many come.
    pub opened_count: usize,
    /// The most urgent of those that are mended.
    pub closed: Vec<String>,
    /// The most urgent of those that come.
    pub opened: Vec<String>,
}

/// How a device was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceWord {
    /// Its name.
    pub device: DeviceName,
    /// Its condition.
    pub condition: String,
    /// Why it was not good.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Why evidence proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// There is no signature below it.
    #[error("it has no SSH signature below it")]
    Unsigned,
    /// The signature does not hold.
    #[error("{0}")]
    Signature(#[from] SignatureError),
    /// The key may sign anything, or commits: then it is a person's and not the server's.
    #[error(
        "{0} signed it with a key that is not for evidence alone; in .volary/allowed_signers the server's line has \
         namespaces=\"{EVIDENCE_NAMESPACE}\""
    )]
    NotForEvidence(String),
    /// The text is not what evidence looks like.
    #[error("it cannot be read: {0}")]
    Form(#[from] serde_json::Error),
    /// A newer server wrote it.
    #[error("it has version {0}, and this program reads {VERSION}; take a newer volary")]
    Version(u32),
    /// It speaks of another merge.
    #[error("it is about {0}")]
    OtherMerge(String),
    /// A gate did not say go, and nobody went on in spite of it.
    #[error("the gate {gate} said {say} and nobody overrode it: {reason}")]
    Closed {
        /// The gate.
        gate: String,
        /// What it said.
        say: String,
        /// Why.
        reason: String,
    },
}

/// The server's key for evidence.
pub struct EvidenceKey(PrivateKey);

impl EvidenceKey {
    /// Reads an OpenSSH private key without a passphrase.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        PrivateKey::from_openssh(text).map(Self).map_err(|error| error.to_string())
    }

    /// The line for `.volary/allowed_signers` that lets it sign evidence and nothing else.
    pub fn signers_line(&self, principal: &str) -> String {
        self.line(principal, EVIDENCE_NAMESPACE)
    }

    /// The line of a key that signs in this namespace.
    pub fn line(&self, principal: &str, namespace: &str) -> String {
        let mut public = self.0.public_key().clone();
        public.set_comment("");
        let key = public.to_openssh().expect("a key that was read can be written");
        format!("{principal} namespaces=\"{namespace}\" {}", key.trim_end())
    }

    /// The note that keeps this evidence.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn note(&self, evidence: &Evidence) -> Result<String, String> {
        let text = serde_json::to_string_pretty(evidence).expect("evidence is plain values") + "\n";
        let signature = SshSig::sign(&self.0, EVIDENCE_NAMESPACE, HashAlg::Sha512, text.as_bytes())
            .and_then(|signature| signature.to_pem(LineEnding::LF))
            .map_err(|error| error.to_string())?;
        Ok(format!("{text}{signature}"))
    }
}

impl Evidence {
    /// Evidence in this version's form, about nothing yet but the merge itself.
    pub fn new(fleet: &str, stage: &StageName, from: &StageName, merge: Merge<'_>, at: Timestamp) -> Self {
        Self {
            version: VERSION,
            fleet: fleet.to_owned(),
            stage: stage.clone(),
            from: from.clone(),
            merge: merge.merge.clone(),
            base: merge.base.clone(),
            commit: merge.commit.clone(),
            at,
            pushed_by: String::new(),
            release: None,
            cves: None,
            gates: Vec::new(),
            devices: Vec::new(),
        }
    }

    /// Reads a note and proves that a key signed it which these signers have for evidence, that it is
    /// about this merge, and that every gate said go or was overridden by a person.
    ///
    /// # Errors
    /// [`EvidenceError`].
    pub fn prove(
        note: &str,
        allowed: &AllowedSigners,
        merge: Merge<'_>,
    ) -> Result<(Self, Signer), EvidenceError> {
        let at = note.find(ARMOR).ok_or(EvidenceError::Unsigned)?;
        let (text, armored) = note.split_at(at);
        let evidence: Self = serde_json::from_str(text)?;
        if evidence.version != VERSION {
            return Err(EvidenceError::Version(evidence.version));
        }
        let signed = Signed { payload: text.as_bytes().to_vec(), armored: armored.to_owned() };
        let made = Made { claimed: evidence.at.as_second(), not_before: i64::MIN };
        let signer = verify_for(EVIDENCE_NAMESPACE, &signed, allowed, made)?;
        let lines = allowed.signers.iter().filter(|line| line.fingerprint() == signer.fingerprint);
        let alone = |names: &Option<Vec<String>>| matches!(names.as_deref(), Some([one]) if one == EVIDENCE_NAMESPACE);
        if !lines.clone().any(|line| alone(&line.namespaces)) {
            return Err(EvidenceError::NotForEvidence(signer.name().to_owned()));
        }
        let about = (&evidence.merge, &evidence.base, &evidence.commit);
        if about != (merge.merge, merge.base, merge.commit) {
            return Err(EvidenceError::OtherMerge(format!(
                "the merge {} of {} into {}",
                evidence.merge, evidence.commit, evidence.base
            )));
        }
        for word in &evidence.gates {
            if word.say != "go" && word.overridden.is_none() {
                let (gate, say) = (word.gate.clone(), word.say.clone());
                return Err(EvidenceError::Closed { gate, say, reason: word.reason.clone() });
            }
        }
        Ok((evidence, signer))
    }
}

/// A merge and its parents.
#[derive(Debug, Clone, Copy)]
pub struct Merge<'a> {
    /// The merge.
    pub merge: &'a CommitId,
    /// Its first parent.
    pub base: &'a CommitId,
    /// Its second parent.
    pub commit: &'a CommitId,
}
