//! Who makes a key's signatures: we ourselves, with a secret key, or a command that somebody set
//! up for a key that lies in hardware. What a command prints is believed only after it was
//! verified against the public key.

use std::time::Duration;

use jiff::Timestamp;
use pgp::composed::{
    CleartextSignedMessage, Deserializable as _, DetachedSignature, SignedPublicKey, SignedSecretKey,
};
use pgp::packet::{Signature, SignatureType};
use volary_host::Cmd;

use crate::key;

/// A program that signs for a key that we do not have. It gets the text on standard input and
/// prints it clearsigned, or a detached signature in text mode, armored or not. The fingerprint
/// of the key is in the environment variable `VOLARY_KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerCommand {
    /// The program and its arguments; no shell is involved.
    pub command: Vec<String>,
    /// How long it may take before it is stopped.
    pub timeout: Duration,
}

/// What makes the signatures of a key.
#[derive(Debug)]
pub(crate) enum Signer {
    Own(Box<SignedSecretKey>),
    Command(SignerCommand),
    /// The command has this name, and nobody said what it is.
    Unknown(String),
}

impl Signer {
    /// Signs a text without a line end after its last line.
    pub(crate) fn sign(
        &self,
        public: &SignedPublicKey,
        text: &str,
        now: Timestamp,
    ) -> Result<Vec<Signature>, String> {
        let signatures = match self {
            Self::Own(secret) => vec![key::sign(secret, text, now)?],
            Self::Command(command) => {
                let output = command.run(text, &key::fingerprint(public))?;
                read_output(&output, text)?
            }
            Self::Unknown(name) => {
                return Err(format!(
                    "its signatures come from the command {name:?}, which is not set up; \
                     name it under [signers.{name}] in server.toml"
                ));
            }
        };
        if !key::is_usable(public, now) {
            return Err("the key is revoked or has expired".to_owned());
        }
        let signed = text.replace('\n', "\r\n");
        for signature in &signatures {
            if signature.typ() != Some(SignatureType::Text) {
                return Err("the signature is not one over text; with gpg use --clearsign, or --textmode \
                            with --detach-sign"
                    .to_owned());
            }
            if !key::is_signature_of(signature, public, signed.as_bytes()) {
                return Err("the signature is not this key's over this text with SHA-256 or better; \
                            is another key used?"
                    .to_owned());
            }
        }
        Ok(signatures)
    }
}

impl SignerCommand {
    fn run(&self, text: &str, fingerprint: &str) -> Result<Vec<u8>, String> {
        let (program, args) = self.command.split_first().ok_or("the command is empty")?;
        let command = Cmd::new(program).args(args).env("VOLARY_KEY", fingerprint).timeout(self.timeout);
        Ok(command.stdin(text).check().map_err(|error| error.to_string())?.stdout)
    }
}

/// The signatures in what a command printed: at least one.
fn read_output(output: &[u8], text: &str) -> Result<Vec<Signature>, String> {
    let printed = std::str::from_utf8(output).unwrap_or("").trim_start();
    let parsed = if printed.starts_with("-----BEGIN PGP SIGNED MESSAGE-----") {
        CleartextSignedMessage::from_string(printed)
            .map(|(message, _)| (message.signatures().to_vec(), Some(message.signed_text())))
    } else if printed.starts_with("-----BEGIN PGP SIGNATURE-----") {
        DetachedSignature::from_string_many(printed).and_then(|(many, _)| detached(many))
    } else {
        DetachedSignature::from_bytes_many(output).and_then(detached)
    };
    match parsed {
        Ok((_, Some(signed))) if signed.trim_end() != text.replace('\n', "\r\n") => {
            Err("the command signed another text than it was given".to_owned())
        }
        Ok((signatures, _)) if !signatures.is_empty() => Ok(signatures),
        _ => {
            let start: String = String::from_utf8_lossy(output).trim().chars().take(80).collect();
            Err(format!("the command printed no OpenPGP signature but {start:?}"))
        }
    }
}

type Parsed = (Vec<Signature>, Option<String>);

fn detached(
    many: impl Iterator<Item = pgp::errors::Result<DetachedSignature>>,
) -> pgp::errors::Result<Parsed> {
    let signatures: Result<_, _> = many.map(|one| one.map(|one| one.signature)).collect();
    Ok((signatures?, None))
}
