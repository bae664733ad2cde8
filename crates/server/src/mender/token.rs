//! What a client shows to be let in again, and links that need no more than themselves. Both are signed
//! with a secret of the server and kept nowhere, so they survive a restart; who was rejected or forgotten
//! meanwhile is found out when they are used.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::hmac;
use serde::{Deserialize, Serialize};
use volary_model::Digest;

/// Seconds that a token is good: a week, as Mender's own. Clients ask anew at each start.
const TOKEN_LIFE: i64 = 7 * 86_400;

/// The head of each token, as RFC 7519 has it.
const HEAD: &[u8] = br#"{"alg":"HS256","typ":"JWT"}"#;

/// The server's secret.
pub(crate) struct Sealer(hmac::Key);

#[derive(Serialize, Deserialize)]
struct Claims {
    /// Whose it is: the fingerprint of the device's key.
    sub: String,
    iat: i64,
    exp: i64,
}

impl Sealer {
    /// A sealer with this secret.
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// A token for a device.
    pub(crate) fn token(&self, device: &Digest, now: Timestamp) -> String {
        let now = now.as_second();
        let claims = Claims { sub: device.hex(), iat: now, exp: now + TOKEN_LIFE };
        let claims = serde_json::to_vec(&claims).expect("claims are plain data");
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEAD), URL_SAFE_NO_PAD.encode(claims));
        let seal = hmac::sign(&self.0, text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(seal))
    }

    /// Whose token it is, if it is one of ours and still good.
    pub(crate) fn device(&self, token: &str, now: Timestamp) -> Option<Digest> {
        let (text, seal) = token.rsplit_once('.')?;
        hmac::verify(&self.0, text.as_bytes(), &URL_SAFE_NO_PAD.decode(seal).ok()?).ok()?;
        let (_, claims) = text.split_once('.')?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        (claims.exp > now.as_second()).then(|| Digest::from_hex(&claims.sub).ok())?
    }

    /// The query of a link with which a device may fetch an artifact until then.
    pub(crate) fn link(&self, artifact: &Digest, device: &Digest, expires: Timestamp) -> String {
        let expires = expires.as_second();
        let seal = hmac::sign(&self.0, link_text(artifact, device, expires).as_bytes());
        format!("device={}&expires={expires}&signature={}", device.hex(), URL_SAFE_NO_PAD.encode(seal))
    }

    /// True if a link for this artifact and device is ours; whether it has expired is asked apart.
    pub(crate) fn is_link(&self, artifact: &Digest, device: &Digest, expires: i64, signature: &str) -> bool {
        let Ok(seal) = URL_SAFE_NO_PAD.decode(signature) else { return false };
        hmac::verify(&self.0, link_text(artifact, device, expires).as_bytes(), &seal).is_ok()
    }
}

/// What is signed of a link; no token begins so.
fn link_text(artifact: &Digest, device: &Digest, expires: i64) -> String {
    format!("link {} {} {expires}", artifact.hex(), device.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_links_are_ours_and_end() {
        let (ours, theirs) = (Sealer::new(&[1; 32]), Sealer::new(&[2; 32]));
        let (device, artifact) = (Digest::from_bytes([3; 32]), Digest::from_bytes([4; 32]));
        let at = |second| Timestamp::from_second(second).unwrap();
        let token = ours.token(&device, at(100));
        assert_eq!(ours.device(&token, at(100)), Some(device));
        assert_eq!(ours.device(&token, at(99 + TOKEN_LIFE)), Some(device));
        assert_eq!(ours.device(&token, at(100 + TOKEN_LIFE)), None);
        assert_eq!(theirs.device(&token, at(100)), None);
        for wrong in ["", ".", "..", "a.b.c", &token[1..], &token[..token.len() - 1]] {
            assert_eq!(ours.device(wrong, at(100)), None, "{wrong}");
        }
        let query = ours.link(&artifact, &device, at(500));
        let signature = query.rsplit_once('=').unwrap().1;
        assert!(query.contains("&expires=500&"));
        assert!(ours.is_link(&artifact, &device, 500, signature));
        assert!(!ours.is_link(&artifact, &device, 501, signature));
        assert!(!ours.is_link(&device, &artifact, 500, signature));
        assert!(!theirs.is_link(&artifact, &device, 500, signature));
        assert_eq!(ours.device(signature, at(100)), None, "a link is no token");
    }
}
