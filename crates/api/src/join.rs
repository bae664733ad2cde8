//! The join token: what a person hands to a new device so that it knows whom to trust.
//!
//! The server is not the root of trust, the person with the token is: the token carries the
//! certificate authority and the keys that may sign the fleet's commits, so that a server that
//! lies about either is noticed at the first contact.

use serde::{Deserialize, Serialize};
use volary_model::StageName;

/// What the text begins with; the number is the version of what follows.
const PREFIX: &str = "volary1.";

/// The content of a join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Where the server is: `https://host:port`, without a slash at the end.
    pub server: String,
    /// The PEM certificate of the authority that signed the server's certificate.
    pub ca: String,
    /// The one-time or limited secret that the server knows.
    pub secret: String,
    /// The stage that the device begins in.
    pub stage: StageName,
    /// The text of the fleet repository's `allowed_signers` when the token was made.
    pub signers: String,
}

/// A text that is no join token.
#[derive(Debug, thiserror::Error)]
#[error("this is not a join token: {0}; make one with: volary device token --stage STAGE")]
pub struct InvalidJoinToken(&'static str);

impl JoinToken {
    /// The token as one word of text.
    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("a join token is plain text");
        format!("{PREFIX}{}", base64url(&json))
    }

    /// Reads a token; white space around it is fine, as people paste it.
    ///
    /// # Errors
    /// [`InvalidJoinToken`] says which layer is wrong.
    pub fn decode(text: &str) -> Result<Self, InvalidJoinToken> {
        let body = text
            .trim()
            .strip_prefix(PREFIX)
            .ok_or(InvalidJoinToken("it does not begin with \"volary1.\""))?;
        let json = from_base64url(body).ok_or(InvalidJoinToken("a part of it is missing or altered"))?;
        serde_json::from_slice(&json).map_err(|_| InvalidJoinToken("a part of it is missing or altered"))
    }
}

fn base64url(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn from_base64url(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_being_pasted() {
        let token = JoinToken {
            server: "https://volary.test:8443".into(),
            ca: "-----BEGIN CERTIFICATE-----\n".into(),
            secret: "s3cret".into(),
            stage: "canary".parse().unwrap(),
            signers: "a@example.com ssh-ed25519 AAAA\n".into(),
        };
        assert_eq!(JoinToken::decode(&format!("  {}\n", token.encode())).unwrap(), token);
    }

    #[test]
    fn a_damaged_token_is_refused() {
        for text in ["", "volary1.", "volary1.e30", "volary2.e30", "volary1.!!"] {
            assert!(JoinToken::decode(text).is_err(), "{text}");
        }
    }
}
