//! Verifies who signed a commit or an approval, as `git verify-commit` does for SSH signatures.
//!
//! The tests hold it against real git. OpenPGP and X.509 signatures are not accepted: devices
//! would need their key rings. What the signer may do is decided in `step`.

use ssh_key::{HashAlg, SshSig};

use crate::commit::{Commit, Signed};
use crate::signers::{AllowedSigner, AllowedSigners, NAMESPACE};

/// Who signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The names of the key's holder; the first is the one to show.
    pub principals: Vec<String>,
    /// The key's SHA-256 fingerprint.
    pub fingerprint: String,
    /// Signatures made after this time (seconds since 1970) will not count.
    pub valid_before: Option<i64>,
}

impl Signer {
    /// The name to show.
    pub fn name(&self) -> &str {
        self.principals.first().map_or("", String::as_str)
    }
}

/// Why a commit's signature is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is none.
    #[error("it is not signed; sign with `git commit -S` and gpg.format=ssh")]
    Unsigned,
    /// It is not an SSH signature.
    #[error("its signature is not an SSH signature; set gpg.format=ssh in git's configuration")]
    NotSsh,
    /// It cannot be read.
    #[error("its signature cannot be read ({0}); sign it again")]
    Unreadable(String),
    /// It was made for something else, by the namespace in it.
    #[error("its signature was made for {0:?}, which is something else")]
    Namespace(String),
    /// The key is not listed.
    #[error("the key {0} that signed it is not in .volary/allowed_signers of the commit before")]
    UnknownKey(String),
    /// The key is listed, but not for the time of this commit or not for git.
    #[error("the key of {name} ({fingerprint}) was not valid for git at the time of the commit")]
    OutsideValidity {
        /// Whose key.
        name: String,
        /// Its fingerprint.
        fingerprint: String,
    },
    /// The key had expired by the time that what came before was made.
    #[error(
        "the key of {name} ({fingerprint}) expired before what this follows was made, so the time that it \
         claims is not true; sign it with a key that is valid now"
    )]
    Expired {
        /// Whose key.
        name: String,
        /// Its fingerprint.
        fingerprint: String,
    },
    /// The content is not what was signed.
    #[error("its signature by {0} does not fit its content; it was changed after signing")]
    Tampered(String),
}

/// When a signature was made, as far as that can be known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    /// What the commit or approval itself says, in seconds since 1970.
    pub claimed: i64,
    /// What came before it was there at this time, whatever it claims.
    pub not_before: i64,
}

/// Verifies the signature of a commit, by itself. The validity of keys is judged at the commit's own
/// time, so that a key that expires later does not stop the fleet.
///
/// # Errors
/// [`SignatureError`].
pub fn verify_commit(commit: &Commit, allowed: &AllowedSigners) -> Result<Signer, SignatureError> {
    let signed = commit.signed.as_ref().ok_or(SignatureError::Unsigned)?;
    verify(signed, allowed, Made { claimed: commit.committer.seconds, not_before: i64::MIN })
}

/// Verifies a signature of something that follows what was made at `made.not_before`. A key that
/// expired in between does not count, or whoever finds an old key could date a new commit back.
pub(crate) fn verify(
    signed: &Signed,
    allowed: &AllowedSigners,
    made: Made,
) -> Result<Signer, SignatureError> {
    verify_for(NAMESPACE, signed, allowed, made)
}

/// As [`verify`], for what is signed in another namespace than git's.
pub(crate) fn verify_for(
    namespace: &str,
    signed: &Signed,
    allowed: &AllowedSigners,
    made: Made,
) -> Result<Signer, SignatureError> {
    if !signed.armored.starts_with("-----BEGIN SSH SIGNATURE-----") {
        return Err(SignatureError::NotSsh);
    }
    let signature = SshSig::from_pem(signed.armored.trim_end())
        .map_err(|error| SignatureError::Unreadable(error.to_string()))?;
    // The reader is lenient with lengths inside; OpenSSH is not, and one signature shall have one
    // form only, or a commit could be given a second id without its signer.
    let canonical = signature
        .to_pem(ssh_key::LineEnding::LF)
        .map_err(|error| SignatureError::Unreadable(error.to_string()))?;
    let same = |text: &str| text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<_>>();
    if same(&canonical) != same(&signed.armored) {
        return Err(SignatureError::Unreadable("it is not written as OpenSSH writes it".into()));
    }
    if signature.version() != SshSig::VERSION {
        return Err(SignatureError::Unreadable(format!("version {}", signature.version())));
    }
    if signature.namespace() != namespace {
        return Err(SignatureError::Namespace(signature.namespace().to_owned()));
    }
    let fingerprint = signature.public_key().fingerprint(HashAlg::Sha256).to_string();
    let mut listed =
        allowed.signers.iter().filter(|signer| signer.key.key_data() == signature.public_key()).peekable();
    let Some(first) = listed.peek().copied() else {
        return Err(SignatureError::UnknownKey(fingerprint));
    };
    let mut in_time = listed.filter(|signer| is_valid(signer, namespace, made.claimed)).peekable();
    let Some(one) = in_time.peek().copied() else {
        return Err(SignatureError::OutsideValidity { name: first.principals[0].clone(), fingerprint });
    };
    let Some(signer) = in_time.find(|signer| !signer.has_expired(made.not_before)) else {
        return Err(SignatureError::Expired { name: one.principals[0].clone(), fingerprint });
    };
    signer
        .key
        .verify(namespace, &signed.payload, &signature)
        .map_err(|_| SignatureError::Tampered(signer.principals[0].clone()))?;
    Ok(Signer { principals: signer.principals.clone(), fingerprint, valid_before: signer.valid_before })
}

fn is_valid(signer: &AllowedSigner, namespace: &str, time: i64) -> bool {
    signer.signs_in(namespace)
        && signer.valid_after.is_none_or(|after| time >= after)
        && !signer.has_expired(time)
}
